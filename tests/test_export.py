"""Trained networks in the formats of others compute what the network of this package computes."""

import dataclasses
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from snnlth_jax import masks, models, networks, surrogate
from snnlth_jax.cli import main
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.errors import InputError
from snnlth_jax.interop import arrays, layers, torch_files
from snnlth_jax.interop import nir as to_nir
from snnlth_jax.interop import onnx as to_onnx
from snnlth_jax.interop.torch import from_state_dict, to_state_dict
from snnlth_jax.networks import Network
from snnlth_jax.neurons import LIF, PLIF

DOCUMENT = Path(__file__).parent.parent / "docs" / "export.md"
T, SHAPE = 4, (8, 9, 2)
VGG = models.VGG((3, "M", 6, 5, "M"), num_classes=10)
MODELS = {
    "vgg": VGG,
    "alexnet": models.VGG((3, "M", 5), num_classes=4, stride=2, hidden=(6, 5)),
    "resnet": models.ResNet((2, 1), (4, 6), stem=3, hidden=5, num_classes=4),
    "resnet34": models.ResNet((1, 1), (4, 6), stem=4, hidden=None, num_classes=4, strides=(2, 1, 2)),
    "neuron": VGG.clone(neuron=LIF(tau=2.5, v_threshold=0.8, v_reset=-0.1, decay_input=False)),
    "relu": VGG.clone(activation="relu"),
    "soft": VGG.clone(neuron=LIF(v_reset=None, spike=surrogate.sigmoid())),
}
SPIKING = [name for name in MODELS if name not in ("relu", "soft")]
PATCHES = np.random.default_rng(5).integers(0, 256, (100, 2, 3, 2), np.uint8)  # fields of one colour each
IMAGES = PATCHES.repeat(4, 1).repeat(3, 2)


def trained(model, seed=0):
    """Random weights, half of them removed, and statistics of batch norm far from 0 and 1."""
    rng = np.random.default_rng(seed)
    images = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, num_timesteps=1), images)

    def fill(path, leaf):
        name, size = path[-1].key, leaf.shape
        value = {
            "mean": lambda: rng.normal(1.0, 2.0, size),
            "var": lambda: rng.uniform(2.0, 30.0, size),
            "scale": lambda: rng.uniform(0.5, 3.0, size) * rng.choice([-1, 1], size),
            "bias": lambda: rng.uniform(0.2, 1.5, size),
            "kernel": lambda: rng.normal(0, 1.5, size),
        }[name]()
        return value.astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    kept = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5, masks.make(variables["params"]))
    params = jax.tree.map(np.asarray, masks.apply(variables["params"], kept))
    steps = 1 if model.activation == "relu" else T
    normalisation = Augmentation((0.4, 0.6), (0.2, 0.3))
    recipe = networks.describe(model, image_shape=SHAPE, normalisation=normalisation, num_timesteps=steps)
    return Network(recipe, kept, params, variables["batch_stats"], {})


@pytest.fixture(scope="module")
def known():
    """Networks, their logits on the images, and their spikes."""
    cache = {}

    def get(name):
        if name not in cache:
            model = MODELS[name]
            network = trained(model)
            x = (IMAGES.astype(np.float32) / 255 - network.recipe.mean) / network.recipe.std
            variables = {"params": network.params, "batch_stats": network.batch_stats}
            run = jax.jit(
                lambda v, x: model.apply(
                    v, x, num_timesteps=network.recipe.num_timesteps, mutable=["intermediates"]
                )
            )
            logits, _ = jax.device_get(run(variables, x.astype(np.float32)))
            network.params["readout"]["bias"] -= logits.mean((0, 1))  # so that images differ in their class
            logits, found = jax.device_get(run(variables, x.astype(np.float32)))
            spikes = {
                "_".join(key.key for key in path if hasattr(key, "key")): leaf
                for path, leaf in jax.tree_util.tree_leaves_with_path(found["intermediates"])
            }
            spikes = {key.replace("_second_spikes", "_spikes"): leaf for key, leaf in spikes.items()}
            cache[name] = network, logits.sum(0), spikes
        return cache[name]

    return get


def agree(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * max(1, abs(expected).max()))
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", MODELS)
def test_the_networks_of_these_tests_fire_everywhere(name, known):
    _, logits, spikes = known(name)
    assert len(np.unique(logits.argmax(-1))) > 1
    for layer, leaf in spikes.items():
        assert 0.02 < (leaf > 0).mean() < 0.98, layer


