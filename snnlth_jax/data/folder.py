"""A dataset as a folder of images, a folder for each class, as torchvision's ImageFolder has it.

    DIR/train/CLASS/*.png       classes are the folders, sorted by name; images may lie deeper
    DIR/test/CLASS/*.png        the same classes
    DIR/validation/CLASS/*.png  if there are any; or DIR/val. Without DIR/test it is the test split

All images have one size. They are grey if all files are, else RGB; a transparent background is dropped.
Decoded images are cached by the names, sizes and times of the files.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from snnlth_jax.data import cache
from snnlth_jax.data.contract import Dataset, of_arrays, safe_name
from snnlth_jax.data.splits import most_bytes
from snnlth_jax.errors import InputError, one_line
from snnlth_jax.files import opened

__all__ = ["Folder", "locate", "read"]

log = logging.getLogger(__name__)

DECODING = 1  # a part of every fingerprint; raise it when decoding changes the arrays
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_LAYOUT = "DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"
_GREY = ("1", "L", "LA", "La")
_COLOUR = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")


class Folder(NamedTuple):
    """The images of a folder, not decoded yet.

    Attributes:
      directory: the folder.
      classes: names of the folders of classes, sorted.
      examples: file and label of each image, by split: "train", "test" and perhaps "validation".
      fingerprint: changes when a file or the way of decoding it does.
    """

    directory: Path
    classes: tuple[str, ...]
    examples: dict[str, list[tuple[Path, int]]]
    fingerprint: str


def locate(directory: Path) -> Folder:
    """Find the images of a folder, and check that each class has some in each split.

    Raises:
      InputError: the folder is not laid out as above; the line names what is wrong.
    """
    try:
        return _locate(directory)
    except OSError as error:
        unreadable, reason = error.filename or directory, error.strerror or one_line(error)
        raise _refused(
            directory, f"{unreadable} cannot be read, {reason}", "a folder that can be read"
        ) from error


def _locate(directory: Path) -> Folder:
    present = {name for name in ("train", "test", "validation", "val") if (directory / name).is_dir()}
    if "train" not in present:
        held = ", ".join(sorted(path.name for path in directory.iterdir())[:5]) or "nothing"
        raise _refused(directory, f"no folder train (it holds {held})", _LAYOUT)
    if {"validation", "val"} <= present:
        raise _refused(directory, "folders validation and val", "one of them")
    held_out = next(iter(present & {"validation", "val"}), None)
    folders = {"train": "train", "test": "test", "validation": held_out}
    if "test" not in present:
        if held_out is None:
            raise _refused(directory, "no folder test", _LAYOUT)
        folders = {"train": "train", "test": held_out, "validation": None}
        log.info("%s: no folder test, so that %s is the test split", directory, held_out)
    classes = _folders(directory / "train")
    if len(classes) < 2:
        problem = f"{len(classes)} classes in {directory / 'train'}"
        raise _refused(directory, problem, "a folder for each of 2 or more classes")
    examples = {}
    for split, name in folders.items():
        if name is None:
            continue
        if extra := [one for one in _folders(directory / name) if one not in classes]:
            raise _refused(directory, f"{name}/{extra[0]} is no class of train", f"{', '.join(classes[:8])}")
        examples[split] = [
            (file, label)
            for label, one in enumerate(classes)
            for file in _images(directory, directory / name / one)
        ]
    stats = [(file, file.stat()) for of_split in examples.values() for file, _ in of_split]
    listing = [(str(f.relative_to(directory)), stat.st_size, stat.st_mtime_ns) for f, stat in stats]
    source = repr((DECODING, classes, sorted(examples), listing)).encode("utf-8", "surrogateescape")
    return Folder(directory, tuple(classes), examples, hashlib.sha256(source).hexdigest()[:16])


def read(source: Folder, reserved: frozenset[str] = frozenset(), cache_dir: Path | None = None) -> Dataset:
    """Decode a folder, or read what was decoded before.

    Args:
      source: from `locate`; the folder's name is the dataset's.
      reserved: names of other datasets; where the folder has one of these, "_folder" is added.
      cache_dir: directory of decoded images, by default see `cache.directory`.

    Raises:
      InputError: an image that cannot be read, or of another size; the line names the file.
    """
    name = safe_name(source.directory.absolute().resolve().name)
    name += "_folder" * (name in reserved)
    sizes = {split: len(examples) for split, examples in source.examples.items()}
    expected = cache.images_and_labels(sizes, (None, None, None))
    path = cache.directory(cache_dir) / f"{name}-folder-{source.fingerprint}.npz"

    def decode() -> dict[str, np.ndarray]:
        with warnings.catch_warnings(action="ignore"):  # of Pillow, such as a palette with transparency
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(source)

    arrays = cache.kept(path, expected, decode)
    try:
        return of_arrays(name, arrays, source.classes, "folder")
    except InputError as error:
        raise _refused(source.directory, str(error), "") from error


def _decoded(source: Folder) -> dict[str, np.ndarray]:
    """All images and labels; the headers of all files are read before an image is decoded."""
    files = [file for examples in source.examples.values() for file, _ in examples]
    size, grey = _format(source.directory, files)
    total = len(files) * size[0] * size[1] * (1 if grey else 3)
    if total > most_bytes():
        problem = f"{len(files):,} images of {size[0]}x{size[1]} pixels would have {total:,} bytes"
        allowed = f"{most_bytes():,}, half of the memory of this machine; make them smaller"
        raise _refused(source.directory, problem, allowed)
    arrays = {}
    for split, examples in source.examples.items():
        images = np.empty((len(examples), size[1], size[0], 1 if grey else 3), np.uint8)
        for number, (file, _) in enumerate(examples):
            if number % 10_000 == 0 and len(examples) >= 10_000:
                log.info("%s: decoding %s image %d of %d", source.directory, split, number, len(examples))
            try:
                with Image.open(file) as picture:
                    pixels = np.asarray(picture.convert("L" if grey else "RGB"))
            except Exception as error:  # Pillow raises many kinds for damaged bytes
                raise _unreadable(source.directory, file, error) from error
            images[number] = pixels[..., None] if grey else pixels
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = np.array([label for _, label in examples], np.int32)
    return arrays


def _format(directory: Path, files: Sequence[Path]) -> tuple[tuple[int, int], bool]:
    """Width and height of all images, and whether all are grey."""
    first, grey = None, True
    for file in files:
        try:
            with opened(file) as content, Image.open(content) as picture:
                size, mode = picture.size, picture.mode
        except Exception as error:
            raise _unreadable(directory, file, error) from error
        name = file.relative_to(directory)
        if mode not in (*_GREY, *_COLOUR):
            problem = f"{name} has pixels of Pillow's mode {mode}"
            raise _refused(directory, problem, "grey or RGB images of 8 bits")
        first = first or size
        if size != first:
            width, height = first
            raise _refused(
                directory,
                f"{name} has {size[0]}x{size[1]} pixels, {files[0].relative_to(directory)} {width}x{height}",
                f"images of one size; resize them, as with: mogrify -resize '{width}x{height}!' FILES",
            )
        grey = grey and mode in _GREY
    assert first is not None
    return first, grey


def _folders(directory: Path) -> list[str]:
    return sorted(
        path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _images(top: Path, directory: Path) -> list[Path]:
    """The images below the folder of a class, sorted; hidden files are none.

    A link back, or to a folder above this one, is not followed.
    """
    files: list[Path] = []
    seen = {str(above) for above in Path(os.path.realpath(directory)).parents}
    for parent, folders, names in os.walk(directory, followlinks=True):
        if (place := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [
            Path(parent, name)
            for name in sorted(names)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not files:
        problem = f"no images in {directory.relative_to(top)}"
        raise _refused(top, problem, f"one or more of each class of train: *{', *'.join(SUFFIXES)}")
    return files


def _unreadable(directory: Path, file: Path, error: Exception) -> InputError:
    unknown = type(error).__name__ == "UnidentifiedImageError"  # whose text names an object of Python
    problem = f"{file.relative_to(directory)} cannot be read, {'no image' if unknown else one_line(error)}"
    return _refused(directory, problem, "image files that Pillow reads")


def _refused(directory: Path, problem: str, allowed: str) -> InputError:
    return InputError("`dataset`", directory, problem=problem, allowed=allowed)
