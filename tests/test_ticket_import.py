"""Masks and weights of other programs: what their files hold is read, and nothing in them runs."""

import collections
import io
import os
import pickle
import random
import struct
import types
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from snnlth_jax import masks, models, tickets
from snnlth_jax.cli import main
from snnlth_jax.errors import InputError
from snnlth_jax.interop import torch_files
from snnlth_jax.interop.torch import from_state_dict, to_state_dict

MODEL = models.create("vgg5", 10, width=0.1)
RESNET = models.create("resnet7", 10, width=0.1)
FLAGS = ["--arch", "vgg5", "--width", "0.1", "--image-shape", "8,8,1"]
IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
RNG = np.random.default_rng(0)


def weights_of(model, rng=RNG):
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, num_timesteps=1), IMAGES)
    return to_state_dict(model, jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes))


STATE = weights_of(MODEL)
RESNET_STATE = weights_of(RESNET)


def is_layer(name, array):
    return name.endswith("weight") and array.ndim > 1


def masks_of(state):
    return {n: (RNG.random(a.shape) < 0.4).astype(np.float32) for n, a in state.items() if is_layer(n, a)}


MASKS = masks_of(STATE)


def ours(model, state):
    return from_state_dict(model, state, IMAGES)["params"]


def kept(model, state, masks_by_name):
    """Masks in our layout, by way of the converter of state dicts."""
    tree = ours(model, {**state, **masks_by_name})
    return {k: np.asarray(v) > 0 for k, v in leaves(tree).items() if k in layers(tree)}


def leaves(tree):
    return {"/".join(path): x for path, x in tickets.places.leaves(tree).items() if x is not None}


def layers(tree):
    return leaves(masks.make(tree))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(content, *flags, name="file"):
    Path(name).write_bytes(content)
    assert main(["ticket", "import", name, "--output", "out", *(flags or FLAGS)]) == 0
    ticket = tickets.load("out")
    Path("out").unlink()
    return ticket


def same(ticket, model, state, masks_by_name):
    expected = kept(model, state, masks_by_name)
    found = leaves(ticket.masks)
    assert found.keys() == expected.keys()
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, expected[name])


# --- what others write


class Fake:
    """Stands for a class of PyTorch while a file is made: pickled by its name there."""


