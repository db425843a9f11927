"""Network files: what searches leave, `eval`, `predict` and `load` of them, sparse storage, damage."""

import csv
import io
import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import small
from PIL import Image

import snnlth_jax
import zoo
from snnlth_jax import configs, evaluation, masks, models, networks, neurons, surrogate, tickets
from snnlth_jax.cli import main
from snnlth_jax.data.augment import Augmentation, normalise
from snnlth_jax.errors import InputError
from snnlth_jax.networks import Network, Recipe
from snnlth_jax.run import checkpoints
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import early_bird, imp

NETWORK = small.EACH_EPOCH | {"num_timesteps": 3, "learning_rate": 0.3, "test_examples": 100}
SEARCHES = {
    "imp+et": (
        imp,
        configs.ImpConfig(
            **NETWORK,
            early_time=True,
            early_time_timesteps=2,
            rounds=3,
            rewind_epoch=1,
            final_rounds=(1, 2),
            controls=("random", "redrawn", "dense"),
        ),
        {
            "dense": ("round", 0),
            **{f"{kind}_0{n}": (kind, n) for kind in ("ticket", "random", "redrawn") for n in (1, 2)},
            "dense_control_02": ("dense", 2),
        },
    ),
    "eb": (
        early_bird,
        configs.EbConfig(**NETWORK, sparsity=0.5, queue=2, tau=1.0, controls=("random",)),
        {"dense": ("search", 0), "ticket_01": ("ticket", 1), "random_01": ("random", 1)},
    ),
}


@pytest.fixture(autouse=True)
def same_logger():
    """The command line leaves the logger as it was."""
    logger = logging.getLogger("snnlth_jax")
    level, handlers = logger.level, logger.handlers
    yield
    logger.level, logger.handlers = level, handlers


