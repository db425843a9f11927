"""Balanced masks: as many weights on each processing element (u-Ticket, Yin et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax._axes import vary_like
from snnlth_jax._constants import whole
from snnlth_jax.masks import trees
from snnlth_jax.pruning.removal import remove_lowest, scored_leaves

PyTree = Any
Masks = Any

__all__ = ["balance", "loads", "utilisation"]


def loads(masks: Masks, elements: int) -> PyTree:
    """Number of kept weights on each processing element, layer by layer.

    Output channel c of a layer is computed by element c mod `elements`; a layer of fewer channels uses as
    many elements as it has channels.

    Args:
      masks: masks; the last axis of a leaf is that of the output channels, as in flax.
      elements: number of processing elements, at least 1.

    Returns:
      int32 `[elements used]` in place of each leaf.

    >>> import jax.numpy as jnp
    >>> loads({"w": jnp.array([[True, True, False], [True, False, False]])}, 2)["w"].tolist()
    [2, 1]
    """
    _check(masks, elements)
    return trees.tree_map(lambda mask: _loads(mask, elements), masks)


def utilisation(masks: Masks, elements: int) -> jax.Array:
    r"""Share of the time in which the processing elements compute: 1 if all have the same load.

    Layers are computed one after another, and each takes as long as its fullest element:

    .. math:: U = \frac{\sum_l \sum_e n_{l,e}}{\sum_l E_l \max_e n_{l,e}}

    Args:
      masks: masks, see `loads`.
      elements: number of processing elements.

    >>> import jax.numpy as jnp
    >>> float(utilisation({"w": jnp.array([[True, True, False], [True, False, False]])}, 2))
    0.75
    """
    by_layer = jax.tree.leaves(loads(masks, elements))
    time = sum(n.shape[0] * n.max().astype(jnp.float32) for n in by_layer)
    share: jax.Array = sum(n.sum().astype(jnp.float32) for n in by_layer) / jnp.maximum(time, 1)
    return share


def balance(scores: PyTree, masks: Masks, candidates: Masks, elements: int) -> Masks:
    """Even out the loads of the processing elements; each layer keeps as many weights as before.

    Each element keeps the highest scores among its candidates: elements above the mean load of their layer
    lose weights, and elements below it get some back (Yin et al. 2023, "Workload-Balanced Pruning for Sparse
    Spiking Neural Networks"). Loads differ by one at most, except where an element has fewer candidates.

    Args:
      scores: a pytree like the parameters; floating point of any width. NaN is lowest.
      masks: masks that say how many weights each layer keeps.
      candidates: masks of the weights that may be kept beside those of `masks`, those of the round before.
      elements: number of processing elements, see `loads`.

    Raises:
      ValueError: trees of other structures or shapes; a number of elements below 1.

    >>> import jax.numpy as jnp
    >>> scores = {"w": jnp.array([[9.0, 3.0], [8.0, 2.0], [7.0, 1.0]])}
    >>> kept = {"w": jnp.array([[True, False], [True, False], [False, False]])}
    >>> balance(scores, kept, {"w": jnp.ones((3, 2), bool)}, 2)["w"].tolist()
    [[True, True], [False, False], [False, False]]
    """
    _check(masks, elements)
    trees.check_pair(masks, candidates)
    scored_leaves(scores, candidates)

    def even(mask: jax.Array, candidate: jax.Array, score: jax.Array) -> jax.Array:
        candidate = candidate | mask
        available = _loads(candidate, elements)
        quotas = _quotas(available, mask.sum(dtype=jnp.int32))
        element = _element(mask, elements)
        parts = []
        for e in range(len(available)):
            own = candidate & (element == e)
            parts += remove_lowest([score], [own], available[e] - quotas[e])
        return jnp.stack(parts).any(axis=0)

    return trees.tree_map(even, masks, candidates, scores)


def _element(mask: jax.Array, elements: int) -> jax.Array:
    """The element that computes each weight."""
    channel = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    return channel % _used(mask, elements)


def _used(mask: jax.Array, elements: int) -> int:
    return max(1, min(elements, mask.shape[-1]))


def _loads(mask: jax.Array, elements: int) -> jax.Array:
    element = _element(mask, elements)
    counts = [(mask & (element == e)).sum(dtype=jnp.int32) for e in range(_used(mask, elements))]
    return jnp.stack(counts)


def _quotas(available: jax.Array, kept: jax.Array) -> jax.Array:
    """As even a division of `kept` as the available weights allow: a level, and one more for the first."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high + 1) // 2
        fits = jnp.minimum(available, middle).sum(dtype=jnp.int32) <= kept
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle - 1)

    high = vary_like(vary_like(available.max(), available), kept)
    level, _ = jax.lax.fori_loop(0, 32, halve, (jnp.zeros_like(high), high))
    even = jnp.minimum(available, level)
    room = (available > level).astype(jnp.int32)
    first = jnp.cumsum(room, dtype=jnp.int32) <= kept - even.sum(dtype=jnp.int32)
    quotas: jax.Array = even + room * first.astype(jnp.int32)
    return quotas


def _check(masks: Masks, elements: int) -> None:
    trees.check(masks)
    whole("elements", elements, least=1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(masks):
        if leaf.ndim == 0:
            raise ValueError(f"{trees.name_of(path)}: a mask without axes has no output channels")
