"""The four datasets of the paper and that of its supplement, and a small real one to begin with.

`load` returns whole splits as uint8 arrays, small enough for a device's memory; `spec` returns facts without
reading data.
"""

import hashlib
import itertools
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from snnlth_jax.data import cache, tfds, tiny_imagenet
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.errors import InputError, not_one_of

__all__ = ["SPECS", "Dataset", "Spec", "Split", "load", "locate", "prepare", "spec"]

log = logging.getLogger(__name__)

Source = tfds.Prepared | tiny_imagenet.Archive


class Spec(NamedTuple):
    """Facts about a dataset, known without reading it.

    Attributes:
      name: name for `load`.
      tfds_name: name in TensorFlow Datasets; None if it is not there.
      num_classes: labels are 0 ... num_classes - 1.
      stored_shape: height, width and channels in the files.
      image_shape: height, width and channels as loaded.
      train_size: number of images in the official training split.
      test_size: number of images in the official test split.
      augmentation: augmentation of training images, with mean and std.
    """

    name: str
    tfds_name: str | None
    num_classes: int
    stored_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    augmentation: Augmentation


# Sizes: the TFDS catalogue, tensorflow.org/datasets/catalog. Augmentation, means and stds: the authors' code,
# so that numbers compare with the paper's; its stds of CIFAR-10 are means of the stds within an image, not
# the .247 .243 .262 of all pixels. digits: mean and std measured here; a mirrored digit is no digit.
# tiny_imagenet: the authors' code does not have it. Mean and std are the usual ones of ImageNet, not measured
# on these images; the crop is as large a part of the image as with CIFAR, an eighth of the side, and there is
# a flip, but no cutout, which the authors use with CIFAR alone.
SPECS = {
    s.name: s
    for s in (
        Spec(
            "digits", None, 10, (8, 8, 1), (8, 8, 1), 1437, 360,
            Augmentation((0.305,), (0.376,), 1),
        ),
        Spec(
            "cifar10", "cifar10", 10, (32, 32, 3), (32, 32, 3), 50_000, 10_000,
            Augmentation((0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010), 4, flip=True, cutout=16),
        ),
        Spec(
            "cifar100", "cifar100", 100, (32, 32, 3), (32, 32, 3), 50_000, 10_000,
            Augmentation((0.5071, 0.4867, 0.4408), (0.2673, 0.2564, 0.2762), 4, flip=True, cutout=16),
        ),
        Spec(
            "svhn_cropped", "svhn_cropped", 10, (32, 32, 3), (32, 32, 3), 73_257, 26_032,
            Augmentation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 4, flip=True),
        ),
        # resized once when decoded: the authors flip, resize, then crop, and a flip commutes with resizing
        Spec(
            "fashion_mnist", "fashion_mnist", 10, (28, 28, 1), (32, 32, 1), 60_000, 10_000,
            Augmentation((0.5,), (0.5,), 4, flip=True),
        ),
        Spec(
            "tiny_imagenet", None, 200, (64, 64, 3), (64, 64, 3), 100_000, 10_000,
            Augmentation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 8, flip=True),
        ),
    )
}  # fmt: skip


class Split(NamedTuple):
    """Images uint8 `[N, H, W, C]` and labels int32 `[N]`."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A dataset in host memory, as `load` returns it.

    Attributes:
      name: name of the dataset.
      num_classes: labels are 0 ... num_classes - 1.
      image_shape: height, width, channels.
      train: images to train on.
      validation: images held out of the training images, or None.
      test: official test images.
      augmentation: augmentation of training images, with mean and std.
      fingerprint: name, version and hash of all images and labels, before any were held out or left out.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train: Split
    validation: Split | None
    test: Split
    augmentation: Augmentation
    fingerprint: str


def spec(name: str) -> Spec:
    """Facts about a dataset, without reading it.

    Raises:
      InputError: an unknown name.

    >>> spec("fashion_mnist").image_shape
    (32, 32, 1)
    """
    if name not in SPECS:
        raise not_one_of("`dataset`", name, SPECS)
    return SPECS[name]


def load(
    name: str,
    data_dir: epath.PathLike | None = None,
    *,
    train_examples: int | None = None,
    validation_examples: int = 0,
    test_examples: int | None = None,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load a dataset into host memory.

    Every draw takes all classes as evenly as their sizes allow, and keeps the order; a smaller draw is a part
    of a larger one with the same seed. The test images never depend on the seed.

    Args:
      name: one of `SPECS`.
      data_dir: directory of TFDS, or with the folder of TinyImageNet in it; by default `$TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`.
      train_examples: number of training images to keep, None for all.
      validation_examples: number of training images to hold out first.
      test_examples: number of test images to keep, None for all.
      seed: seed of the draws, >= 0.
      cache_dir: directory of decoded images, by default see `cache.directory`.

    Raises:
      InputError: an unknown name, numbers out of range, data that is missing, incomplete or damaged.

    >>> digits = load("digits", train_examples=100)
    >>> digits.train.images.shape, digits.test.labels.shape
    ((100, 8, 8, 1), (360,))
    """
    facts = spec(name)
    if seed < 0:
        raise InputError("`seed`", seed, allowed="0 or more")
    source = locate(name, data_dir)
    if source is None:
        train, test = _digits()
        version = "scikit-learn"
    else:
        sizes, known = [source.size(split) for split in tfds.SPLITS], [facts.train_size, facts.test_size]
        if sizes != known:
            counts = "%d training and %d test images"
            log.warning(f"%s: {counts}, where the official dataset has %d and %d", name, *sizes, *known)
        train, test = _decoded(facts, source, cache.directory(cache_dir))
        version = source.directory.name
    digest = hashlib.sha256()
    for array in (*train, *test):
        digest.update(np.ascontiguousarray(array).data)

    validation, available = None, len(train.labels)
    if not 0 <= validation_examples < available:
        raise InputError("`validation_examples`", validation_examples, allowed=f"0 to {available - 1}")
    if validation_examples:
        validation, train = _draw(train, validation_examples, (seed, 0))
    train = _capped("train_examples", train, train_examples, (seed, 1))
    test = _capped("test_examples", test, test_examples, (0, 1))
    return Dataset(
        name=name,
        num_classes=facts.num_classes,
        image_shape=facts.image_shape,
        train=train,
        validation=validation,
        test=test,
        augmentation=facts.augmentation,
        fingerprint=f"{name}-{version}-{digest.hexdigest()[:16]}",
    )


