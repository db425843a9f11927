"""Spikes and the additions that they cause.

A *SynOp* is the addition of one kept weight to one membrane potential because one spike came in. A spike at a
position causes one for each kept weight that leads from there to a position that exists: fewer at the border
of 'same' padding, and by stride. Removed weights cause none. Rules for the layers in between:

  * Max pooling passes on one spike per window and timestep with at least one spike.
  * The mean over all positions (ResNet, before its linear layers) is linear: each spike causes the additions
    of its channel's weights, taken 1 / (H W) as large.
  * An identity shortcut has no weights and causes no SynOps; a convolution as shortcut does, like any other.
  * Batch norm is folded into the weights.
  * The first layer reads the image. Its products are multiply-accumulates (MAC) over kept weights, computed
    once and reused at all timesteps, as in the networks of this package; they count for the first timestep.
  * A network without spikes (`activation="relu"`) has MACs in every layer, one timestep, after the mean.

Membrane leak, threshold and reset of the neurons are no SynOps; see `energy.traffic`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.wiring import Connection, Wiring
from snnlth_jax.models.layers import max_pool

__all__ = ["Counts", "Spikes", "count_spikes", "fan_out", "macs", "synops", "synops_by_weight"]

# (neurons, number of 2x2 max poolings) -> spikes [T, ...], summed over images
Counts = Mapping[tuple[str, int], np.ndarray]


class Spikes(NamedTuple):
    """Spikes of every neuron at every timestep.

    Attributes:
      counts: by `(neurons, poolings)`, int32 `[T, H, W, C]` or `[T, C]`, summed over images: those of the
        neurons (0 poolings), and those after max pooling where a layer reads these.
      first: by neurons, uint8 of the same shapes: those for the first image.
    """

    counts: Any
    first: Any


def count_spikes(
    model: Any,
    wiring: Wiring,
    variables: Any,
    images: jax.Array,
    *,
    num_timesteps: int,
    batch_size: int,
    prepare: Callable[[jax.Array], jax.Array] = lambda images: images,
) -> Spikes:
    """Count the spikes of every neuron at every timestep; for `jax.jit`.

    Args:
      model: a `models.VGG` or `models.ResNet` with activation "lif".
      wiring: its `wiring.connections`.
      variables: `params` and `batch_stats`, used as in evaluation.
      images: `[N, H, W, C]`.
      num_timesteps: T.
      batch_size: number of images at a time; the last batch is padded, and the padding is not counted.
      prepare: function from a batch of `images` to the input of the network.
    """
    examples = len(images)
    batches = jnp.arange(-(-examples // batch_size) * batch_size).reshape(-1, batch_size)
    sites = {(c.source, c.poolings) for c in wiring} | {(c.target, 0) for c in wiring}
    sites = {site for site in sites if site[0] not in (w.IMAGE, w.LOGITS)}

    def count_batch(positions: jax.Array) -> Spikes:
        batch = prepare(images[jnp.minimum(positions, examples - 1)])
        _, outputs = model.apply(variables, batch, num_timesteps=num_timesteps, mutable=["intermediates"])
        flat = traverse_util.flatten_dict(outputs.get("intermediates", {}), sep="/")
        counts, first = {}, {}
        for name, poolings in sites:
            spikes = flat[f"{name}_spikes"][0]
            for _ in range(poolings):
                spikes = max_pool(spikes)
            at = positions.reshape((1, -1) + (1,) * (spikes.ndim - 2))
            counts[name, poolings] = jnp.sum((spikes > 0) & (at < examples), axis=1, dtype=jnp.int32)
            if not poolings:
                first[name] = jnp.sum((spikes > 0) & (at == 0), axis=1, dtype=jnp.uint8)
        return Spikes(counts, first)

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(count_batch, batches[0]))
    add = partial(jax.tree.map, jnp.add)
    sums: Spikes
    sums, _ = jax.lax.scan(lambda sums, batch: (add(sums, count_batch(batch)), None), zero, batches)
    return sums


def fan_out(c: Connection, mask: np.ndarray, source: tuple[int, ...]) -> np.ndarray:
    """Number of kept weights from each position that a layer reads to positions that exist.

    Args:
      c: the connection.
      mask: mask of its weights.
      source: shape of the neurons that it reads, before pooling.

    Returns:
      int64 `[H, W, C]` or `[C]`, after pooling.

    >>> image = Connection("conv/kernel", "image", "conv")
    >>> fan_out(image, np.ones((3, 3, 1, 2), bool), (3, 3, 1))[..., 0].tolist()
    [[8, 12, 8], [12, 18, 12], [8, 12, 8]]
    """
    received = w.received_shape(c, source)
    kept = mask.sum(-1, keepdims=True)  # into all channels at once
    target = w.charged_shape(c, kept.shape, received)
    return w.backward(c, kept, np.ones(target, bool), received).astype(np.int64)


def synops(
    c: Connection, mask: np.ndarray, source: tuple[int, ...], counts: Counts, num_timesteps: int
) -> list[int]:
    """Additions that spikes cause in a layer, at each timestep, summed over the images of `counts`.

    The result is zeros for a layer that reads the image.
    """
    if c.source == w.IMAGE:
        return [0] * num_timesteps
    spikes = counts[c.source, c.poolings].reshape(num_timesteps, -1).astype(np.int64)
    additions: list[int] = (spikes @ fan_out(c, mask, source).reshape(-1)).tolist()
    return additions


def synops_by_weight(c: Connection, kernel: tuple[int, ...], source: tuple[int, ...], counts: Counts) -> Any:
    """Additions that spikes cause over each weight of a layer, over timesteps and the images of `counts`.

    Args:
      c: the connection.
      kernel: shape of its weights.
      source: shape of the neurons that it reads, before pooling.
      counts: see `count_spikes`.

    Returns:
      Floats of the shape of the weights, which add up to `synops` of these; zeros for a layer that reads the
      image.
    """
    if c.source == w.IMAGE:
        return np.zeros(kernel, np.float32)
    received = w.received_shape(c, source)
    spikes = counts[c.source, c.poolings].sum(axis=0, dtype=np.int64).reshape(received)
    return w.weights_used(c, kernel, spikes, np.ones(w.charged_shape(c, kernel, received)))


def macs(c: Connection, mask: np.ndarray, source: tuple[int, ...]) -> int:
    """Multiply-accumulates over kept weights for one image, in a layer whose input is not spikes.

    Products with zeros in the padding around an image are not counted; products with zeros within it are.
    """
    if c.mean:
        return int(np.count_nonzero(mask))
    return int(fan_out(c, mask, source).sum())
