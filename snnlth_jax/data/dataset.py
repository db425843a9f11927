"""Datasets by name: the paper's four, that of its supplement, MNIST, a small one to begin with; any other.

`load` returns whole splits as uint8 arrays, small enough for a device's memory; `spec` returns facts. A name
that is none of `SPECS` is that of a user's own dataset, see `own`.
"""

import hashlib
import itertools
import logging
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
from etils import epath

from snnlth_jax.data import cache, idx, own, tfds, tiny_imagenet
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.data.contract import Dataset, Spec
from snnlth_jax.data.splits import Split
from snnlth_jax.data.splits import draw as _draw
from snnlth_jax.errors import InputError, not_one_of

__all__ = ["SPECS", "Dataset", "Spec", "Split", "load", "locate", "prepare", "spec"]

log = logging.getLogger(__name__)

Source = tfds.Prepared | tiny_imagenet.Archive | idx.Files

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
        # as Fashion-MNIST, so that VGG16 fits; a mirrored digit is no digit
        Spec(
            "mnist", "mnist", 10, (28, 28, 1), (32, 32, 1), 60_000, 10_000,
            Augmentation((0.5,), (0.5,), 4),
        ),
        Spec(
            "tiny_imagenet", None, 200, (64, 64, 3), (64, 64, 3), 100_000, 10_000,
            Augmentation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 8, flip=True),
        ),
    )
}  # fmt: skip