# --- NIR: an interpreter of its definitions


def interpret(graph, image):
    """Outputs of each node at each timestep, of images [N, C, H, W]; from NIR's equations alone."""
    import nir

    dt, steps = graph.metadata["dt"], int(graph.metadata["num_timesteps"])
    order, ready = [], {"input"}
    while len(ready) < len(graph.nodes):
        for node in graph.nodes:
            if node not in ready and all(a in ready for a, b in graph.edges if b == node):
                order.append(node)
                ready.add(node)
    v, history = {}, {node: [] for node in graph.nodes}
    for _ in range(steps):
        out = {"input": image}
        for name in order:
            node = graph.nodes[name]
            x = sum(out[a] for a, b in graph.edges if b == name)
            match node:
                case nir.Conv2d():
                    out[name] = convolved(x, node)
                case nir.Affine():
                    out[name] = x @ node.weight.T + node.bias
                case nir.SumPool2d() | nir.AvgPool2d():
                    (h, w), (i, j) = node.kernel_size, node.stride
                    windows = np.lib.stride_tricks.sliding_window_view(x, (h, w), (2, 3))[:, :, ::i, ::j]
                    out[name] = (
                        windows.sum((4, 5)) if isinstance(node, nir.SumPool2d) else windows.mean((4, 5))
                    )
                case nir.Threshold():
                    out[name] = (x > node.threshold).astype(np.float32)
                case nir.Flatten():
                    out[name] = x.reshape(len(x), -1)
                case nir.Output():
                    out[name] = x
                case nir.LIF():
                    before = v.get(name, np.broadcast_to(node.v_reset, x.shape))
                    rate = (dt / node.tau.astype(float)).astype(np.float32)
                    charged = before + rate * ((node.v_leak - before) + node.r * x)
                    fired = charged > node.v_threshold
                    v[name] = np.where(fired, node.v_reset, charged)
                    out[name] = fired.astype(np.float32)
            assert out[name].shape[1:] == tuple(node.output_type["output"])
            history[name].append(out[name])
    return {name: np.stack(steps) for name, steps in history.items() if steps}


def convolved(x, node):
    (p, q), (s, t) = node.padding, node.stride
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (q, q)))
    windows = np.lib.stride_tricks.sliding_window_view(x, node.weight.shape[2:], (2, 3))[:, :, ::s, ::t]
    return np.einsum("nchwij,ocij->nohw", windows, node.weight, optimize=True) + node.bias[:, None, None]


def normalised(network):
    x = (IMAGES.astype(np.float32) / 255 - network.recipe.mean) / network.recipe.std
    return x.astype(np.float32).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("dt", [1.0, 1e-4])
@pytest.mark.parametrize("name", SPIKING)
def test_nir(name, dt, known, tmp_path):
    """The same spikes in every layer, before and after a round trip by file."""
    nir = pytest.importorskip("nir")
    if dt != 1 and name != "vgg":
        return
    network, logits, spikes = known(name)
    networks.save(tmp_path / "network", network)
    path = tmp_path / "network.nir"
    command = ["export", str(tmp_path / "network"), "--to", "nir", "--output", str(path), "--dt", str(dt)]
    assert main(command) == 0
    graph = nir.read(path)
    assert float(graph.metadata["dt"]) == dt
    found = interpret(graph, normalised(network))
    for layer, leaf in spikes.items():
        theirs = found[layer]
        ours = np.moveaxis(leaf, -1, 2) if leaf.ndim == 5 else leaf
        np.testing.assert_array_equal(theirs, ours, err_msg=layer)
    agree(found["output"].sum(0), logits)
    neuron = MODELS[name].neuron
    lifs = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert len(lifs) == len(spikes)
    for node in lifs:
        np.testing.assert_allclose(node.tau, neuron.tau * dt, rtol=1e-6)
        np.testing.assert_allclose(node.v_threshold, neuron.v_threshold, rtol=1e-6)


