"""A user's own dataset, by the text that names it.

    FILE.npz           arrays in a file, see `arrays`
    DIR                a folder of images, see `folder`
    tfds:NAME          a dataset of TensorFlow Datasets, prepared in the data directory
    MODULE:FUNCTION    a function of no arguments that returns a `Dataset`

The facts about such a dataset (its mean and std, for one) need its images, so it is read whole. The newest
one is kept, and read again only when its files have changed; a function is not called again.
"""

import os
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path

import numpy as np
from etils import epath

from snnlth_jax import _imported
from snnlth_jax.data import arrays, cache, folder, tfds
from snnlth_jax.data.contract import Dataset, of_arrays, safe_name, verified
from snnlth_jax.data.splits import Split
from snnlth_jax.errors import InputError

__all__ = ["KINDS", "is_own", "read"]

KINDS = "FILE.npz, a folder of images, tfds:NAME, MODULE:FUNCTION"
_kept: dict[Hashable, Dataset] = {}  # at most one


def is_own(name: str) -> bool:
    """Whether a text names a dataset of the user's own, which may not exist.

    >>> is_own("birds.npz"), is_own("data/birds"), is_own("tfds:birds"), is_own("birds:load"), is_own("cifar")
    (True, True, True, True, False)
    """
    kinds = name.startswith("tfds:") or _imported.is_name(name) or name.lower().endswith(".npz")
    return kinds or "/" in name or os.path.isdir(name)


def read(
    name: str,
    data_dir: epath.PathLike | None = None,
    *,
    reserved: frozenset[str] = frozenset(),
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read a dataset of the user's own, whole; its arrays cannot be written to.

    Args:
      name: one of the kinds above.
      data_dir: the data directory of `tfds:NAME`, by default as for `tfds.locate`.
      reserved: names that the dataset may not have; its kind is then added to its own.
      cache_dir: directory of decoded images, by default see `cache.directory`.

    Raises:
      InputError: it does not exist, cannot be read, or is not what a search can train on.
    """
    state, make = _source(name, data_dir, reserved, cache.directory(cache_dir))
    key = (name, os.getcwd(), state)
    if key not in _kept:
        made = make()
        _kept.clear()
        _kept[key] = _frozen(made)
    return _kept[key]


def _source(
    name: str, data_dir: epath.PathLike | None, reserved: frozenset[str], cache_dir: Path
) -> tuple[Hashable, Callable[[], Dataset]]:
    """A state that changes when the files do, and a function that reads them."""
    if name.startswith("tfds:"):
        prepared = _prepared(name, data_dir)
        return prepared.fingerprint, partial(_decoded, prepared, reserved, cache_dir)
    if _imported.is_name(name) and not name.lower().endswith(".npz"):
        return None, partial(_made, name, reserved)
    if "://" in name:
        raise InputError("`dataset`", name, problem="is not read from there", allowed="a local copy")
    try:
        path = Path(name).expanduser()
        stat = path.stat()
        if path.is_dir():
            images = folder.locate(path)
            return images.fingerprint, partial(folder.read, images, reserved, cache_dir)
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file or no home can have
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileNotFoundError):
            reason = "no such file or folder"
        if isinstance(error, InputError):
            raise
        raise InputError("`dataset`", name, problem=reason, allowed=KINDS) from error
    if not path.is_file():
        raise InputError("`dataset`", name, problem="is no file and no folder", allowed=KINDS)
    return (stat.st_size, stat.st_mtime_ns), partial(arrays.read, path, reserved)


def _made(name: str, reserved: frozenset[str]) -> Dataset:
    """The dataset that a function returns."""
    dataset = _imported.call("`dataset`", name)
    if not isinstance(dataset, Dataset):
        problem = f"the function returned a {type(dataset).__name__}"
        raise InputError("`dataset`", name, problem=problem, allowed="a snnlth_jax.data.Dataset")
    try:
        checked = verified(dataset)
    except InputError as error:
        raise InputError("`dataset`", name, problem=f"of the dataset: {error}") from error
    except Exception as error:  # made by hand, of anything
        problem = f"the function returned a Dataset whose parts are wrong, {type(error).__name__}: {error}"
        raise InputError("`dataset`", name, problem=problem, allowed="data.Dataset.from_arrays") from error
    return checked._replace(name=checked.name + "_function" * (checked.name in reserved))


def _prepared(name: str, data_dir: epath.PathLike | None) -> tfds.Prepared:
    called = name.removeprefix("tfds:")
    parts = called.split("/")
    if not 1 <= len(parts) <= 2 or not all(part and part == safe_name(part) for part in parts):
        raise InputError("`dataset`", name, allowed="tfds:NAME or tfds:NAME/CONFIG")
    return tfds.locate(called, data_dir, own=True)


def _decoded(source: tfds.Prepared, reserved: frozenset[str], cache_dir: Path) -> Dataset:
    image, label, shape, classes = tfds.features(source)
    name = safe_name(source.name)
    name += "_tfds" * (name in reserved)
    expected = cache.images_and_labels({split: source.size(split) for split in source.shards}, shape)
    path = cache_dir / f"{name}-tfds-{source.version}-{source.fingerprint}.npz"

    def decode() -> dict[str, np.ndarray]:
        arrays = {}
        for split in source.shards:
            pair = tfds.decode(source, split, shape, shape, len(classes), (image, label))
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = pair
        return arrays

    arrays = cache.kept(path, expected, decode)
    try:
        return of_arrays(name, arrays, classes, source.version)
    except InputError as error:
        raise InputError("`dataset`", source.called, problem=str(error)) from error


def _frozen(dataset: Dataset) -> Dataset:
    """The dataset with views of its arrays that cannot be written to, since others will get them."""

    def view(split: Split) -> Split:
        views = [array.view() for array in split]
        for one in views:
            one.flags.writeable = False
        return Split(*views)

    validation = None if dataset.validation is None else view(dataset.validation)
    return dataset._replace(train=view(dataset.train), test=view(dataset.test), validation=validation)
