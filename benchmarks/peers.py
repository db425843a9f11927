"""Exported networks in other people's code: SpikingJelly, snnTorch, NIR's readers, PyTorch.

In an environment of its own, beside this package; exit status 1 where something differs:

    pip install -c constraints.txt '.[search,export]'
    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    pip install --no-deps spikingjelly==2.0.0 snntorch==1.0.0 nirtorch==2.6 && pip install loguru matplotlib
    python benchmarks/peers.py      # or the names of some of the networks below

A VGG16 and a ResNet19 of small width get random weights, half of them removed, and the statistics of batch
norm that these have on the images, so that every layer fires. Each is exported by `snnlth export`, and each
peer computes 100 images from the file, in double precision, while ours is in float32. The images have four
fields of one colour: few different numbers come near a threshold, at which rounding could decide otherwise.
"""

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import nir
import numpy as np
import torch
from layered_networks import VGG, ResNet
from snntorch.import_nir import import_from_nir as snntorch_reader
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.nir_exchange import import_from_nir as spikingjelly_reader
from torch import nn

from snnlth_jax import masks, models, networks
from snnlth_jax.cli import main as snnlth
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.interop import layers, torch_files
from snnlth_jax.interop.torch import from_state_dict
from snnlth_jax.neurons import LIF

T, WIDTH, CLASSES, SHAPE = 5, 1 / 16, 10, (32, 32, 3)
GREY = Augmentation((0.49, 0.48, 0.45), (0.2, 0.2, 0.2))
OTHER = LIF(tau=2.5, v_threshold=0.8, v_reset=-0.1, decay_input=False)
NETWORKS = {
    "VGG16": models.create("vgg16", CLASSES, width=WIDTH),
    "ResNet19": models.create("resnet19", CLASSES, width=WIDTH),
    "VGG16, v_reset -0.1": models.create("vgg16", CLASSES, width=WIDTH).clone(neuron=OTHER),
}


class Outcome(NamedTuple):
    """Output of a network: logits [N, classes], and the spikes [T, N, ...] of each layer in order."""

    logits: np.ndarray
    spikes: list[np.ndarray]


# --- our networks


def images() -> np.ndarray:
    fields = np.random.default_rng(5).integers(0, 256, (100, 2, 2, 3), np.uint8)
    return fields.repeat(16, 1).repeat(16, 2)


def normalised() -> np.ndarray:
    return ((images().astype(np.float32) / 255 - GREY.mean) / GREY.std).astype(np.float32)


def trained(model: Any, seed: int) -> networks.Network:
    """Random weights, half of them removed, and the running statistics after 20 batches."""
    rng = np.random.default_rng(seed)
    x = normalised()
    variables = jax.device_get(jax.jit(lambda x: model.init(jax.random.key(0), x, num_timesteps=1))(x[:1]))

    def fill(path: Any, leaf: np.ndarray) -> np.ndarray:
        draw = {
            "scale": lambda: rng.uniform(0.5, 2.0, leaf.shape) * rng.choice([-1, 1], leaf.shape),
            "bias": lambda: rng.uniform(0.2, 1.2, leaf.shape),
            "kernel": lambda: rng.normal(0, 1.0, leaf.shape),
        }[path[-1].key]
        return draw().astype(np.float32)

    params = jax.tree_util.tree_map_with_path(fill, variables["params"])
    kept = jax.tree.map(lambda mask: rng.random(mask.shape) < 0.5, masks.make(params))
    params = jax.tree.map(np.array, masks.apply(params, kept))
    if "hidden" in params:  # no batch norm behind it
        params["hidden"]["kernel"] /= np.sqrt(params["hidden"]["kernel"].shape[0] / 4)
    update = jax.jit(
        lambda variables, x: model.apply(variables, x, num_timesteps=T, train=True, mutable=["batch_stats"])[
            1
        ]
    )
    stats = {"batch_stats": variables["batch_stats"]}
    for _ in range(20):
        stats = update({"params": params, **stats}, x)
    recipe = networks.describe(model, image_shape=SHAPE, normalisation=GREY, num_timesteps=T)
    network = networks.Network(recipe, kept, params, jax.device_get(stats["batch_stats"]), {})
    params["readout"]["bias"] -= ours(network).logits.mean(0) / T  # so that images differ in their class
    return network


