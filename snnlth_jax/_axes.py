"""Axes that arrays are divided over, and counts that include all of their devices."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

AxisName = str | tuple[str, ...] | None
MOST = 2**32 - 1

__all__ = [
    "MOST",
    "AxisName",
    "axes_of",
    "axis_size",
    "count_true",
    "is_explicit",
    "placed_like",
    "total_size",
    "unsharded",
    "vary_like",
    "varying",
]


def varying(x: Any) -> frozenset[str]:
    """The mapped axes of `shard_map` over which an array varies; the attribute depends on the release."""
    aval: Any = jax.typeof(x)
    return aval.mat.varying if hasattr(aval, "mat") else getattr(aval, "vma", frozenset())


def vary_like(x: jax.Array, other: Any) -> jax.Array:
    """`x`, varying over the devices of `shard_map` as `other` does."""
    missing = tuple(varying(other) - varying(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def axes_of(axis_name: AxisName, *arrays: Any) -> tuple[str, ...]:
    """The axes of `axis_name` that a leaf is divided over, given as one or more arrays (mask, scores).

    `shard_map` knows of an array that is the same on all devices of an axis; it is counted once. `vmap`,
    `pmap` and `shard_map(check_vma=False)` do not, so that there every leaf counts as divided.
    """
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    try:
        checked = any(name in varying(jax.lax.axis_index(name)) for name in names)
    except NameError:
        raise ValueError(f"axis_name {axis_name!r} is no mapped axis here") from None
    if checked:
        return tuple(name for name in names if any(name in varying(x) for x in arrays))
    return names


def axis_size(axes: Sequence[str]) -> int:
    """Number of devices along some axes."""
    return math.prod(jax.lax.axis_size(name) for name in axes)


def total_size(leaves: Sequence[Any], axis_name: AxisName = None, *, on_device: bool = True) -> int:
    """Number of entries of all leaves, on all devices.

    Raises:
      ValueError: leaves to be counted `on_device`, or traced, with more entries than 32 bits can count.
    """
    total: int = sum(leaf.size * axis_size(axes_of(axis_name, leaf)) for leaf in leaves)
    if total > MOST and (on_device or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)):
        raise ValueError(f"{total:,} weights: traced counts have 32 bits, at most {MOST:,} can be counted")
    return total


def count_true(condition: jax.Array, axes: Sequence[str] = ()) -> jax.Array:
    """Number of True entries as uint32, over all devices of `axes`.

    In two sums, without a reshape, which a sharded array may not have: XLA's CPU backend vectorises the
    first, and not one over all axes.
    """
    ones = condition.astype(jnp.uint32)
    if ones.ndim > 1:
        ones = jax.lax.optimization_barrier(ones.sum(tuple(range(ones.ndim - 1)), dtype=jnp.uint32))
    total = ones.sum(dtype=jnp.uint32)
    return jax.lax.psum(total, tuple(axes)) if axes else total


def is_explicit(x: Any) -> bool:
    """Whether an array is divided over an Explicit mesh, and its sharding a part of its type."""
    return any(part is not None for part in jax.typeof(x).sharding.spec)


def unsharded(x: jax.Array) -> jax.Array:
    """`x`, replicated if it is divided over an Explicit mesh, so that it can be reshaped."""
    return _placed(x, PartitionSpec(), x) if is_explicit(x) else x


def placed_like(x: jax.Array, other: Any, *arrays: jax.Array) -> jax.Array:
    """`x`, divided as `other` is, over the Explicit mesh that some of the arrays are on."""
    (on_mesh, *_) = filter(is_explicit, arrays)
    return _placed(x, jax.typeof(other).sharding.spec, on_mesh)


def _placed(x: jax.Array, spec: PartitionSpec, on_mesh: jax.Array) -> jax.Array:
    concrete = None if isinstance(on_mesh, jax.core.Tracer) else getattr(on_mesh, "sharding", None)
    mesh = getattr(concrete, "mesh", jax.typeof(on_mesh).sharding.mesh)
    resharded: jax.Array = jax.sharding.reshard(x, NamedSharding(mesh, spec))
    return resharded