def interrupted(module, config, directory):
    """A search that is cut off before its fifth checkpoint, and then resumed."""
    with pytest.MonkeyPatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 5)
        with pytest.raises(small.Interrupted):
            small.run(module, config, directory)
    return small.run(module, config, directory)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Both searches, resumed after they were cut off: results and paths."""
    root = tmp_path_factory.mktemp("searches")
    return {
        name: interrupted(module, config, root / name)[:2] for name, (module, config, _) in SEARCHES.items()
    }


@pytest.mark.parametrize("name", SEARCHES)
def test_eval_is_the_result_to_the_last_image(name, searched):
    result, paths = searched[name]
    rows = {
        (row["kind"], row["round"]): row for part in ("rounds", "tickets", "controls") for row in result[part]
    }
    expected = SEARCHES[name][2]
    assert {path.name.removesuffix(".safetensors") for path in paths.networks.glob("*")} == expected.keys()
    for file, key in expected.items():
        row, evaluated = rows[key], evaluation.evaluate(paths.network(file))
        assert evaluated.test_accuracy == row["final_test_accuracy"] == evaluated.accuracy_over_time[-1]
        correct = rundir.read_correct(paths.correct_of(*key))
        np.testing.assert_array_equal(evaluated.correct, correct)
        assert (evaluated.kept, evaluated.num_timesteps) == (row["kept"], row["num_timesteps"])
        found = json.loads(evaluation.to_json(evaluated))
        assert found["layers"] == row["layers"]
        labels = evaluation.load_dataset(networks.classifier(paths.network(file))).test.labels
        assert found["accuracy_by_class"] == {str(c): correct[labels == c].mean() for c in range(10)}
    assert networks.load(paths.network("dense")).recipe.num_timesteps == (2 if name == "imp+et" else 3)


def test_a_network_is_the_one_in_the_last_checkpoint(searched):
    """Independently of `finish`: the arrays of the last phase as Orbax has them."""
    result, paths = searched["eb"]
    network = networks.load(paths.network("random_01"))
    assert result["controls"][-1]["kind"] == "random"
    with checkpoints.manager(paths) as manager:
        arrays = manager.restore(manager.latest_step())["arrays"]
    for own, other in ((network.params, "params"), (network.batch_stats, "batch_stats")):
        jax.tree.map(np.testing.assert_array_equal, own, jax.tree.map(np.asarray, arrays["state"][other]))
    assert network.provenance["phase"] == "random 1"
    assert network.provenance["seed"] == 0


def test_load_gives_a_function(searched):
    paths = searched["imp+et"][1]
    file = paths.network("ticket_02")
    logits = snnlth_jax.load(file)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    network = networks.load(file)
    normalised = (images / np.float32(255) - np.float32(0.305)) / np.float32(0.376)
    direct = small.MODEL.apply(
        {"params": network.params, "batch_stats": network.batch_stats}, normalised, num_timesteps=3
    )
    np.testing.assert_allclose(logits(images), direct.sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logits(images[..., 0]), logits(images))
    np.testing.assert_array_equal(logits(jnp.asarray(images)), logits(images))
    assert logits.over_time(images).shape == (3, 5, 10)
    assert logits.model == small.MODEL
    assert logits.provenance["config_hash"] == searched["imp+et"][0]["config_hash"]
    assert masks.sparsity(logits.masks) == pytest.approx(1 - 0.75**2, abs=2 / small.WEIGHTS)
    one = networks.classifier(file, num_timesteps=1)
    np.testing.assert_allclose(one(images), logits.over_time(images)[0], rtol=1e-5, atol=1e-6)
    for given, expected in (
        (images / 255, "images of float64: allowed: uint8"),
        (images[:, 1:], r"images of shape \[5, 7, 8, 1\]: allowed: \[N, 8, 8, 1\]"),
        (images[0, 0], "of shape"),
        (images[:0], "of shape"),
    ):
        with pytest.raises(InputError, match=expected):
            logits(given)


def eval_json(capsys, *arguments):
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_evaluates(searched, capsys):
    result, paths = searched["eb"]
    file = paths.network("ticket_01")
    found = eval_json(capsys, file)
    assert found["test_accuracy"] == result["tickets"][0]["final_test_accuracy"]
    assert len(found["accuracy_over_time"]) == 3
    shorter = eval_json(capsys, file, "--num-timesteps", "2")
    assert len(shorter["accuracy_over_time"]) == 2
    assert shorter["accuracy_over_time"][0] == found["accuracy_over_time"][0]
    assert eval_json(capsys, file, "--test-examples", "50")["test_examples"] == 50
    assert main(["eval", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"test accuracy: {found['test_accuracy']:.4f}" in out
    assert "SynOps" in out


def test_the_zoo_has_a_search_to_load(searched, tmp_path, capsys):
    result, paths = searched["imp+et"]
    run = str(paths.result.parent)
    assert zoo.main([run, str(tmp_path / "nowhere"), "--output", str(tmp_path / "zoo")]) == 2
    assert not (tmp_path / "zoo").exists()
    assert zoo.main([run, "--output", str(tmp_path / "zoo")]) == 0
    (entry,) = (tmp_path / "zoo").glob("*/")
    row = result["tickets"][-1]
    assert entry.name == f"digits_vgg5_imp+et_{row['sparsity']:.3f}_seed0"
    assert evaluation.evaluate(entry / "network.safetensors").test_accuracy == row["final_test_accuracy"]
    masks = tickets.load(entry / "ticket.safetensors").masks
    assert sum(int(mask.sum()) for mask in jax.tree.leaves(masks)) == row["kept"]
    with open(entry / "curve.csv") as file:
        curve = {line["run"]: float(line["accuracy"]) for line in csv.DictReader(file)}
    assert curve["ticket 2"] == row["final_test_accuracy"]
    assert len(curve) == len(result["rounds"]) + len(result["tickets"]) + len(result["controls"])
    assert f"[{entry.name}]" in (tmp_path / "zoo" / "README.md").read_text()
    assert capsys.readouterr().out.startswith(str(entry))


def test_inspect_says_the_kind(searched, capsys):
    paths = searched["eb"][1]
    for file, expected in (
        (paths.network("ticket_01"), "kind: network, its weights are trained"),
        (paths.ticket(1), "kind: ticket, its weights are those before training"),
    ):
        assert main(["ticket", "inspect", str(file)]) == 0
        out = capsys.readouterr().out
        assert out.startswith(expected)
        assert "layer01/conv/kernel" in out
        assert "dataset: digits" in out


def test_messages_do_not_mix_with_what_a_program_reads(searched, capsys):
    with jax.enable_x64(True), jax.transfer_guard("disallow"):
        assert main(["eval", str(searched["eb"][1].network("ticket_01")), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["test_accuracy"] >= 0
    (line,) = printed.err.splitlines()
    assert line.startswith("not followed, ")
    assert "jax_enable_x64 True" in line


def test_predict(searched, tmp_path, capsys):
    file = searched["eb"][1].network("ticket_01")
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8), np.uint8)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", images[1:])
    np.savez_compressed(tmp_path / "c.npz", images=images[..., None], labels=np.arange(3))
    given = [str(tmp_path / name) for name in ("a.png", "b.npy", "c.npz")]
    assert main(["predict", str(file), *given, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["image"].rpartition("/")[2] for entry in entries] == [
        *("a.png", "b.npy[0]", "b.npy[1]", "c.npz[0]", "c.npz[1]", "c.npz[2]")
    ]
    logits = np.asarray(snnlth_jax.load(file)(images), np.float64)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    for entry, row in zip(entries, [*expected, *expected], strict=True):
        np.testing.assert_allclose([*entry["probabilities"].values()], row, rtol=1e-4, atol=1e-6)
        assert entry["label"] == row.argmax()
    assert main(["predict", str(file), *given, "--csv"]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header[:4] == ["image", "label", "class", "probability"]
    assert [row[1] for row in rows] == [str(entry["label"]) for entry in entries]
    assert main(["predict", str(file), given[0]]) == 0
    assert f"{entries[0]['probability']:.4f}" in capsys.readouterr().out


def bad_images(directory):
    """Files of images that the network of digits does not take, and what is said of them."""
    rng = np.random.default_rng(2)
    grey, colour = rng.integers(0, 256, (8, 8), np.uint8), rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(colour).save(directory / "colour.png")
    Image.fromarray(grey).resize((16, 8)).save(directory / "wide.png")
    Image.fromarray(grey).save(directory / "good.png")
    content = (directory / "good.png").read_bytes()
    (directory / "cut.png").write_bytes(content[: len(content) // 2])
    (directory / "text.png").write_text("no picture")
    (directory / "empty.npy").write_bytes(b"")
    np.save(directory / "float.npy", grey / 255)
    np.save(directory / "large.npy", np.zeros((2, 9, 8), np.uint8))
    np.save(directory / "none.npy", np.zeros((0, 8, 8), np.uint8))
    np.save(directory / "object.npy", np.array([{}]), allow_pickle=True)
    np.savez(directory / "several.npz", a=grey, b=grey)
    (directory / "cut.npz").write_bytes((directory / "several.npz").read_bytes()[:100])
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    with (directory / "bomb.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    return {
        "colour.png": "an image of mode RGB; allowed: L, 1",
        "wide.png": "an image of 8x16 pixels; allowed: 8x8",
        "cut.png": "not an image that can be read",
        "text.png": "not an image that can be read",
        "empty.npy": "not an image that can be read",
        "float.npy": "an array of float64; allowed: uint8",
        "large.npy": "an array of shape [2, 9, 8]; allowed: [N, 8, 8, 1] or [N, 8, 8]",
        "none.npy": "an array of shape [0, 8, 8]",
        "object.npy": "not an image that can be read",
        "several.npz": "arrays a, b; allowed: one array, or one named images",
        "cut.npz": "not an image that can be read",
        "bomb.npy": "not an image that can be read",
        "gone.png": "no such file",
        ".": "not an image that can be read",
    }


def refused(capsys, *arguments):
    """The one line that a command says, which ends with status 2."""
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("snnlth: error: ")
    assert err.count("\n") == 1
    return err


def test_bad_images_are_one_line(searched, tmp_path, capsys):
    file = searched["eb"][1].network("ticket_01")
    for name, expected in bad_images(tmp_path).items():
        assert expected in refused(capsys, "predict", file, tmp_path / "good.png", tmp_path / name), name
    assert "images: none are given" in refused(capsys, "predict", file)
    assert "--csv" in refused(capsys, "predict", file, tmp_path / "good.png", "--csv", "--json")


def test_bad_input_is_one_line(searched, tmp_path, capsys):
    paths = searched["eb"][1]
    file, ticket = paths.network("ticket_01"), paths.ticket(1)
    for arguments, expected in (
        (("eval", ticket), "a ticket file, whose weights are those before training"),
        (("predict", ticket, "a.png"), "`snnlth train` trains it"),
        (("eval", "gone"), "gone: no such network file"),
        (("eval", tmp_path), "not a network file, but a directory"),
        (("eval", paths.config), "not a network file, or cut short"),
        (("eval", file, "--num-timesteps", 0), "--num-timesteps 0: allowed: 1 to 1000"),
        (("eval", file, "--num-timesteps", 1001), "--num-timesteps 1001: allowed: 1 to 1000"),
        (("eval", file, "--batch-size", 0), "--batch-size 0: allowed: 1 to 1024"),
        (("eval", file, "--test-examples", 0), "--test-examples 0: allowed: 1 to 360"),
        (("eval", file, "--dataset", "digitz"), "--dataset digitz: allowed: digits"),
        (("eval",), "Missing"),
        (("ticket", "inspect", paths.config), "not a ticket file, or cut short"),
    ):
        assert expected in refused(capsys, *arguments)
    with pytest.raises(InputError, match="a network file, whose weights are trained; allowed: a ticket file"):
        tickets.load(file)


def test_a_dataset_of_other_images_or_classes_is_refused(searched):
    network = networks.classifier(searched["eb"][1].network("ticket_01"))
    digits = evaluation.load_dataset(network)
    with pytest.raises(InputError, match="its images are 9x8x1, those of the network 8x8x1"):
        evaluation.evaluate(network, digits._replace(image_shape=(9, 8, 1)))
    with pytest.raises(InputError, match="its classes are 100, those of the network 10"):
        evaluation.evaluate(network, digits._replace(num_classes=100))
    for late in ({"num_timesteps": 2}, {"model": network.model}, {"arch": "mine:Net"}):
        with pytest.raises(InputError, match=f"{next(iter(late))}: the network is made already"):
            evaluation.evaluate(network, digits, **late)


# --- storage


RECIPE = Recipe("vgg5", 10, (8, 8, 1), (0.5,), (0.25,), 4, class_names=tuple("abcdefghij"))


def saved(path, params, kept, recipe=RECIPE):
    networks.save(path, Network(recipe, kept, params, {"mean": np.ones(2, np.float32)}, {"seed": 1}))
    return networks.load(path)


def same_bits(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, "c16"])
@pytest.mark.parametrize("removed", ["zero", "minus zero", "nan"])
def test_sparse_storage_is_exact(dtype, removed, tmp_path):
    rng = np.random.default_rng(3)
    weight, kept = rng.normal(size=(5, 3, 7)).astype(dtype), rng.random((5, 3, 7)) < 0.2
    weight[tuple(np.argwhere(kept)[0])] = 0
    if np.dtype(dtype).kind != "i":
        weight[tuple(np.argwhere(kept)[1])] = -0.0
        weight[tuple(np.argwhere(kept)[2])] = np.nan
    value = {"zero": 0, "minus zero": -0.0, "nan": np.nan if np.dtype(dtype).kind != "i" else 3}[removed]
    weight = np.where(kept, weight, np.asarray(value, weight.dtype))
    params = {"a": {"kernel": weight, "bias": weight[0, 0]}, "b": np.zeros((0, 2), dtype)}
    own = {"a": {"kernel": kept, "bias": None}, "b": np.zeros((0, 2), bool)}
    network = saved(tmp_path / "n", params, own)
    jax.tree.map(same_bits, network.params, params)
    jax.tree.map(np.testing.assert_array_equal, network.masks, own)
    assert network.masks["a"]["bias"] is None
    assert (network.recipe, network.provenance) == (RECIPE, {"seed": 1})
    stored = safetensors.numpy.load_file if dtype is not ml_dtypes.bfloat16 else None
    if stored and dtype != "c16":
        sparse = removed == "zero" or (removed == "minus zero" and dtype is np.int8)
        assert ("kept/a/kernel" in stored(tmp_path / "n")) == sparse


def test_safetensors_and_numpy_alone_read_it(tmp_path):
    """The lines in docs/networks.md."""
    rng = np.random.default_rng(4)
    kept = rng.random((20, 30)) < 0.1
    weight = np.where(kept, rng.normal(size=kept.shape), 0).astype(np.float32)
    saved(tmp_path / "n.safetensors", {"w": weight, "b": weight[0]}, {"w": kept, "b": None})
    text = (Path(__file__).parent.parent / "docs" / "networks.md").read_text()
    (lines,) = [block for block in text.split("```python\n")[1:] if "unpackbits" in block]
    names = {"path": str(tmp_path / "n.safetensors")}
    exec(lines.split("```")[0], names)
    same_bits(names["weights"]["w"], weight)
    same_bits(names["weights"]["b"], weight[0])


def test_a_removed_weight_costs_a_bit(tmp_path):
    kept = np.zeros((1000, 100), bool)
    kept[:20] = True  # 2 %
    weight = np.where(kept, np.float32(1.5), np.float32(0))
    saved(tmp_path / "n", {"w": weight}, {"w": kept})
    overhead = (tmp_path / "n").stat().st_size - (kept.size // 8 + 4 * kept.sum())
    assert 0 < overhead < 2500


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "n"
    rng = np.random.default_rng(5)
    kept = rng.random((6, 9)) < 0.3
    saved(
        path, {"w": np.where(kept, rng.normal(size=kept.shape), 0), "b": np.ones(3)}, {"w": kept, "b": None}
    )
    return path.read_bytes()


def test_mutated_files_are_one_line(intact, tmp_path, capsys):
    """200 mutations: bits, bytes, cuts, insertions, parts of the file twice."""
    rng = np.random.default_rng(6)
    for number in range(200):
        content, at = bytearray(intact), int(rng.integers(len(intact)))
        match number % 5:
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                content = content[:at]
            case 2:
                content[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                del content[at : at + int(rng.integers(1, 9))]
            case 4:
                content[at : at + 8] = rng.bytes(8)
        if content == intact:
            continue
        (tmp_path / "n").write_bytes(content)
        with pytest.raises(InputError) as error:
            networks.load(tmp_path / "n")
        assert "\n" not in str(error.value)
        if number % 20 == 0:
            refused(capsys, "eval", tmp_path / "n")
            refused(capsys, "ticket", "inspect", tmp_path / "n")


def forged(content, change, key="network"):
    """A file with another header, and the checksum of that."""
    from snnlth_jax.tickets import container, tensors

    metadata, arrays = tensors.parse(content)
    header = json.loads(metadata[key])
    header.pop("sha256")
    arrays = dict(arrays)
    change(header, arrays)
    return container.serialize(key, header, arrays)


def of(**changes):
    return lambda header, arrays: header["recipe"].update(changes)


FORGED = {
    "no recipe": lambda header, arrays: header.pop("recipe"),
    "a recipe of other types": of(num_classes="ten"),
    "no classes": of(num_classes=0, class_names=[]),
    "no timesteps": of(num_timesteps=0),
    "two means": of(mean=[0.1, 0.2]),
    "a std of 0": of(std=[0.0]),
    "a std of nan": of(std=[float("nan")]),
    "four axes": of(image_shape=[1, 8, 8, 1]),
    "another dtype": of(dtype="float8"),
    "two names": of(class_names=["a", "b"]),
    "format 2": lambda header, arrays: header.update(format="snnlth-network-2"),
    "a mask of another size": lambda header, arrays: header["mask_shapes"].update(w=[9, 7]),
    "a huge mask": lambda header, arrays: header["mask_shapes"].update(w=[10**9, 10**9]),
    "kept values without a mask": lambda header, arrays: arrays.update({"kept/x": arrays["kept/w"]}),
    "too few kept values": lambda header, arrays: arrays.update({"kept/w": arrays["kept/w"][1:]}),
    "twice": lambda header, arrays: arrays.update({"params/w": np.zeros((6, 9))}),
    "no mask": lambda header, arrays: arrays.pop("mask/w"),
    "provenance": lambda header, arrays: header.update(mask_shapes=[]),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_are_one_line(name, intact, tmp_path):
    (tmp_path / "n").write_bytes(forged(intact, FORGED[name]))
    with pytest.raises(InputError) as error:
        networks.load(tmp_path / "n")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "vgg99"},
        {"arch": "my.module:Net"},
        {"arch": "VGG", "options": {"colour": 1}},
        {"arch": "VGG", "options": {"features": ["M"] * 9}},
        {"arch": "VGG", "options": {"features": "M"}},
        {"arch": "vgg9"},
        {"width": -1.0},
        {"width": float("inf")},
        {"activation": "tanh"},
        {"neuron": {}},
        {"neuron": {"surrogate": "atan", "surrogate_scale": -1.0}},
        {"neuron": {"surrogate": "atan", "surrogate_scale": 2.0, "tau": "long"}},
        {"neuron": {"surrogate": "atan", "surrogate_scale": 2.0, "tau": 0.5}},
        {"neuron": {"surrogate": "atan", "surrogate_scale": 2.0, "colour": 1}},
        {"num_classes": 11},
        {"image_shape": [16, 16, 1]},
        {"image_shape": [1, 1, 1]},
    ],
    ids=str,
)
def test_a_recipe_of_another_network_is_one_line(changes, searched, tmp_path):
    content = searched["eb"][1].network("ticket_01").read_bytes()
    (tmp_path / "n").write_bytes(forged(content, of(**changes)))
    with pytest.raises(InputError) as error:
        snnlth_jax.load(tmp_path / "n")
    assert "\n" not in str(error.value)


NEURON = neurons.LIF(tau=2.0, v_reset=None, decay_input=False, spike=surrogate.triangle(0.5))


@pytest.mark.parametrize(
    "model",
    [
        models.create("vgg9", 7, width=0.3, activation="relu"),
        models.create("resnet19", 3, neuron=NEURON, dtype=jnp.bfloat16),
        models.create("alexnet", 4, neuron=neurons.LIF(v_threshold=float("inf"))),
        models.ResNet(stage_sizes=(1,), widths=(4,), stem=2, hidden=None, num_classes=2, neuron=NEURON),
        small.MODEL,
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_recipe_makes_the_network_again(model):
    for name, width in (("vgg9", 0.3), ("resnet19", 1.0), ("alexnet", 1.0)):
        recipe = networks.describe(
            model,
            image_shape=(32, 32, 3),
            normalisation=Augmentation((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), crop_padding=4),
            num_timesteps=1,
            name=name,
            width=width,
        )
        from_text = networks.recipe.from_json(json.loads(json.dumps(networks.recipe.to_json(recipe))))
        assert networks.model(from_text) == model
        assert from_text.normalisation == Augmentation((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


class Own(models.VGG):
    """A network of its author's own."""


