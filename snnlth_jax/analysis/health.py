"""What of a ticket does nothing: dead channels, weights on no path, neurons that never or always fire.

Everything but the firing is decided by the masks alone, position by position: a weight is on a path if some
position of the image reaches, over kept weights, a neuron that it reads, and what it writes there reaches a
logit. The borders of 'same' padding count, so that of a 3x3 kernel over an image of one pixel eight weights
are on no path, and so does the row or column that pooling drops.

Two ways to be dead, which differ in what follows from them:

  * A channel none of whose neurons reaches a logit, since its outgoing weights are removed, or lead to
    channels of the same kind only (a fixed point): it changes nothing and can be cut out exactly.
  * A channel that no position of the image reaches: the same for every image, but not nothing. Its batch norm
    and bias can make it fire, and then it is a bias of its own, different for every timestep.

In a ResNet a channel of the neurons behind a sum is dead only if the shortcut does not carry it either.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.wiring import Connection, Shape, Wiring

__all__ = ["Reach", "compaction", "dead_channels", "reach", "saturated", "silent", "weights_on_no_path"]


class Reach(NamedTuple):
    """What is connected with what, over kept weights: boolean per neuron, by the names of `wiring.shapes`."""

    from_image: dict[str, np.ndarray]
    to_logits: dict[str, np.ndarray]


def reach(wiring: Wiring, masks: Mapping[str, np.ndarray], image_shape: Shape) -> Reach:
    """Which neurons some pixel reaches, and which reach some logit.

    Args:
      wiring: see `wiring.connections`.
      masks: by name, see `wiring.by_name`.
      image_shape: height, width, channels.

    >>> from snnlth_jax.models import VGG
    >>> model, ones = VGG((2, 1)), np.ones((1, 1, 1, 2), bool)
    >>> first, second = np.array([[[[True, False]]]]), np.array([[[[True], [True]]]])
    >>> masks = {"layer01/conv/kernel": first, "layer02/conv/kernel": second}
    >>> found = reach(w.connections(model), masks | {"readout/kernel": np.ones((1, 3), bool)}, (1, 1, 1))
    >>> found.from_image["layer01"].tolist(), found.to_logits["layer01"].tolist()
    ([[[True, False]]], [[[True, True]]])
    """
    of = w.shapes(wiring, masks, image_shape)
    from_image = {name: np.full(shape, name == w.IMAGE) for name, shape in of.items()}
    to_logits = {name: np.full(shape, name == w.LOGITS) for name, shape in of.items()}
    for c in wiring:
        seen = w.pooled(c, from_image[c.source])
        from_image[c.target] |= w.onward(c, masks.get(c.name or ""), seen) > 0
    for c in reversed(wiring):
        arrived = w.received_shape(c, of[c.source])
        back = w.backward(c, masks.get(c.name or ""), to_logits[c.target], arrived) > 0
        to_logits[c.source] |= w.unpooled(c, back, of[c.source])
    return Reach(from_image, to_logits)


def dead_channels(wiring: Wiring, found: Reach) -> dict[str, np.ndarray]:
    """Per output of each layer whether it is dead in either way, `[channels]` by the layer's name.

    An output stands for the neurons that it charges, so that two layers into one sum have the same.
    """
    return {
        c.name: ~_any(found.to_logits[c.target]) | ~_any(found.from_image[c.target])
        for c in wiring
        if c.name is not None
    }


def weights_on_no_path(wiring: Wiring, masks: Mapping[str, np.ndarray], found: Reach) -> dict[str, int]:
    """Kept weights of each layer that are on no path from image to logits, by its name."""
    idle = {}
    for c in wiring:
        if c.name is not None:
            seen, mask = w.pooled(c, found.from_image[c.source]), masks[c.name]
            pairs = w.weights_used(c, mask.shape, seen, found.to_logits[c.target])
            idle[c.name] = int(np.count_nonzero(mask & (pairs == 0)))
    return idle


def silent(counts: np.ndarray) -> int:
    """How many neurons never fired, from spikes `[T, ...]` summed over images.

    >>> silent(np.array([[0, 2, 1], [0, 2, 0]]))
    1
    """
    return int(np.count_nonzero(counts.sum(0) == 0))


def saturated(counts: np.ndarray, images: int) -> int:
    """How many neurons fired at every timestep of every image.

    >>> saturated(np.array([[0, 2, 1], [0, 2, 0]]), 2)
    1
    """
    return int(np.count_nonzero((counts == images).all(0)))


def compaction(
    wiring: Wiring, masks: Mapping[str, np.ndarray], image_shape: Shape, num_timesteps: int = 1
) -> dict[str, Any]:
    """What is left to compute if what changes nothing is cut out: channels, and dense multiply-accumulates.

    Cut out are channels that reach no logit, with all weights into and out of them: exactly, in training too.
    (Weight decay goes on shrinking the weights that are cut out, and a later pruning ranks them: a search
    that compacts must do the same.) A layer also need not compute the outputs into which no weight is left,
    whose current is its bias, nor read the channels out of which none is; these are not channels cut out,
    since their neurons stay.

    Args:
      wiring: see `wiring.connections`.
      masks: by name, see `wiring.by_name`.
      image_shape: height, width, channels.
      num_timesteps: T; the first layer is computed once all the same.

    Returns:
      `layers`: by name `channels`, outputs; `cut`, those that can be cut out; `computed`, those left with a
      weight into them; `read`, of `inputs` those left with a weight out of them; `macs_dense` and `macs`,
      multiply-accumulates per image, padding included (as `cost.macs` counts), of the layer as it is and of
      the matrix `read` x `computed` that is left. And the sums of both, `macs_dense` and `macs`.
    """
    of, found = w.shapes(wiring, masks, image_shape), reach(wiring, masks, image_shape)
    layers: dict[str, dict[str, int]] = {}
    for c in wiring:
        if c.name is None:
            continue
        mask, alive = masks[c.name], _any(found.to_logits[c.target])
        taps, inputs, outputs = _as_channels(c, mask, of)
        kept = mask.reshape(taps, inputs, outputs).any(0) & alive
        times = int(np.prod(of[c.target][:-1], dtype=int)) * (1 if c.source == w.IMAGE else num_timesteps)
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
    sums = {key: sum(each[key] for each in layers.values()) for key in ("macs_dense", "macs")}
    return {"layers": layers, **sums}


def _as_channels(c: Connection, mask: np.ndarray, of: Mapping[str, Shape]) -> Shape:
    """Window or positions, channels of the source, channels of the target."""
    inputs = of[c.source][-1]
    return mask.size // (inputs * mask.shape[-1]), inputs, mask.shape[-1]


def _any(neurons: np.ndarray) -> np.ndarray:
    """Over positions."""
    channels: np.ndarray = np.any(neurons.reshape(-1, neurons.shape[-1]), axis=0)
    return channels
