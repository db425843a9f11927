"""Leaves of any pytree as arrays that safetensors can hold, and JSON for what an array does not say.

None                        an array as it is
["array", dtype, shape]     an array of a dtype that safetensors lacks, as bytes
["key", implementation]     a typed PRNG key, as its data
["value", type, text]       a Python number or text
["none"]
["absent", type]            what cannot be stored, such as a function
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax.tickets import tensors

__all__ = ["Absent", "Kind", "fits", "kind", "restore", "store"]

Record = list[Any]


class Absent(NamedTuple):
    """A leaf that could not be stored."""

    type: str


class Kind(NamedTuple):
    """A leaf in short.

    Attributes:
      sort: array, key, value, none or absent.
      text: dtype and shape, or type.
    """

    sort: str
    text: str


_VALUES: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bool": (bool, bool, bool),
    "int": (int, hex, lambda text: int(text, 16)),
    "float": (float, float.hex, float.fromhex),
    "complex": (
        complex,
        lambda z: [z.real.hex(), z.imag.hex()],
        lambda parts: complex(*map(float.fromhex, parts)),
    ),
    "str": (str, str, str),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}


def kind(leaf: Any) -> Kind:
    """Kind of a leaf; `jax.ShapeDtypeStruct` counts as the array.

    >>> kind(np.ones((2, 3), ">f4")), kind(1.5)
    (Kind(sort='array', text='float32 (2, 3)'), Kind(sort='value', text='float'))
    """
    if leaf is None:
        return Kind("none", "None")
    if isinstance(leaf, Absent):
        return Kind("absent", leaf.type)
    if _is_key(leaf):
        return Kind("key", f"{leaf.dtype} {leaf.shape}")
    if _is_array(leaf):
        dtype = getattr(leaf, "dtype", None)
        dtype = dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype
        return Kind("array", f"{dtype} {tuple(np.shape(leaf))}")
    return Kind("value" if _is_value(leaf) else "absent", type(leaf).__name__)


def fits(given: Kind, wanted: Kind) -> bool:
    """Whether a stored leaf may stand where another tree has a leaf."""
    if given.sort == "absent":
        return wanted.sort in ("absent", "value")
    numbers = given.sort == "value" and {given.text, wanted.text} <= {"bool", "int", "float", "complex"}
    return given.sort == wanted.sort and (given.text == wanted.text or numbers)


def store(name: str, leaf: Any) -> tuple[Record | None, np.ndarray | None]:
    """The record and the array of a leaf, each None if there is none.

    Raises:
      ValueError: an array whose values cannot be read or stored, or an object that JAX does not know as a
        pytree and that holds arrays.
    """
    if leaf is None:
        return ["none"], None
    if _is_key(leaf) and isinstance(leaf, jax.Array):
        return ["key", str(jax.random.key_impl(leaf))], _host(name, jax.random.key_data(leaf))
    if _is_array(leaf):
        array = _host(name, leaf)
        if tensors.has_name(array.dtype):
            return None, array
        record = ["array", tensors.name_of(array.dtype), list(array.shape)]
        return record, np.frombuffer(tensors.data(array), np.uint8)
    own = type(leaf).__name__
    if _is_value(leaf):
        return ["value", own, _VALUES[own][1](leaf)], None
    if any(map(_is_array, jax.tree.leaves(_inside(leaf)))):
        raise ValueError(f"{name}: a {own} holds arrays and is not registered as a pytree")
    return ["absent", own], None


def restore(record: Record | None, array: np.ndarray | None) -> Any:
    """The leaf, or `Absent`; what `store` did not make raises one of many kinds of error."""
    match record, array:
        case (None, np.ndarray()):
            return array
        case (["none"], None):
            return None
        case (["absent", str(name)], None):
            return Absent(name)
        case (["value", str(name), text], None):
            return _VALUES[name][2](text)
        case (["key", str(implementation)], np.ndarray()):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
        case (["array", str(name), [*shape]], np.ndarray()):
            return np.frombuffer(tensors.data(array), tensors.dtype_of(name)).reshape(shape)
    raise ValueError(f"{record!r} for {'an array' if array is not None else 'no array'}")


def _is_array(leaf: Any) -> bool:
    described = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type)
    return described or hasattr(type(leaf), "__array__")


def _is_value(leaf: Any) -> bool:
    return any(type(leaf) is python for python, _, _ in _VALUES.values())


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _host(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ma.MaskedArray):
        raise ValueError(f"{name}: a masked array cannot be stored, allowed: its data and its mask apart")
    try:
        array = np.asarray(leaf, order="C")
    except Exception as error:
        raise ValueError(f"{name}: the values of a {type(leaf).__name__} cannot be read") from error
    if array.dtype.hasobject or array.dtype.fields or not array.dtype.itemsize:
        what = type(leaf).__name__ if array.dtype.hasobject else array.dtype
        raise ValueError(
            f"{name}: {what} cannot be stored, allowed: arrays of NumPy's and ml_dtypes' own types"
        )
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _inside(leaf: Any) -> list[Any]:
    """Content of an object that is no pytree."""
    if isinstance(leaf, (list, tuple, set, frozenset)):
        return list(leaf)
    if isinstance(leaf, (type, types.ModuleType)):
        return []
    if dataclasses.is_dataclass(leaf):
        return [getattr(leaf, field.name, None) for field in dataclasses.fields(leaf)]
    return list(getattr(leaf, "__dict__", {}).values())
