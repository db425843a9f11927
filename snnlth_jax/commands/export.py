"""`snnlth export`: a network file in the formats of other programs."""

import dataclasses
import importlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import tyro

from snnlth_jax.commands import output
from snnlth_jax.errors import InputError

if TYPE_CHECKING:
    from snnlth_jax import networks

__all__ = ["Export"]


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a trained network for PyTorch, NIR, ONNX, NumPy or JAX alone; or its model card."""

    path: tyro.conf.Positional[str]
    """Network file: networks/NAME.safetensors in the directory of a run."""
    to: Literal["torch", "nir", "onnx", "npz", "stablehlo", "card"]
    """Format: torch, a state dict of the authors' classes; nir, onnx, which need those packages; npz, plain
    arrays; stablehlo, the function of jax.export, of your own network too; or card, a README.md about the
    network."""
    output: str
    """File to write."""
    overwrite: bool = False
    """Replace the output if it is there already."""
    num_timesteps: int | None = None
    """T of the exported network. Default: that of the network file."""
    dt: float = 1.0
    """Length of a timestep in NIR's time; snnTorch's reader takes 1e-4 for granted."""
    pooling: Literal["threshold", "lif"] = "threshold"
    """Nodes of NIR for a maximum over spikes: threshold, SumPool2d and Threshold; lif, AvgPool2d and LIF,
    which SpikingJelly and snnTorch know."""
    arch: str | None = None
    """Your own network, as MODULE:FUNCTION, for stablehlo: a file alone calls no function."""

    def run(self) -> None:
        """Write the file."""
        from snnlth_jax import networks

        output.check(self.output, self.overwrite, self.path)
        if self.to == "nir" and not 1e-12 <= self.dt <= 1e12:
            raise InputError("`dt`", self.dt, allowed="a number above 0, from 1e-12 to 1e12")
        if self.arch is not None and self.to != "stablehlo":
            raise InputError("`arch`", self.arch, allowed="with `to` stablehlo")
        for name, usual in (("dt", 1.0), ("pooling", "threshold")):
            if self.to != "nir" and getattr(self, name) != usual:
                raise InputError(f"`{name}`", getattr(self, name), allowed="with `to` nir")
        network = networks.load(self.path)
        if self.num_timesteps is not None:
            network.recipe.check_timesteps(self.num_timesteps)
            recipe = dataclasses.replace(network.recipe, num_timesteps=self.num_timesteps)
            network = network._replace(recipe=recipe)
        content = _WRITERS[self.to](network, self)
        output.write(self.output, content)
        output.show(f"{self.output}: {len(content):,} bytes")


def _torch(network: "networks.Network", _: Export) -> bytes:
    from snnlth_jax import networks
    from snnlth_jax.interop import layers, torch_files
    from snnlth_jax.neurons import LIF

    content = torch_files.dumps(layers.state_dict(network))
    neuron = networks.model(network.recipe).neuron
    if dataclasses.replace(neuron, spike=LIF().spike) != LIF() and network.recipe.activation == "lif":
        names = ("tau", "v_threshold", "v_reset", "decay_input")
        constants = ", ".join(f"{name} {getattr(neuron, name)}" for name in names)
        output.show(
            f"a state dict has no neurons, and those of the authors' classes are others: set {constants}"
        )
    return content


def _nir(network: "networks.Network", settings: Export) -> bytes:
    from snnlth_jax.interop import nir

    graph = nir.from_network(network, settings.dt, settings.pooling)
    file = io.BytesIO()
    importlib.import_module("nir").write(file, graph)
    return file.getvalue()


def _onnx(network: "networks.Network", _: Export) -> bytes:
    from snnlth_jax.interop import onnx

    content: bytes = onnx.from_network(network).SerializeToString()
    return content


def _npz(network: "networks.Network", _: Export) -> bytes:
    import numpy as np

    from snnlth_jax.interop import arrays

    file = io.BytesIO()
    named: dict[str, Any] = dict(arrays.from_network(network))
    np.savez(file, **named)
    return file.getvalue()


def _stablehlo(network: "networks.Network", settings: Export) -> bytes:
    from snnlth_jax.interop import stablehlo

    return stablehlo.from_network(network, settings.arch)


def _card(network: "networks.Network", settings: Export) -> bytes:
    from snnlth_jax.interop import card

    return card.from_network(network, settings.path.rpartition("/")[2]).encode()


_WRITERS: dict[str, Callable[["networks.Network", Export], bytes]] = {
    "torch": _torch,
    "nir": _nir,
    "onnx": _onnx,
    "npz": _npz,
    "stablehlo": _stablehlo,
    "card": _card,
}
