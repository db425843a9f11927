"""Selection of an exact number of lowest array entries, whatever the ties, without sorting.

Exact arithmetic on counts, and bisection on the bit patterns of scores. Both work on traced arrays.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._axes import AxisName, axes_of, axis_size, count_true, vary_like

__all__ = ["decimal_digits", "floor_of", "ordered", "ratio_of", "smallest", "without_lowest"]


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


def ratio_of(parts: jax.Array, n: jax.Array, whole: jax.Array) -> tuple[jax.Array, jax.Array]:
    """floor(parts * n / whole) and the remainder, without rounding, in 32 bits; 0 where `whole` is 0.

    Long division, bit by bit of n. The parts must not exceed `whole`, and `whole` not 2^30.
    """
    whole = jnp.maximum(whole, jnp.uint32(1))

    def digit(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        quotient, remainder = carry
        bit = (n >> (jnp.uint32(31) - jnp.asarray(i, jnp.uint32))) & jnp.uint32(1)
        value = remainder * 2 + parts * bit
        return quotient * 2 + value // whole, value % whole

    zero = jnp.zeros_like(parts) * n  # varies over devices as n does
    result: tuple[jax.Array, jax.Array] = jax.lax.fori_loop(0, 32, digit, (zero, zero))
    return result


def without_lowest(
    scores: list[jax.Array], alive: list[jax.Array], removals: jax.Array, axis_name: AxisName = None
) -> list[jax.Array]:
    """`alive` less the `removals` entries of lowest score, the first in order where scores are equal.

    First it bisects the order-preserving integer image of the scores, with one counting pass over the weights
    per step. Then, only if kept and removed weights share the threshold, it bisects their position. Arrays
    keep their shapes, so that they may be sharded in any way; entries that are divided over `axis_name` are
    counted and compared with those of all devices, in the order leaf, device, entry.
    """
    double = any(s.dtype == jnp.float64 for s in scores)
    dtype = jnp.float64 if double else jnp.float32
    keys = [ordered(s.astype(dtype), m) for s, m in zip(scores, alive, strict=True)]
    axes = [axes_of(axis_name, s, m) for s, m in zip(scores, alive, strict=True)]
    highest = jnp.array(jnp.iinfo(keys[0].dtype).max, keys[0].dtype)

    def count(condition: Callable[..., jax.Array], *trees: list[jax.Array]) -> jax.Array:
        counts = [count_true(condition(*leaves), a) for a, *leaves in zip(axes, *trees, strict=True)]
        return functools.reduce(jnp.add, counts)

    def over(reduce: Callable[..., jax.Array], value: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        return reduce(value, axes) if axes else value

    lows = [over(jax.lax.pmin, k.min(initial=highest), a) for k, a in zip(keys, axes, strict=True)]
    highs = [over(jax.lax.pmax, k.max(initial=0 * highest), a) for k, a in zip(keys, axes, strict=True)]
    threshold = smallest(
        lambda t: count(lambda key: key <= t, keys) >= removals,
        low=vary_like(functools.reduce(jnp.minimum, lows), removals),
        high=vary_like(functools.reduce(jnp.maximum, highs), removals),
    )
    below = count(lambda key: key < threshold, keys)
    tied = count(lambda key: key == threshold, keys)

    ends = list(itertools.accumulate(m.size * axis_size(a) for m, a in zip(alive, axes, strict=True)))
    positions = [_positions(m, end, a) for m, end, a in zip(alive, ends, axes, strict=True)]
    # if all tied weights are removed, there is nothing to bisect
    last = jnp.uint32(ends[-1])
    start = jnp.where(removals - below == tied, last, jnp.uint32(0))
    position = smallest(
        lambda p: (
            count(lambda key, place: (key == threshold) & (place < p), keys, positions) >= removals - below
        ),
        low=start,
        high=vary_like(jnp.maximum(start, last), start),
    )
    return [
        m & (key >= threshold) & ((key != threshold) | (place >= position))
        for m, key, place in zip(alive, keys, positions, strict=True)
    ]


def _positions(mask: jax.Array, end: int, axes: tuple[str, ...]) -> jax.Array:
    """The place of each entry among those of all leaves and devices, the last before `end`."""
    index, devices = jnp.uint32(0), axis_size(axes)
    for name in axes:
        index = index * jax.lax.axis_size(name) + jax.lax.axis_index(name).astype(jnp.uint32)
    place: jax.Array = jnp.uint32(end - devices * mask.size) + index * jnp.uint32(mask.size)
    place = jnp.broadcast_to(place, mask.shape)
    for axis in range(mask.ndim):
        stride = jnp.uint32(math.prod(mask.shape[axis + 1 :]))
        place = place + jax.lax.broadcasted_iota(jnp.uint32, mask.shape, axis) * stride
    return place


def ordered(score: jax.Array, alive: jax.Array, *, dead_last: bool = True) -> jax.Array:
    """Unsigned integers in the order of the scores, NaN lowest; the greatest for what is not alive, or 0."""
    score = jnp.asarray(score)
    if score.dtype not in (jnp.float32, jnp.float64):
        score = score.astype(jnp.float32)
    unsigned = jnp.dtype(f"uint{jnp.finfo(score.dtype).bits}")
    sign = jnp.array(1 << (jnp.finfo(score.dtype).bits - 1), unsigned)
    zero = jnp.zeros((), unsigned)
    raw = jax.lax.bitcast_convert_type(score, unsigned)
    raw = jnp.where(raw == sign, zero, raw)  # -0.0 equals 0.0
    highest = jnp.array(jnp.iinfo(unsigned).max, unsigned)
    key = jnp.where((raw & sign) != 0, ~raw, raw | sign)
    key = jnp.where(jnp.isnan(score), zero + 1, key)
    return jnp.where(alive, jnp.minimum(key, highest - 1), highest if dead_last else zero)


def smallest(holds: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """The smallest integer in [low, high] for which a monotone predicate holds; it holds at `high`."""

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        true = holds(middle)
        return jnp.where(true, low, middle + 1), jnp.where(true, middle, high)

    return jax.lax.while_loop(lambda bounds: bounds[0] < bounds[1], halve, (low, high))[1]