def spec(
    name: str,
    data_dir: epath.PathLike | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Spec:
    """Facts about a dataset: of a name in `SPECS` without reading it, of a user's own by reading it once.

    Args:
      name: as for `load`.
      data_dir: as for `load`.
      cache_dir: as for `load`.

    Raises:
      InputError: an unknown name, or a dataset of the user's own that cannot be read.

    >>> spec("fashion_mnist").image_shape
    (32, 32, 1)
    """
    if name in SPECS:
        return SPECS[name]
    return _own(name, data_dir, cache_dir).spec


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
      name: one of `SPECS`, or a user's own: FILE.npz, a folder of images, tfds:NAME, MODULE:FUNCTION.
      data_dir: directory of TFDS, or with the folder of TinyImageNet or idx files in it; by default
        `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
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
    if seed < 0:
        raise InputError("`seed`", seed, allowed="0 or more")
    whole = _named(name, data_dir, cache_dir) if name in SPECS else _own(name, data_dir, cache_dir)
    train, validation, available = whole.train, whole.validation, len(whole.train.labels)
    if not 0 <= validation_examples < available:
        raise InputError("`validation_examples`", validation_examples, allowed=f"0 to {available - 1}")
    if validation_examples:
        if validation is not None:
            held_out = f"0, since {whole.name} has {len(validation.labels)} validation images of its own"
            raise InputError("`validation_examples`", validation_examples, allowed=held_out)
        validation, train = _draw(train, validation_examples, (seed, 0))
    train = _capped("train_examples", train, train_examples, (seed, 1))
    test = _capped("test_examples", whole.test, test_examples, (0, 1))
    return whole._replace(train=train, validation=validation, test=test)


def _own(name: str, data_dir: epath.PathLike | None, cache_dir: str | os.PathLike[str] | None) -> Dataset:
    """A dataset that has no name here, whole."""
    if not own.is_own(name):
        error = not_one_of("`dataset`", name, SPECS)
        if os.path.exists(name):
            error.problem = "a file, but no .npz and no folder"
        elif not error.nearest:
            error.problem = "no such name, file or folder"
        if error.nearest:
            error.nearest += f" (your own data: {own.KINDS})"
        else:
            error.allowed += f"; or your own data: {own.KINDS}"
        raise error
    return own.read(name, data_dir, reserved=frozenset(SPECS), cache_dir=cache_dir)


def _named(name: str, data_dir: epath.PathLike | None, cache_dir: str | os.PathLike[str] | None) -> Dataset:
    """A dataset of `SPECS`, whole."""
    facts = SPECS[name]
    source = locate(name, data_dir)
    if source is None:
        train, test = _digits(cache.directory(cache_dir))
        origin = "scikit-learn"
    else:
        sizes, known = [source.size(split) for split in tfds.SPLITS], [facts.train_size, facts.test_size]
        if sizes != known:
            counts = "%d training and %d test images"
            log.warning(f"%s: {counts}, where the official dataset has %d and %d", name, *sizes, *known)
        train, test = _decoded(facts, source, cache.directory(cache_dir))
        origin = source.version
    digest = hashlib.sha256()
    for array in (*train, *test):
        digest.update(np.ascontiguousarray(array).data)
    return Dataset(
        name=name,
        num_classes=facts.num_classes,
        image_shape=facts.image_shape,
        train=train,
        validation=None,
        test=test,
        augmentation=facts.augmentation,
        fingerprint=f"{name}-{origin}-{digest.hexdigest()[:16]}",
    )


def locate(name: str, data_dir: epath.PathLike | None = None) -> Source | None:
    """Find the files of a dataset, without decoding them; None for `digits`, which comes with scikit-learn.

    MNIST and Fashion-MNIST are taken as TFDS has them, else from idx files.

    Args:
      name: one of `SPECS`.
      data_dir: as for `load`.

    Raises:
      InputError: an unknown name, something missing or damaged.
    """
    if name not in SPECS:
        raise not_one_of("`dataset`", name, SPECS)
    facts = SPECS[name]
    if name == "tiny_imagenet":
        return tiny_imagenet.locate(facts.num_classes, data_dir)
    if facts.tfds_name is None:
        return None
    if name not in idx.NAMES:
        return tfds.locate(facts.tfds_name, data_dir)
    try:
        return tfds.locate(facts.tfds_name, data_dir)
    except InputError as error:
        if (files := idx.locate(name, data_dir)) is not None:
            return files
        problem = f"no {idx.PREFIXES['train']}-images-idx3-ubyte, and {error.problem}"
        raise InputError(error.what, error.value, problem=problem, allowed=error.allowed) from error


def prepare(name: str, data_dir: epath.PathLike | None = None) -> epath.Path | None:
    """Download and prepare a dataset, once; this alone needs TensorFlow and a network connection.

    TinyImageNet is not downloaded: its folder is checked. The idx files of MNIST are as good as prepared.

    Args:
      name: one of `SPECS`, or tfds:NAME.
      data_dir: directory of TFDS, by default as in `load`.

    Returns:
      The directory of its files, or None for `digits`, which needs no preparation.

    Raises:
      InputError: an unknown name, no TensorFlow, a failed download; for TinyImageNet, where to get it.
    """
    if name.startswith("tfds:"):
        return tfds.generate(name.removeprefix("tfds:"), data_dir, own=True)
    if name not in SPECS:
        raise not_one_of("`dataset`", name, SPECS)
    tfds_name = SPECS[name].tfds_name
    files = idx.locate(name, data_dir) if name in idx.NAMES else None
    if tfds_name is not None and files is None:
        return tfds.generate(tfds_name, data_dir)
    source = files or locate(name, data_dir)
    if source is None:
        log.info("%s comes with scikit-learn: nothing to prepare", name)
        return None
    return epath.Path(source.directory)


def _decoded(facts: Spec, source: Source, cache_dir: Path) -> tuple[Split, Split]:
    path = cache_dir / f"{facts.name}-{source.version}-{source.fingerprint}.npz"
    sizes = {split: source.size(split) for split in tfds.SPLITS}
    expected = cache.images_and_labels(sizes, facts.image_shape)

    def decode() -> dict[str, np.ndarray]:
        decoded = [_decode(facts, source, split) for split in tfds.SPLITS]
        return dict(zip(expected, itertools.chain(*decoded), strict=True))

    arrays = cache.kept(path, expected, decode)
    train_images, train_labels, test_images, test_labels = (arrays[key] for key in expected)
    return Split(train_images, train_labels), Split(test_images, test_labels)


def _decode(facts: Spec, source: Source, split: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(source, tiny_imagenet.Archive):
        return tiny_imagenet.decode(source, split, facts.image_shape)
    if isinstance(source, idx.Files):
        return idx.decode(source, split, facts.image_shape)
    return tfds.decode(source, split, facts.stored_shape, facts.image_shape, facts.num_classes)


def _digits(directory: Path) -> tuple[Split, Split]:
    """Training and test images; kept in `directory`, since importing scikit-learn takes a second or two."""
    try:
        path = directory / f"digits-{version('scikit-learn')}.npz"
        expected = cache.images_and_labels({"all": None}, (8, 8, 1))
        arrays = cache.kept(path, expected, _of_scikit_learn)
    except ImportError as error:  # or the package is not installed at all
        needs = "needs scikit-learn: pip install 'snnlth_jax[demo]'"
        raise InputError("`dataset`", "digits", problem=needs) from error
    test, train = _draw(Split(arrays["all_images"], arrays["all_labels"]), SPECS["digits"].test_size, (0, 0))
    return train, test


def _of_scikit_learn() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    return {"all_images": images, "all_labels": raw.target.astype(np.int32)}


def _capped(name: str, split: Split, count: int | None, seed: tuple[int, int]) -> Split:
    available = len(split.labels)
    if count is None:
        return split
    if not 1 <= count <= available:
        allowed = f"1 to {available}, the images there are to choose from"
        raise InputError(f"`{name}`", count, allowed=allowed)
    return _draw(split, count, seed)[0]
