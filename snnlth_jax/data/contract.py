"""The contract of a dataset: whole splits of uint8 images in host memory, and all that a search asks of them.

`Dataset.from_arrays` makes one of anybody's arrays, and refuses in one line what a search could not train on.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from snnlth_jax.data.augment import STEPS, Augmentation, Step, choose, steps
from snnlth_jax.data.frames import split_shape
from snnlth_jax.data.splits import Split, checked, measured
from snnlth_jax.errors import InputError, not_one_of

__all__ = ["Dataset", "Spec", "describe", "of_arrays", "safe_name", "verified"]


class Spec(NamedTuple):
    """Facts about a dataset.

    Attributes:
      name: name of the dataset, in results and directories.
      tfds_name: name in TensorFlow Datasets; None if it is not there.
      num_classes: labels are 0 ... num_classes - 1.
      stored_shape: height, width and channels in the files.
      image_shape: height, width and channels as loaded; of frames their number first.
      train_size: number of images in the whole training split.
      test_size: number of images in the whole test split.
      augmentation: augmentation of training images, with mean and std.
    """

    name: str
    tfds_name: str | None
    num_classes: int
    stored_shape: tuple[int, ...]
    image_shape: tuple[int, ...]
    train_size: int
    test_size: int
    augmentation: Augmentation


class Dataset(NamedTuple):
    """A dataset in host memory, as `load` returns it.

    Attributes:
      name: name of the dataset.
      num_classes: labels are 0 ... num_classes - 1.
      image_shape: height, width, channels; of images that change over time, the number of frames first.
      train: images to train on.
      validation: images held out of the training images, or None.
      test: official test images.
      augmentation: augmentation of training images, with mean and std.
      fingerprint: name, version and hash of all images and labels, before any were held out or left out.
      classes: names of the classes in the order of the labels; empty if they have none.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, ...]
    train: Split
    validation: Split | None
    test: Split
    augmentation: Augmentation
    fingerprint: str
    classes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train_images: ArrayLike,
        train_labels: ArrayLike,
        test_images: ArrayLike,
        test_labels: ArrayLike,
        *,
        validation_images: ArrayLike | None = None,
        validation_labels: ArrayLike | None = None,
        classes: Sequence[str] = (),
        num_classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Sequence[Step] = ("crop",),
        version: str = "arrays",
    ) -> "Dataset":
        """Make a dataset of arrays; an array that is fine already is not copied.

        Args:
          name: name of the dataset, in results and in directories: letters, digits, `.`, `_`, `-`.
          train_images: uint8 `[N, H, W, C]`, or `[N, H, W]` for grey images, or frames `[N, T, H, W, C]`.
          train_labels: integers `[N]` from 0 to num_classes - 1; each class has an image.
          test_images: as `train_images`, of the same size.
          test_labels: as `train_labels`; a class may have no image here.
          validation_images: as `test_images`, evaluated beside them; by default there are none.
          validation_labels: as `test_labels`; given with `validation_images`.
          classes: names of the classes in the order of their labels; by default they have none.
          num_classes: number of classes; by default that of `classes`, else the largest training label + 1.
          mean: mean of each channel, of pixels from 0 to 1; by default measured on the training images.
          std: standard deviation of each channel, above 0; by default measured, 1 for a channel of one value.
          augment: steps for training images, "crop", "flip", "cutout": a shift by up to an eighth of the
            side, a mirror image, a square of half the side set to 0. The default has no flip, since a
            mirrored digit is no digit.
          version: middle part of the fingerprint, between the name and the hash.

        Raises:
          InputError: anything else, in a line that names the argument and what is allowed.

        >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
        >>> mine = Dataset.from_arrays("blanks", images, labels, images[:2], labels[:2])
        >>> mine.num_classes, mine.image_shape, mine.augmentation.crop_padding
        (2, (8, 8, 1), 1)
        >>> Dataset.from_arrays("blanks", images / 255, labels, images, labels)
        Traceback (most recent call last):
        snnlth_jax.errors.InputError: train_images float64: allowed: uint8, 0 to 255
        """
        if (validation_images is None) != (validation_labels is None):
            missing = "images" if validation_images is None else "labels"
            raise InputError(f"`validation_{missing}`", problem="missing", allowed="both or none of them")
        train = checked("train", train_images, train_labels)
        test = checked("test", test_images, test_labels)
        validation = None
        if validation_images is not None:
            validation = checked("validation", validation_images, validation_labels)
        shape: tuple[int, ...] = train.images.shape[1:]
        if mean is None or std is None:
            of_images = measured(train.images)
            mean, std = of_images[0] if mean is None else mean, of_images[1] if std is None else std
        plain = Augmentation(_per_channel("mean", mean, shape[-1]), _per_channel("std", std, shape[-1]))
        if wrong := [step for step in augment if step not in STEPS]:
            raise not_one_of("`augment`", wrong[0], STEPS)
        names = _class_names(classes)
        if num_classes is None:
            num_classes = len(names) or int(train.labels.max()) + 1
        augmentation = choose(plain, augment, shape)
        made = cls(name, num_classes, shape, train, validation, test, augmentation, "", names)
        return verified(made._replace(fingerprint=f"{safe_name(str(name))}-{version}-{_digest(made)}"))

    @property
    def spec(self) -> Spec:
        """The facts about it, without its images."""
        return Spec(
            self.name,
            None,
            self.num_classes,
            self.image_shape,
            self.image_shape,
            len(self.train.labels),
            len(self.test.labels),
            self.augmentation,
        )


