"""Constants that are numbers or arrays: pytrees that compare by value, and checks of known values."""

import dataclasses
import os
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "STATIC",
    "Constant",
    "Constants",
    "against",
    "as_array",
    "broadcasts",
    "check",
    "concrete",
    "is_number",
    "known",
    "of_python",
    "promoted",
]

Constant = float | np.ndarray[Any, Any] | jax.Array
Values = np.ndarray[Any, Any]
STATIC = {"static": True}  # metadata of a field that is no child of the pytree


class Constants:
    """Base of frozen dataclasses of constants: pytrees, hashable as long as their fields are numbers.

    Subclasses are declared with `@dataclasses.dataclass(frozen=True, eq=False)`. Their fields are children of
    the pytree, except those with `metadata=STATIC` and functions that are no pytrees. A pytree is built
    without `__init__`, so that a leaf may be anything that JAX puts there.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda constants: _flatten(constants, keys=True),
            lambda structure, children: _unflatten(cls, structure, children),
            lambda constants: _flatten(constants, keys=False),
        )

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(mine, theirs) for mine, theirs in zip(_values(self), _values(other), strict=True))

    def __hash__(self) -> int:
        return hash((type(self), *map(_identity, _values(self))))


# --- as pytrees


def _values(constants: Any) -> list[Any]:
    return [getattr(constants, field.name) for field in dataclasses.fields(constants)]


def _is_static(field: Any, value: Any) -> bool:
    return "static" in field.metadata or (callable(value) and jax.tree_util.all_leaves([value]))


def _flatten(constants: Any, keys: bool) -> tuple[list[Any], Any]:
    """Children, in which None stands for a static value; and the static values, with None for children."""
    fields, values = dataclasses.fields(constants), _values(constants)
    static = [_is_static(field, value) for field, value in zip(fields, values, strict=True)]
    children: list[Any] = [None if apart else value for apart, value in zip(static, values, strict=True)]
    if keys:
        names = (jax.tree_util.GetAttrKey(field.name) for field in fields)
        children = list(zip(names, children, strict=True))
    return children, tuple((value,) if apart else None for apart, value in zip(static, values, strict=True))


def _unflatten(cls: type, structure: Any, children: Any) -> Any:
    constants: Any = object.__new__(cls)
    for field, static, child in zip(dataclasses.fields(cls), structure, children, strict=True):
        object.__setattr__(constants, field.name, static[0] if static else child)
    return constants


def _identity(value: Any) -> Any:
    """A number of NumPy has a type that Python's do not have, and so other results."""
    return (value.dtype, value.item()) if isinstance(value, np.generic) else value


def _equal(a: Any, b: Any) -> bool:
    arrays = [isinstance(value, np.ndarray | jax.Array) for value in (a, b)]
    if a is b or not any(arrays):
        return a is b or bool(_identity(a) == _identity(b))
    if not all(arrays) or a.dtype != b.dtype:
        return False
    values, others = concrete(a), concrete(b)
    return values is not None and others is not None and np.array_equal(values, others)


# --- their values


def concrete(x: Any) -> Values | None:
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


