r"""A trained network as plain layers, for the formats of others: batch norm folded, PyTorch's layouts.

Folding puts batch norm, whose running statistics are constants after training, into the layer before it:

.. math:: W' = W \gamma / \sqrt{\sigma^2 + \epsilon}, \qquad
          b' = \beta + (b - \mu) \gamma / \sqrt{\sigma^2 + \epsilon}

in double precision, rounded once. A removed weight is 0 before and after.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from snnlth_jax import masks as masks_lib
from snnlth_jax import networks
from snnlth_jax.data.frames import split_shape
from snnlth_jax.errors import InputError
from snnlth_jax.interop.torch import layer_names, to_state_dict
from snnlth_jax.models import VGG, ResNet, own
from snnlth_jax.models.layers import TimestepBatchNorm
from snnlth_jax.models.resnet import blocks
from snnlth_jax.networks import Network
from snnlth_jax.neurons import LIF, PLIF

__all__ = ["INPUT", "Graph", "Layer", "from_network", "model_of", "refuse_frames", "state_dict"]

Kind = Literal["conv", "linear", "lif", "relu", "pool", "mean", "flatten"]
INPUT = "input"


class Layer(NamedTuple):
    """A layer. Activations are [C, H, W] or [C].

    Attributes:
      name: of the layer, without "/" and ".".
      kind: "conv" (zero padding of half the kernel), "linear", "lif", "relu", "pool" (2x2 maximum, an odd
        last row or column is dropped), "mean" (over H and W), "flatten".
      inputs: names of the layers whose outputs are added and read; `INPUT` for the normalised image.
      reads: shape of what it reads.
      gives: shape of its output.
      weight: `[O, I, k, k]` or `[O, I]`, float32.
      bias: `[O]`, float32.
      stride: of a convolution.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    reads: tuple[int, ...]
    gives: tuple[int, ...]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    stride: int = 1


class Graph(NamedTuple):
    """Layers in the order in which they compute, the readout last; and the network that they are of."""

    layers: tuple[Layer, ...]
    neuron: LIF
    network: Network


def from_network(network: Network) -> Graph:
    """The layers of a trained network.

    Args:
      network: a VGG or ResNet, spiking or not, as `networks.load` gives it.

    Raises:
      InputError: a network of its author's own, weights of another network, or constants of neurons that are
        not numbers.

    >>> import jax, jax.numpy as jnp
    >>> from snnlth_jax.data.augment import Augmentation
    >>> model, normalisation = VGG((3, "M"), num_classes=10), Augmentation((0.5,), (0.5,))
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)), num_timesteps=1)
    >>> recipe = networks.describe(
    ...     model, image_shape=(4, 4, 1), normalisation=normalisation, num_timesteps=2
    ... )
    >>> network = Network(recipe, masks_lib.make(variables["params"]), *variables.values(), {})
    >>> for layer in from_network(network).layers:
    ...     print(layer.name, layer.kind, *layer.inputs, layer.gives)
    layer01 conv input (3, 4, 4)
    layer01_spikes lif layer01 (3, 4, 4)
    pool1 pool layer01_spikes (3, 2, 2)
    flatten flatten pool1 (12,)
    readout linear flatten (10,)
    """
    model = model_of(network)
    _, (height, width, channels) = split_shape(network.recipe.image_shape)
    build = _Builder(
        _state_dict(network, model), layer_names(model), model.activation, (channels, height, width)
    )
    if isinstance(model, VGG):
        _vgg(model, build)
    else:
        _resnet(model, build)
    return Graph(tuple(build.layers), model.neuron, network)


def model_of(network: Network) -> VGG | ResNet:
    """The Flax module of a network that other formats can have.

    Raises:
      InputError: it is no VGG or ResNet, has a learned tau or another batch norm, or weights of another.
    """
    if own.is_own(network.recipe.arch):
        raise InputError("`arch`", network.recipe.arch, allowed="a VGG or a ResNet of this package")
    model = networks.model(network.recipe)
    networks.check("network", network, model)
    if not isinstance(model, VGG | ResNet):
        raise InputError("`arch`", network.recipe.arch, allowed="a VGG or a ResNet")
    if isinstance(model.neuron, PLIF):
        raise InputError("`neuron`", "plif", allowed="lif or if: no format here has a tau for each layer")
    if model.norm != "timestep":
        raise InputError("`norm`", model.norm, allowed="timestep, whose running statistics can be folded")
    return model