def test_a_network_of_its_authors_own_is_given(tmp_path):
    model = Own((3, "M"), num_classes=4)
    grey = Augmentation((0.5,), (0.5,))
    recipe = networks.describe(model, image_shape=(8, 8, 1), normalisation=grey, num_timesteps=2)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), num_timesteps=1)
    network = Network(
        recipe, masks.make(variables["params"]), variables["params"], variables["batch_stats"], {}
    )
    networks.save(tmp_path / "n", network)
    with pytest.raises(InputError, match="the network is its author's own; allowed: test_networks:Own"):
        snnlth_jax.load(tmp_path / "n")
    images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    logits = snnlth_jax.load(tmp_path / "n", model=model)(images)
    direct = model.apply(variables, normalise(jnp.asarray(images), grey), num_timesteps=2).sum(0)
    np.testing.assert_allclose(logits, direct, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="weights of another network: params/"):
        snnlth_jax.load(tmp_path / "n", model=Own((3, "M", 5), num_classes=4))


def test_a_file_in_the_way_of_the_networks_is_no_run(tmp_path):
    """Networks without a config.json belong to nobody."""
    (tmp_path / "networks").mkdir()
    module, config, _ = SEARCHES["eb"]
    with pytest.raises(InputError, match="holds networks without a config"):
        small.run(module, config, tmp_path)
    shutil.rmtree(tmp_path / "networks")
