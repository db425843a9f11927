"""Datasets that TensorFlow Datasets (TFDS) prepared as ArrayRecord, read without TensorFlow.

A dataset lies in `<data_dir>/<name>/<version>`; its `dataset_info.json` names all of its files, so that a
missing file is an error before anything is decoded. `data_dir` may be a bucket (`gs://...`).
"""

import hashlib
import importlib.util
import json
import logging
import os
import re
import shlex
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from snnlth_jax import files
from snnlth_jax.errors import InputError, one_line

__all__ = ["Features", "Prepared", "data_root", "decode", "features", "generate", "locate", "resize"]

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
MOST_BYTES = 2**26  # of a file that describes a dataset
_MOST_SHARDS = 100_000
DECODING = 1  # a part of every fingerprint; raise it when decoding changes the arrays


class Prepared(NamedTuple):
    """A complete dataset on disk.

    Attributes:
      name: name in TFDS.
      root: the data directory.
      directory: directory of its files, `<root>/<name>/<version>`.
      shards: every file of the splits "train" and "test", with the number of images that it should hold; and
        of "validation", if that was asked for and is there.
      fingerprint: changes when a file or the way of decoding it does.
      stored: name of each split in the files.
      called: name on the command line.
    """

    name: str
    root: epath.Path
    directory: epath.Path
    shards: dict[str, list[tuple[epath.Path, int]]]
    fingerprint: str
    stored: dict[str, str]
    called: str

    def size(self, split: str) -> int:
        """Number of images in a split."""
        return sum(count for _, count in self.shards[split])

    @property
    def version(self) -> str:
        """Middle part of the fingerprint of the dataset."""
        return str(self.directory.name)


class Features(NamedTuple):
    """Content of an example of a dataset, by its `features.json`.

    Attributes:
      image: name of the image in an example.
      label: name of its label.
      shape: height, width and channels.
      classes: names of the classes in the order of the labels, or their numbers as texts.
    """

    image: str
    label: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]


def locate(name: str, data_dir: epath.PathLike | None = None, *, own: bool = False) -> Prepared:
    """Find the newest version of a dataset and check that all its files exist.

    Args:
      name: name in TFDS.
      data_dir: the data directory; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      own: whether it is a dataset that the user chose as `tfds:NAME`. Then the split "validation" is taken
        too, if there is one: as the test split if there is no other.

    Raises:
      InputError: something is missing or unusable; the message names it, its place and the command to prepare
        it.
    """
    root, called = data_root(data_dir), f"tfds:{name}" if own else name
    home = root / name
    try:
        present = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
        versions = [v for v in present if _version(v) and (home / v / "dataset_info.json").exists()]
    except Exception as error:  # no permission, or a bucket that needs a package or a login
        raise InputError("`data_dir`", root, problem=f"cannot be read, {one_line(error)}") from error
    if not versions:
        if not root.is_dir():
            missing = "not a directory" if root.exists() else "no such directory"
        elif unfinished := [entry for entry in present if "incomplete" in entry]:
            missing = f"{home} holds an unfinished download only ({unfinished[0]})"
        else:
            missing = f"no {home}/<version>/dataset_info.json"
        remedy = f"prepare it with: {_command(called, root)}"
        raise InputError("`data_dir`", root, problem=f"{missing}; {remedy}")

    directory = home / max(versions, key=lambda version: _version(version) or ())
    try:
        info_bytes = files.read(directory / "dataset_info.json", most=MOST_BYTES)
        info = json.loads(info_bytes)
        file_format = info.get("fileFormat") or "tfrecord"
        splits = {split["name"]: split for split in info["splits"]}
        named = {split: split for split in SPLITS}
        if own and "validation" in splits:
            named["validation" if "test" in splits else "test"] = "validation"
        shards = {
            split: _shards(directory, info["name"], file_format, splits[stored])
            for split, stored in named.items()
        }
    except Exception as error:  # damaged values fail in a dozen ways
        raise _damaged(called, root, directory, f"dataset_info.json, {one_line(error)}") from error
    if file_format != "array_record":
        raise InputError(
            "`data_dir`",
            root,
            problem=f"{directory} is in the format {file_format}, allowed: array_record; prepare it in "
            f"another `data_dir` with: {_command(called, 'DIR')}",
        )

    parts = [directory / "features.json", *(file for split in shards for file, _ in shards[split])]
    stats = [file.stat() if file.exists() else None for file in parts]
    missing_files = [file.name for file, stat in zip(parts, stats, strict=True) if not (stat and stat.length)]
    if missing_files:
        what = f"{len(missing_files)} of {len(parts)} files missing or empty, the first {missing_files[0]}"
        raise _damaged(called, root, directory, what)
    listing = [
        (f.name, stat.length, _modified(f, stat)) for f, stat in zip(parts, stats, strict=True) if stat
    ]
    source = repr((DECODING, info_bytes, listing)).encode()
    fingerprint = hashlib.sha256(source).hexdigest()[:16]
    return Prepared(name, root, directory, shards, fingerprint, named, called)