def of_arrays(name: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str], version: str) -> Dataset:
    """`Dataset.from_arrays` of decoded splits, by the names of its arguments."""
    options: dict[str, Any] = {**arrays, "classes": classes, "version": version}
    return Dataset.from_arrays(name, **options)


def verified(dataset: Dataset, every_class: bool = True) -> Dataset:
    """A dataset, once it is one that a search can train on; made by `Dataset.from_arrays` or by hand.

    Args:
      dataset: the dataset.
      every_class: whether each class must have a training image; a part of a dataset may have none.

    Raises:
      InputError: its parts do not go together, in a line that names one and what is allowed.
    """
    if not isinstance(dataset.name, str) or dataset.name != safe_name(dataset.name):
        allowed = "1 to 60 letters, digits, `.`, `_` or `-`, the first of them a letter or digit"
        raise InputError("`name`", repr(dataset.name), allowed=allowed.replace("`", ""))
    if not isinstance(dataset.fingerprint, str) or not dataset.fingerprint:
        raise InputError("`fingerprint`", repr(dataset.fingerprint), allowed="a text that names the content")
    count, names = dataset.num_classes, _class_names(dataset.classes)
    if not isinstance(count, (int, np.integer)) or count < 2:
        raise InputError("`num_classes`", count, allowed="2 or more")
    if names and len(names) != count:
        raise InputError("`classes`", problem=f"{len(names)} names", allowed=f"{count}, one for each class")
    shape = dataset.image_shape
    splits = {"train": checked("train", *dataset.train), "test": checked("test", *dataset.test)}
    if dataset.validation is not None:
        splits["validation"] = checked("validation", *dataset.validation)
    for which, one in splits.items():
        if one.images.shape[1:] != tuple(shape):
            given, wanted = ("x".join(map(str, of)) for of in (one.images.shape[1:], shape))
            like = "those for training" if which != "train" else "`image_shape`"
            raise InputError(f"`{which}_images`", problem=f"{given} pixels", allowed=f"{wanted}, as {like}")
        least, most = int(one.labels.min()), int(one.labels.max())
        if least < 0 or most >= count:
            wrong = least if least < 0 else most
            at = int(np.flatnonzero(one.labels == wrong)[0])
            allowed = f"0 to {count - 1}, for {count} classes"
            raise InputError(f"`{which}_labels`", problem=f"label {wrong} of image {at}", allowed=allowed)
    if len(dataset.augmentation.mean) != shape[-1]:
        channels = f"{shape[-1]}, one for each channel"
        raise InputError("`mean`", problem=f"{len(dataset.augmentation.mean)} numbers", allowed=channels)
    present = np.unique(splits["train"].labels)
    if every_class and len(present) < count:
        empty = next(label for label in range(count) if label >= len(present) or present[label] != label)
        called = f" ({names[empty]})" if names else ""
        raise InputError(
            "`train_labels`",
            problem=f"no image of class {empty}{called}",
            allowed=f"every label from 0 to {count - 1}; classes are counted from 0",
        )
    return dataset._replace(
        num_classes=int(count),
        image_shape=splits["train"].images.shape[1:],
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        classes=names,
    )