def torch_modules():
    """Modules with names of PyTorch that `pickle` can find while it writes."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "IntStorage", "BoolStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError

    def _rebuild_parameter(*_):
        raise AssertionError

    for function in (_rebuild_tensor_v2, _rebuild_parameter):
        function.__module__, function.__qualname__ = "torch._utils", function.__name__
        setattr(utils, function.__name__, function)
    return {"torch": torch, "torch._utils": utils}


class TensorOf:
    def __init__(self, array, strides=None, offset=0, parameter=False, shape=None):
        self.array, self.offset, self.parameter = np.ascontiguousarray(array), offset, parameter
        self.shape = array.shape if shape is None else shape
        self.strides = strides or tuple(s // self.array.itemsize for s in self.array.strides)


class StorageOf:
    def __init__(self, array):
        self.array = array


class TorchPickler(pickle.Pickler):
    """Pickles tensors as PyTorch does: a call that rebuilds them, around a persistent id."""

    def __init__(self, file, modules, legacy=False):
        super().__init__(file, protocol=2)
        self.modules, self.legacy, self.storages = modules, legacy, []

    def reducer_override(self, value):
        if not isinstance(value, TensorOf):
            return NotImplemented
        utils, hooks = self.modules["torch._utils"], collections.OrderedDict()
        view = (StorageOf(value.array), value.offset, value.shape, value.strides, False, hooks)
        if value.parameter:
            plain = TensorOf(value.array, value.strides, value.offset, shape=value.shape)
            return utils._rebuild_parameter, (plain, True, hooks)
        return utils._rebuild_tensor_v2, view

    def persistent_id(self, value):
        if not isinstance(value, StorageOf):
            return None
        kind = {"f": "FloatStorage", "i": "IntStorage", "b": "BoolStorage"}[value.array.dtype.kind]
        self.storages.append(value.array)
        key = str(len(self.storages) - 1)
        identity = ("storage", getattr(self.modules["torch"], kind), key, "cpu", value.array.size)
        return (*identity, None) if self.legacy else identity


def torch_pickle(value, monkeypatch, legacy=False):
    modules = torch_modules()
    for name, module in modules.items():
        monkeypatch.setitem(__import__("sys").modules, name, module)
    file = io.BytesIO()
    pickler = TorchPickler(file, modules, legacy)
    pickler.dump(value)
    for name in modules:
        monkeypatch.delitem(__import__("sys").modules, name)
    return file.getvalue(), pickler.storages


def torch_saved(value, monkeypatch):
    """The zip file of torch.save."""
    pickled, storages = torch_pickle(value, monkeypatch)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mask/data.pkl", pickled)
        archive.writestr("mask/byteorder", "little")
        for key, array in enumerate(storages):
            archive.writestr(f"mask/data/{key}", array.tobytes())
        archive.writestr("mask/version", "3\n")
    return file.getvalue()


def torch_saved_before(value, monkeypatch):
    """The format before 1.6."""
    pickled, storages = torch_pickle(value, monkeypatch, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    keys = [str(key) for key in range(len(storages))]
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts += [pickled, pickle.dumps(keys, 2)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages]
    return b"".join(parts)


def authors_list(state, masks_by_name):
    """One for each parameter named weight, in the order of the network, batch norm included."""
    return [masks_by_name.get(n, np.ones_like(a)) for n, a in state.items() if n.endswith("weight")]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_authors_masks(protocol):
    ticket = imported(pickle.dumps(authors_list(STATE, MASKS), protocol))
    same(ticket, MODEL, STATE, MASKS)
    provenance = ticket.provenance
    count = sum(int(mask.sum()) for mask in MASKS.values())
    assert (provenance["kept"], provenance["arch"], provenance["seed"]) == (count, "vgg5", 0)
    assert provenance["made_by"] == "import of masks by position"
    assert provenance["made_of"]["masks"]["file"] == "file"
    # without weights: the initial ones of a search with the seed
    key = jax.random.split(jax.random.key(0), 4)[0]
    initial = MODEL.init(key, np.zeros((1, 8, 8, 1), np.float32), num_timesteps=1)["params"]
    kernel = ticket.params["layer02"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel, initial["layer02"]["conv"]["kernel"], rtol=1e-6)


def test_the_authors_masks_with_their_weights(monkeypatch):
    state = collections.OrderedDict((name, TensorOf(array)) for name, array in STATE.items())
    state["features.1.num_batches_tracked"] = 7
    Path("initial_state_dict.pth.tar").write_bytes(torch_saved(state, monkeypatch))
    content = pickle.dumps(authors_list(STATE, MASKS))
    ticket = imported(content, *FLAGS, "--weights", "initial_state_dict.pth.tar")
    same(ticket, MODEL, STATE, MASKS)
    for name, leaf in leaves(ours(MODEL, STATE)).items():
        np.testing.assert_array_equal(leaves(ticket.params)[name], leaf)
    assert "seed" not in ticket.provenance
    assert ticket.provenance["made_of"]["weights"]["file"] == "initial_state_dict.pth.tar"


def test_resnet_and_only_layers():
    """Positions are those of PyTorch's order: shortcuts last in a block, hidden layer before the readout."""
    flags = ["--arch", "resnet7", "--width", "0.1", "--image-shape", "8,8,1"]
    chosen = masks_of(RESNET_STATE)
    for content in (authors_list(RESNET_STATE, chosen), list(chosen.values())):
        same(imported(pickle.dumps(content), *flags), RESNET, RESNET_STATE, chosen)
    order = [name for name in RESNET_STATE if is_layer(name, RESNET_STATE[name])]
    assert order == [
        "conv1.weight",
        *(f"layer{i}.0.{part}.weight" for i in (1, 2) for part in ("conv1", "conv2", "shortcut.0")),
        "fc1.weight",
        "fc2.weight",
    ]


