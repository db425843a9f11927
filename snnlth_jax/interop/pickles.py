"""Pickles read as data: a small machine of its own for the opcodes, which calls nothing that a file names.

Python's `pickle` runs what a file says. Here a pickle may hold numbers, texts, lists, tuples, dicts, NumPy's
arrays and PyTorch's tensors; each name of a function or class in it must be in a list, and stands for code
of this module. Everything else is refused by its name. No more memory is taken than a small multiple of the
size of the file.
"""

import functools
import math
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from snnlth_jax.errors import InputError

__all__ = ["Storage", "Tensor", "loads", "plain"]


class Storage:
    """Numbers that tensors are views of; `data` may come after the pickle that names it."""

    def __init__(self, dtype: np.dtype[Any], size: int, data: bytes | None = None):
        self.dtype, self.size, self.data = dtype, size, data


class Tensor(NamedTuple):
    """A view of a storage, in numbers from its start; `dtype` where the storage is of bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any] | None = None


class _Name(NamedTuple):
    """A function or class that a pickle names, which is in the list."""

    name: str


class _Dtype:
    def __init__(self, text: str):
        self.dtype = np.dtype(text)


class _Array:
    """NumPy's array, whose content comes with the opcode BUILD."""

    value: np.ndarray | None = None


class Refused(Exception):
    """The pickle holds something that is not data."""


def loads(
    content: bytes,
    start: int = 0,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[bytes], Any] | None = None,
) -> tuple[Any, int]:
    """The object of a pickle, to be made `plain`, and the position behind the pickle.

    Args:
      content: the bytes.
      start: position of the pickle in them.
      persistent: what a persistent id stands for; by default there are none.
      nested: reader of the bytes of a storage that is a file of PyTorch itself.

    Raises:
      Refused: something that is not data, by name.
      Exception: one of many kinds, for bytes that are not a pickle.

    >>> import pickle
    >>> plain(loads(pickle.dumps({"a": [np.arange(3), 1.5]}))[0])
    {'a': [array([0, 1, 2]), 1.5]}
    >>> loads(pickle.dumps(print))
    Traceback (most recent call last):
    ...
    snnlth_jax.interop.pickles.Refused: builtins.print
    """
    machine = _Machine(persistent, nested)
    view: Any = _Reader(content, start)
    for opcode, argument, _ in pickletools.genops(view):
        if opcode.name == "STOP":
            return machine.stack.pop(), view.tell()
        machine.step(opcode.name, argument)
    raise EOFError


class _Reader:
    """The two methods of a file that `genops` needs, without a copy of the content."""

    def __init__(self, content: bytes, start: int):
        self.content, self.position = content, start

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        begin, self.position = self.position, min(self.position + max(size, 0), len(self.content))
        return self.content[begin : self.position]

    def readline(self) -> bytes:
        end = self.content.find(b"\n", self.position) + 1
        return self.read((end or len(self.content)) - self.position)


_MARK = object()

# opcodes whose argument is the object itself
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}


