"""Connections between the layers of a network, position by position, and sums along kept weights.

A network is a list of *connections* between populations of *neurons*. All arithmetic here is NumPy's, on one
image at a time `[H, W, C]`, with the masks as weights: sums count kept weights, and are exact in float32.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from snnlth_jax.masks import trees
from snnlth_jax.models import VGG, ResNet
from snnlth_jax.models.resnet import blocks

__all__ = [
    "IMAGE",
    "LOGITS",
    "Connection",
    "backward",
    "by_name",
    "charged_shape",
    "connections",
    "onward",
    "pooled",
    "received_shape",
    "shapes",
    "unpooled",
    "weights_used",
]

IMAGE, LOGITS = "image", "logits"
Shape = tuple[int, ...]


class Connection(NamedTuple):
    """One layer of weights, or an identity shortcut.

    Attributes:
      name: name of the weight in masks and tickets; None for an identity shortcut.
      source: neurons that it reads, named by the layer that they follow, or "image".
      target: neurons that it charges, or "logits".
      poolings: number of 2x2 max poolings in between.
      stride: stride of the convolution.
      mean: whether a linear layer reads the mean over all positions, not each position by itself.
    """

    name: str | None
    source: str
    target: str
    poolings: int = 0
    stride: int = 1
    mean: bool = False


Wiring = tuple[Connection, ...]


def connections(model: Any) -> Wiring:
    """Connections of a `models.VGG` or `models.ResNet`, in the order of the forward pass.

    Another model can say them itself, by a method `connections`; those of any model follow from its program,
    see `tracing`.

    Raises:
      ValueError: another model without that method.

    >>> for c in connections(VGG((8, 8, "M"))):
    ...     print(c.name, c.source, "->", c.target, c.poolings)
    layer01/conv/kernel image -> layer01 0
    layer02/conv/kernel layer01 -> layer02 0
    readout/kernel layer02 -> logits 1
    """
    if isinstance(model, VGG):
        return tuple(_vgg(model))
    if isinstance(model, ResNet):
        return tuple(_resnet(model))
    if hasattr(model, "connections"):
        return tuple(model.connections())
    raise ValueError(f"the connections of {type(model).__name__} are not known, allowed: VGG, ResNet")


def _vgg(model: VGG) -> Iterator[Connection]:
    source, poolings, depth = IMAGE, 0, 0
    for entry in model.features:
        if entry == "M":
            poolings += 1
        else:
            depth += 1
            target, stride = f"layer{depth:02}", model.stride if depth == 1 else 1
            yield Connection(f"{target}/conv/kernel", source, target, poolings, stride)
            source, poolings = target, 0
    for i in range(1, len(model.hidden) + 1):
        target = f"layer{depth + i:02}"
        yield Connection(f"{target}/linear/kernel", source, target, poolings)
        source, poolings = target, 0
    yield Connection("readout/kernel", source, LOGITS, poolings)


def _resnet(model: ResNet) -> Iterator[Connection]:
    yield Connection("block0/conv/kernel", IMAGE, "block0", stride=model.strides[0] if model.strides else 1)
    source = "block0"
    for name, _, stride, projects in blocks(model):
        yield Connection(f"{name}/first/conv/kernel", source, f"{name}/first", stride=stride)
        yield Connection(f"{name}/second/conv/kernel", f"{name}/first", f"{name}/second")
        shortcut = f"{name}/shortcut/conv/kernel" if projects else None
        yield Connection(shortcut, source, f"{name}/second", stride=stride)
        source = f"{name}/second"
    if model.hidden is None:
        yield Connection("readout/kernel", source, LOGITS, mean=True)
    else:
        yield Connection("hidden/kernel", source, "hidden", mean=True)
        yield Connection("readout/kernel", "hidden", LOGITS)


def by_name(masks: Any) -> dict[str, np.ndarray]:
    """Masks (or kernels) of all layers, as NumPy arrays by the names of `connections`."""
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    return {trees.name_of(path): np.asarray(jax.device_get(leaf)) for path, leaf in leaves}


def shapes(
    wiring: tuple[Connection, ...], kernels: Mapping[str, Any], image_shape: Shape
) -> dict[str, Shape]:
    """Shapes of all neurons, `[H, W, C]` or `[C]`, by name; "image" and "logits" too.

    Args:
      wiring: see `connections`.
      kernels: masks or weights by name, or other objects with their shapes.
      image_shape: height, width, channels.
    """
    by_neurons = {IMAGE: tuple(image_shape)}
    for c in wiring:
        received = received_shape(c, by_neurons[c.source])
        by_neurons[c.target] = charged_shape(c, kernels[c.name].shape, received) if c.name else received
    return by_neurons


def received_shape(c: Connection, source: Shape) -> Shape:
    """Shape of the neurons of a source as a layer receives them, after pooling."""
    return (source[0] // 2**c.poolings, source[1] // 2**c.poolings, *source[2:]) if c.poolings else source


def charged_shape(c: Connection, kernel: Shape, received: Shape) -> Shape:
    """Shape of the neurons that weights of this shape charge, from the shape of what they receive."""
    if len(kernel) == 2:
        return kernel[1:]
    return (-(-received[0] // c.stride), -(-received[1] // c.stride), kernel[-1])


# --- along a connection, forward and backward


def pooled(c: Connection, x: np.ndarray) -> np.ndarray:
    """`[H, W, C]` of the source after max pooling, which drops an odd last row or column."""
    for _ in range(c.poolings):
        height, width = x.shape[0] // 2, x.shape[1] // 2
        x = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).max((1, 3))
    return x


def onward(c: Connection, kernel: np.ndarray | None, received: np.ndarray) -> np.ndarray:
    """Input of the target: the layer's weighted sums of `received`, which is `pooled` already."""
    if c.name is None:
        return received
    assert kernel is not None
    kernel = kernel.astype(np.float32)
    if kernel.ndim == 2:
        inputs = received.sum((0, 1)) if c.mean else received.reshape(-1)
        outputs: np.ndarray = inputs.astype(np.float32) @ kernel
        return outputs
    out = np.zeros(charged_shape(c, kernel.shape, received.shape), np.float32)
    for tap, sources, targets in _taps(c, kernel.shape, received.shape):
        out[targets] += received[sources].astype(np.float32) @ kernel[tap]
    return out


