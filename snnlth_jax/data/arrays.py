"""A dataset in one `.npz` file, as `np.savez` or `np.savez_compressed` writes it.

    train_images        uint8 [N, H, W] or [N, H, W, C]
    train_labels        integers [N], from 0
    test_images, test_labels                  as those for training
    validation_images, validation_labels      if there are any
    name, classes, mean, std                  if they are not the file's name, none, and measured

Nothing in a file runs code: pickled objects are refused. Sizes are read, and compared, before an array is.
"""

import logging
import math
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from snnlth_jax.data.contract import Dataset, safe_name
from snnlth_jax.data.splits import most_bytes
from snnlth_jax.errors import InputError, one_line

__all__ = ["NEEDED", "read"]

log = logging.getLogger(__name__)

NEEDED = ("train_images", "train_labels", "test_images", "test_labels")
_PIXELS = ("validation_images", "validation_labels")
_FACTS = ("name", "classes", "mean", "std")
_ALLOWED = f"an .npz file with {', '.join(NEEDED)}, as np.savez writes it"
_LARGEST = 2**30  # bytes of an array that may be packed as densely as zip can
_DENSEST = 200  # times that larger arrays may be larger than in the file; photographs and digits reach 10


def read(file: Path, reserved: frozenset[str] = frozenset()) -> Dataset:
    """Read a dataset from an `.npz` file.

    Args:
      file: the file; its name without `.npz` is the dataset's, unless the file has one.
      reserved: names of other datasets; where it has one of these, "_npz" is added.

    Raises:
      InputError: the file cannot be read, or does not hold a dataset; the line names it.
    """
    arrays = _arrays(file)
    name = str(arrays.pop("name", "")) or file.name.removesuffix(".npz")
    name = safe_name(name)
    classes = arrays.pop("classes", np.array([], str))
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise _refused(file, f"classes {classes.dtype}{classes.shape}", "names, as np.array(['cat', 'dog'])")
    try:
        return Dataset.from_arrays(
            name + "_npz" * (name in reserved),
            **arrays,
            classes=[str(one) for one in classes],
            version="npz",
        )
    except InputError as error:  # its arguments are entries of the file
        problem = str(InputError(error.what, error.value, problem=error.problem))
        raise _refused(file, problem, error.allowed) from error


def _arrays(file: Path) -> dict[str, Any]:
    """All entries of the file that a dataset has, by name."""
    try:
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in NEEDED if name not in entries]:
                held = ", ".join(list(entries)[:8]) or "nothing"
                raise _refused(file, f"no {missing[0]} (it holds {held})", _ALLOWED)
            known = [name for name in (*NEEDED, *_PIXELS, *_FACTS) if name in entries]
            if ignored := [name for name in entries if name not in known]:
                log.warning("%s: not read: %s", file, ", ".join(ignored[:8]))
            size = sum(entries[name].file_size for name in known)
            if size > most_bytes():
                problem = f"its arrays would have {size:,} bytes"
                raise _refused(file, problem, f"{most_bytes():,}, half of the memory of this machine")
            arrays = {}
            for name in known:
                with archive.open(entries[name]) as entry:
                    arrays[name] = _array(file, name, entry, entries[name])
            return arrays
    except InputError:
        raise
    except OSError as error:
        problem = f"cannot be read, {error.strerror or one_line(error)}"
        raise _refused(file, problem, _ALLOWED) from error
    except MemoryError as error:
        raise _refused(file, "does not fit into memory", "fewer images") from error
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for damaged bytes
        raise _refused(file, f"is damaged or truncated, {one_line(error)}", _ALLOWED) from error


def _array(file: Path, name: str, entry: IO[bytes], info: zipfile.ZipInfo) -> Any:
    """One array; its header is compared with the size of its entry before memory is taken for it."""
    version = np.lib.format.read_magic(entry)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version, np.lib.format.read_array_header_2_0)
    shape, fortran_order, dtype = read_header(entry)
    if dtype.hasobject:
        allowed = "numbers alone: a pickle could run code" if name not in _FACTS else "numbers or texts"
        raise _refused(file, f"{name} holds pickled objects", allowed)
    size, stored = math.prod(shape) * dtype.itemsize, info.file_size - entry.tell()
    if size != stored:
        raise ValueError(f"{name} has {stored} bytes in place of {size}")
    if size > _LARGEST and size > _DENSEST * info.compress_size:
        problem = f"{name} would have {size:,} bytes, from {info.compress_size:,}"
        raise _refused(file, problem, f"at most {_DENSEST} times as many, above {_LARGEST:,}")
    content = entry.read(size)
    if len(content) != size:
        raise ValueError(f"{name} ends after {len(content)} of {size} bytes")
    entry.read(1)  # at the end zipfile compares the checksum
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _refused(file: Path, problem: str, allowed: str) -> InputError:
    return InputError("`dataset`", file, problem=problem, allowed=allowed)
