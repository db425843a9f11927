"""Frames of events: bars that move in one of eight directions, seen by a camera for changes of brightness.

    snnlth imp --dataset moving_bars:load --arch vgg5 --width 0.25 --epochs 15 --sparsity 0.9 \
        --controls random

in this directory. The dataset is made, not recorded: `[N, T, H, W, 2]`, pixels that became brighter in the
first channel and darker in the second. The class is the direction, which no single frame shows.
"""

import numpy as np

from snnlth_jax.data import Dataset

FRAMES, SIDE, CLASSES = 6, 16, 8


def load(train: int = 1600, test: int = 800) -> Dataset:
    """The dataset, the same each time."""
    names = ("right", "right up", "up", "left up", "left", "left down", "down", "right down")
    return Dataset.from_arrays(
        "moving_bars", *_events(train, seed=0), *_events(test, seed=1), classes=names, augment=()
    )


def _events(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    angle = labels * (2 * np.pi / CLASSES)
    start, speed, width = rng.uniform(-9, -2, count), rng.uniform(1.2, 2.0, count), rng.uniform(1, 3, count)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    along = np.cos(angle)[:, None, None] * x - np.sin(angle)[:, None, None] * y
    at = start + speed * np.arange(FRAMES + 1)[:, None]  # of the bar's middle, [T + 1, N]
    bars = np.abs(along - at[:, :, None, None]) < width[:, None, None]
    bars = bars.transpose(1, 0, 2, 3)
    events = np.stack([bars[:, 1:] & ~bars[:, :-1], bars[:, :-1] & ~bars[:, 1:]], axis=-1)
    noise = rng.random(events.shape) < 0.02
    return (255 * (events ^ noise)).astype(np.uint8), labels