@pytest.mark.parametrize("dt", [1.0, 1e-4])
@pytest.mark.parametrize("name", ["vgg", "neuron"])
def test_nir_of_nodes_that_peers_know(name, dt, known, tmp_path):
    """A maximum as an average and a LIF, which fires at any spike and forgets at once: the same spikes."""
    nir = pytest.importorskip("nir")
    network, logits, spikes = known(name)
    networks.save(tmp_path / "network", network)
    path = tmp_path / "network.nir"
    command = ["export", str(tmp_path / "network"), "--to", "nir", "--output", str(path), "--dt", str(dt)]
    assert main([*command, "--pooling", "lif"]) == 0
    graph, before = nir.read(path), to_nir.from_network(network, dt)
    kinds = {"SumPool2d": "AvgPool2d", "Threshold": "LIF"}
    expected = {key: type(node).__name__ for key, node in before.nodes.items()}
    found = {key: type(node).__name__ for key, node in graph.nodes.items()}
    assert found == {key: kinds.get(kind, kind) for key, kind in expected.items()}
    outputs, same = interpret(graph, normalised(network)), interpret(before, normalised(network))
    for layer, leaf in same.items():
        if layer.endswith("_spikes"):
            np.testing.assert_array_equal(outputs[layer], leaf, err_msg=layer)
    assert {"pool1_spikes", "pool2_spikes", *spikes} <= {*outputs}
    agree(outputs["output"].sum(0), logits)


def test_what_nir_says_of_its_input(known):
    network, *_ = known("vgg")
    says = to_nir.from_network(network).metadata["convention"]
    assert "At the start v = v_reset." in says
    assert "[C, H, W], at each of num_timesteps timesteps." in says
    frames = dataclasses.replace(network.recipe, image_shape=(T, *SHAPE))
    says = to_nir.from_network(network._replace(recipe=frames)).metadata["convention"]
    assert "[C, H, W], frame t at timestep t." in says
    with pytest.raises(InputError, match=r"^pooling max: allowed: threshold, lif$"):
        to_nir.from_network(network, pooling="max")


def test_nir_fires_at_the_threshold():
    """Exactly there: a charge of 1 at a threshold of 1."""
    import nir

    model = models.VGG((1,), num_classes=2, neuron=LIF(tau=1.0))
    network = trained(model)
    node = to_nir.from_network(network).nodes["layer01_spikes"]
    assert isinstance(node, nir.LIF)
    assert (np.float32(1) > node.v_threshold).all()
    assert not (np.nextafter(np.float32(1), np.float32(0)) > node.v_threshold).any()


@pytest.mark.parametrize("name", ["relu", "soft"])
def test_what_nir_has_not(name):
    with pytest.raises(InputError, match=r"^(activation relu: NIR has|v_reset: NIR has)"):
        to_nir.from_network(trained(MODELS[name]))


# --- ONNX


@pytest.mark.parametrize("name", MODELS)
def test_onnx(name, known, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    network, logits, _ = known(name)
    model = to_onnx.from_network(network)
    assert {node.domain for node in model.graph.node} == {""}
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options)
    for images in (IMAGES, IMAGES[:1]):
        (found,) = session.run(["logits"], {"images": images})
        agree(found, logits[: len(images)])


# --- NumPy


def of_the_document():
    """The functions in the document."""
    (code,) = re.findall(r"```python\n(import json.*?)```", DOCUMENT.read_text(), re.S)
    scope = {}
    exec(compile(code, "export.md", "exec"), scope)
    return scope["logits"]


