"""A split of a dataset: images and their labels as arrays that go together, and draws from it."""

import os
import sys
from typing import Any, NamedTuple

import numpy as np

from snnlth_jax.errors import InputError

__all__ = ["Split", "checked", "draw", "measured", "most_bytes"]


class Split(NamedTuple):
    """Images uint8 `[N, H, W, C]`, or frames `[N, T, H, W, C]`, and labels int32 `[N]`."""

    images: np.ndarray
    labels: np.ndarray


def most_bytes() -> int:
    """Most bytes of images to hold in memory: half of what this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError, AttributeError):  # not on this system
        return sys.maxsize


def measured(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, of images in [0, 1], to six decimals.

    Counts of the 256 values give them exactly. A channel of one value has a standard deviation of 1.

    Args:
      images: uint8 `[..., C]`.

    >>> measured(np.uint8([[0, 7], [255, 7]]))
    ((0.5, 0.027451), (0.5, 1.0))
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    rows = max(1, 2**22 // max(1, images[:1].size))  # a few megabytes at a time
    for start in range(0, len(images), rows):
        for channel in range(images.shape[-1]):
            part = images[start : start + rows, ..., channel]
            counts[channel] += np.bincount(part.ravel(), minlength=256)
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return (
        tuple(round(float(m), 6) for m in mean),
        tuple(round(float(s), 6) if s > 1e-6 else 1.0 for s in std),
    )


def draw(split: Split, count: int, seed: tuple[int, int]) -> tuple[Split, Split]:
    """Draw `count` images, from all classes as evenly as their sizes allow: they, and the rest.

    The order is kept, and a smaller draw is a part of a larger one with the same seed.
    """
    order = np.random.default_rng(seed).permutation(len(split.labels))
    turn = np.empty(len(order), np.int64)  # the n-th image of its class in this order has turn n
    for label in np.unique(split.labels):
        members = order[split.labels[order] == label]
        turn[members] = np.arange(len(members))
    order = order[np.argsort(turn[order], kind="stable")]
    taken, rest = np.sort(order[:count]), np.sort(order[count:])
    return Split(split.images[taken], split.labels[taken]), Split(split.images[rest], split.labels[rest])


def checked(which: str, images: Any, labels: Any) -> Split:
    """Images and labels that go together; whether there are as many classes is seen later.

    Args:
      which: "train", "test" or "validation", for the names of the arguments.
      images: uint8 `[N, H, W, C]` or `[N, H, W]`, or frames `[N, T, H, W, C]`.
      labels: integers `[N]`.

    Raises:
      InputError: anything else.
    """
    pixels = _array(f"`{which}_images`", images)
    what = f"`{which}_images`"
    if pixels.dtype != np.uint8:
        raise InputError(what, str(pixels.dtype), allowed="uint8, 0 to 255")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim not in (4, 5):
        allowed = "images [N, H, W] or [N, H, W, C], or frames [N, T, H, W, C]"
        raise InputError(what, pixels.shape, allowed=allowed)
    if not pixels.size:
        raise InputError(what, pixels.shape, problem="no images", allowed="1 or more, of 1 pixel or more")
    if pixels.shape[-3] <= 4 < min(pixels.shape[-2:]):
        raise InputError(what, pixels.shape, problem="channels come first", allowed="[N, ..., H, W, C]")
    classes = _array(f"`{which}_labels`", labels)
    what = f"`{which}_labels`"
    if not np.issubdtype(classes.dtype, np.integer):
        raise InputError(what, str(classes.dtype), allowed="integers, 0 for the first class")
    if classes.ndim != 1:
        problem = "one-hot labels are not read" if classes.ndim == 2 and classes.shape[1] > 1 else ""
        raise InputError(what, classes.shape, problem=problem, allowed="[N], a number for each image")
    if len(classes) != len(pixels):
        count = f"{len(pixels)}, one for each image"
        raise InputError(what, problem=f"{len(classes)} labels", allowed=count)
    if int(classes.min()) < -(2**31) or int(classes.max()) >= 2**31:
        wrong = int(classes.max()) if int(classes.max()) >= 2**31 else int(classes.min())
        raise InputError(what, problem=f"label {wrong}", allowed="0 to the number of classes less 1")
    return Split(pixels, classes.astype(np.int32, copy=False))


def _array(what: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # lists of several lengths, or an object that cannot be one
        raise InputError(what, problem="is no array", allowed="images of one size in an array") from error
