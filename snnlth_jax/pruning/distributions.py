"""Counts of weights to remove for a density: of all weights together, or divided among the layers.

Counts may be computed under `jit`, from a density that is traced: `remove_lowest(scores, masks, erk(masks,
density))` is a step of a sparsity schedule. They are exact: everything is computed in integers.
"""

from decimal import Decimal, localcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._axes import AxisName, axes_of, count_true, total_size, vary_like
from snnlth_jax._selection import decimal_digits, floor_of, ratio_of
from snnlth_jax.masks import trees

PyTree = Any
Masks = Any

__all__ = ["erk", "overall", "uniform"]


def overall(masks: Masks, density: float | jax.Array, axis_name: AxisName = None) -> jax.Array:
    r"""Number of weights to remove so that a density of all prunable weights is left.

    Of P prunable weights :math:`\lfloor (1 - d) P \rfloor` are removed, those included that the masks have
    removed already; never a negative number.

    Args:
      masks: masks of the weights that are left.
      density: d in (0, 1]. A Python number is read as the decimal number that it prints as; a traced one to
        seven decimal places, as many as float32 holds, and clipped to [0, 1].
      axis_name: mapped axes that the weights are divided over, see `masks.count`.

    Returns:
      A number, uint32, for `remove_lowest`.

    >>> import jax.numpy as jnp
    >>> int(overall({"w": jnp.ones((4, 5), bool)}, 0.1))
    18
    """
    trees.check(masks)
    leaves = jax.tree.leaves(masks)
    kept, total = _kept(leaves, axis_name), total_size(leaves, axis_name)
    return to_density(sum(kept, start=jnp.uint32(0)), total, removed_digits(density))


def uniform(masks: Masks, density: float | jax.Array, axis_name: AxisName = None) -> PyTree:
    """Number of weights to remove from each layer so that each has the same density.

    Args:
      masks: as for `overall`.
      density: as for `overall`.
      axis_name: as for `overall`.

    Returns:
      A tree like the masks of numbers, uint32, for `remove_lowest`.

    >>> import jax.numpy as jnp
    >>> counts = uniform({"a": jnp.ones((4, 5), bool), "b": jnp.ones((2, 5), bool)}, 0.5)
    >>> int(counts["a"]), int(counts["b"])
    (10, 5)
    """
    trees.check(masks)
    digits = removed_digits(density)
    leaves, treedef = trees.flatten_kept(masks)
    return treedef.unflatten(
        [
            to_density(kept, total_size([leaf], axis_name), digits)
            for kept, leaf in zip(_kept(leaves, axis_name), leaves, strict=True)
        ]
    )


def erk(masks: Masks, density: float | jax.Array, axis_name: AxisName = None) -> PyTree:
    """Number of weights to remove from each layer: Erdős-Rényi-Kernel (Evci et al. 2020).

    What is left of a layer is in proportion to the sum of its axes, or all of it if it has fewer; together
    the layers keep as many as with `overall`. Largest remainders are rounded up.

    Args:
      masks: as for `overall`; layers count with the axes that a device sees.
      density: as for `overall`.
      axis_name: as for `overall`.

    Returns:
      A tree like the masks of numbers, uint32, for `remove_lowest`.

    >>> import jax.numpy as jnp
    >>> counts = erk({"a": jnp.ones((50, 50), bool), "b": jnp.ones((10, 10), bool)}, 0.1)
    >>> 2500 - int(counts["a"]), 100 - int(counts["b"])  # 260 in proportion 5 : 1, up to a remainder
    (217, 43)
    """
    trees.check(masks)
    leaves, treedef = trees.flatten_kept(masks)
    if not leaves:
        return masks
    kept = _kept(leaves, axis_name)
    total = total_size(leaves, axis_name)
    before = sum(kept, start=jnp.uint32(0))
    left = before - to_density(before, total, removed_digits(density))
    return treedef.unflatten(erk_removals(leaves, kept, left))


# --- shared with `prune` and `keep_top`


def removed_digits(density: float | jax.Array) -> jax.Array | np.ndarray:
    """Decimal places of 1 - density, for `floor_of`."""
    if jnp.shape(density) != ():
        raise ValueError(f"density must be one number, got shape {jnp.shape(density)}")
    if isinstance(density, jax.core.Tracer):
        return _traced_digits(density, complement=True)
    if not 0 < number("density", density) <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    return padded_digits(density, complement=True)