def refuse_frames(network: Network) -> None:
    """InputError for images that change over time, which a format of one image cannot have."""
    frames, _ = split_shape(network.recipe.image_shape)
    if frames is not None:
        raise InputError("`to`", problem="images that change over time", allowed="nir, torch")


def state_dict(network: Network) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a trained network, removed weights 0; errors are those of `model_of`."""
    return _state_dict(network, model_of(network))


def _state_dict(network: Network, model: VGG | ResNet) -> dict[str, np.ndarray]:
    params = masks_lib.apply(network.params, network.masks)
    return to_state_dict(model, {"params": params, "batch_stats": network.batch_stats})


def _vgg(model: VGG, build: "_Builder") -> None:
    x, depth, pools = INPUT, 0, 0
    for entry in model.features:
        if entry == "M":
            pools += 1
            x = build.pool(f"pool{pools}", x)
        else:
            depth += 1
            name = f"layer{depth:02}"
            x = build.fire(name, build.conv(name, x, model.stride if depth == 1 else 1))
    x = build.add(Layer("flatten", "flatten", (x,), build.shapes[x], (int(np.prod(build.shapes[x])),)))
    for _ in model.hidden:
        depth += 1
        name = f"layer{depth:02}"
        x = build.fire(name, build.linear(name, x, f"{name}/linear", f"{name}/norm"))
    build.linear("readout", x, "readout")


def _resnet(model: ResNet, build: "_Builder") -> None:
    x = build.fire("block0", build.conv("block0", INPUT, model.strides[0] if model.strides else 1))
    for block in blocks(model):
        name = block.name
        y = build.fire(f"{name}_first", build.conv(f"{name}/first", x, block.stride))
        y = build.conv(f"{name}/second", y, 1)
        shortcut = build.conv(f"{name}/shortcut", x, block.stride) if block.projects else x
        x = build.fire(name, shortcut, y)
    x = build.add(Layer("mean", "mean", (x,), build.shapes[x], build.shapes[x][:1]))
    if model.hidden is not None:
        x = build.fire("hidden", build.linear("hidden", x, "hidden"))
    build.linear("readout", x, "readout")


class _Builder:
    """Layers that are put together, and the shape of each one's output."""

    def __init__(
        self,
        state_dict: Mapping[str, np.ndarray],
        names: Mapping[str, str],
        activation: str,
        shape: tuple[int, ...],
    ):
        self.state_dict, self.names = state_dict, names
        self.activation: Kind = "relu" if activation == "relu" else "lif"
        self.layers: list[Layer] = []
        self.shapes: dict[str, tuple[int, ...]] = {INPUT: shape}

    def add(self, layer: Layer) -> str:
        self.layers.append(layer)
        self.shapes[layer.name] = layer.gives
        return layer.name

    def conv(self, path: str, x: str, stride: int) -> str:
        weight, bias = self._folded(f"{path}/conv", f"{path}/norm")
        _, height, width = self.shapes[x]
        gives = (len(weight), -(-height // stride), -(-width // stride))
        name = path.replace("/", "_")
        return self.add(Layer(name, "conv", (x,), self.shapes[x], gives, weight, bias, stride))

    def linear(self, name: str, x: str, path: str, norm: str | None = None) -> str:
        weight, bias = self._folded(path, norm)
        return self.add(Layer(name, "linear", (x,), self.shapes[x], (len(weight),), weight, bias))

    def pool(self, name: str, x: str) -> str:
        channels, height, width = self.shapes[x]
        return self.add(Layer(name, "pool", (x,), self.shapes[x], (channels, height // 2, width // 2)))

    def fire(self, name: str, *inputs: str) -> str:
        shape = self.shapes[inputs[0]]
        return self.add(Layer(f"{name}_spikes", self.activation, inputs, shape, shape))

    def _folded(self, path: str, norm: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of a layer of ours, with those of its norm."""
        theirs = self.names[path]
        weight = np.asarray(self.state_dict[f"{theirs}.weight"], np.float64)
        bias = np.asarray(self.state_dict.get(f"{theirs}.bias", np.zeros(len(weight))), np.float64)
        if norm is not None:
            scale, shift, mean, var = (
                np.asarray(self.state_dict[f"{self.names[norm]}.{part}"], np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            slope = scale / np.sqrt(var + TimestepBatchNorm.epsilon)
            weight = weight * slope.reshape(-1, *(1,) * (weight.ndim - 1))
            bias = shift + (bias - mean) * slope
        return weight.astype(np.float32) + np.float32(0), bias.astype(np.float32)
