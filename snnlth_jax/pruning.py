"""Which weights go: scores of weights, and from scores to masks at an exact count.

A criterion gives *scores*, a pytree like the parameters, higher = more worth keeping; `prune` and
`keep_top` remove the lowest. The number removed is exact whatever the ties (of equal scores the first in
the order of the tree go first), nothing is sorted, and all of it works under `jit` and on sharded arrays.

    masks = prune(magnitude(params), masks, 0.25)          # one step of iterative magnitude pruning
"""

import functools
import itertools
from decimal import Decimal
from typing import Any, Literal

import jax
import jax.numpy as jnp

from snnlth_jax import masks as masks_lib

PyTree = Any
Masks = Any
Scope = Literal["global", "layer"]
SCOPES: tuple[str, ...] = ("global", "layer")

__all__ = ["SCOPES", "keep_top", "magnitude", "prune", "random", "shuffle"]


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


# --- scores to masks


def prune(scores: PyTree, masks: Masks, fraction: float, scope: Scope = "global") -> Masks:
    r"""Remove a fraction of the weights that are left, lowest scores first.

    Of the N weights kept by `masks` exactly :math:`\lfloor f N \rfloor` are removed, f read as the decimal
    number that prints as `fraction` (0.29 of 100 are 29). The result keeps a subset of `masks`.

    Args:
      scores: a pytree like the parameters; floating point of any width.
      masks: which weights are there now.
      fraction: of the kept weights, in [0, 1); a Python number.
      scope: "global" compares the scores of all layers with one threshold (as the paper does); "layer"
        removes the fraction from each layer.

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
    return _remove(scores, masks, _digits(Decimal(repr(float(fraction)))), "kept", _checked(scope))


def keep_top(scores: PyTree, masks: Masks, density: float, scope: Scope = "global") -> Masks:
    r"""Prune in one shot to a density: of all P prunable weights, :math:`\lfloor (1 - d) P \rfloor` are gone.

    Where `masks` has fewer left already, it is returned as it is.

    Args:
      scores: a pytree like the parameters.
      masks: which weights may be kept.
      density: the fraction of all prunable weights that is to be left, in (0, 1].
      scope: "global", or "layer" for the same density in each layer.

    >>> import jax.numpy as jnp
    >>> w = {"w": jnp.array([[3.0, -1.0, 2.0, -4.0]])}
    >>> keep_top(magnitude(w), masks_lib.make(w), 0.5)["w"].tolist()
    [[True, False, False, True]]
    """
    if not 0 < _number("density", density) <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return _remove(scores, masks, _digits(1 - Decimal(repr(float(density)))), "total", _checked(scope))


def shuffle(key: jax.Array, masks: Masks) -> Masks:
    """Random masks that keep as many weights in each layer: the control for a ticket's structure.

    >>> import jax, jax.numpy as jnp
    >>> masks = {"w": jnp.array([[True, False, False, False]])}
    >>> masks_lib.count(shuffle(jax.random.key(0), masks))
    (1, 4)
    """
    everything = masks_lib.tree_map(jnp.ones_like, masks)
    return _shuffle(random(key, everything), everything, masks)


@jax.jit
def _shuffle(scores, everything, masks):
    def one(mask, score, alive):
        return _without_lowest([score], [alive], jnp.sum(~mask, dtype=jnp.uint32))[0]

    return masks_lib.tree_map(one, masks, scores, everything)


# --- how many: exact arithmetic on counts, traced or not


def _number(name: str, value: float) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be a Python number, so that the count is exact; got a traced array")
    return float(value)


def _checked(scope: str) -> str:
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
    return scope


def _digits(fraction: Decimal) -> tuple[int, ...]:
    """The decimal places of a number in [0, 1): 0.25 -> (2, 5)."""
    return tuple(int(digit) for digit in f"{fraction:f}".partition(".")[2])


def _floor_of(digits: tuple[int, ...], n: jax.Array) -> jax.Array:
    """floor(0.d1 d2 d3... * n) without rounding, in 32 bits: Horner's rule on the digits, from the last.

    (d n + c) / 10 is taken apart so that nothing overflows where n fits.
    """
    tens, ones = n // 10, n % 10
    result = jnp.zeros_like(n)
    for digit in reversed(digits):
        result = tens * digit + (ones * digit + result) // 10
    return result


# --- which: the lowest of many, by counting


@functools.partial(jax.jit, static_argnames=("digits", "of", "scope"))
def _remove(scores: PyTree, masks: Masks, digits: tuple[int, ...], of: str, scope: str) -> Masks:
    """Remove floor(0.digits * kept), or what is above total - floor(0.digits * total), in each group."""

    def group(scores, alive):
        kept = sum((jnp.sum(m, dtype=jnp.uint32) for m in alive), start=jnp.uint32(0))
        if of == "kept":
            removals = _floor_of(digits, kept)
        else:
            total = jnp.uint32(sum(m.size for m in alive))
            removals = kept - jnp.minimum(kept, total - _floor_of(digits, total))
        return _without_lowest(scores, alive, removals)

    alive, treedef = jax.tree.flatten(masks)
    score_leaves = jax.tree.leaves(masks_lib.tree_map(lambda m, s: s, masks, scores))
    if not alive:
        return masks
    if scope == "global":
        return jax.tree.unflatten(treedef, group(score_leaves, alive))
    return jax.tree.unflatten(treedef, [group([s], [m])[0] for s, m in zip(score_leaves, alive, strict=True)])


def _without_lowest(scores: list[jax.Array], alive: list[jax.Array], removals: jax.Array) -> list[jax.Array]:
    """`alive` less the `removals` entries of lowest score, the first in order where scores are equal.

    Bisection on the order-preserving integer image of the scores, a counting pass over the weights each;
    then, only if the threshold is shared by weights that stay and weights that go, on the position.
    """
    dtype = jnp.promote_types(jnp.result_type(*scores), jnp.float32)
    keys = [_ordered(s.astype(dtype), m) for s, m in zip(scores, alive, strict=True)]
    highest = jnp.array(jnp.iinfo(keys[0].dtype).max, keys[0].dtype)

    def number(condition, *trees):
        return sum(jnp.sum(condition(*leaves), dtype=jnp.uint32) for leaves in zip(*trees, strict=True))

    threshold = _smallest(
        lambda t: number(lambda key: key <= t, keys) >= removals,
        low=functools.reduce(jnp.minimum, [key.min(initial=highest) for key in keys]),
        high=functools.reduce(jnp.maximum, [key.max(initial=0 * highest) for key in keys]),
    )
    below = number(lambda key: key < threshold, keys)
    tied = number(lambda key: key == threshold, keys)

    ends = list(itertools.accumulate(m.size for m in alive))
    positions = [
        jnp.arange(end - m.size, end, dtype=jnp.uint32).reshape(m.shape)
        for m, end in zip(alive, ends, strict=True)
    ]
    # where all of the tied go, there is nothing to look for
    start = jnp.where(removals - below == tied, jnp.uint32(ends[-1]), 0)
    position = _smallest(
        lambda p: number(lambda key, at: (key == threshold) & (at < p), keys, positions) >= removals - below,
        low=start,
        high=jnp.maximum(start, jnp.uint32(ends[-1])),
    )
    return [
        m & (key >= threshold) & ((key != threshold) | (at >= position))
        for m, key, at in zip(alive, keys, positions, strict=True)
    ]


def _ordered(score: jax.Array, alive: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the scores; the greatest of all for what is not alive."""
    bits = jnp.finfo(score.dtype).bits
    unsigned = jnp.dtype(f"uint{bits}")
    sign = jnp.array(1 << (bits - 1), unsigned)
    raw = jax.lax.bitcast_convert_type(score, unsigned)
    raw = jnp.where(raw == sign, 0, raw)  # -0.0 equals 0.0
    highest = jnp.array(jnp.iinfo(unsigned).max, unsigned)
    return jnp.where(alive, jnp.minimum(jnp.where(raw & sign, ~raw, raw | sign), highest - 1), highest)


def _smallest(holds, low: jax.Array, high: jax.Array) -> jax.Array:
    """The smallest integer in [low, high] for which a monotone predicate holds; it holds at `high`."""

    def halve(bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        good = holds(middle)
        return jnp.where(good, low, middle + 1), jnp.where(good, middle, high)

    return jax.lax.while_loop(lambda bounds: bounds[0] < bounds[1], halve, (low, high))[1]