class _Machine:
    """Stack and memo of a pickle that is being read."""

    def __init__(self, persistent: Callable[[Any], Any] | None, nested: Callable[[bytes], Any] | None):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent, self.nested = persistent, nested

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "GLOBAL":
            stack.append(_named(".".join(argument.split(" ", 1))))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "BINPERSID":
            if self.persistent is None:
                raise Refused("a persistent id")
            stack.append(self.persistent(stack.pop()))
        else:
            self._collect(name)

    def _collect(self, name: str) -> None:
        """The opcodes of containers."""
        stack = self.stack
        if name in ("APPEND", "SETITEM"):
            count = 1 if name == "APPEND" else 2
            items = stack[-count:]
            del stack[-count:]
            _extend(stack[-1], items)
        elif name in ("APPENDS", "SETITEMS"):
            items = self._above_mark()
            _extend(stack[-1], items)
        elif name in ("LIST", "TUPLE"):
            stack.append((list if name == "LIST" else tuple)(self._above_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise IndexError
            items = stack[-count:]
            del stack[-count:]
            stack.append(tuple(items))
        elif name == "DICT":
            items = self._above_mark()
            stack.append({})
            _extend(stack[-1], items)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._above_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            raise Refused(f"the opcode {name}")

    def _above_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise IndexError
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise Refused("a call of something that is no function")
        if function.name == "torch.storage._load_from_bytes":
            if self.nested is None:
                raise Refused(function.name)
            return self.nested(arguments[0])
        if function.name not in _CALLS:
            raise Refused(f"a call of {function.name}")
        return _CALLS[function.name](*arguments)


def _extend(container: Any, items: list[Any]) -> None:
    if any(item is _MARK for item in items):
        raise ValueError
    if type(container) is list:
        container.extend(items)
    elif type(container) is dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise Refused(f"a key that is a {type(key).__name__}")
            container[key] = value
    else:
        raise TypeError


def _named(name: str) -> _Name:
    if name not in _CALLS and name not in _DTYPES and name not in _OTHERS:
        raise Refused(name if name.isprintable() else repr(name))
    return _Name(name)


def _build(target: Any, state: Any) -> None:
    """The opcode that gives an object its state."""
    if isinstance(target, _Array):
        _, shape, dtype, fortran, data = state
        target.value = _array(data, dtype, shape, "F" if fortran else "C")
    elif isinstance(target, _Dtype):
        if len(state) < 8 or state[3] is not None or state[4] is not None:
            raise Refused("an array of records")
        if state[1] in ("<", ">"):
            target.dtype = target.dtype.newbyteorder(state[1])
    elif type(target) is not dict:  # of an OrderedDict: attributes that no reader needs
        raise Refused("the state of an object")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(data, str):  # a text of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise Refused("an array of objects")
    array = np.frombuffer(data, _of_numbers(dtype.dtype))
    return array.reshape(tuple(map(_whole, shape)), order="F" if order == "F" else "C")


def _of_numbers(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "biufc" or not dtype.itemsize:
        raise Refused(f"an array of {dtype}")
    return dtype


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _dtype(text: Any, *_: Any) -> _Dtype:
    if not isinstance(text, str) or len(text) > 8:
        raise Refused("an array of records")
    return _Dtype(text)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


@functools.lru_cache(maxsize=64)  # so that one text, however often it is named, takes memory once
def _encoded(text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise Refused(f"a text in the code {codec!r:.20}")
    return text.encode("latin1")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    ordered: dict[Any, Any] = {}
    for pair in pairs:
        _extend(ordered, list(pair))
    return ordered


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise TypeError
    return Tensor(storage, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, strides)))


def _tensor_of(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> Tensor:
    dtype = others[2]
    return _tensor(storage, offset, shape, strides)._replace(dtype=_DTYPES[dtype.name])


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError
    return tensor


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encoded,
    **{f"{module}.bytes": lambda: b"" for module in ("builtins", "__builtin__")},
    **{f"{module}._reconstruct": lambda *_: _Array() for module in _NUMPY},
    **{f"{module}.scalar": _scalar for module in _NUMPY},
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": lambda *_: "device",
}
_BYTES = np.dtype(np.uint8)
_DTYPES: dict[str, np.dtype[Any]] = {
    f"torch.{name}": np.dtype(dtype)
    for names, dtype in (
        (("FloatStorage", "float32"), "<f4"),
        (("DoubleStorage", "float64"), "<f8"),
        (("HalfStorage", "float16"), "<f2"),
        (("BFloat16Storage", "bfloat16"), ml_dtypes.bfloat16),
        (("LongStorage", "int64"), "<i8"),
        (("IntStorage", "int32"), "<i4"),
        (("ShortStorage", "int16"), "<i2"),
        (("CharStorage", "int8"), "i1"),
        (("ByteStorage", "uint8", "storage.UntypedStorage"), "u1"),
        (("BoolStorage", "bool"), "?"),
    )
    for name in names
}
_OTHERS = ("numpy.ndarray", "torch.storage._load_from_bytes")


def storage_of(kind: Any, size: Any) -> Storage:
    """The storage, without its data yet, that a persistent id of PyTorch names."""
    if not isinstance(kind, _Name) or kind.name not in _DTYPES:
        raise Refused("a storage of an unknown kind")
    return Storage(_DTYPES[kind.name], _whole(size))


_DEEPEST, _MOST = 50, 1_000_000  # levels and objects of a file


def plain(value: Any) -> Any:
    """The object of a pickle as dicts, lists, texts, numbers and arrays, which are views of its bytes.

    Raises:
      Refused: too many objects, or too deep.
      Exception: one of many kinds, for tensors that do not lie within their storage.

    >>> storage = Storage(np.dtype("<f4"), 4, np.arange(4, dtype="<f4").tobytes())
    >>> plain({"w": Tensor(storage, 1, (3,), (1,))})
    {'w': array([1., 2., 3.], dtype=float32)}
    """
    left = _MOST

    def convert(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise Refused("more objects, or deeper ones, than any network needs")
        if isinstance(value, dict):
            return {key: convert(child, depth + 1) for key, child in value.items()}
        if isinstance(value, Tensor):
            return _view(value)
        if isinstance(value, list | tuple):
            if isinstance(value, _Name):
                return value.name
            return [convert(child, depth + 1) for child in value]
        if isinstance(value, _Array):
            if value.value is None:
                raise ValueError
            return value.value
        if value is None or isinstance(value, bool | int | float | str | bytes | bytearray):
            return value
        if isinstance(value, _Dtype):
            return str(value.dtype)
        raise Refused(f"a {type(value).__name__.lstrip('_').lower()} where an array should be")

    return convert(value, 0)


def _view(tensor: Tensor) -> np.ndarray:
    storage = tensor.storage
    if storage.data is None:
        raise ValueError
    dtype = storage.dtype if tensor.dtype is None else tensor.dtype
    size = math.prod(tensor.shape)
    if not size:
        return np.zeros(tensor.shape, dtype)
    numbers = np.frombuffer(storage.data, dtype)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((length - 1) * stride for length, stride in steps)
    if last >= numbers.size or size > numbers.size:
        raise ValueError
    strides = tuple(stride * numbers.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)


def refusal(path: object, error: Exception) -> InputError:
    """The line about what a file holds besides data."""
    problem = f"holds {error}, and nothing in a file may run"
    allowed = "dicts and lists of arrays, tensors, numbers and texts"
    return InputError(path, problem=problem, allowed=allowed)
