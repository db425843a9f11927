"""TinyImageNet, read from the folders of its own archive; it is not in TensorFlow Datasets.

The archive is unpacked in the data directory, and has these files:

    tiny-imagenet-200/wnids.txt                     the classes, in the order of the labels
    tiny-imagenet-200/train/n01443537/images/*.JPEG     or without `images`
    tiny-imagenet-200/val/images/*.JPEG
    tiny-imagenet-200/val/val_annotations.txt       a line for each image: its name, its class, and more

The labels of its test images are not public, so the official validation images are the test split here, as in
the literature. Without `wnids.txt` the classes are the folders of `train`, sorted.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from snnlth_jax import files
from snnlth_jax.data.tfds import MOST_BYTES, data_root
from snnlth_jax.errors import InputError, one_line

__all__ = ["Archive", "decode", "locate"]

log = logging.getLogger(__name__)

ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
DECODING = 1  # a part of every fingerprint; raise it when decoding changes the arrays


class Archive(NamedTuple):
    """The unpacked archive, complete.

    Attributes:
      root: the data directory.
      directory: the archive's folder in it.
      examples: file and label of each image of the splits "train" and "test".
      fingerprint: changes when a file or the way of decoding it does.
    """

    root: epath.Path
    directory: epath.Path
    examples: dict[str, list[tuple[Path, int]]]
    fingerprint: str

    def size(self, split: str) -> int:
        """Number of images in a split."""
        return len(self.examples[split])

    @property
    def version(self) -> str:
        """Middle part of the fingerprint of the dataset."""
        return str(self.directory.name)


def locate(num_classes: int, data_dir: epath.PathLike | None = None) -> Archive:
    """Find the archive's folder, and check that each image has a class and each class images.

    Args:
      num_classes: number of classes.
      data_dir: the data directory, as for `tfds.locate`; no bucket.

    Raises:
      InputError: something is missing or wrong; the message says what, and where the archive is to be had.
    """
    root = data_root(data_dir)
    if "://" in os.fspath(root):
        problem = "the images of tiny_imagenet are not read from a bucket; copy them to a local directory"
        raise InputError("`data_dir`", root, problem=problem)
    directory = root / "tiny-imagenet-200"
    if not directory.is_dir():
        raise InputError("`data_dir`", root, problem=f"no directory {directory}; {_remedy(root)}")
    top = Path(directory)
    try:
        classes = _classes(top, num_classes)
        annotations = _text(top / "val" / "val_annotations.txt")
        train = [
            (file, label) for label, name in enumerate(classes) for file in _images(_of_class(top, name))
        ]
        test = _annotated(_images(top / "val" / "images"), annotations, classes)
        stats = [(file, os.stat(file)) for file, _ in (*train, *test)]
        if empty := [file for file, stat in stats if not stat.st_size]:
            raise ValueError(f"{len(empty)} empty files, the first {empty[0].name}")
    except (OSError, ValueError) as error:
        raise _damaged(root, directory, one_line(error)) from error
    listing = [(str(file.relative_to(top)), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    source = repr((DECODING, classes, annotations, listing)).encode()
    fingerprint = hashlib.sha256(source).hexdigest()[:16]
    return Archive(root, directory, {"train": train, "test": test}, fingerprint)


def decode(archive: Archive, split: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Decode a split; grey images become RGB.

    Args:
      archive: from `locate`.
      split: "train" or "test".
      shape: height, width and channels (3) of every image.

    Returns:
      Images uint8 `[N, H, W, 3]` and labels int32 `[N]`.

    Raises:
      InputError: an image that cannot be read, or of another size.
    """
    examples = archive.examples[split]
    images = np.empty((len(examples), *shape), np.uint8)
    for number, (file, _) in enumerate(examples):
        if number % 10_000 == 0:
            log.info("tiny_imagenet: decoding %s image %d of %d", split, number, len(examples))
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            if pixels.shape != shape:
                raise ValueError(f"{pixels.shape[0]}x{pixels.shape[1]} pixels, not {shape[0]}x{shape[1]}")
        except Exception as error:  # Pillow raises many kinds for damaged bytes
            raise _damaged(archive.root, archive.directory, f"{file.name}, {one_line(error)}") from error
        images[number] = pixels
    return images, np.array([label for _, label in examples], np.int32)


def _classes(top: Path, num_classes: int) -> list[str]:
    """The classes in the order of their labels; those of `train` must be the same."""
    listed, folders = top / "wnids.txt", {path.name for path in (top / "train").iterdir() if path.is_dir()}
    classes = _text(listed).split() if listed.exists() else sorted(folders)
    if len(set(classes)) != num_classes or len(classes) != num_classes:
        raise ValueError(f"{len(set(classes))} classes, not {num_classes}")
    if wrong := sorted(folders.symmetric_difference(classes)):
        raise ValueError(f"{wrong[0]} is not both in wnids.txt and a folder of train")
    return classes


def _text(file: Path) -> str:
    return files.read(file, most=MOST_BYTES).decode()


def _of_class(top: Path, name: str) -> Path:
    folder = top / "train" / name
    return folder / "images" if (folder / "images").is_dir() else folder


def _images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.upper() == ".JPEG")
    if not files:
        raise ValueError(f"no *.JPEG in {folder}")
    return files


def _annotated(files: list[Path], annotations: str, classes: list[str]) -> list[tuple[Path, int]]:
    """The validation images with their labels, in the order of their names."""
    rows = [line.split() for line in annotations.splitlines() if line.strip()]
    by_name = {row[0]: row[1] if len(row) > 1 else "" for row in rows}
    if len(by_name) < len(rows):
        raise ValueError("val_annotations.txt has an image twice")
    if wrong := sorted({file.name for file in files}.symmetric_difference(by_name)):
        raise ValueError(f"{wrong[0]} is not both in val_annotations.txt and in val/images")
    labels = {name: label for label, name in enumerate(classes)}
    if unknown := [name for name, chosen in by_name.items() if chosen not in labels]:
        raise ValueError(f"{unknown[0]} has the class {by_name[unknown[0]]!r}, which train does not have")
    return [(file, labels[by_name[file.name]]) for file in files]


def _remedy(root: epath.Path) -> str:
    return f"get {ADDRESS} and unpack it in {root}, which this program does not do"


def _damaged(root: epath.Path, directory: epath.Path, what: str) -> InputError:
    problem = f"{directory} is incomplete or damaged ({what}); {_remedy(root)}"
    return InputError("`data_dir`", root, problem=problem)