@pytest.mark.parametrize("name", MODELS)
def test_npz(name, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, logits, _ = known(name)
    networks.save("network", network)
    assert main(["export", "network", "--to", "npz", "--output", "new/network.npz"]) == 0
    with np.load("new/network.npz") as file:
        net = dict(file)
    agree(of_the_document()(net, IMAGES), logits)
    for key, array in arrays.from_network(network).items():
        np.testing.assert_array_equal(net[key], array)


@pytest.mark.parametrize("name", MODELS)
def test_removed_weights_are_zero(name, known):
    """As many as before, where they were."""
    network, *_ = known(name)
    graph = layers.from_network(network)
    weights = {layer.name: layer.weight for layer in graph.layers if layer.weight is not None}
    kept = {key: np.asarray(x) for key, x in masks_by_name(network).items()}
    assert len(weights) == len(kept)
    for weight, mask in zip(weights.values(), kept.values(), strict=True):
        assert weight.shape == mask.shape
        assert not weight[~mask].any()
        assert not np.signbit(weight[~mask]).any()
        assert weight.dtype == np.float32


def masks_by_name(network):
    """In PyTorch's names, layouts and order."""
    return to_state_dict(networks.model(network.recipe), {"params": network.masks})


def test_folding_is_that_of_the_equation(known):
    network, *_ = known("vgg")
    layer = layers.from_network(network).layers[0]
    params, stats = network.params["layer01"], network.batch_stats["layer01"]["norm"]
    x = np.random.default_rng(0).normal(size=3).astype(float)
    slope = params["norm"]["scale"].astype(float) / np.sqrt(stats["var"].astype(float) + 1e-5)
    before = (
        x * slope + params["norm"]["bias"] + (params["conv"]["bias"] - stats["mean"].astype(float)) * slope
    )
    np.testing.assert_allclose(layer.bias + x * slope, before, rtol=1e-6)
    kernel = params["conv"]["kernel"].transpose(3, 2, 0, 1) * slope[:, None, None, None]
    np.testing.assert_allclose(layer.weight, kernel, rtol=1e-6)


# --- PyTorch


@pytest.mark.parametrize("name", ["vgg", "alexnet", "resnet", "resnet34", "relu"])
def test_torch_round_trip_is_bitwise(name, known, tmp_path, monkeypatch):
    """Network -> file of torch.save -> network -> file."""
    monkeypatch.chdir(tmp_path)
    network, *_ = known(name)
    networks.save("network", network)
    assert main(["export", "network", "--to", "torch", "--output", "network.pth"]) == 0
    state_dict = torch_files.load("network.pth")
    model = networks.model(network.recipe)
    variables = from_state_dict(model, state_dict, jax.ShapeDtypeStruct((1, *SHAPE), np.float32))
    jax.tree.map(np.testing.assert_array_equal, variables["params"], network.params)
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], network.batch_stats)
    assert torch_files.dumps(to_state_dict(model, variables)) == Path("network.pth").read_bytes()


def test_torch_computes_the_same(known):
    """The authors' network, written with PyTorch's layers: strict names, same logits."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    network, logits, _ = known("vgg")
    steps, channels, modules = network.recipe.num_timesteps, SHAPE[-1], []

    class Lif(nn.Module):
        v = 0.0

        def forward(self, x):
            charged = self.v + (x - self.v) / network.recipe.neuron["tau"]
            spikes = (charged >= 1).float()
            self.v = charged * (1 - spikes)
            return spikes

    for entry in MODELS["vgg"].features:
        if entry == "M":
            modules.append(nn.MaxPool2d(2))
        else:
            modules += [nn.Conv2d(channels, entry, 3, padding=1), nn.BatchNorm2d(entry), Lif()]
            channels = entry
    net = nn.Module()
    net.features, net.classifier = nn.Sequential(*modules), nn.Linear(channels * 4, 10)
    state_dict = to_state_dict(
        networks.model(network.recipe), {"params": network.params, "batch_stats": network.batch_stats}
    )
    file = io.BytesIO(torch_files.dumps(state_dict))
    net.load_state_dict(torch.load(file, weights_only=True))
    net.eval()
    with torch.no_grad():
        x = torch.from_numpy(normalised(network))
        found = sum(net.classifier(net.features(x).flatten(1)) for _ in range(steps))
    agree(found.numpy(), logits)


# --- JAX alone

ALONE = """
import sys
for module in ("flax", "optax", "snnlth_jax"):
    sys.modules[module] = None
