"""Counts of masks: how much is kept, and how far two masks are from each other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._axes import AxisName, axes_of, count_true, total_size
from snnlth_jax.masks.trees import Masks, check, check_pair, name_of, tree_map

__all__ = ["by_layer", "count", "distance", "is_subset", "overlap", "sparsity", "table"]

Count = int | jax.Array


def count(masks: Masks, axis_name: AxisName = None) -> tuple[Count, int]:
    """`(kept, total)` prunable weights; `kept` is an int, or an array where the masks are traced.

    Args:
      masks: the masks.
      axis_name: mapped axes (of `shard_map`, `pmap` or `vmap`) that the weights are divided over: the counts
        are then those of all devices. In `shard_map` leaves that are the same on all devices count once;
        `vmap`, `pmap` and `shard_map(check_vma=False)` do not know of those, and count each as divided.

    Raises:
      ValueError: traced masks of more weights than 32 bits can count.

    >>> import jax.numpy as jnp
    >>> count({"w": jnp.array([[True, False, True]]), "b": None})
    (2, 3)
    """
    check(masks)
    leaves = jax.tree.leaves(masks)
    total = total_size(leaves, axis_name, on_device=False)
    if axis_name is None and not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return sum(int(np.count_nonzero(leaf)) for leaf in leaves), total
    return sum((count_true(leaf, axes_of(axis_name, leaf)) for leaf in leaves), start=jnp.uint32(0)), total


def sparsity(masks: Masks, axis_name: AxisName = None) -> float | jax.Array:
    """The fraction of prunable weights that is removed, in [0, 1]; 0 where nothing is prunable.

    >>> import jax.numpy as jnp
    >>> sparsity({"w": jnp.array([[True, False, False, False]])})
    0.75
    """
    kept, total = count(masks, axis_name)
    removed = total - kept if isinstance(kept, int) else jnp.uint32(total) - kept
    return _fraction(removed, total)


def by_layer(masks: Masks, axis_name: AxisName = None) -> dict[str, tuple[Count, int]]:
    """`{name: (kept, total)}` for each prunable leaf, in the order of the tree; see `count`.

    >>> import jax.numpy as jnp
    >>> by_layer({"conv": {"kernel": jnp.array([[True, False]])}})
    {'conv/kernel': (1, 2)}
    """
    check(masks)
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    names = [name_of(path) for path, _ in leaves]
    # where a key with a "/" makes two names equal, they are spelled as JAX does
    names = [
        name if names.count(name) == 1 else jax.tree_util.keystr(path)
        for name, (path, _) in zip(names, leaves, strict=True)
    ]
    return {name: count(leaf, axis_name) for name, (_, leaf) in zip(names, leaves, strict=True)}


def table(masks: Masks) -> str:
    """Kept weights and sparsity of each layer and of all, as text to print.

    >>> import jax.numpy as jnp
    >>> print(table({"conv": {"kernel": jnp.array([[True, False]])}}))
    layer              kept        total  sparsity
    conv/kernel           1            2   50.00 %
    all                   1            2   50.00 %
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(masks)):
        raise ValueError("a table needs masks that are not traced; under jit there is by_layer")
    rows = [*by_layer(masks).items(), ("all", count(masks))]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'layer':{width}} {'kept':>11} {'total':>12}  sparsity"]
    for name, (kept, total) in rows:
        removed = 100 * (1 - kept / total) if total else 0.0
        lines.append(f"{name:{width}} {kept:11,} {total:12,}  {removed:6.2f} %")
    return "\n".join(lines)


def distance(a: Masks, b: Masks, axis_name: AxisName = None) -> float | jax.Array:
    """Normalised Hamming distance: the fraction of prunable weights kept by one of the two alone.

    This is the measure of the paper's Early-Bird search. At high sparsity it is small whatever the masks are:
    two masks that keep a fraction d of the weights differ in at most 2 d of them. Not so `overlap`.

    Raises:
      ValueError: masks of different structures, shapes or dtypes.

    >>> import jax.numpy as jnp
    >>> distance({"w": jnp.array([True, False])}, {"w": jnp.array([True, True])})
    0.5
    """
    check_pair(a, b)
    return _fraction(*count(tree_map(lambda m, n: m ^ n, a, b), axis_name))


def overlap(a: Masks, b: Masks, axis_name: AxisName = None) -> float | jax.Array:
    """Shared kept weights over kept weights (of the mask that keeps more), in [0, 1]; 1 for equal masks.

    Raises:
      ValueError: masks of different structures, shapes or dtypes.

    >>> import jax.numpy as jnp
    >>> overlap({"w": jnp.array([True, True, False])}, {"w": jnp.array([False, True, True])})
    0.5
    """
    check_pair(a, b)
    shared = count(tree_map(lambda m, n: m & n, a, b), axis_name)[0]
    kept_a, kept_b = count(a, axis_name)[0], count(b, axis_name)[0]
    if isinstance(shared, int) and isinstance(kept_a, int) and isinstance(kept_b, int):
        return shared / max(kept_a, kept_b) if kept_a or kept_b else 1.0
    kept = jnp.maximum(*(jnp.asarray(k, jnp.uint32) for k in (kept_a, kept_b)))
    ratio = jnp.asarray(shared).astype(float) / jnp.maximum(kept, 1).astype(float)
    return jnp.where(kept == 0, jnp.ones_like(ratio), ratio)


def is_subset(inner: Masks, outer: Masks, axis_name: AxisName = None) -> bool | jax.Array:
    """Whether `outer` keeps everything that `inner` keeps.

    Raises:
      ValueError: masks of different structures, shapes or dtypes.

    >>> import jax.numpy as jnp
    >>> is_subset({"w": jnp.array([True, False])}, {"w": jnp.array([True, True])})
    True
    """
    check_pair(inner, outer)
    return count(tree_map(lambda i, o: i & ~o, inner, outer), axis_name)[0] == 0


def _fraction(part: Any, total: int) -> float | jax.Array:
    if not total:
        return 0.0
    return part / total if isinstance(part, int) else part.astype(float) / float(total)
