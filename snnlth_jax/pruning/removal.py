"""From scores to masks at an exact count, whatever the ties."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._axes import MOST, AxisName, axes_of, count_true, total_size, vary_like
from snnlth_jax._selection import floor_of, without_lowest
from snnlth_jax.masks import trees
from snnlth_jax.pruning import distributions

PyTree = Any
Masks = Any
Scope = Literal["global", "layer", "erk"]
SCOPES: tuple[str, ...] = ("global", "layer", "erk")

__all__ = ["SCOPES", "Scope", "keep_top", "prune", "remove_lowest", "shuffle"]


def prune(
    scores: PyTree, masks: Masks, fraction: float, scope: Scope = "global", *, axis_name: AxisName = None
) -> Masks:
    r"""Remove a fraction of the weights that are left, lowest scores first.

    Of the N weights kept by `masks` exactly :math:`\lfloor f N \rfloor` are removed, f read as the decimal
    number that prints as `fraction` (0.29 of 100 are 29). The result keeps a subset of `masks`.

    Args:
      scores: a pytree like the parameters; floating point of any width. NaN is lowest.
      masks: masks of the weights that are left.
      fraction: fraction of the kept weights to remove, in [0, 1); a Python number. For a traced one, see
        `remove_lowest`.
      scope: "global" compares the scores of all layers with one threshold (as the paper does); "layer"
        removes the fraction from each layer; "erk" (Erdős-Rényi-Kernel, Evci et al. 2020) leaves each layer
        a number of weights in proportion to the sum of its axes, or all if it has fewer.
      axis_name: inside `shard_map`, `pmap` or `vmap`, the mapped axes that the weights are divided over: N
        and the threshold are then those of all devices. Without it each device prunes what it sees. In
        `shard_map` leaves that are the same on all devices count once; `vmap`, `pmap` and
        `shard_map(check_vma=False)` do not know of those, and count each as divided.

    Returns:
      The new masks.

    Raises:
      ValueError: scores or masks of another structure, shape or dtype; a fraction or scope that is not
        allowed; traced masks of more than 4,294,967,295 weights.

    >>> import jax.numpy as jnp
    >>> from snnlth_jax import masks as masks_lib
    >>> from snnlth_jax.pruning import magnitude
    >>> w = {"w": jnp.array([[3.0, -1.0, 2.0, -4.0]])}
    >>> masks = prune(magnitude(w), masks_lib.make(w), 0.25)
    >>> masks["w"].tolist()
    [[True, False, True, True]]
    >>> prune(magnitude(w), masks, 0.34)["w"].tolist()       # one of the three that are left
    [[True, False, False, True]]
    """
    if not 0 <= distributions.number("fraction", fraction) < 1:
        raise ValueError(f"fraction must lie in [0, 1), got {fraction}")
    digits = distributions.padded_digits(fraction)
    return _remove(scores, masks, digits, "kept", scope, axis_name)


def keep_top(
    scores: PyTree, masks: Masks, density: float, scope: Scope = "global", *, axis_name: AxisName = None
) -> Masks:
    r"""Prune in one shot to a density: remove :math:`\lfloor (1 - d) P \rfloor` of all P prunable weights.

    If `masks` keeps fewer weights already, the result is `masks`.

    Args:
      scores: a pytree like the parameters; floating point of any width. NaN is lowest.
      masks: masks of the weights that may be kept.
      density: fraction of all prunable weights to leave, in (0, 1]; a Python number. For a traced one, see
        `remove_lowest`.
      scope: "global", "layer" for the same density in each layer, or "erk", see `prune`.
      axis_name: see `prune`.

    Raises:
      ValueError: see `prune`.

    >>> import jax.numpy as jnp
    >>> from snnlth_jax import masks as masks_lib
    >>> from snnlth_jax.pruning import magnitude
    >>> w = {"w": jnp.array([[3.0, -1.0, 2.0, -4.0]])}
    >>> keep_top(magnitude(w), masks_lib.make(w), 0.5)["w"].tolist()
    [[True, False, False, True]]
    """
    if not 0 < distributions.number("density", density) <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    digits = distributions.padded_digits(density, complement=True)
    return _remove(scores, masks, digits, "total", scope, axis_name)


def remove_lowest(scores: PyTree, masks: Masks, counts: PyTree, *, axis_name: AxisName = None) -> Masks:
    """Remove an exact number of the weights that are left, lowest scores first; the number may be traced.

    Of equal scores the first in the order of the tree go first. A layer that has fewer weights left loses
    all.

    Args:
      scores: a pytree like the parameters; floating point of any width. NaN is lowest.
      masks: masks of the weights that are left.
      counts: number of weights to remove: one integer for all layers together, compared with one threshold,
        or a tree like the masks with an integer for each layer, as `uniform` and `erk` give.
      axis_name: see `prune`; counts are then those of all devices.

    Raises:
      ValueError: see `prune`; counts that are no integers, or negative.

    >>> import jax, jax.numpy as jnp
    >>> scores = {"w": jnp.array([[3.0, 1.0, 2.0, 4.0]])}
    >>> step = jax.jit(remove_lowest)
    >>> step(scores, {"w": jnp.ones((1, 4), bool)}, jnp.int32(2))["w"].tolist()
    [[True, False, False, True]]
    """
    leaves, values, treedef = scored_leaves(scores, masks)
    if not leaves:
        return masks
    total_size(leaves, axis_name)
    if jax.tree_util.all_leaves([counts]):
        kept = _remove_from_all(values, leaves, _count("counts", counts), axis_name)
        return treedef.unflatten(kept)
    trees.check_structure(masks, counts, "counts")
    by_leaf = trees.tree_map(lambda m, n: n, masks, counts)
    numbers = [_count(trees.name_of(path), n) for path, n in jax.tree_util.tree_leaves_with_path(by_leaf)]
    if len(numbers) != len(leaves):
        raise ValueError(f"counts must have a number for each of {len(leaves)} masks, got {len(numbers)}")
    return treedef.unflatten(_remove_from_each(values, leaves, numbers, axis_name))


def shuffle(key: jax.Array, masks: Masks, *, axis_name: AxisName = None) -> Masks:
    """Random masks that keep as many weights in each layer: the control for a ticket's structure.

    Args:
      key: a random key.
      masks: the masks.
      axis_name: see `prune`; each device draws from a key of its own.

    >>> import jax, jax.numpy as jnp
    >>> from snnlth_jax import masks as masks_lib
    >>> masks = {"w": jnp.array([[True, False, False, False]])}
    >>> masks_lib.count(shuffle(jax.random.key(0), masks))
    (1, 4)
    """
    trees.check(masks)
    leaves, treedef = trees.flatten_kept(masks)
    keys = jax.random.split(key, len(leaves))
    scores, removals = [], []
    for key, mask in zip(keys, leaves, strict=True):
        axes = axes_of(axis_name, mask)
        for name in axes:
            key = jax.random.fold_in(key, jax.lax.axis_index(name))
        scores.append(jax.random.uniform(key, mask.shape))
        removals.append(count_true(~mask, axes))
    everything = [mask | True for mask in leaves]
    return treedef.unflatten(remove_lowest(scores, everything, removals, axis_name=axis_name))


# --- compiled: one program for all fractions and counts


def _remove(
    scores: PyTree, masks: Masks, digits: np.ndarray, base: str, scope: str, axis_name: AxisName
) -> Masks:
    """Remove floor(0.digits * kept), or all above total - floor(0.digits * total), in each group."""
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
    leaves, values, treedef = scored_leaves(scores, masks)
    if not leaves:
        return masks
    total_size(leaves, axis_name)
    return treedef.unflatten(_remove_grouped(values, leaves, digits, base, scope, axis_name))


@functools.partial(jax.jit, static_argnames=("base", "scope", "axis_name"))
def _remove_grouped(
    scores: list[jax.Array],
    alive: list[jax.Array],
    digits: jax.Array,
    base: str,
    scope: str,
    axis_name: AxisName,
) -> list[jax.Array]:
    def removals(leaves: list[jax.Array], kept: list[jax.Array]) -> jax.Array:
        before = sum(kept, start=jnp.uint32(0))
        if base == "kept":
            return floor_of(digits, before)
        return distributions.to_density(before, total_size(leaves, axis_name), digits)

    kept = [count_true(m, axes_of(axis_name, m)) for m in alive]
    if scope == "global":
        return without_lowest(scores, alive, removals(alive, kept), axis_name)
    if scope == "layer":
        numbers = [removals([m], [n]) for m, n in zip(alive, kept, strict=True)]
    else:
        left = sum(kept, start=jnp.uint32(0)) - removals(alive, kept)
        numbers = distributions.erk_removals(alive, kept, left)
    removed: list[jax.Array] = _remove_from_each(scores, alive, numbers, axis_name)
    return removed


@functools.partial(jax.jit, static_argnames="axis_name")
def _remove_from_all(
    scores: list[jax.Array], alive: list[jax.Array], removals: jax.Array, axis_name: AxisName
) -> list[jax.Array]:
    kept = sum((count_true(m, axes_of(axis_name, m)) for m in alive), start=jnp.uint32(0))
    return without_lowest(scores, alive, jnp.minimum(removals, kept), axis_name)


@functools.partial(jax.jit, static_argnames="axis_name")
def _remove_from_each(
    scores: list[jax.Array], alive: list[jax.Array], removals: list[jax.Array], axis_name: AxisName
) -> list[jax.Array]:
    return [
        _remove_from_all([s], [m], n, axis_name)[0] for s, m, n in zip(scores, alive, removals, strict=True)
    ]


# --- what is refused


def _count(name: str, value: Any) -> jax.Array:
    """A number of weights as uint32; a traced negative one is 0."""
    dtype = getattr(value, "dtype", np.dtype(type(value)) if isinstance(value, int) else None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or np.shape(value) != ():
        raise ValueError(f"{name}: a count must be an integer, got {value!r}")
    if isinstance(value, jax.core.Tracer):
        most = jnp.array(min(MOST, jnp.iinfo(value.dtype).max), value.dtype)
        count: jax.Array = jnp.clip(value, jnp.zeros_like(most), most).astype(jnp.uint32)
        return count
    if int(value) < 0:
        raise ValueError(f"{name}: a count must be 0 or more, got {value}")
    number: jax.Array = jnp.uint32(min(int(value), MOST))
    return number


def scored_leaves(scores: PyTree, masks: Masks) -> tuple[list[jax.Array], list[jax.Array], Any]:
    """Masks, scores that can be ordered, and the structure of the masks."""
    trees.check(masks, scores, "scores")
    values = trees.tree_map(lambda m, s: s, masks, scores)
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        narrow = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype.itemsize <= 2
        if not (jnp.issubdtype(leaf.dtype, jnp.floating) or narrow or leaf.dtype == bool):
            raise ValueError(
                f"{trees.name_of(path)}: scores must be floating point (or integers of 16 bits), "
                f"got {leaf.dtype}"
            )
    leaves, treedef = trees.flatten_kept(masks)
    value_leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(values)]
    leaves = [vary_like(jnp.asarray(m), s) for m, s in zip(leaves, value_leaves, strict=True)]
    return leaves, value_leaves, treedef
