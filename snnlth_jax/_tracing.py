"""What is known of an array while a program is traced: its values, and the devices over which it varies."""

from typing import Any

import jax
import numpy as np

__all__ = ["alike", "concrete"]


def concrete(x: Any) -> np.ndarray[Any, Any] | None:
    """The values of a number or an array; None where a program is traced for any values.

    An array of which other processes hold a part has no values here either.

    >>> concrete(2.0)
    array(2.)
    >>> jax.eval_shape(lambda x: concrete(x), 2.0) is None
    True
    """
    if isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    if isinstance(x, jax.Array):
        return np.asarray(jax.device_get(x)) if x.is_fully_addressable or x.is_fully_replicated else None
    return np.asarray(x)


def alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The same arrays, in `shard_map` all varying over the mapped axes over which any of them varies.

    A loop needs it, since its carry must vary at the start as at the end, and so does a function with
    gradients of its own, which must vary as the values do.
    """
    everywhere = frozenset[str]().union(*map(_axes, arrays))
    return tuple(
        jax.lax.pcast(x, tuple(everywhere - _axes(x)), to="varying") if everywhere - _axes(x) else x
        for x in arrays
    )


def _axes(x: jax.Array) -> frozenset[str]:
    """The mapped axes over which an array varies; the attribute depends on the release."""
    aval: Any = jax.typeof(x)
    varying: frozenset[str] = aval.mat.varying if hasattr(aval, "mat") else getattr(aval, "vma", frozenset())
    return varying