def locate(name: str, data_dir: epath.PathLike | None = None) -> Source | None:
    """Find the files of a dataset, without decoding them; None for `digits`, which comes with scikit-learn.

    Raises:
      InputError: an unknown name, something missing or damaged.
    """
    facts = spec(name)
    if name == "tiny_imagenet":
        return tiny_imagenet.locate(facts.num_classes, data_dir)
    return None if facts.tfds_name is None else tfds.locate(facts.tfds_name, data_dir)


def prepare(name: str, data_dir: epath.PathLike | None = None) -> epath.Path | None:
    """Download and prepare a dataset, once; this alone needs TensorFlow and a network connection.

    TinyImageNet is not downloaded: its folder is checked.

    Args:
      name: one of `SPECS`.
      data_dir: directory of TFDS, by default as in `load`.

    Returns:
      The directory of its files, or None for `digits`, which needs no preparation.

    Raises:
      InputError: an unknown name, no TensorFlow, a failed download; for TinyImageNet, where to get it.
    """
    tfds_name = spec(name).tfds_name
    if tfds_name is not None:
        return tfds.generate(tfds_name, data_dir)
    source = locate(name, data_dir)
    if source is None:
        log.info("%s comes with scikit-learn: nothing to prepare", name)
        return None
    return source.directory


def _decoded(facts: Spec, source: Source, cache_dir: Path) -> tuple[Split, Split]:
    path = cache_dir / f"{facts.name}-{source.directory.name}-{source.fingerprint}.npz"
    expected: dict[str, tuple[tuple[int, ...], type]] = {}
    for split in tfds.SPLITS:
        expected[f"{split}_images"] = (source.size(split), *facts.image_shape), np.uint8
        expected[f"{split}_labels"] = (source.size(split),), np.int32
    arrays = cache.read(path, expected)
    if arrays is None:
        decoded = [_decode(facts, source, split) for split in tfds.SPLITS]
        arrays = dict(zip(expected, itertools.chain(*decoded), strict=True))
        cache.write(path, arrays)
    train_images, train_labels, test_images, test_labels = (arrays[key] for key in expected)
    return Split(train_images, train_labels), Split(test_images, test_labels)


def _decode(facts: Spec, source: Source, split: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(source, tiny_imagenet.Archive):
        return tiny_imagenet.decode(source, split, facts.image_shape)
    return tfds.decode(source, split, facts.stored_shape, facts.image_shape, facts.num_classes)


def _digits() -> tuple[Split, Split]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        needs = "needs scikit-learn: pip install 'snnlth_jax[demo]'"
        raise InputError("`dataset`", "digits", problem=needs) from error
    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    test, train = _draw(Split(images, raw.target.astype(np.int32)), SPECS["digits"].test_size, (0, 0))
    return train, test


def _capped(name: str, split: Split, count: int | None, seed: tuple[int, int]) -> Split:
    available = len(split.labels)
    if count is None:
        return split
    if not 1 <= count <= available:
        allowed = f"1 to {available}, the images there are to choose from"
        raise InputError(f"`{name}`", count, allowed=allowed)
    return _draw(split, count, seed)[0]


def _draw(split: Split, count: int, seed: tuple[int, int]) -> tuple[Split, Split]:
    """`count` images, from all classes as evenly as their sizes allow, and the rest."""
    order = np.random.default_rng(seed).permutation(len(split.labels))
    turn = np.empty(len(order), np.int64)  # the n-th image of its class in this order has turn n
    for label in np.unique(split.labels):
        members = order[split.labels[order] == label]
        turn[members] = np.arange(len(members))
    order = order[np.argsort(turn[order], kind="stable")]
    taken, rest = np.sort(order[:count]), np.sort(order[count:])
    return Split(split.images[taken], split.labels[taken]), Split(split.images[rest], split.labels[rest])