def ours(network: networks.Network) -> Outcome:
    model = networks.model(network.recipe)
    run = jax.jit(lambda v, x: model.apply(v, x, num_timesteps=T, mutable=["intermediates"]))
    logits, measured = jax.device_get(
        run({"params": network.params, "batch_stats": network.batch_stats}, normalised())
    )
    spikes = {
        "_".join(key.key for key in path if hasattr(key, "key")).replace("_second_spikes", "_spikes"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(measured["intermediates"])
    }
    in_order = [x.name for x in layers.from_network(network).layers if x.kind == "lif"]
    return Outcome(
        logits.sum(0), [np.moveaxis(x, -1, 2) if x.ndim == 5 else x for x in map(spikes.get, in_order)]
    )


# --- what peers compute


@contextmanager
def recorded(modules: list[nn.Module]) -> Iterator[list[list[torch.Tensor]]]:
    """Outputs of the modules, call by call."""
    outputs: list[list[torch.Tensor]] = [[] for _ in modules]

    def keep(into: list[torch.Tensor]) -> Callable[..., None]:
        return lambda module, inputs, output: into.append(output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(keep(into)) for module, into in zip(modules, outputs, strict=True)]
    yield outputs
    for hook in hooks:
        hook.remove()


def inputs() -> torch.Tensor:
    return torch.from_numpy(normalised().transpose(0, 3, 1, 2).astype(np.float64))


def stepwise(net: nn.Module, modules: list[nn.Module], call: Callable[..., Any]) -> Outcome:
    """T calls with an image each."""
    x = inputs()
    with torch.no_grad(), recorded(modules) as measured:
        logits = sum(call(x) for _ in range(T))
    return Outcome(logits.numpy(), [torch.stack(steps).numpy() for steps in measured])


def at_once(net: nn.Module, modules: list[nn.Module], call: Callable[..., Any]) -> Outcome:
    """One call with all timesteps."""
    x = inputs()
    with torch.no_grad(), recorded(modules) as measured:
        logits = call(x.expand(T, *x.shape))
    return Outcome(logits.sum(0).numpy(), [steps[0].numpy() for steps in measured])


def by_state_dict(file: Path, network: networks.Network, step_mode: str) -> Outcome:
    model = networks.model(network.recipe)
    net = (VGG if isinstance(model, models.VGG) else ResNet)(model)
    net.load_state_dict(torch.load(file, weights_only=True), strict=True)
    net.double().eval()
    functional.set_step_mode(net, step_mode)
    modules = [module for module in net.modules() if isinstance(module, neuron.LIFNode)]
    return (stepwise if step_mode == "s" else at_once)(net, modules, net)


def neurons_of(net: nn.Module, network: networks.Network) -> list[nn.Module]:
    return [getattr(net, x.name) for x in layers.from_network(network).layers if x.kind == "lif"]


def by_spikingjelly_reader(file: Path, network: networks.Network, step_mode: str) -> Outcome:
    dt = float(np.asarray(nir.read(file).metadata["dt"]))
    net = spikingjelly_reader(nir.read(file), dt=dt, step_mode=step_mode).double()
    state = None

    def call(x: torch.Tensor) -> torch.Tensor:
        nonlocal state
        logits, state = net(x, state)
        return logits

    return (stepwise if step_mode == "s" else at_once)(net, neurons_of(net, network), call)


def by_snntorch_reader(file: Path, network: networks.Network) -> Outcome:
    """Image by image, as its Flatten begins at the first axis."""
    with redirect_stdout(io.StringIO()):
        net = snntorch_reader(nir.read(file)).double()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # its spikes are in float32
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    x = inputs()
    outcomes = []
    for image in x:
        for module in net.modules():
            if hasattr(module, "reset_mem"):
                module.reset_mem()
        state = None
        with torch.no_grad(), recorded(neurons_of(net, network)) as measured:
            logits = torch.zeros(CLASSES, dtype=torch.float64)
            for _ in range(T):
                step, state = net(image, state)
                logits = logits + step
        outcomes.append(Outcome(logits.numpy(), [torch.stack(steps).numpy() for steps in measured]))
    spikes = [np.stack(leaf, 1) for leaf in zip(*(outcome.spikes for outcome in outcomes), strict=True)]
    return Outcome(np.stack([outcome.logits for outcome in outcomes]), spikes)


# --- the table


def row(expected: Outcome, measured: Outcome) -> tuple[tuple[str, str, str], bool]:
    """Three cells, and whether all is equal, logits up to 1e-5 of the largest or of 1."""
    classes = int((expected.logits.argmax(-1) == measured.logits.argmax(-1)).sum())
    difference = float(abs(expected.logits - measured.logits).max())
    pairs = zip(expected.spikes, measured.spikes, strict=True)
    unequal = sum(int((a != b.reshape(a.shape)).sum()) for a, b in pairs)
    total = sum(x.size for x in expected.spikes)
    same = difference <= 1e-5 * max(1.0, float(abs(expected.logits).max()))
    cells = (f"{classes} of {len(expected.logits)}", f"{difference:.1e}", f"{total - unequal} of {total}")
    return cells, classes == len(expected.logits) and same and not unequal


def refused(call: Callable[[], Outcome], reason: str) -> tuple[str, bool]:
    """A reader's answer to a file that it is known not to take, and whether it is the known reason."""
    try:
        call()
    except (ValueError, AssertionError) as error:
        return str(error), reason in str(error)
    return "takes it", False


def bitwise(file: Path, network: networks.Network) -> bool:
    """The state dict by real `torch.save` and back: this package reads the same bits."""
    again = file.with_suffix(".again.pth")
    torch.save(torch.load(file, weights_only=True), again)
    model = networks.model(network.recipe)
    variables = from_state_dict(model, torch_files.load(again), jax.ShapeDtypeStruct((1, *SHAPE), np.float32))
    theirs = {"params": network.params, "batch_stats": network.batch_stats}
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes() and a.dtype == b.dtype, variables, theirs)
    copy = network._replace(**variables)
    networks.save(file.with_name("copy.safetensors"), copy)
    export(file.with_name("copy.safetensors"), "torch", file.with_name("copy.pth"))
    back = torch.load(file.with_name("copy.pth"), weights_only=True)
    given = torch.load(again, weights_only=True)
    return all(jax.tree.leaves(same)) and all(
        torch.equal(given[key].view(torch.int32), back[key].view(torch.int32)) for key in {**given, **back}
    )


