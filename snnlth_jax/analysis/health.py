"""Idle parts of a ticket: dead channels, weights on no path, neurons that never or always fire.

Except for the firing, the masks alone decide, position by position: a weight is on a path if some position of
the image reaches, over kept weights, a neuron that it reads, and a neuron that it charges reaches a logit.
The borders of 'same' padding count: eight weights of a 3x3 kernel over an image of one pixel are on no path.
So does the row or column that pooling drops.

A channel is dead in one of two ways, with different consequences:

  * No neuron of the channel reaches a logit, since its outgoing weights are removed, or lead to channels of
    the same kind only (a fixed point): it changes nothing and can be cut out exactly.
  * No position of the image reaches the channel: its output is the same for every image, but not zero. Its
    batch norm and bias can make it fire, and then it is a bias of its own, different for every timestep.

In a ResNet a channel of the neurons behind a sum is dead only if the shortcut does not carry it either.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.wiring import Connection, Shape, Wiring

__all__ = ["Reach", "compaction", "dead_channels", "reach", "saturated", "silent", "weights_on_no_path"]


class Reach(NamedTuple):
    """Connections over kept weights: boolean per neuron, by the names of `wiring.shapes`."""

    from_image: dict[str, np.ndarray]
    to_logits: dict[str, np.ndarray]


def reach(wiring: Wiring, masks: Mapping[str, np.ndarray], image_shape: Shape) -> Reach:
    """Find the neurons that some pixel reaches, and those that reach some logit.

    Args:
      wiring: see `wiring.connections`.
      masks: masks by name, see `wiring.by_name`.
      image_shape: height, width, channels.

    >>> from snnlth_jax.models import VGG
    >>> model, ones = VGG((2, 1)), np.ones((1, 1, 1, 2), bool)
    >>> first, second = np.array([[[[True, False]]]]), np.array([[[[True], [True]]]])
    >>> masks = {"layer01/conv/kernel": first, "layer02/conv/kernel": second}
    >>> reached = reach(w.connections(model), masks | {"readout/kernel": np.ones((1, 3), bool)}, (1, 1, 1))
    >>> reached.from_image["layer01"].tolist(), reached.to_logits["layer01"].tolist()
    ([[[True, False]]], [[[True, True]]])
    """
    shapes = w.shapes(wiring, masks, image_shape)
    from_image = {name: np.full(shape, name == w.IMAGE) for name, shape in shapes.items()}
    to_logits = {name: np.full(shape, name == w.LOGITS) for name, shape in shapes.items()}
    for c in wiring:
        received = w.pooled(c, from_image[c.source])
        from_image[c.target] |= w.onward(c, masks.get(c.name or ""), received) > 0
    for c in reversed(wiring):
        received_shape = w.received_shape(c, shapes[c.source])
        back = w.backward(c, masks.get(c.name or ""), to_logits[c.target], received_shape) > 0
        to_logits[c.source] |= w.unpooled(c, back, shapes[c.source])
    return Reach(from_image, to_logits)


def dead_channels(wiring: Wiring, reached: Reach) -> dict[str, np.ndarray]:
    """Whether each output of each layer is dead in either way, `[channels]` by the layer's name.

    An output stands for the neurons that it charges: two layers into one sum have the same dead outputs.
    """
    return {
        c.name: ~_any(reached.to_logits[c.target]) | ~_any(reached.from_image[c.target])
        for c in wiring
        if c.name is not None
    }


def weights_on_no_path(wiring: Wiring, masks: Mapping[str, np.ndarray], reached: Reach) -> dict[str, int]:
    """Kept weights of each layer that are on no path from image to logits, by its name."""
    idle = {}
    for c in wiring:
        if c.name is not None:
            received, mask = w.pooled(c, reached.from_image[c.source]), masks[c.name]
            pairs = w.weights_used(c, mask.shape, received, reached.to_logits[c.target])
            idle[c.name] = int(np.count_nonzero(mask & (pairs == 0)))
    return idle


def silent(counts: np.ndarray) -> int:
    """Number of neurons that never fired, from spikes `[T, ...]` summed over images.

    >>> silent(np.array([[0, 2, 1], [0, 2, 0]]))
    1
    """
    return int(np.count_nonzero(counts.sum(0) == 0))


def saturated(counts: np.ndarray, images: int) -> int:
    """Number of neurons that fired at every timestep of every image.

    >>> saturated(np.array([[0, 2, 1], [0, 2, 0]]), 2)
    1
    """
    return int(np.count_nonzero((counts == images).all(0)))


def compaction(
    wiring: Wiring, masks: Mapping[str, np.ndarray], image_shape: Shape, num_timesteps: int = 1
) -> dict[str, Any]:
    """Count channels and dense multiply-accumulates that remain if channels without effect are cut out.

    A channel that reaches no logit can be cut out, with all weights into and out of it: exactly, in training
    too. (Weight decay continues to shrink the weights that are cut out, and a later pruning ranks them: a
    search that compacts must do the same.) A layer also need not compute the outputs into which no weight is
    left, whose current is its bias, nor read the channels out of which none is; these channels are not cut
    out, since their neurons stay.

    Args:
      wiring: see `wiring.connections`.
      masks: masks by name, see `wiring.by_name`.
      image_shape: height, width, channels.
      num_timesteps: T; the first layer is computed once all the same.

    Returns:
      `layers`: by name `channels`, outputs; `cut`, those that can be cut out; `computed`, those left with a
      weight into them; `read`, of `inputs` those left with a weight out of them; `macs_dense` and `macs`,
      multiply-accumulates per image, padding included (as `flops.macs` counts), of the layer as it is and of
      the matrix `read` x `computed` that is left. And the sums of both, `macs_dense` and `macs`.
    """
    shapes, reached = w.shapes(wiring, masks, image_shape), reach(wiring, masks, image_shape)
    layers: dict[str, dict[str, int]] = {}
    for c in wiring:
        if c.name is None:
            continue
        mask, alive = masks[c.name], _any(reached.to_logits[c.target])
        taps, inputs, outputs = _as_channels(c, mask, shapes)
        kept = mask.reshape(taps, inputs, outputs).any(0) & alive
        times = int(np.prod(shapes[c.target][:-1], dtype=int)) * (1 if c.source == w.IMAGE else num_timesteps)
        read, computed = int(kept.any(1).sum()), int(kept.any(0).sum())
        layers[c.name] = {
            "channels": outputs,
            "cut": int((~alive).sum()),
            "computed": computed,
            "inputs": inputs,
            "read": read,
            "macs_dense": taps * inputs * outputs * times,
            "macs": taps * read * computed * times,
        }
    sums = {key: sum(layer[key] for layer in layers.values()) for key in ("macs_dense", "macs")}
    return {"layers": layers, **sums}


def _as_channels(c: Connection, mask: np.ndarray, shapes: Mapping[str, Shape]) -> Shape:
    """Numbers of window entries or positions, of channels of the source and of channels of the target."""
    inputs = shapes[c.source][-1]
    return mask.size // (inputs * mask.shape[-1]), inputs, mask.shape[-1]


def _any(neurons: np.ndarray) -> np.ndarray:
    """Whether any position of each channel is True."""
    channels: np.ndarray = np.any(neurons.reshape(-1, neurons.shape[-1]), axis=0)
    return channels
