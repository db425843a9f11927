"""Images from the files of users: pictures, .npy and .npz, as uint8 arrays of one network's shape."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from snnlth_jax.errors import InputError

__all__ = ["read"]

Shape = tuple[int, ...]
_LARGEST = 1 << 31  # bytes of the arrays in an .npz, unpacked
_NAMES = ("images", "test_images")  # of arrays in an .npz with several
_MODES: dict[int, tuple[str, ...]] = {1: ("L", "1"), 3: ("RGB", "P")}  # by channels


def read(path: str, shape: Shape) -> tuple[list[str], np.ndarray]:
    """Names of the images in a file, and the images, uint8 `[N, H, W, C]`.

    A picture (PNG and what else Pillow reads) has one image, an array in .npy or .npz one or more. Nothing is
    resized, and colour is not made grey or grey colour: the file must have what the network takes.

    Args:
      path: path of the file.
      shape: height, width, channels.

    Raises:
      InputError: no such file, not an image, or one of another size, of other channels or of another dtype.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/some.npy"
    >>> np.save(path, np.zeros((2, 8, 8), np.uint8))
    >>> names, images = read(path, (8, 8, 1))
    >>> [name.rpartition("/")[2] for name in names], images.shape
    (['some.npy[0]', 'some.npy[1]'], (2, 8, 8, 1))
    """
    reading = {".npy": _npy, ".npz": _npz}.get(Path(path).suffix.lower(), _picture)
    try:
        array = reading(path, shape)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(path, problem="no such file") from None
    except Exception as error:  # damaged files raise errors of NumPy, zipfile, zlib, struct and of Pillow
        problem = f"not an image that can be read ({type(error).__name__})"
        raise InputError(path, problem=problem, allowed="png, npy, npz") from error
    images = _shaped(path, array, shape)
    names = [f"{path}[{i}]" for i in range(len(images))] if len(images) > 1 else [path]
    return names, images


def _picture(path: str, shape: Shape) -> np.ndarray:
    *frames, height, width, channels = shape
    if frames:
        raise InputError(path, problem="one image", allowed=f"npy or npz with {frames[0]} frames each")
    with Image.open(path) as picture:
        if picture.size != (width, height):
            given = f"an image of {picture.size[1]}x{picture.size[0]} pixels"
            raise InputError(path, problem=given, allowed=f"{height}x{width}, as the network takes")
        modes = _MODES.get(channels, ())
        if not modes or picture.mode not in modes or "transparency" in picture.info:
            transparent = " with transparency" if "transparency" in picture.info else ""
            problem = f"an image of mode {picture.mode}{transparent}"
            raise InputError(path, problem=problem, allowed=f"{', '.join(modes)}, as the network takes")
        pixels: np.ndarray = np.asarray(picture.convert(modes[0]))
    return pixels


def _npy(path: str, shape: Shape) -> np.ndarray:
    # a map, so that a header which claims more than the file has is an error and no memory
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _npz(path: str, shape: Shape) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _LARGEST:
        raise InputError(path, problem=f"unpacks to {size:,} bytes", allowed=f"{_LARGEST:,} or less")
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        name = names[0] if len(names) == 1 else next((n for n in _NAMES if n in names), None)
        if name is None:
            listed = ", ".join(sorted(names)[:10]) or "none"
            raise InputError(path, problem=f"arrays {listed}", allowed="one array, or one named images")
        return np.asarray(arrays[name])


def _shaped(path: str, array: Any, shape: Shape) -> np.ndarray:
    if array.dtype != np.uint8:
        raise InputError(path, problem=f"an array of {array.dtype}", allowed="uint8, 0 to 255")
    whole = [tuple(shape)] + ([tuple(shape[:-1])] if shape[-1] == 1 else [])
    single = array.shape in whole
    if not (single or (array.shape[1:] in whole and len(array))):
        axes = [", ".join(map(str, one)) for one in whole]
        several = " or ".join(f"[N, {one}]" for one in axes)
        allowed = f"{several}, as the network takes, or one image without N"
        raise InputError(path, problem=f"an array of shape {list(array.shape)}", allowed=allowed)
    count = 1 if single else len(array)
    assert math.prod(array.shape) == count * math.prod(shape)
    return np.ascontiguousarray(array).reshape(count, *shape)