def share_digits(fraction: float | jax.Array) -> jax.Array | np.ndarray:
    """Decimal places of a fraction in [0, 1], for `floor_of`; of a traced one the first seven, rounded."""
    if isinstance(fraction, jax.core.Tracer):
        if jnp.shape(fraction) != ():
            raise ValueError(f"fraction must be one number, got shape {jnp.shape(fraction)}")
        return _traced_digits(fraction)
    if not 0 <= number("fraction", fraction) <= 1:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    return np.array([10] + [0] * 23, np.uint32) if float(fraction) == 1 else padded_digits(fraction)


def _traced_digits(fraction: jax.Array, *, complement: bool = False) -> jax.Array:
    """The first seven decimal places, rounded; the first is 10 where the number is 1."""
    share = jnp.clip(jnp.round(fraction.astype(jnp.float32) * 10**7), 0, 10**7).astype(jnp.uint32)
    share = jnp.uint32(10**7) - share if complement else share
    return jnp.stack([share // 10**place % (10 if place < 6 else 100) for place in range(6, -1, -1)])


def number(name: str, value: Any) -> float:
    """A Python, NumPy or concrete JAX number; a ValueError or TypeError for anything else."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be a Python number, so that the count is exact; got a traced array "
            f"(under jit: remove_lowest, with counts of overall, uniform or erk)"
        )
    real = isinstance(value, int | float | np.generic | np.ndarray | jax.Array) and jnp.shape(value) == ()
    if not real or getattr(jnp.result_type(value), "kind", "b") in "bc":
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def padded_digits(fraction: Any, *, complement: bool = False) -> np.ndarray:
    """Decimal places of a number in [0, 1), as it prints; of 1 less the number for the complement.

    They have one of few lengths, so that another fraction compiles nothing.
    """
    with localcontext(prec=400):
        decimal = 1 - Decimal(str(fraction)) if complement else Decimal(str(fraction))
    digits = decimal_digits(decimal)
    return np.array(digits + (0,) * (-len(digits) % 24), np.uint32)


def to_density(kept: jax.Array, total: int, digits: jax.Array | np.ndarray) -> jax.Array:
    """Removals from `kept` weights so that at most total - floor(0.digits * total) are left."""
    return kept - jnp.minimum(kept, jnp.uint32(total) - floor_of(digits, jnp.uint32(total)))


def erk_removals(leaves: list[jax.Array], kept: list[jax.Array], left: jax.Array) -> list[jax.Array]:
    """Number of removals in each layer; `left` weights remain, in proportion to the sums of axes."""
    axes = jnp.array([max(sum(leaf.shape), 1) for leaf in leaves], jnp.uint32)
    have = jnp.stack(kept)

    # fill the layers in proportion; a layer that is full leaves the rest to the others
    def shares(full: jax.Array) -> tuple[jax.Array, jax.Array]:
        rest = left - jnp.where(full, have, 0).sum(dtype=jnp.uint32)
        return ratio_of(axes, rest, jnp.where(full, 0, axes).sum(dtype=jnp.uint32))

    def fill(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        full, _ = carry
        new = full | (shares(full)[0] >= have)
        return new, (new != full).any()

    have = vary_like(have, left)  # as the counts do, or the density
    start = (have == 0, (have == have).any())
    full, _ = jax.lax.while_loop(lambda carry: carry[1], fill, start)
    share, remainder = shares(full)
    keep = jnp.where(full, have, share)
    # the largest remainders are rounded up
    missing = (left - keep.sum(dtype=jnp.uint32)).astype(jnp.int32)
    order = jnp.argsort(-jnp.where(full, -1, remainder.astype(jnp.int32)), stable=True)
    keep = keep.at[order].add((jnp.arange(len(leaves), dtype=jnp.int32) < missing).astype(jnp.uint32))
    return list(have - keep)


def _kept(leaves: list[jax.Array], axis_name: AxisName) -> list[jax.Array]:
    return [count_true(leaf, axes_of(axis_name, leaf)) for leaf in leaves]