def features(source: Prepared) -> Features:
    """The image and the label of an example.

    Raises:
      InputError: a dataset that has not one image of a fixed size and one label in each example.
    """
    file = source.directory / "features.json"
    try:
        parts = json.loads(files.read(file, most=MOST_BYTES))["featuresDict"]["features"]
        by_kind = {
            kind: [name for name, part in parts.items() if part["pythonClassName"].endswith(f".{kind}")]
            for kind in ("Image", "ClassLabel")
        }
        if [len(names) for names in by_kind.values()] != [1, 1]:
            held = ", ".join(
                f"{name}: {part['pythonClassName'].split('.')[-1]}" for name, part in parts.items()
            )
            problem, allowed = f"an example holds {held}", "one Image and one ClassLabel"
            raise InputError("`dataset`", source.called, problem=problem, allowed=allowed)
        (image,), (label,) = by_kind.values()
        shape = tuple(int(size) for size in parts[image]["image"]["shape"]["dimensions"])
        count = int(parts[label]["classLabel"]["numClasses"])
        if not 0 < count <= source.size("train"):
            raise ValueError(f"{count} classes for {source.size('train')} training images")
        names_file = source.directory / _file_name(f"{label}.labels.txt")
        listed = files.read(names_file, most=MOST_BYTES) if names_file.exists() else b""
        names = listed.decode().splitlines()
    except InputError:
        raise
    except Exception as error:
        what = f"features.json, {one_line(error)}"
        raise _damaged(source.called, source.root, source.directory, what) from error
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            "`dataset`",
            source.called,
            problem=f"images of the shape {shape}",
            allowed="height, width and channels that are the same for all images; resize them into a folder",
        )
    classes = names if len(names) == count else map(str, range(count))
    return Features(image, label, shape, tuple(classes))


