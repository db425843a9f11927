"""Pruning in patterns that hardware can use: n of m weights, and whole channels."""

from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax._axes import unsharded
from snnlth_jax._constants import whole
from snnlth_jax._selection import ordered
from snnlth_jax.masks import trees
from snnlth_jax.pruning.removal import Scope, prune, scored_leaves

PyTree = Any
Masks = Any

__all__ = ["keep_n_of_m", "prune_channels"]


def keep_n_of_m(scores: PyTree, masks: Masks, n: int, m: int, *, axis: int = -2) -> Masks:
    """Keep the n highest scores of each m weights in a row: 2:4 sparsity and its like (Mishra et al. 2021).

    Groups lie along the axis that a matrix product sums over, the inputs of flax's kernels `[..., I, O]`. A
    group that keeps n or fewer stays as it is. Of equal scores the first go first.

    Args:
      scores: a pytree like the parameters; floating point of any width. NaN is lowest.
      masks: masks of the weights that may be kept; give None for layers that are to stay dense.
      n: weights to keep in a group, 1 to m.
      m: weights in a group.
      axis: the axis of the groups, in every leaf.

    Raises:
      ValueError: n, m or axis that are no whole numbers, or n above m; an axis that m does not divide, and
        the error names the leaf.

    >>> import jax.numpy as jnp
    >>> scores = {"w": jnp.array([[1.0], [4.0], [3.0], [2.0]])}
    >>> keep_n_of_m(scores, {"w": jnp.ones((4, 1), bool)}, 2, 4)["w"][:, 0].tolist()
    [False, True, True, False]
    """
    n, m, axis = whole("n", n), whole("m", m), whole("axis", axis)
    if not 1 <= n <= m:
        raise ValueError(f"n must lie in 1 to m = {m}, got {n}")
    scored_leaves(scores, masks)
    for path, leaf in jax.tree_util.tree_leaves_with_path(masks):
        if not -leaf.ndim <= axis < leaf.ndim or leaf.shape[axis] % m:
            raise ValueError(f"{trees.name_of(path)}: axis {axis} of {leaf.shape} has no groups of {m}")

    def keep(mask: jax.Array, score: jax.Array) -> jax.Array:
        key = jnp.moveaxis(ordered(unsharded(score), unsharded(mask), dead_last=False), axis, -1)
        groups = key.reshape(*key.shape[:-1], key.shape[-1] // m, m)
        mine, others = groups[..., :, None], groups[..., None, :]
        later = jnp.broadcast_to(jnp.triu(jnp.ones((m, m), bool), 1), (*groups.shape, m))
        above = (others > mine) | ((others == mine) & later)
        kept = (above.sum(-1) < n).reshape(key.shape)
        return mask & jnp.moveaxis(kept, -1, axis)

    return trees.tree_map(keep, masks, scores)


def prune_channels(
    scores: PyTree, masks: Masks, fraction: float, scope: Scope = "global", *, axis: int = -1
) -> Masks:
    """Remove a fraction of the output channels that are left, lowest mean score first.

    A channel is what lies at one index of `axis`; its score is the mean over its kept weights. Of N channels
    with a weight left exactly floor(fraction * N) are removed, with all of their weights. Inside `shard_map`
    each device prunes the channels that it sees.

    Args:
      scores: a pytree like the parameters; floating point of any width.
      masks: masks of the weights that are left.
      fraction: fraction of the channels to remove, in [0, 1); a Python number.
      scope: "global", "layer" or "erk", see `prune`.
      axis: the axis of the channels: the last in flax's kernels.

    >>> import jax.numpy as jnp
    >>> scores = {"w": jnp.array([[3.0, 1.0], [3.0, 2.0]])}
    >>> prune_channels(scores, {"w": jnp.ones((2, 2), bool)}, 0.5)["w"].tolist()
    [[True, False], [True, False]]
    """
    axis = whole("axis", axis)
    scored_leaves(scores, masks)
    for path, leaf in jax.tree_util.tree_leaves_with_path(masks):
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(f"{trees.name_of(path)}: shape {leaf.shape} has no axis {axis}")

    def others(mask: jax.Array) -> tuple[int, ...]:
        return tuple(i for i in range(mask.ndim) if i != axis % mask.ndim)

    def mean(mask: jax.Array, score: jax.Array) -> jax.Array:
        score = jnp.asarray(score)
        score = score.astype(jnp.float64 if score.dtype == jnp.float64 else jnp.float32)
        kept = jnp.maximum(mask.sum(others(mask), keepdims=True), 1).astype(score.dtype)
        return jnp.where(mask, score / kept, jnp.zeros_like(score)).sum(others(mask))

    alive = trees.tree_map(lambda mask: mask.any(others(mask)), masks)
    left = prune(trees.tree_map(mean, masks, scores), alive, fraction, scope)
    return trees.tree_map(lambda mask, channel: mask & jnp.expand_dims(channel, others(mask)), masks, left)
