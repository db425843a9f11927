"""Named arrays of any dtype as the bytes of a safetensors file, and back."""

import json
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from snnlth_jax import files

__all__ = ["data", "dtype_of", "has_name", "name_of", "parse", "read", "serialize"]

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "C64": np.complex64,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # of safetensors itself


def has_name(dtype: np.dtype[Any]) -> bool:
    """Whether safetensors has a name for a dtype; others are stored as bytes."""
    return dtype in _NAMES


def name_of(dtype: np.dtype[Any]) -> str:
    """A name for any dtype: NumPy's own string, or the name in ml_dtypes.

    >>> name_of(np.dtype("complex128")), name_of(np.dtype(ml_dtypes.int4))
    ('<c16', 'int4')
    """
    return dtype.name if dtype.isbuiltin == 2 else dtype.str


def dtype_of(name: str) -> np.dtype[Any]:
    """The inverse of `name_of`."""
    return np.dtype(getattr(ml_dtypes, name) if name[:1].isalpha() else name)


def data(array: np.ndarray) -> memoryview:
    """The bytes of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def serialize(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: the length of the header, the header as JSON, the data, widest dtype first.

    Args:
      tensors: name -> little-endian, C-contiguous array of a dtype that `has_name`.
      metadata: texts for the header.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        dtype, shape = _NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise ValueError(f"names and provenance take {len(text)} bytes, allowed: {_LONGEST_HEADER}")
    return b"".join([len(text).to_bytes(8, "little"), text, *(data(tensors[name]) for name in names)])


def parse(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the tensors of `serialize`; other bytes raise one of many kinds of error."""
    tensors = {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    }
    metadata: dict[str, str] = _header(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return metadata, tensors


def read(path: epath.Path, kind: str = "ticket") -> bytes:
    """The bytes of a file whose header fits its size; nothing else is read further than that.

    Args:
      path: path of the file.
      kind: kind of file that is expected, for the error.

    Raises:
      InputError: no such file, or not a regular one.
      Exception: one of many kinds, for other content.
    """
    with files.opened(path, f"{kind} file") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if not 0 < length <= min(_LONGEST_HEADER, size - 8):
            raise ValueError("the header does not fit the file")
        text = file.read(length)
        tensors = [entry for name, entry in _header(text).items() if name != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        if 8 + length + end != size:
            raise ValueError("the tensors do not fit the file")
        content: bytes = start + text + file.read(end)
    return content


def _header(text: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(text)
    return header
