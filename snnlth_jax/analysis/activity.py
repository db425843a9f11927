"""Spikes, the additions that they cause, and the energy of these.

A *SynOp* is the addition of one kept weight to one membrane potential because one spike came in. A spike at a
position causes as many as there are kept weights that lead from there to positions that exist: fewer at the
border of 'same' padding, and by stride. Removed weights cause none. How the layers between are counted:

  * Max pooling passes on one spike per window and timestep in which there is any.
  * The mean over all positions (ResNet, before its linear layers) is linear: each spike causes the additions
    of its channel's weights, taken 1 / (H W) as large.
  * An identity shortcut has no weights and causes no SynOps; a convolution as shortcut does, like any other.
  * Batch norm is folded into the weights.
  * The first layer reads the image. Its products are multiply-accumulates (MAC) over kept weights, done once
    and reused at all timesteps, as the network here does: counted at the first.
  * A network without spikes (`activation="relu"`) has MACs in every layer, one timestep, after the mean.

Membrane leak, threshold and reset of the neurons are no SynOps; see `traffic`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.wiring import Connection, Wiring
from snnlth_jax.errors import InputError
from snnlth_jax.models.layers import max_pool

__all__ = ["ENERGY_AC", "ENERGY_MAC", "count_spikes", "energy", "fan_out", "macs", "synops", "traffic"]

ENERGY_MAC = 4.6  # pJ: 32-bit multiplication and addition, 45 nm (Horowitz 2014)
ENERGY_AC = 0.9  # pJ: the addition alone

# of (neurons, how often 2x2 max pooled): spikes [T, ...] of each, summed over images
Counts = Mapping[tuple[str, int], np.ndarray]


def count_spikes(
    model: Any,
    wiring: Wiring,
    variables: Any,
    images: jax.Array,
    *,
    num_timesteps: int,
    batch_size: int,
    prepare: Callable[[jax.Array], jax.Array] = lambda images: images,
) -> dict[tuple[str, int], jax.Array]:
    """Spikes of every neuron at every timestep, summed over images; for `jax.jit`.

    Args:
      model: a `models.VGG` or `models.ResNet` with activation "lif".
      wiring: its `wiring.connections`.
      variables: `params` and `batch_stats`, which are used as in evaluation.
      images: `[N, H, W, C]`.
      num_timesteps: T.
      batch_size: so many at a time; the last batch is filled up and the filling not counted.
      prepare: what makes a batch of `images` the input of the network.

    Returns:
      By `(neurons, poolings)` int32 `[T, H, W, C]` or `[T, C]`: those that fire (0 poolings), and what
      arrives behind max pooling where a layer reads that.
    """
    examples = len(images)
    positions = jnp.arange(-(-examples // batch_size) * batch_size).reshape(-1, batch_size)
    sites = {(c.source, c.poolings) for c in wiring} | {(c.target, 0) for c in wiring}
    sites = {site for site in sites if site[0] not in (w.IMAGE, w.LOGITS)}

    def of_batch(at: jax.Array) -> dict[tuple[str, int], jax.Array]:
        batch = prepare(images[jnp.minimum(at, examples - 1)])
        _, seen = model.apply(variables, batch, num_timesteps=num_timesteps, mutable=["intermediates"])
        flat = traverse_util.flatten_dict(seen["intermediates"], sep="/")
        counts = {}
        for name, poolings in sites:
            spikes = flat[f"{name}_spikes"][0]
            for _ in range(poolings):
                spikes = max_pool(spikes)
            counted = (at < examples).reshape((1, -1) + (1,) * (spikes.ndim - 2))
            counts[name, poolings] = jnp.sum((spikes > 0) & counted, axis=1, dtype=jnp.int32)
        return counts

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_batch, positions[0]))
    add = partial(jax.tree.map, jnp.add)
    return jax.lax.scan(lambda sums, at: (add(sums, of_batch(at)), None), zero, positions)[0]


def fan_out(c: Connection, mask: np.ndarray, source: tuple[int, ...]) -> np.ndarray:
    """How many kept weights lead from each position that a layer reads to positions that exist.

    Args:
      c: the connection.
      mask: of its weights.
      source: shape of the neurons that it reads, before pooling.

    Returns:
      int64 `[H, W, C]` or `[C]`, after pooling.

    >>> image = Connection("conv/kernel", "image", "conv")
    >>> fan_out(image, np.ones((3, 3, 1, 2), bool), (3, 3, 1))[..., 0].tolist()
    [[8, 12, 8], [12, 18, 12], [8, 12, 8]]
    """
    arrived = w.received_shape(c, source)
    kept = mask.sum(-1, keepdims=True)  # into all channels at once
    target = w.charged_shape(c, kept.shape, arrived)
    return w.backward(c, kept, np.ones(target, bool), arrived).astype(np.int64)


def synops(
    c: Connection, mask: np.ndarray, source: tuple[int, ...], counts: Counts, num_timesteps: int
) -> list[int]:
    """Additions that spikes cause in a layer, at each timestep, summed over the images of `counts`.

    Zeros for a layer that reads the image.
    """
    if c.source == w.IMAGE:
        return [0] * num_timesteps
    arrived = counts[c.source, c.poolings].reshape(num_timesteps, -1).astype(np.int64)
    return (arrived @ fan_out(c, mask, source).reshape(-1)).tolist()


def macs(c: Connection, mask: np.ndarray, source: tuple[int, ...]) -> int:
    """Multiply-accumulates over kept weights with one image, if what the layer reads is not spikes.

    Products with the zeros around an image are not counted; those with zeros within it are.
    """
    if c.mean:
        return int(np.count_nonzero(mask))
    return int(fan_out(c, mask, source).sum())


# --- from what was recorded


def energy(
    layers: Sequence[Mapping[str, Any]], mac: float = ENERGY_MAC, ac: float = ENERGY_AC
) -> dict[str, float]:
    r"""Energy of the arithmetic of one image: :math:`E = e_{MAC} \cdot MACs + e_{AC} \cdot SynOps`.

    It leaves out what often costs more: memory (see `traffic`), neuron updates, and that a spiking network
    cannot skip them. Operations alone flatter spiking networks.

    Args:
      layers: as recorded under `layers`.
      mac: picojoules of a multiply-accumulate, :math:`e_{MAC}`.
      ac: picojoules of an addition, :math:`e_{AC}`.

    Returns:
      `macs`, `synops` per image, and `picojoules`.

    Raises:
      InputError: an energy that is not a number of at least 0.

    >>> energy([{"macs_per_image": [10.0, 0.0], "synops_per_image": [0.0, 10.0]}])
    {'macs': 10.0, 'synops': 10.0, 'picojoules': 55.0}
    """
    for name, value in (("mac", mac), ("ac", ac)):
        if not 0 <= value < math.inf:
            raise InputError(f"`energy_{name}`", value, allowed="picojoules, 0 or more")
    done = {kind: sum(sum(each[f"{kind}_per_image"]) for each in layers) for kind in ("macs", "synops")}
    return {**done, "picojoules": mac * done["macs"] + ac * done["synops"]}


def traffic(layers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Memory accesses of one image on event-driven hardware that keeps nothing between two operations.

    Each operation reads its weight, and reads and writes the potential (or sum) that it adds to; each spiking
    neuron reads and writes its potential once a timestep more, to leak, fire and reset; each spike is sent
    once. Caches and reuse make it less; where inputs and currents come from is not counted.

    Args:
      layers: as recorded under `layers`.

    Returns:
      `weights_read`, `potentials_read`, `potentials_written` (32-bit words), `spikes` (events).

    >>> layer = {"macs_per_image": [0, 0], "synops_per_image": [3.0, 4.0], "neurons": 5}
    >>> traffic([layer | {"spikes_per_image": 2.0}])
    {'weights_read': 7.0, 'potentials_read': 17.0, 'potentials_written': 17.0, 'spikes': 2.0}
    """
    operations, updates, spikes = 0.0, 0, 0.0
    for each in layers:
        operations += sum(each["macs_per_image"]) + sum(each["synops_per_image"])
        updates += (each["neurons"] or 0) * len(each["synops_per_image"])
        spikes += each["spikes_per_image"] or 0.0
    return {
        "weights_read": operations,
        "potentials_read": operations + updates,
        "potentials_written": operations + updates,
        "spikes": spikes,
    }
