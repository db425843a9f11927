"""Decoded arrays kept on the local disk: reading them back takes a fraction of a second."""

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

__all__ = ["Expected", "directory", "images_and_labels", "kept", "read", "write"]

log = logging.getLogger(__name__)

Expected = Mapping[str, tuple[tuple[int | None, ...], type]]


def directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else `$SNNLTH_CACHE_DIR`, else `snnlth_jax` in `$XDG_CACHE_HOME` or in `~/.cache`.

    For a user without a home, as in some containers, it lies in the directory of temporary files.
    """
    chosen = cache_dir or os.environ.get("SNNLTH_CACHE_DIR")
    if not chosen:
        chosen = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "snnlth_jax"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"snnlth_jax-{os.getuid()}"


def kept(
    path: Path, expected: Expected, decode: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays at `path`, see `read`; without these those that `decode` returns, which are kept there."""
    arrays = read(path, expected)
    if arrays is None:
        arrays = decode()
        write(path, arrays)
    return arrays


def images_and_labels(examples: Mapping[str, int | None], shape: tuple[int | None, ...]) -> Expected:
    """The arrays of splits, by their numbers of examples and the shape of an image, see `read`.

    >>> images_and_labels({"test": 7}, (8, 8, 1))["test_labels"]
    ((7,), <class 'numpy.int32'>)
    """
    expected: dict[str, tuple[tuple[int | None, ...], type]] = {}
    for split, count in examples.items():
        expected |= {f"{split}_images": ((count, *shape), np.uint8), f"{split}_labels": ((count,), np.int32)}
    return expected


def read(path: Path, expected: Expected) -> dict[str, np.ndarray] | None:
    """Read the arrays that `write` kept; None if there are none, or if they are damaged, which is logged.

    Args:
      path: an uncompressed `.npz`, whose checksums are verified.
      expected: shape and dtype by name; None in a shape stands for any length.
    """
    try:
        # np.load of a path would leave the file open on an error
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in expected}
        for name, (shape, dtype) in expected.items():
            lengths = arrays[name].shape
            fits = len(lengths) == len(shape) and all(
                want in (None, length) for want, length in zip(shape, lengths, strict=True)
            )
            if not fits or arrays[name].dtype != dtype:
                raise ValueError(f"{name} is {arrays[name].dtype}{arrays[name].shape}")
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged bytes; all can be rebuilt
        log.warning("cannot use the cache %s (%s: %s), decoding again", path, type(error).__name__, error)
        return None
    return arrays


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep the arrays, all or nothing, even if several processes write; a failure is only logged."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot keep the decoded images in %s (%s); the next run decodes again", path, error)
