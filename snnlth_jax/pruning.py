"""Pruning: scores of weights, and from scores to masks at an exact count.

A criterion returns *scores*, a pytree like the parameters, higher = more worth keeping; `prune` and
`keep_top` remove the lowest. The number removed is exact whatever the ties (of equal scores the first in
the order of the tree go first), nothing is sorted, and all of it works under `jit` and on sharded arrays.

    masks = prune(magnitude(params), masks, 0.25)          # one step of iterative magnitude pruning
"""

import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax import masks as masks_lib
from snnlth_jax._selection import decimal_digits, floor_of, without_lowest

PyTree = Any
Masks = Any
Scope = Literal["global", "layer", "erk"]
SCOPES: tuple[str, ...] = ("global", "layer", "erk")

__all__ = ["SCOPES", "grasp", "keep_top", "magnitude", "prune", "random", "shuffle", "snip", "synflow"]


# --- scores


def magnitude(params: PyTree) -> PyTree:
    """|w|, the criterion of iterative magnitude pruning.

    >>> import jax.numpy as jnp
    >>> magnitude({"w": jnp.array([-2.0, 1.0])})["w"].tolist()
    [2.0, 1.0]
    """
    return jax.tree.map(jnp.abs, params)


def random(key: jax.Array, params: PyTree) -> PyTree:
    """Uniform random scores: the baseline that a criterion has to beat.

    >>> import jax, jax.numpy as jnp
    >>> random(jax.random.key(0), {"w": jnp.zeros((2, 3))})["w"].shape
    (2, 3)
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [jax.random.uniform(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def snip(loss: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    r"""SNIP's connection sensitivity, :math:`|w \odot \partial L / \partial w|` (Lee et al. 2019).

    A score is, to first order, the change of the loss when the weight is removed. It is a baseline of the
    paper (Fig. 9).

    Args:
      loss: scalar function of the parameters, on the examples that decide.
      params: parameters at initialisation.

    >>> import jax.numpy as jnp
    >>> snip(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.array([1.0, -3.0])})["w"].tolist()
    [2.0, 18.0]
    """
    return jax.tree.map(lambda w, g: jnp.abs(w * g), params, jax.grad(loss)(params))


def grasp(loss: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    r"""GraSP's scores, :math:`w \odot H g` with the gradient g and the Hessian H (Wang et al. 2020).

    Removing weights of low (negative) score raises the norm of the gradient most.

    Args:
      loss: scalar function of the parameters.
      params: parameters at initialisation.

    >>> import jax.numpy as jnp
    >>> grasp(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.array([1.0, -3.0])})["w"].tolist()
    [4.0, 36.0]
    """
    gradient = jax.lax.stop_gradient(jax.grad(loss)(params))

    def along_gradient(params: PyTree) -> jax.Array | int:
        products = jax.tree.map(lambda g, h: jnp.sum(g * h), gradient, jax.grad(loss)(params))
        return sum(jax.tree.leaves(products))

    return jax.tree.map(lambda w, hg: w * hg, params, jax.grad(along_gradient)(params))


def synflow(flow: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    r"""SynFlow's scores, :math:`|w| \odot \partial R / \partial |w|` at :math:`|w|` (Tanaka et al. 2020).

    It needs no data: R is the summed output for an input of ones. In a linear or ReLU network without biases
    the scores of each layer add up to R. It is meant to be iterated, with a little pruned in each step:
    `masks = keep_top(synflow(flow, masks_lib.apply(params, masks)), masks, density ** (i / n))`.

    Args:
      flow: R as a function of the parameters.
      params: parameters at initialisation.

    >>> import jax.numpy as jnp
    >>> synflow(lambda p: jnp.sum(jnp.ones(2) @ p["w"]), {"w": jnp.array([[1.0], [-3.0]])})["w"].tolist()
    [[1.0], [3.0]]
    """
    magnitudes = magnitude(params)
    return jax.tree.map(lambda w, g: w * g, magnitudes, jax.grad(flow)(magnitudes))


# --- scores to masks


def prune(scores: PyTree, masks: Masks, fraction: float, scope: Scope = "global") -> Masks:
    r"""Remove a fraction of the weights that are left, lowest scores first.

    Of the N weights kept by `masks` exactly :math:`\lfloor f N \rfloor` are removed, f read as the decimal
    number that prints as `fraction` (0.29 of 100 are 29). The result keeps a subset of `masks`.

    Args:
      scores: a pytree like the parameters; floating point of any width.
      masks: masks of the weights that are left.
      fraction: fraction of the kept weights to remove, in [0, 1); a Python number.
      scope: "global" compares the scores of all layers with one threshold (as the paper does); "layer"
        removes the fraction from each layer; "erk" (Erdős-Rényi-Kernel, Evci et al. 2020) leaves each layer
        a number of weights in proportion to the sum of its axes, or all if it has fewer, and needs masks that
        are not traced.

    Returns:
      The new masks.

    >>> import jax.numpy as jnp
    >>> w = {"w": jnp.array([[3.0, -1.0, 2.0, -4.0]])}
    >>> masks = prune(magnitude(w), masks_lib.make(w), 0.25)
    >>> masks["w"].tolist()
    [[True, False, True, True]]
    >>> prune(magnitude(w), masks, 0.34)["w"].tolist()       # one of the three that are left
    [[True, False, False, True]]
    """
    if not 0 <= _number("fraction", fraction) < 1:
        raise ValueError(f"fraction must lie in [0, 1), got {fraction}")
    return _remove(scores, masks, Decimal(repr(float(fraction))), "kept", scope)


def keep_top(scores: PyTree, masks: Masks, density: float, scope: Scope = "global") -> Masks:
    r"""Prune in one shot to a density: remove :math:`\lfloor (1 - d) P \rfloor` of all P prunable weights.

    If `masks` keeps fewer weights already, the result is `masks`.

    Args:
      scores: a pytree like the parameters.
      masks: masks of the weights that may be kept.
      density: fraction of all prunable weights to leave, in (0, 1].
      scope: "global", "layer" for the same density in each layer, or "erk", see `prune`.

    >>> import jax.numpy as jnp
    >>> w = {"w": jnp.array([[3.0, -1.0, 2.0, -4.0]])}
    >>> keep_top(magnitude(w), masks_lib.make(w), 0.5)["w"].tolist()
    [[True, False, False, True]]
    """
    if not 0 < _number("density", density) <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return _remove(scores, masks, 1 - Decimal(repr(float(density))), "total", scope)


def shuffle(key: jax.Array, masks: Masks) -> Masks:
    """Random masks that keep as many weights in each layer: the control for a ticket's structure.

    >>> import jax, jax.numpy as jnp
    >>> masks = {"w": jnp.array([[True, False, False, False]])}
    >>> masks_lib.count(shuffle(jax.random.key(0), masks))
    (1, 4)
    """
    everything = masks_lib.tree_map(jnp.ones_like, masks)
    removals = masks_lib.tree_map(lambda m: jnp.sum(~m, dtype=jnp.uint32), masks)
    return _remove_each(random(key, everything), everything, removals)


# --- number of removals in each layer


def _number(name: str, value: float) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be a Python number, so that the count is exact; got a traced array")
    return float(value)


def _remove(scores: PyTree, masks: Masks, fraction: Decimal, base: str, scope: str) -> Masks:
    """Remove floor(fraction * kept), or all above total - floor(fraction * total), in each group."""
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
    if scope == "erk":
        return _remove_each(scores, masks, _erk(masks, fraction, base))
    digits = decimal_digits(fraction)
    digits += (0,) * (-len(digits) % 24)  # traced, of one length: another fraction compiles nothing
    return _remove_grouped(scores, masks, np.array(digits, np.uint32), base, scope)


@functools.partial(jax.jit, static_argnames=("base", "scope"))
def _remove_grouped(scores: PyTree, masks: Masks, digits: jax.Array, base: str, scope: str) -> Masks:
    def remove(scores: list[jax.Array], alive: list[jax.Array]) -> list[jax.Array]:
        kept = sum((jnp.sum(m, dtype=jnp.uint32) for m in alive), start=jnp.uint32(0))
        if base == "kept":
            removals = floor_of(digits, kept)
        else:
            total = jnp.uint32(sum(m.size for m in alive))
            removals = kept - jnp.minimum(kept, total - floor_of(digits, total))
        return without_lowest(scores, alive, removals)

    alive, treedef = jax.tree.flatten(masks)
    score_leaves = jax.tree.leaves(masks_lib.tree_map(lambda m, s: s, masks, scores))
    if not alive:
        return masks
    if scope == "global":
        return jax.tree.unflatten(treedef, remove(score_leaves, alive))
    return jax.tree.unflatten(
        treedef, [remove([s], [m])[0] for s, m in zip(score_leaves, alive, strict=True)]
    )


@jax.jit
def _remove_each(scores: PyTree, masks: Masks, removals: PyTree) -> Masks:
    return masks_lib.tree_map(lambda m, s, n: without_lowest([s], [m], n)[0], masks, scores, removals)


def _erk(masks: Masks, fraction: Decimal, base: str) -> PyTree:
    """Number of removals in each layer, so that the rest is in proportion to the sum of its axes."""
    leaves, treedef = jax.tree.flatten(masks)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError('scope "erk" needs masks that are not traced')
    kept = np.array([np.count_nonzero(leaf) for leaf in leaves], np.int64)
    axes = np.array([sum(leaf.shape) for leaf in leaves], np.float64)
    whole = int(kept.sum()) if base == "kept" else sum(leaf.size for leaf in leaves)
    left = min(whole - int(fraction * whole), int(kept.sum()))
    # fill the layers in proportion; a layer that is full leaves the rest to the others
    share, open_ = np.zeros(len(leaves)), np.ones(len(leaves), bool)
    while open_.any():
        share[open_] = axes[open_] * (left - kept[~open_].sum()) / axes[open_].sum()
        full = open_ & (share >= kept)
        if not full.any():
            break
        open_ &= ~full
        share[~open_] = kept[~open_]
    keep = np.floor(share).astype(np.int64)
    missing = left - int(keep.sum())  # the largest fractions are rounded up
    keep[np.argsort(-np.where(keep < kept, share - keep, -1), kind="stable")[:missing]] += 1
    return jax.tree.unflatten(treedef, [jnp.uint32(n) for n in kept - keep])