import jax
import numpy as np
function = jax.export.deserialize(bytearray(open("network.jax", "rb").read()))
np.save("logits.npy", function.call(np.load("images.npy")))
"""


@pytest.mark.subprocess
def test_jax_alone_computes_the_same(known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, logits, _ = known("resnet")
    networks.save("network", network)
    assert main(["export", "network", "--to", "stablehlo", "--output", "network.jax"]) == 0
    np.save("images.npy", IMAGES)
    code = [sys.executable, "-c", f"import jax.export{ALONE}"]
    subprocess.run(code, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    agree(np.load("logits.npy"), logits)


# --- the command


def test_bad_input_is_one_line(known, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    networks.save("network", known("vgg")[0])
    networks.save("relu", known("relu")[0])
    recipe = dataclasses.replace(known("vgg")[0].recipe, arch="mine:Net")
    networks.save("mine", known("vgg")[0]._replace(recipe=recipe))
    Path("there").write_text("mine")
    for arguments, expected in (
        ("nowhere --to npz --output out", "nowhere: no such network file"),
        ("there --to npz --output out", "there: not a network file"),
        (
            "network --to npz --output there",
            "--output there: is there already; allowed: a new file, or --overwrite",
        ),
        ("network --to npz --output .", "--output .: is a directory"),
        ("network --to npz --output there/out", "is not a directory"),
        ("network --to pdf --output out", "--to pdf: allowed: torch, nir, onnx, npz"),
        ("network --to npz", "Missing: --output"),
        ("network --output out", "Missing: --to"),
        ("network --to nir --output out --dt 0", "--dt 0.0: allowed: a number above 0"),
        ("network --to nir --output out --dt nan", "--dt nan: allowed: a number above 0"),
        ("network --to onnx --output out --num-timesteps 0", "--num-timesteps 0: allowed: 1 to 1000"),
        ("relu --to onnx --output out --num-timesteps 2", "--num-timesteps 2: allowed: 1 for"),
        ("relu --to nir --output out", "--activation relu: NIR has no such neuron"),
        ("mine --to npz --output out", "--arch mine:Net: allowed: a VGG or a ResNet"),
        ("mine --to stablehlo --output out", "allowed: mine:Net"),
        ("network --to npz --output out --arch mine:Net", "--arch mine:Net: allowed: with --to stablehlo"),
    ):
        assert main(["export", *arguments.split()]) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert expected in err
        assert Path("there").read_text() == "mine"
        assert not Path("out").exists()
    for package in ("nir", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["export", "network", "--to", package, "--output", "out"]) == 2
        assert f"{package}: is not installed: pip install 'snnlth_jax[export]'" in capsys.readouterr().err
    assert main(["export", "network", "--to", "npz", "--output", "./network", "--overwrite"]) == 2
    assert "--output ./network: is what is read; allowed: another file" in capsys.readouterr().err
    assert main(["export", "network", "--to", "npz", "--output", "there", "--overwrite"]) == 0
    assert int(np.load("there")["num_timesteps"]) == T


# --- what a format cannot have, and the model card


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (VGG.clone(neuron=PLIF(tau=2.0)), "neuron plif: allowed: lif or if"),
        (VGG.clone(norm="tdbn"), "norm tdbn: allowed: timestep"),
        (VGG.clone(norm="bntt", norm_timesteps=T), "norm bntt: allowed: timestep"),
    ],
    ids=["plif", "tdbn", "bntt"],
)
def test_networks_that_no_format_can_have(tmp_path, capsys, model, message):
    variables = model.init(jax.random.key(0), np.ones((1, *SHAPE), np.float32), num_timesteps=T)
    grey = Augmentation((0.4, 0.6), (0.2, 0.3))
    recipe = networks.describe(model, image_shape=SHAPE, normalisation=grey, num_timesteps=T)
    file = tmp_path / "network.safetensors"
    everything = masks.make(variables["params"])
    networks.save(
        file, Network(recipe, everything, variables["params"], variables.get("batch_stats", {}), {})
    )
    assert networks.model(networks.load(file).recipe) == model  # the file itself has them
    for to in ("torch", "npz", "nir", "onnx"):
        assert main(["export", str(file), "--to", to, "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_frames_go_where_a_timestep_is_called(tmp_path, capsys):
    network = trained(VGG)
    frames = dataclasses.replace(network.recipe, image_shape=(T, *SHAPE))
    file = tmp_path / "network.safetensors"
    networks.save(file, network._replace(recipe=frames))
    for to, status in (("torch", 0), ("nir", 0), ("onnx", 2), ("npz", 2)):
        assert main(["export", str(file), "--to", to, "--output", str(tmp_path / to)]) == status
    assert "images that change over time; allowed: nir, torch" in capsys.readouterr().err


def test_the_model_card_loads_the_network(tmp_path, monkeypatch):
    provenance = {"dataset": "mine | `yours`", "test_accuracy": 0.875, "phase": "ticket 5", "seed": 3}
    network = trained(VGG)._replace(provenance=provenance)
    networks.save(tmp_path / "ticket_05.safetensors", network)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "ticket_05.safetensors", "--to", "card", "--output", "README.md"]) == 0
    card = (tmp_path / "README.md").read_text()
    kept, total = map(int, masks.count(network.masks))
    for fact in ("# VGG on mine \\| 'yours'", "0.8750", f"{kept:,} of {total:,} kept", "| seed | 3 |"):
        assert fact in card
    assert len(re.findall(r"^\| .*/kernel \| ", card, re.M)) == 4
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    names = {"images": IMAGES[:2]}
    exec(code, names)
    assert names["logits"].shape == (2, 10)