def describe(dataset: Dataset) -> str:
    """Describe a dataset as a search would see it, a line for each fact.

    >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    >>> blanks = Dataset.from_arrays("blanks", images, labels, images[:2], labels[:2])
    >>> print(describe(blanks._replace(fingerprint="blanks-1")))
    name          blanks
    classes       2: 0, 1
    images        8x8x1
    train         4 images, 2 to 2 of each class
    test          2 images, 1 to 1 of each class
    mean, std     0; 1
    augmentation  crop
    fingerprint   blanks-1
    """
    names = dataset.classes or tuple(map(str, range(dataset.num_classes)))
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    rows = [
        ("name", dataset.name),
        ("classes", f"{dataset.num_classes}: {shown}"),
        ("images", _shape_text(dataset.image_shape)),
    ]
    for which in ("train", "validation", "test"):
        split = getattr(dataset, which)
        if split is not None:
            counts = np.bincount(split.labels, minlength=dataset.num_classes)
            text = f"{len(split.labels):,} images, {counts.min():,} to {counts.max():,} of each class"
            rows.append((which, text))
    mean, std = (
        ", ".join(f"{value:.6g}" for value in values)
        for values in (dataset.augmentation.mean, dataset.augmentation.std)
    )
    rows.append(("mean, std", f"{mean}; {std}"))
    rows.append(("augmentation", ", ".join(steps(dataset.augmentation)) or "none"))
    rows.append(("fingerprint", dataset.fingerprint))
    return "\n".join(f"{name:<14}{text}" for name, text in rows)


def _shape_text(image_shape: tuple[int, ...]) -> str:
    frames, shape = split_shape(image_shape)
    return (f"{frames} frames of " if frames else "") + "x".join(map(str, shape))


def safe_name(text: str) -> str:
    """A text as a part of file names: letters, digits, `.`, `_` and `-`, at most 60; "data" if none are left.

    >>> safe_name("my birds (new)"), safe_name("../..")
    ('my-birds-new', 'data')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:60].rstrip("-._") or "data"


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...]:
    allowed = f"{channels} finite numbers, one for each channel"
    allowed += ", above 0, 1e-6 to 1e6" if name == "std" else ", -1e6 to 1e6"
    try:
        given = np.asarray(values)
        numbers = tuple(map(float, given.ravel())) if given.dtype.kind in "fiu" else ()
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}`", values, allowed=allowed) from error
    wrong = len(numbers) != channels or not all(abs(number) < 1e6 for number in numbers)
    if wrong or (name == "std" and min(numbers) < 1e-6):
        text = ",".join(f"{number:g}" for number in numbers) or str(given)
        raise InputError(f"`{name}`", text, allowed=allowed)
    return numbers


def _class_names(classes: Any) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes)
    if len(set(names)) < len(names) or not all(name.strip() and name.isprintable() for name in names):
        raise InputError(
            "`classes`", ",".join(names)[:100], allowed="different names, of printable characters"
        )
    return names


def _digest(dataset: Dataset) -> str:
    """A hash of all arrays, and of what else decides results."""
    digest = hashlib.sha256(repr((dataset.num_classes, dataset.augmentation)).encode())
    for split in (dataset.train, dataset.test, *([dataset.validation] if dataset.validation else [])):
        digest.update(repr(split.images.shape).encode())
        for array in split:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
