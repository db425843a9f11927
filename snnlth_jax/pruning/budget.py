"""Pruning to a budget of operations in place of a number of weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax._axes import vary_like
from snnlth_jax._constants import broadcasts, known
from snnlth_jax._selection import ordered, smallest
from snnlth_jax.masks import trees
from snnlth_jax.pruning.removal import scored_leaves

PyTree = Any
Masks = Any

__all__ = ["cost", "keep_within"]


def cost(masks: Masks, costs: PyTree) -> jax.Array:
    """Cost of the kept weights, such as the SynOps that they take.

    Args:
      masks: masks.
      costs: cost of each weight, a tree like the masks; leaves may have axes of length 1 where the cost is
        the same along an axis.

    >>> import jax.numpy as jnp
    >>> float(cost({"w": jnp.array([[True, False], [True, True]])}, {"w": jnp.array([[5.0], [1.0]])}))
    7.0
    """
    _check(masks, costs)
    return jnp.asarray(sum(jax.tree.leaves(trees.tree_map(_cost, masks, costs))), jnp.float32)


def keep_within(scores: PyTree, masks: Masks, costs: PyTree, budget: float | jax.Array) -> Masks:
    """Remove weights of lowest score until the cost of the rest is within a budget.

    The highest scores are kept whose costs add up to no more than the budget: with the next higher score it
    would be exceeded. Weights of equal score go together. Costs are added up in float32.

    Args:
      scores: a pytree like the parameters; floating point of any width. NaN is lowest.
      masks: masks of the weights that are left.
      costs: cost of each weight, at least 0, see `cost`.
      budget: largest cost; may be traced.

    Raises:
      ValueError: scores or masks of another structure, shape or dtype; costs that do not broadcast to the
        masks; a known budget that is no number of at least 0.

    >>> import jax.numpy as jnp
    >>> scores, masks = {"w": jnp.array([[3.0, 1.0], [4.0, 2.0]])}, {"w": jnp.ones((2, 2), bool)}
    >>> keep_within(scores, masks, {"w": jnp.array([[5.0], [1.0]])}, 7.0)["w"].tolist()
    [[True, False], [True, True]]
    """
    leaves, values, treedef = scored_leaves(scores, masks)
    _check(masks, costs)
    most = known("budget", budget)
    if most is not None and not (most.shape == () and most >= 0):
        raise ValueError(f"budget must be a number of at least 0, got {budget}")
    budget = jnp.asarray(budget, jnp.float32)
    if not leaves:
        return masks
    prices = jax.tree.leaves(trees.tree_map(lambda mask, price: price, masks, costs))
    double = any(value.dtype == jnp.float64 for value in values)
    dtype = jnp.float64 if double else jnp.float32
    keys = [ordered(value.astype(dtype), mask) for value, mask in zip(values, leaves, strict=True)]
    highest = jnp.array(jnp.iinfo(keys[0].dtype).max, keys[0].dtype)

    def fits(threshold: jax.Array) -> jax.Array:
        spent = [
            _cost(mask & (key >= threshold), price)
            for mask, key, price in zip(leaves, keys, prices, strict=True)
        ]
        return sum(spent, start=jnp.float32(0)) <= budget

    everywhere = functools.reduce(vary_like, [*leaves, *keys, *prices, budget], highest)
    threshold = smallest(fits, low=jnp.zeros_like(everywhere), high=everywhere)
    return treedef.unflatten([mask & (key >= threshold) for mask, key in zip(leaves, keys, strict=True)])


def _check(masks: Masks, costs: PyTree) -> None:
    """Refuse costs that broadcast to more than the masks, or not at all."""
    trees.check_structure(masks, costs, "costs")

    def check(path: tuple[Any, ...], mask: jax.Array, price: jax.Array) -> None:
        known(f"{trees.name_of(path)}: a cost", price)
        if not broadcasts(jnp.shape(price), mask.shape):
            raise ValueError(
                f"{trees.name_of(path)}: costs of shape {jnp.shape(price)} for a mask of {mask.shape}"
            )

    prices = trees.tree_map(lambda mask, price: price, masks, costs)
    jax.tree_util.tree_map_with_path(check, masks, prices)


def _cost(mask: jax.Array, price: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, jnp.asarray(price, jnp.float32), 0), dtype=jnp.float32)