def decode(
    source: Prepared,
    split: str,
    stored_shape: tuple[int, ...],
    image_shape: tuple[int, ...],
    num_classes: int,
    keys: tuple[str, str] = ("image", "label"),
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a split, on one thread (more threads are slower under the interpreter's lock).

    Args:
      source: from `locate`.
      split: "train" or "test"; or "validation", if the source has it.
      stored_shape: height, width and channels in the files.
      image_shape: height, width and channels to return, by bilinear interpolation (Pillow).
      num_classes: number of classes; labels are below it.
      keys: names of the image and of the label in an example.

    Returns:
      Images uint8 `[N, H, W, C]` and labels int32 `[N]`.

    Raises:
      InputError: files that do not hold what `dataset_info.json` says.
    """
    # absl warns about the lack of OpenCV, which decodes the same pixels
    absl_log = logging.getLogger("absl")
    absl_log.addFilter(_not_about_opencv)
    try:
        return _decode(source, split, stored_shape, image_shape, num_classes, keys)
    except ImportError as error:
        problem = f"cannot be decoded, {one_line(error)}"
        raise InputError("`data_dir`", source.root, problem=problem) from error
    except Exception as error:  # damaged bytes fail in array_record, protobuf, Pillow or here
        raise _damaged(source.called, source.root, source.directory, f"{split}, {one_line(error)}") from error
    finally:
        absl_log.removeFilter(_not_about_opencv)


def _decode(
    source: Prepared,
    split: str,
    stored_shape: tuple[int, ...],
    image_shape: tuple[int, ...],
    num_classes: int,
    keys: tuple[str, str],
) -> tuple[np.ndarray, np.ndarray]:
    # imported here: they take half a second, which a cached dataset does not need
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    for file, count in source.shards[split]:
        reader = array_record_module.ArrayRecordReader(os.fspath(file))
        num_records = reader.num_records()
        reader.close()
        if num_records != count:
            raise ValueError(f"{num_records} instead of {count} images in {file.name}")

    examples = tfds.data_source(
        f"{source.name}:{source.directory.name}",
        split=source.stored[split],
        data_dir=source.root,
        download=False,
    )
    total = source.size(split)
    images, labels = np.empty((total, *image_shape), np.uint8), np.empty(total, np.int32)
    for start in range(0, total, 1000):
        if start % 10_000 == 0:
            log.info("%s: decoding %s image %d of %d", source.name, split, start, total)
        numbers = range(start, min(start + 1000, total))
        for number, example in zip(numbers, examples.__getitems__(list(numbers)), strict=True):
            image, label = (example[key] for key in keys)
            if image.shape != stored_shape or image.dtype != np.uint8:
                raise ValueError(f"image {number} is {image.dtype}{image.shape}, not uint8{stored_shape}")
            if not 0 <= label < num_classes:
                raise ValueError(f"image {number} has the label {label}, not 0 to {num_classes - 1}")
            images[number] = image if stored_shape == image_shape else resize(image, image_shape)
            labels[number] = label
    return images, labels


def generate(name: str, data_dir: epath.PathLike | None = None, *, own: bool = False) -> epath.Path:
    """Download a dataset and write it as ArrayRecord, which needs TensorFlow; once is enough.

    Args:
      name: name in TFDS.
      data_dir: the data directory, as for `locate`.
      own: as for `locate`.

    Returns:
      The directory of the files.

    Raises:
      InputError: TensorFlow is missing, the download failed, damaged files are in the way, or
        `data_dir` is a bucket.
    """
    if "://" in os.fspath(data_root(data_dir)):
        copy = f"gcloud storage cp --recursive DIR/{name} {data_root(data_dir)}/"
        raise InputError(
            "`data_dir`",
            data_root(data_dir),
            problem="ArrayRecord files cannot be written to a bucket",
            allowed=f"a local directory DIR, then: {copy}",
        )
    try:
        directory = locate(name, data_dir, own=own).directory
    except InputError:
        pass
    else:
        log.info("%s is prepared already: %s", name, directory)
        return directory
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            "data prepare",
            problem="needs TensorFlow, once; as it can clash with the CUDA libraries of JAX, install it "
            "beside this package in an environment of its own: pip install tensorflow",
        )
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=data_root(data_dir), file_format="array_record").download_and_prepare()
    except Exception as error:  # no network, no space, no permission, another format in the way
        raise InputError("data prepare", name, problem=f"failed, {one_line(error)}") from error
    return locate(name, data_dir, own=own).directory


def data_root(data_dir: epath.PathLike | None) -> epath.Path:
    """The data directory: the one given, else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return epath.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _modified(file: epath.Path, stat: Any) -> int:
    """Time at which the file was written: in nanoseconds for a local file; epath has seconds."""
    return stat.mtime if "://" in os.fspath(file) else os.stat(file).st_mtime_ns


def _version(name: str) -> tuple[int, ...] | None:
    return tuple(map(int, name.split("."))) if re.fullmatch(r"\d+\.\d+\.\d+", name) else None


def _shards(
    directory: epath.Path, name: str, file_format: str, split: dict[str, Any]
) -> list[tuple[epath.Path, int]]:
    template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    counts = [int(count) for count in split["shardLengths"]]
    if not sum(counts):
        raise ValueError(f"no images in {split['name']}")
    if min(counts) < 0 or len(counts) > _MOST_SHARDS:
        raise ValueError(f"{len(counts):,} files of {split['name']}, of {min(counts)} images or more")
    total, shards = f"{len(counts):05d}", []
    for index, count in enumerate(counts):
        number = f"{index:05d}"
        values = {
            "{DATASET}": name,
            "{SPLIT}": split["name"],
            "{FILEFORMAT}": file_format,
            "{SHARD_INDEX}": number,
            "{NUM_SHARDS}": total,
            "{SHARD_X_OF_Y}": f"{number}-of-{total}",
        }
        shards.append((directory / _file_name(_filled(template, values)), count))
    return shards


def _filled(template: str, values: dict[str, str]) -> str:
    """A template with its values; not by `str.format`, which reads attributes and widths."""
    return re.sub("{[A-Z_]+}", lambda match: values.get(match[0], match[0]), template)


def _file_name(name: str) -> str:
    """A name that a file of the dataset gives, if it is that of a file beside it."""
    if not re.fullmatch(r"\w[\w.+=@ -]{,200}", name):
        raise ValueError(f"{name[:100]!r} is no name of a file")
    return name


def resize(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image `[H, W, C]` as `shape`, by bilinear interpolation (Pillow).

    >>> resize(np.uint8([[[0], [200]]]), (1, 1, 1)).tolist()
    [[[100]]]
    """
    picture = Image.fromarray(image[..., 0] if shape[-1] == 1 else image)
    resized = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(shape)


def _not_about_opencv(record: logging.LogRecord) -> bool:
    return "OpenCV is not installed" not in record.getMessage()


def _command(name: str, root: epath.PathLike) -> str:
    return f"snnlth data prepare {name} --data-dir {shlex.quote(os.fspath(root))}"


def _damaged(name: str, root: epath.Path, directory: epath.Path, what: str) -> InputError:
    return InputError(
        "`data_dir`",
        root,
        problem=f"{directory} is incomplete or damaged ({what}); delete that directory, then: "
        f"{_command(name, root)}",
    )