def export(file: Path, to: str, output: Path, *flags: str) -> Path:
    with redirect_stdout(io.StringIO()):
        status = snnlth(["export", str(file), "--to", to, "--output", str(output), *flags])
    assert status == 0, output
    return output


class Files(NamedTuple):
    """Exports of a network: its state dict, and graphs of NIR with and without `Threshold`."""

    network: networks.Network
    state_dict: Path
    threshold: Path
    lif: Path
    lif_short: Path


def exports(network: networks.Network, directory: Path) -> Files:
    file = directory / "network.safetensors"
    networks.save(file, network)
    return Files(
        network,
        export(file, "torch", directory / "network.pth"),
        export(file, "nir", directory / "threshold.nir"),
        export(file, "nir", directory / "lif.nir", "--pooling", "lif"),
        export(file, "nir", directory / "short.nir", "--pooling", "lif", "--dt", "1e-4"),
    )


def peers(files: Files) -> dict[tuple[str, str], Callable[[], Outcome]]:
    """By peer and its package, what runs a file there."""
    network, jelly = files.network, "spikingjelly"
    measured = {
        ("its layers, single step", jelly): partial(by_state_dict, files.state_dict, network, "s"),
        ("its layers, multi-step", jelly): partial(by_state_dict, files.state_dict, network, "m"),
        ("import_from_nir, single step", jelly): partial(by_spikingjelly_reader, files.lif, network, "s"),
        ("import_from_nir, multi-step", jelly): partial(by_spikingjelly_reader, files.lif, network, "m"),
    }
    if network.recipe.neuron["v_reset"] == 0:
        measured["import_from_nir", "snntorch"] = partial(by_snntorch_reader, files.lif_short, network)
    return measured


def refusals(files: Files) -> dict[tuple[str, str], Callable[[], Outcome]]:
    """By package and its reason, what a reader does not take."""
    network, measured = files.network, {}
    if network.recipe.neuron["v_reset"] != 0:
        measured["snntorch", "v_leak not supported"] = partial(by_snntorch_reader, files.lif_short, network)
    elif any(x.kind == "pool" for x in layers.from_network(network).layers):
        reader = partial(by_spikingjelly_reader, files.threshold, network, "s")
        measured["spikingjelly", "threshold.Threshold"] = reader
        measured["snntorch", "threshold.Threshold"] = partial(by_snntorch_reader, files.threshold, network)
    return measured


def line(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def main() -> int:
    """Print the table; 1 where something differs."""
    good, notes = True, []
    line("peer", "version", "network", "classes equal", "max logit difference", "spikes equal")
    line(*["---"] * 6)
    for name in sys.argv[1:] or NETWORKS:
        network = trained(NETWORKS[name], seed=0)
        expected = ours(network)
        rates = [float(x.mean()) for x in expected.spikes]
        good &= min(rates) > 0.02 and max(rates) < 0.98
        classes = len(np.unique(expected.logits.argmax(-1)))
        notes.append(
            f"{name}: {min(rates):.2f} to {max(rates):.2f} spikes a timestep by layer, {classes} classes"
        )
        with tempfile.TemporaryDirectory() as directory:
            files = exports(network, Path(directory))
            for (peer, package), call in peers(files).items():
                cells, same = row(expected, call())
                good &= same
                line(f"{package}: {peer}", version(package), name, *cells)
            for (package, reason), call in refusals(files).items():
                words, same = refused(call, reason)
                good &= same
                notes.append(f"{name}: {package} {'refuses' if same else 'should refuse'} it: {words}")
            same = bitwise(files.state_dict, network)
            good &= same
            line(
                "torch.save and back",
                torch.__version__,
                name,
                f"bits {'equal' if same else 'differ'}",
                "",
                "",
            )
    print("", *notes, sep="\n")
    return not good


if __name__ == "__main__":
    sys.exit(main())
