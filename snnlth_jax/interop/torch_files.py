"""Files of PyTorch and plain pickles, read without PyTorch and without running anything in them; and written.

`torch.save` writes a zip file, uncompressed: `NAME/data.pkl`, a pickle in which persistent ids name storages,
and `NAME/data/KEY` for each of them. Before version 1.6, and within plain pickles of tensors still, it wrote
pickles in a row, then the storages.
"""

import contextlib
import functools
import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from snnlth_jax import files
from snnlth_jax.errors import InputError
from snnlth_jax.interop import pickles
from snnlth_jax.interop.pickles import Storage

__all__ = ["dumps", "load"]

_MAGIC = 0x1950A86A20F9469CFC6C  # of the old format

# what reading bytes of any origin can raise
_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(NotImplementedError, RecursionError, RuntimeError, TypeError, ValueError),
    *(struct.error, zipfile.BadZipFile),
)


def load(path: epath.PathLike) -> Any:
    """Content of a pickle or a file of `torch.save`, as dicts, lists, texts, numbers and NumPy's arrays.

    Args:
      path: path of the file; it may be a `gs://` one.

    Raises:
      InputError: no such file, damage, or anything in it but data, by name. Nothing in the file has run.

    >>> import tempfile
    >>> path = epath.Path(tempfile.mkdtemp()) / "weights.pth"
    >>> _ = path.write_bytes(dumps({"fc.weight": np.ones((1, 2), np.float32)}))
    >>> load(path)
    {'fc.weight': array([[1., 1.]], dtype=float32)}
    """
    content = files.read(path)
    with _refusing(path):
        return pickles.plain(_object(content))


@contextlib.contextmanager
def _refusing(path: object) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except pickles.Refused as refused:
        raise pickles.refusal(path, refused) from refused
    except _DAMAGE as error:
        problem = f"not a pickle or a file of torch.save, or cut short ({type(error).__name__})"
        raise InputError(f"{path}: {problem}") from error


def _object(content: bytes) -> Any:
    if content[:2] == b"PK":
        return _of_archive(content)
    value, position = pickles.loads(content, nested=_storage)
    if value == _MAGIC and type(value) is int:
        return _of_row(content, position)
    return value


def _of_archive(content: bytes) -> Any:
    """The object of a zip file; entries are as long as they say, since none is compressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type or info.file_size != info.compress_size for info in entries.values()):
            raise pickles.Refused("compressed entries, which torch.save does not write")
        if sum(info.file_size for info in archive.infolist()) > len(content):
            raise pickles.Refused("entries that are longer than the file")
        (name,) = (name for name in entries if name == "data.pkl" or name.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise pickles.Refused("numbers in big-endian order")
        storages: dict[str, Storage] = {}

        def persistent(identity: Any) -> Storage:
            _, kind, key, _, size = identity
            storage = pickles.storage_of(kind, size)
            if key not in storages:
                storage.data = archive.read(f"{root}data/{key}")
                if len(storage.data) != storage.size * storage.dtype.itemsize:
                    raise ValueError
                storages[key] = storage
            return storages[key]

        return pickles.loads(archive.read(name), persistent=persistent)[0]


def _of_row(content: bytes, position: int) -> Any:
    """The object of the old format: pickles in a row, then the storages."""
    storages: dict[Any, Storage] = {}
    version, position = pickles.loads(content, position)
    system, position = pickles.loads(content, position)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError

    def persistent(identity: Any) -> Storage:
        _, kind, key, _, size, view = identity
        if view is not None:
            raise pickles.Refused("a storage that is part of another")
        return storages.setdefault(key, pickles.storage_of(kind, size))

    value, position = pickles.loads(content, position, persistent=persistent)
    keys, position = pickles.loads(content, position)
    for key in keys:
        storage = storages[key]
        length = storage.size * storage.dtype.itemsize
        (size,) = struct.unpack_from("<q", content, position)
        if size != storage.size or len(content) < position + 8 + length:
            raise ValueError
        storage.data = content[position + 8 : position + 8 + length]
        position += 8 + length
    return value


@functools.lru_cache(maxsize=64)  # so that one storage, however often it is named, takes memory once
def _storage(content: Any) -> Storage:
    """The storage in the bytes that a plain pickle of a tensor holds."""
    if not isinstance(content, bytes | bytearray):
        raise TypeError
    value, position = pickles.loads(bytes(content))
    storage = _of_row(bytes(content), position) if value == _MAGIC else None
    if not isinstance(storage, Storage):
        raise TypeError
    return storage


# --- writing

_STORAGES = {
    "<f4": "FloatStorage",
    "<f8": "DoubleStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "<i4": "IntStorage",
    "<i2": "ShortStorage",
    "|i1": "CharStorage",
    "|u1": "ByteStorage",
    "|b1": "BoolStorage",
    "bfloat16": "BFloat16Storage",
}


def dumps(state_dict: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of the file that `torch.save` would write of a state dict; equal arrays are equal files.

    `torch.load` reads it, with `weights_only=True` too.

    Args:
      state_dict: name -> array, of a dtype that PyTorch has.

    Raises:
      ValueError: an array of another dtype.
    """
    pickled = [b"\x80\x02ccollections\nOrderedDict\n)R("]  # an empty OrderedDict, and a mark
    storages = []
    for number, (name, array) in enumerate(state_dict.items()):
        little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        code = little.dtype.name if little.dtype.isbuiltin == 2 else little.dtype.str
        if code not in _STORAGES:
            raise ValueError(f"{name}: PyTorch has no {array.dtype}")
        storages.append(little.tobytes())
        strides = tuple(stride // little.itemsize for stride in little.strides)
        pickled += [
            _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + _text("storage") + f"ctorch\n{_STORAGES[code]}\n".encode(),
            _text(str(number)) + _text("cpu") + _number(little.size) + b"tQ",
            _number(0) + _numbers(array.shape) + _numbers(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    pickled.append(b"u.")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        entries = {"data.pkl": b"".join(pickled), "byteorder": b"little"}
        entries |= {f"data/{number}": data for number, data in enumerate(storages)}
        for name, data in {**entries, "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)  # of 1980: no clock
    return target.getvalue()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _number(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"