@pytest.mark.parametrize("save", [torch_saved, torch_saved_before])
@pytest.mark.parametrize("names", ["the authors'", "its own"])
def test_open_lth(save, names, monkeypatch):
    """`torch.save({name: mask.int()})`, of its own networks."""
    by_name = (
        MASKS if names != "its own" else {f"layers.{i}.conv.weight": m for i, m in enumerate(MASKS.values())}
    )
    content = {name: TensorOf(mask.astype(np.int32)) for name, mask in by_name.items()}
    same(imported(save(content, monkeypatch)), MODEL, STATE, MASKS)


@pytest.mark.parametrize("save", [torch_saved, torch_saved_before])
def test_pruned_by_pytorch(save, monkeypatch):
    """Masks from `weight_mask`; rewind weights are `weight_orig`, removed ones included."""
    state = collections.OrderedDict()
    for name, array in STATE.items():
        if name in MASKS:
            state[f"module.{name}_orig"] = TensorOf(array, parameter=True)
            state[f"module.{name}_mask"] = TensorOf(MASKS[name])
        else:
            state[f"module.{name}"] = TensorOf(array)
    ticket = imported(save({"epoch": 3, "state_dict": state, "best": 0.5, "lr": None}, monkeypatch))
    same(ticket, MODEL, STATE, MASKS)
    for name, leaf in leaves(ours(MODEL, STATE)).items():
        np.testing.assert_array_equal(leaves(ticket.params)[name], leaf)


def test_a_state_dict_with_zeros_and_views(monkeypatch):
    """Transposed tensors, and several in one storage."""
    state = {name: array * MASKS.get(name, 1) for name, array in STATE.items()}
    tensors = {name: TensorOf(array) for name, array in state.items()}
    readout = state["classifier.weight"]
    tensors["classifier.weight"] = TensorOf(readout.T.copy(), strides=(1, len(readout)), shape=readout.shape)
    whole = np.concatenate([np.zeros(5, np.float32), state["classifier.bias"]])
    tensors["classifier.bias"] = TensorOf(whole, strides=(1,), offset=5, shape=(10,))
    ticket = imported(torch_saved(tensors, monkeypatch))
    same(ticket, MODEL, STATE, MASKS)
    for name, leaf in leaves(ours(MODEL, state)).items():
        np.testing.assert_array_equal(leaves(ticket.params)[name], leaf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, bool])
def test_what_is_written_for_pytorch_is_read(dtype):
    arrays = {
        "a.β": RNG.normal(size=(2, 3)).astype(dtype),
        "b": np.ones((), dtype),
        "c": np.ones((0, 2), dtype),
    }
    content = torch_files.dumps(arrays)
    assert content == torch_files.dumps(arrays)
    Path("f").write_bytes(content)
    back = torch_files.load("f")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_pytorch_reads_it():
    torch = pytest.importorskip("torch")
    Path("f").write_bytes(torch_files.dumps(STATE))
    back = torch.load("f", weights_only=True)
    assert list(back) == list(STATE)
    for name, array in STATE.items():
        np.testing.assert_array_equal(back[name].numpy(), array)
    for old in (True, False):
        torch.save(back, "g", _use_new_zipfile_serialization=not old)
        again = torch_files.load("g")
        for name, array in STATE.items():
            np.testing.assert_array_equal(again[name], array)
    Path("h").write_bytes(pickle.dumps([torch.ones(2, 3), torch.zeros(1)]))
    assert [a.shape for a in torch_files.load("h")] == [(2, 3), (1,)]


