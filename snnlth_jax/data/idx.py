"""MNIST and Fashion-MNIST from their own files, gzipped or not.

    train-images-idx3-ubyte   train-labels-idx1-ubyte   t10k-images-idx3-ubyte   t10k-labels-idx1-ubyte

They lie in the data directory itself (Debian's package dataset-fashion-mnist has them in
/usr/share/datasets/fashion-mnist), or below it where torchvision puts them, in MNIST/raw or FashionMNIST/raw.

An idx file of unsigned bytes begins with the bytes 0, 0, 8 and its number of axes, then the length of each
axis as a big-endian integer of four bytes.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from etils import epath

from snnlth_jax.data.tfds import data_root, resize
from snnlth_jax.errors import InputError, one_line
from snnlth_jax.files import opened

__all__ = ["NAMES", "Files", "decode", "locate"]

DECODING = 1  # a part of every fingerprint; raise it when decoding changes the arrays
PREFIXES = {"train": "train", "test": "t10k"}
NAMES = {  # folders below the data directory, and the first labels of the official training images
    "mnist": (("", "MNIST/raw", "mnist"), (5, 0, 4, 1, 9, 2, 1, 3, 1, 4)),
    "fashion_mnist": (("", "FashionMNIST/raw", "fashion-mnist"), (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)),
}
_LARGEST = 1_000_000  # images; a header that says more is damaged


class Files(NamedTuple):
    """The four files.

    Attributes:
      name: name of the dataset.
      directory: directory of the files.
      files: files of images and of labels, by split.
      sizes: number of images, by split.
      fingerprint: changes when a file or the way of decoding it does.
    """

    name: str
    directory: Path
    files: dict[str, tuple[Path, Path]]
    sizes: dict[str, int]
    fingerprint: str

    @property
    def version(self) -> str:
        """Middle part of the fingerprint of the dataset."""
        return "idx"

    def size(self, split: str) -> int:
        """Number of images in a split."""
        return self.sizes[split]


def locate(name: str, data_dir: epath.PathLike | None = None) -> Files | None:
    """Find the files of a dataset; None if there is none of them.

    Args:
      name: "mnist" or "fashion_mnist".
      data_dir: the data directory, as for `tfds.locate`; no bucket.

    Raises:
      InputError: some of them are missing, or are not what their names say.
    """
    root = data_root(data_dir)
    if "://" in os.fspath(root):
        return None
    for folder in NAMES[name][0]:
        directory = Path(root) / folder
        pairs = {
            split: (_found(directory, f"{prefix}-images", 3), _found(directory, f"{prefix}-labels", 1))
            for split, prefix in PREFIXES.items()
        }
        files = [file for pair in pairs.values() for file in pair]
        if not any(file.exists() for file in files):
            continue
        for file in files:
            if not file.exists():
                raise _refused(root, file, "is missing")
        sizes = {}
        for split, (images, labels) in pairs.items():
            (count, *_), (labelled,) = (_shape(root, file) for file in (images, labels))
            if count != labelled:
                raise _refused(root, labels, f"holds {labelled} labels for {count} images")
            sizes[split] = count
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        fingerprint = hashlib.sha256(repr((DECODING, name, stats)).encode()).hexdigest()[:16]
        return Files(name, directory, pairs, sizes, fingerprint)
    return None


def decode(source: Files, split: str, image_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read a split.

    Args:
      source: from `locate`.
      split: "train" or "test".
      image_shape: height, width and channels (1) to return, by bilinear interpolation (Pillow).

    Returns:
      Images uint8 `[N, H, W, 1]` and labels int32 `[N]`.

    Raises:
      InputError: a file that is truncated or damaged, or that belongs to the other dataset.
    """
    images, labels = (_content(source, file) for file in source.files[split])
    if labels.max() > 9:
        raise _refused(
            source.directory, source.files[split][1], f"holds the label {labels.max()}, not 0 to 9"
        )
    for name, (_, first) in NAMES.items():
        if split == "train" and name != source.name and tuple(labels[: len(first)]) == first:
            raise InputError(
                "`dataset`", source.name, problem=f"{source.directory} holds {name}", allowed=name
            )
    stored = (*images.shape[1:], 1)
    resized = np.empty((len(images), *image_shape), np.uint8)
    for number, image in enumerate(images):
        resized[number] = image[..., None] if stored == image_shape else resize(image[..., None], image_shape)
    return resized, labels.astype(np.int32)


def _found(directory: Path, prefix: str, axes: int) -> Path:
    """The file under the first of its usual names that is there."""
    names = [f"{prefix}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    return next((directory / name for name in names if (directory / name).exists()), directory / names[1])


def _open(file: Path) -> IO[bytes]:
    with opened(file) as start:
        packed = start.read(2) == b"\x1f\x8b"
    return gzip.open(file) if packed else file.open("rb")  # type: ignore[return-value]


def _shape(root: epath.PathLike, file: Path) -> tuple[int, ...]:
    """Lengths of the axes that a file declares."""
    axes = 3 if "idx3" in file.name else 1
    try:
        with _open(file) as content:
            header = content.read(4 + 4 * axes)
    except (OSError, EOFError, zlib.error) as error:
        raise _refused(root, file, f"cannot be read, {one_line(error)}") from error
    if len(header) < 4 + 4 * axes or header[:4] != bytes([0, 0, 8, axes]):
        raise _refused(root, file, f"is no idx file of {axes} axes of bytes")
    shape = struct.unpack(f">{axes}I", header[4:])
    if not 0 < shape[0] <= _LARGEST or (axes == 3 and shape[1:] != (28, 28)):
        wanted = "28x28 pixels" if axes == 3 else "labels"
        raise _refused(root, file, f"declares {'x'.join(map(str, shape))}, not 1 to {_LARGEST} of {wanted}")
    return shape


def _content(source: Files, file: Path) -> np.ndarray:
    shape = _shape(source.directory, file)
    size = math.prod(shape)
    try:
        with _open(file) as content:
            content.read(4 + 4 * len(shape))
            read = content.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _refused(source.directory, file, f"is damaged or truncated, {one_line(error)}") from error
    if len(read) != size:
        given = f"{len(read)}" if len(read) < size else f"more than {size}"
        raise _refused(source.directory, file, f"holds {given} of {size} bytes")
    return np.frombuffer(read, np.uint8).reshape(shape)


def _refused(root: epath.PathLike, file: Path, problem: str) -> InputError:
    names = ", ".join(f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in _KINDS)
    return InputError("`data_dir`", root, problem=f"{file} {problem}", allowed=f"{names}, gzipped or not")


_KINDS = ("images-idx3", "labels-idx1")