def backward(c: Connection, kernel: np.ndarray | None, grad: np.ndarray, received: Shape) -> np.ndarray:
    """The transpose of `onward`: from the target to an array of the shape `received`."""
    if c.name is None:
        return grad
    assert kernel is not None
    kernel, grad = kernel.astype(np.float32), grad.astype(np.float32)
    if kernel.ndim == 2:
        rows = kernel @ grad
        return np.broadcast_to(rows, received) if c.mean else rows.reshape(received)
    back = np.zeros(received, np.float32)
    for tap, sources, targets in _taps(c, kernel.shape, received):
        back[sources] += grad[targets] @ kernel[tap].T
    return back


def unpooled(c: Connection, grad: np.ndarray, source: Shape) -> np.ndarray:
    """The transpose of pooling: each value for all neurons of its window, 0 for a dropped row or column."""
    for _ in range(c.poolings):
        grad = grad.repeat(2, 0).repeat(2, 1)
    missing = [(0, whole - size) for whole, size in zip(source, grad.shape, strict=True)]
    return np.pad(grad, missing)


def weights_used(c: Connection, shape: Shape, received: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Number of pairs of positions that each weight of the layer connects, from `received` to the target."""
    received, grad = received.astype(np.float32), grad.astype(np.float32)
    if len(shape) == 2:
        return np.outer(received.sum((0, 1)) if c.mean else received.reshape(-1), grad)
    used = np.zeros(shape, np.float32)
    for tap, sources, targets in _taps(c, shape, received.shape):
        used[tap] = received[sources].reshape(-1, shape[2]).T @ grad[targets].reshape(-1, shape[3])
    return used


def _taps(c: Connection, kernel: Shape, received: Shape) -> Iterator[tuple[Any, Any, Any]]:
    """Each entry of the window, with the positions that it reads and those that it writes."""
    size = kernel[0]
    rows, columns = ([_span(i - size // 2, extent, c.stride) for i in range(size)] for extent in received[:2])
    for i, (from_row, to_row) in enumerate(rows):
        for j, (from_column, to_column) in enumerate(columns):
            yield (i, j), (from_row, from_column), (to_row, to_column)


def _span(offset: int, extent: int, stride: int) -> tuple[slice, slice]:
    """Inputs o * stride + offset within [0, extent), and their outputs o."""
    first = max(0, -(offset // stride))
    last = (extent - 1 - offset) // stride
    last = max(min(last, -(-extent // stride) - 1), first - 1)
    begin, count = first * stride + offset, last - first + 1
    return slice(begin, begin + (count - 1) * stride + 1 if count else begin, stride), slice(first, last + 1)