def test_the_network_is_found_by_its_shapes():
    full = models.create("vgg5", 10)
    state = weights_of(full, np.random.default_rng(1))
    chosen = [np.ones(a.shape, np.uint8) for n, a in state.items() if is_layer(n, a)]
    chosen[-1] = np.ones((10, 8 * 8 * 64), np.uint8)  # of images of 32x32 pixels
    ticket = imported(pickle.dumps(chosen), "--seed", "3")
    assert ticket.provenance["arch"] == "vgg5"
    assert (ticket.provenance["image_shape"], ticket.provenance["seed"]) == ([32, 32, 1], 3)


# --- what is refused


def refused(content, expected, capsys, *flags):
    Path("file").write_bytes(content)
    capsys.readouterr()
    assert main(["ticket", "import", "file", "--output", "out", *(flags or FLAGS)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert not Path("out").exists()


def changed(index, mask):
    chosen = authors_list(STATE, MASKS)
    chosen[index] = mask
    return chosen


WRONG = {
    "the mask of classifier.weight has shape (10, 3)": changed(-1, np.ones((10, 3))),
    "the mask of classifier.weight has other values": changed(-1, MASKS["classifier.weight"] * 0.5),
    "the mask of features.0.weight has other values": changed(0, MASKS["features.0.weight"] * np.nan),
    "features.1.weight removes parameters of batch norm": changed(1, np.zeros(3)),
    "2 masks, the network has 5 layers of weights, and 9 with": authors_list(STATE, MASKS)[:2],
    "a list of something else than arrays": changed(1, None),
    "it has no fc.weight": {**MASKS, "fc.weight": np.ones((2, 2))},
    "1 masks of layers, the network has 5": {"fc.weight": np.ones((2, 2))},
    "classifier.bias is missing": {k: v for k, v in STATE.items() if k != "classifier.bias"},
    "no arrays under epoch, acc": {"epoch": 3, "acc": 0.5},
    "weight_mask is of shape (1,)": {"a.weight_orig": np.ones((2, 2)), "a.weight_mask": np.ones(1)},
    "state_dict must be a dict": 3,
    "no arrays": {},
    "in the state dict twice": {**MASKS, "module.classifier.weight": np.ones((10, 24))},
}


@pytest.mark.parametrize("expected", WRONG)
def test_masks_of_other_networks(expected, capsys):
    refused(pickle.dumps(WRONG[expected]), expected, capsys)


def with_first(array):
    return {**STATE, "features.0.weight": array}


FIRST = STATE["features.0.weight"]
NO_FLOAT32 = {
    "complex": (with_first(FIRST.astype(np.complex64)), "features.0.weight is complex64; allowed: real"),
    "overflow": (with_first(FIRST * np.float64(1e300)), "features.0.weight has numbers that are not finite"),
    "nan": (with_first(FIRST * np.nan), "features.0.weight has numbers that are not finite"),
    "bias": (
        {**STATE, "classifier.bias": np.full(10, 1e39)},
        "classifier.bias has numbers that are not finite",
    ),
    "mask of a bias": (
        {
            **{key: array for key, array in STATE.items() if key != "classifier.bias"},
            "classifier.bias_orig": np.ones(10),
            "classifier.bias_mask": np.full(10, 0.5j),
        },
        "the mask of classifier.bias has other values than 0 and 1",
    ),
}


@pytest.mark.parametrize("case", NO_FLOAT32)
def test_weights_that_float32_does_not_have(case, capsys):
    state, expected = NO_FLOAT32[case]
    refused(pickle.dumps(state), expected, capsys)
    Path("masks").write_bytes(pickle.dumps(MASKS))
    Path("weights").write_bytes(pickle.dumps(state))
    command = ["ticket", "import", "masks", "--output", "out", *FLAGS, "--weights", "weights"]
    if case != "mask of a bias":
        assert main(command) == 2
        assert capsys.readouterr().err.count(f"weights: {expected}") == 1
        assert not Path("out").exists()


def test_a_mask_of_a_bias_of_another_shape(capsys):
    Path("masks").write_bytes(pickle.dumps({**MASKS, "classifier.bias": np.ones(3)}))
    Path("weights").write_bytes(pickle.dumps(STATE))
    command = ["ticket", "import", "masks", "--output", "out", *FLAGS, "--weights", "weights"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "weights: of another network: the mask of classifier.bias has shape (3,), it (10,)" in err


def test_weights_of_other_floats_are_rounded():
    state = {key: array.astype(np.float64) * (1 + 1e-9) for key, array in STATE.items()}
    ticket = imported(pickle.dumps(state))
    for key, leaf in leaves(ticket.params).items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, leaves(ours(MODEL, STATE))[key], rtol=1e-6)


def test_flags(capsys, monkeypatch):
    monkeypatch.setattr(models, "names", lambda: ("vgg5", "resnet7"))
    good = pickle.dumps(authors_list(STATE, MASKS))
    for flags, expected in (
        (["--arch", "vgg61"], "--arch vgg61: allowed: "),
        ([], "are those of no network by name at --width 1.0; allowed: --arch"),
        ([*FLAGS, "--image-shape", "8,8"], "--image-shape 8,8: allowed: height, width and channels"),
        ([*FLAGS, "--image-shape", "2,2,1"], "--image-shape [2, 2, 1]: images of 2 x 2 pixels"),
        ([*FLAGS, "--num-classes", "11"], "of another network"),
        ([*FLAGS, "--num-classes", "0"], "--num-classes 0: allowed: 1 or more"),
        ([*FLAGS, "--seed", "-1"], "--seed -1: allowed: 0 to 2^32 - 1"),
        ([*FLAGS, "--weights", "nowhere"], "nowhere: no such file"),
        ([*FLAGS, "--weights", "file"], "--weights file: no state dict, but masks alone"),
    ):
        refused(good, expected, capsys, *(flags or ["--width", "1"]))
    Path("state").write_bytes(torch_files.dumps(STATE))
    assert main(["ticket", "import", "state", "--output", "out", *FLAGS, "--weights", "state"]) == 2
    assert "--weights state: state has weights of its own" in capsys.readouterr().err
    for path, expected in ((".", "not a file"), ("nowhere", "no such file"), ("/dev/zero", "not a file")):
        assert main(["ticket", "import", path, "--output", "out", *FLAGS]) == 2
        assert expected in capsys.readouterr().err


def called(function, *arguments):
    """An object whose pickle calls a function."""
    return type("Call", (), {"__reduce__": lambda self: (function, arguments)})()


RAN = []


def run(*arguments):
    RAN.append(arguments)
    return np.ones(3)


CODE = {
    "a command": called(os.system, "touch ran"),
    "code": called(eval, "RAN.append(1)"),
    "exec": called(exec, "open('ran', 'w')"),
    "a function of its own": called(run, 1),
    "an attribute": called(getattr, Path, "cwd"),
    "an object": Path("x"),
    "a class": Fake(),
    "a set": {1, 2},
    "an array of objects": np.array([None, called(run, 2)], dtype=object),
    "records": np.zeros(2, [("a", "f4")]),
    "texts": np.array(["a"]),
    "a range": range(3),
    "partial": called(__import__("functools").partial, run, 1),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("what", CODE)
def test_nothing_runs(what, protocol, capsys):
    """At the root, in a list, in a dict, as a key, in the state of a dict; in a zip file too."""
    value = CODE[what]
    for around in ([value], {"a.weight": value}, (np.ones(3), [value])):
        pickled = pickle.dumps(around, protocol)
        refused(pickled, "and nothing in a file may run", capsys)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    refused(file.getvalue(), "and nothing in a file may run", capsys)
    assert not RAN
    assert not Path("ran").exists()


def test_names_in_the_list_give_no_way_to_others(capsys):
    """Known names with arguments that they do not expect, opcodes that no array needs."""
    for text in (
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch ran'\no.",  # OBJ
        b"\x80\x02cnumpy\ndtype\n(S'O'\nI0\nI1\ntR.",
        b"\x80\x02cnumpy\ndtype.__reduce__\n)R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0adtype.type\x93)R.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        b"\x80\x02cnumpy\ndtype\n}(S'__class__'\nI1\nub.",
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02ccollections\nOrderedDict\n(I3\ntR.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81}(S'keys'\nI1\nub.",
        b"Pos.system\n.",
        b"(lp0\ng0\na.",  # a list that contains itself
        b"(",
        b"0.",
        b"",
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ):
        Path("file").write_bytes(text)
        assert main(["ticket", "import", "file", "--output", "out", *FLAGS]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not Path("ran").exists()


def test_bombs(capsys, monkeypatch):
    """Sizes that a file declares and does not have; containers that unfold."""
    nested = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10 + b"e" for i in range(1, 40)
    )
    refused(nested + b".", "more objects", capsys)
    huge = TensorOf(np.ones(2, np.float32), strides=(0, 0), shape=(10**6, 10**6))
    refused(torch_saved({"a": huge}, monkeypatch), "cut short", capsys)
    refused(torch_saved_before({"a": huge}, monkeypatch), "cut short", capsys)
    shape = pickle.dumps(np.ones(2)).replace(b"K\x02\x85", b"J\xff\xff\xff\x7f\x85")
    refused(shape, "cut short", capsys)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps([bytes(10**8)]))
    assert len(file.getvalue()) < 10**6
    refused(file.getvalue(), "compressed entries", capsys)
    stored = torch_saved({"a": TensorOf(np.ones(100, np.float32))}, monkeypatch)
    refused(stored.replace(struct.pack("<I", 400), struct.pack("<I", 2**31)), "file", capsys)


def outcome_of(path):
    try:
        torch_files.load(path)
    except InputError as error:
        return "refused" if len(str(error).splitlines()) == 1 else "lines"
    return "read"


def test_200_mutated_files(capsys, monkeypatch):
    """Cut short, bytes changed, removed and repeated: one line and nothing written, or a ticket."""
    state = {**STATE, **{f"{n}_orig": STATE[n] for n in MASKS}, **{f"{n}_mask": m for n, m in MASKS.items()}}
    state = {name: TensorOf(array) for name, array in state.items() if name not in MASKS}
    sources = [
        pickle.dumps(authors_list(STATE, MASKS), 2),
        pickle.dumps(MASKS, 4),
        torch_saved(state, monkeypatch),
        torch_saved_before(state, monkeypatch),
    ]
    random_ = random.Random(0)
    outcomes = collections.Counter()
    for number in range(200):
        content = bytearray(sources[number % 4])
        match random_.randrange(4):
            case 0:
                del content[random_.randrange(len(content)) :]
            case 1:
                for _ in range(random_.choice((1, 1, 10))):
                    content[random_.randrange(min(len(content), random_.choice((300, 10**9))))] ^= (
                        1 << random_.randrange(8)
                    )
            case 2:
                at = random_.randrange(len(content))
                del content[at : at + random_.randrange(1, 50)]
            case 3:
                at = random_.randrange(len(content))
                content[at:at] = content[at // 2 : at // 2 + random_.randrange(1, 100)]
        Path("file").write_bytes(content)
        outcome = outcome_of("file")
        outcomes[outcome] += 1
        if number % 10 == 0 or outcome == "read":
            status = main(["ticket", "import", "file", "--output", "out", *FLAGS]) if number < 80 else 2
            err = capsys.readouterr().err
            assert status in (0, 2)
            assert Path("out").exists() == (status == 0)
            assert status == 0 or err.count("\n") <= 1
            Path("out").unlink(missing_ok=True)
    assert outcomes["refused"] > 100
    assert not outcomes["lines"]
