"""Selection of an exact number of lowest array entries, whatever the ties, without sorting.

Exact arithmetic on counts, and bisection on the bit patterns of scores. Both work on traced arrays.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["decimal_digits", "floor_of", "without_lowest"]


def decimal_digits(fraction: Decimal) -> tuple[int, ...]:
    """The decimal places of a number in [0, 1): 0.25 -> (2, 5)."""
    return tuple(int(digit) for digit in f"{fraction:f}".partition(".")[2])


def floor_of(digits: Sequence[int] | np.ndarray | jax.Array, n: jax.Array) -> jax.Array:
    """floor(0.d1 d2 d3... * n) without rounding, in 32 bits: Horner's rule on the digits, from the last.

    (d n + c) / 10 is split into parts so that nothing overflows where n fits.
    """
    tens, ones = n // 10, n % 10
    result = jnp.zeros_like(n)
    for digit in digits[::-1]:
        result = tens * digit + (ones * digit + result) // 10
    return result


def without_lowest(scores: list[jax.Array], alive: list[jax.Array], removals: jax.Array) -> list[jax.Array]:
    """`alive` less the `removals` entries of lowest score, the first in order where scores are equal.

    First it bisects the order-preserving integer image of the scores, with one counting pass over the weights
    per step. Then, only if kept and removed weights share the threshold, it bisects their position.
    """
    dtype = jnp.promote_types(jnp.result_type(*scores), jnp.float32)
    keys = [_ordered(s.astype(dtype), m) for s, m in zip(scores, alive, strict=True)]
    highest = jnp.array(jnp.iinfo(keys[0].dtype).max, keys[0].dtype)

    def count(condition: Callable[..., jax.Array], *trees: list[jax.Array]) -> jax.Array:
        counts = [_count(condition(*leaves)) for leaves in zip(*trees, strict=True)]
        return functools.reduce(jnp.add, counts)

    threshold = _smallest(
        lambda t: count(lambda key: key <= t, keys) >= removals,
        low=functools.reduce(jnp.minimum, [key.min(initial=highest) for key in keys]),
        high=functools.reduce(jnp.maximum, [key.max(initial=0 * highest) for key in keys]),
    )
    below = count(lambda key: key < threshold, keys)
    tied = count(lambda key: key == threshold, keys)

    ends = list(itertools.accumulate(m.size for m in alive))
    positions = [
        jnp.arange(end - m.size, end, dtype=jnp.uint32).reshape(m.shape)
        for m, end in zip(alive, ends, strict=True)
    ]
    # if all tied weights are removed, there is nothing to bisect
    start = jnp.where(removals - below == tied, jnp.uint32(ends[-1]), 0)
    position = _smallest(
        lambda p: (
            count(lambda key, place: (key == threshold) & (place < p), keys, positions) >= removals - below
        ),
        low=start,
        high=jnp.maximum(start, jnp.uint32(ends[-1])),
    )
    return [
        m & (key >= threshold) & ((key != threshold) | (place >= position))
        for m, key, place in zip(alive, keys, positions, strict=True)
    ]


def _count(condition: jax.Array) -> jax.Array:
    """Number of True entries, in two sums: XLA's CPU backend vectorises the first, and not one over all."""
    ones = condition.ravel().astype(jnp.uint32)
    if ones.size % 8 == 0:
        ones = jax.lax.optimization_barrier(ones.reshape(8, -1).sum(0, dtype=jnp.uint32))
    return ones.sum(dtype=jnp.uint32)


def _ordered(score: jax.Array, alive: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the scores; the greatest integer for weights that are not alive."""
    bits = jnp.finfo(score.dtype).bits
    unsigned = jnp.dtype(f"uint{bits}")
    sign = jnp.array(1 << (bits - 1), unsigned)
    raw = jax.lax.bitcast_convert_type(score, unsigned)
    raw = jnp.where(raw == sign, 0, raw)  # -0.0 equals 0.0
    highest = jnp.array(jnp.iinfo(unsigned).max, unsigned)
    return jnp.where(alive, jnp.minimum(jnp.where(raw & sign, ~raw, raw | sign), highest - 1), highest)


def _smallest(holds: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """The smallest integer in [low, high] for which a monotone predicate holds; it holds at `high`."""

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        true = holds(middle)
        return jnp.where(true, low, middle + 1), jnp.where(true, middle, high)

    return jax.lax.while_loop(lambda bounds: bounds[0] < bounds[1], halve, (low, high))[1]