def is_number(constant: Any) -> bool:
    """Whether it is a number of Python, which adapts to the dtype of the arrays that it meets."""
    return isinstance(constant, int | float) and not isinstance(constant, np.generic)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, known when a program is traced."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, of at least `least`; else a ValueError that names the argument.

    >>> whole("elements", 0, least=1)
    Traceback (most recent call last):
    ...
    ValueError: elements must be a whole number of at least 1, got 0
    """
    if not is_whole(value) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")
    return int(value)


def known(name: str, constant: Any) -> Values | None:
    """The values of a constant, None where it is traced; ValueError for what is no real number or array."""
    if callable(as_array := getattr(constant, "__jax_array__", None)):  # such as a variable of Flax NNX
        constant = as_array()
    number = is_number(constant) and not isinstance(constant, bool)
    if number or isinstance(constant, np.generic | np.ndarray | jax.Array | jax.ShapeDtypeStruct):
        dtype = np.asarray(constant).dtype if number else constant.dtype
        real = jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating)
        if real and dtype.itemsize <= 8:  # JAX has no longdouble
            return concrete(constant)
    raise ValueError(f"{name} must be a real number or an array of them, got {constant!r}")


def check(name: str, values: Values | None, allowed: Any, requirement: str) -> None:
    """Refuse a constant with a value that is not allowed: "`name` `requirement`, got ...", a ValueError.

    >>> tau = known("tau", np.array([2.0, 0.5]))
    >>> check("tau", tau, tau >= 1, "must be at least 1")
    Traceback (most recent call last):
    ...
    ValueError: tau must be at least 1, got 0.5 at [1]
    """
    if values is None or np.all(allowed):
        return
    values, allowed = np.broadcast_arrays(values, allowed)
    index = np.argwhere(~allowed)[0]
    place = f" at {index.tolist()}" if index.size else ""
    raise ValueError(f"{name} {requirement}, got {values[tuple(index)].item()}{place}")


def as_array(name: str, x: Any, what: str = "real numbers") -> jax.Array:
    """JAX's array of an array or a nested list, in any byte order; ValueError for what is none.

    >>> as_array("logits", np.ones(2, ">f4")).dtype
    dtype('float32')
    >>> as_array("logits", None)
    Traceback (most recent call last):
    ...
    ValueError: logits must be an array of real numbers, got None
    """
    if isinstance(x, np.ndarray) and not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        given = f"{type(x).__name__} of {x.dtype}" if hasattr(x, "dtype") else f"{x!r:.80}"
        raise ValueError(f"{name} must be an array of {what}, got {given}") from error


def promoted(*values: Any) -> Any:
    """The floating-point dtype of what is computed from arrays, numbers and types, in any mode of promotion.

    Types that JAX does not promote count as the next ones that it does: float8 beside others as bfloat16, the
    integers of fewer than 8 bits as int8.

    >>> promoted(jnp.ones(2, jnp.bfloat16), 2.0), promoted(jnp.ones(2, jnp.bfloat16), np.float32(2.0))
    (dtype(bfloat16), dtype('float32'))
    """
    arrays = [_native(value) for value in values if not is_number(value)]
    dtypes = [jnp.result_type(array) for array in arrays]
    if len({*dtypes}) > 1 or any(jnp.issubdtype(dtype, jnp.integer) for dtype in dtypes):
        arrays = [_widened(dtype) or array for dtype, array in zip(dtypes, arrays, strict=True)]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays, 1.0)


def _native(value: Any) -> Any:
    """Stand-in of a value in a promotion: of NumPy's arrays one number, in the machine's byte order."""
    return np.zeros((), value.dtype.newbyteorder("=")) if isinstance(value, np.ndarray) else value


def _widened(dtype: Any) -> Any:
    """The next type that JAX promotes; None for those that it does."""
    if dtype.itemsize > 1 or dtype in (jnp.int8, jnp.uint8, jnp.bool_):
        return None
    return jnp.bfloat16 if jnp.issubdtype(dtype, jnp.floating) else jnp.int8


def against(name: str, constant: Any, of: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """A constant that is ready to meet an array; ValueError if it does not broadcast to its shape.

    Numbers become Python's floats, which adapt to the array. Arrays get the dtype, and axes of length 1 in
    front.

    >>> against("tau", np.ones(3), "the currents", (2, 3), jnp.float32).shape
    (1, 3)
    """
    if is_number(constant):
        return float(constant)
    array = as_array(name, constant)
    if not broadcasts(array.shape, shape):
        raise ValueError(f"{name} of shape {array.shape} does not broadcast to {of}, of shape {shape}")
    missing = len(shape) - array.ndim if array.ndim else 0
    return jnp.expand_dims(array.astype(dtype), tuple(range(missing)))


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether arrays of a shape broadcast to another shape."""
    lengths = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(length in (1, into) for length, into in lengths)


def of_python(value: Any) -> Any:
    """Numbers of NumPy, JAX and Python, ranges and paths as plain numbers, tuples and texts.

    >>> of_python((np.int64(4), "M")), of_python(range(2)), of_python(Fraction(1, 4))
    ((4, 'M'), (0, 1), 0.25)
    """
    if isinstance(value, (tuple, list)):
        return type(value)(map(of_python, value))
    if isinstance(value, range):
        return tuple(value)
    if hasattr(value, "dtype"):  # an array, or a number of one
        return value.item() if np.shape(value) == () else tuple(np.asarray(value).tolist())
    if isinstance(value, (Decimal, Fraction)):
        return float(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
