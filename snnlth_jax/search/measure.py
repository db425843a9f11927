"""Measurements after every training run: its layers, their health, spikes and operations."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from snnlth_jax.analysis import activity, health
from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.activity import Counts
from snnlth_jax.analysis.wiring import Shape, Wiring
from snnlth_jax.data.augment import Augmentation, normalise
from snnlth_jax.data.frames import as_input, split_shape
from snnlth_jax.run.results import LayerRecord
from snnlth_jax.run.spikes import LayerSpikes, Spikes

__all__ = [
    "MOST_IMAGES",
    "NOTHING",
    "Measurement",
    "images_to_count_on",
    "measure",
    "spike_counter",
    "spikes_of_layers",
]

MOST_IMAGES = 1000
_MEASURED_AT_A_TIME = 50  # images whose spikes in all layers are in memory together


def images_to_count_on(images: np.ndarray) -> np.ndarray:
    """The test images that spikes are counted on: all, or `MOST_IMAGES` evenly spaced among them.

    >>> len(images_to_count_on(np.zeros(360))), images_to_count_on(np.arange(10_000))[:3].tolist()
    (360, [0, 10, 20])
    """
    count = min(MOST_IMAGES, len(images))
    return images[np.arange(count) * len(images) // count]


def spike_counter(
    model: Any, wiring: Wiring, num_timesteps: int, augmentation: Augmentation, examples: int
) -> Callable[[Any, jax.Array], Any]:
    """A function of variables and uint8 images that counts spikes, see `activity.count_spikes`.

    Args:
      model: the network, with activation "lif".
      wiring: its connections.
      num_timesteps: T.
      augmentation: mean and std of the images.
      examples: number of images.
    """
    return partial(
        activity.count_spikes,
        model,
        wiring,
        num_timesteps=num_timesteps,
        batch_size=min(_MEASURED_AT_A_TIME, examples),
        prepare=lambda images: as_input(model, normalise(images, augmentation), num_timesteps),
    )


class Measurement(NamedTuple):
    """Fields of `results.Row` that are measured of a network, and its spikes for one image.

    Attributes:
      layers: its prunable layers.
      measured_images: number of images that spikes were counted on; 0 for a network without spikes.
      weights_on_no_path: kept weights that are on no path from the image to the logits.
      first_image: spikes for the first test image; None for a network without spikes.
    """

    layers: tuple[LayerRecord, ...]
    measured_images: int
    weights_on_no_path: int | None
    first_image: Spikes | None = None

    @property
    def connected(self) -> bool:
        """Whether the connections of the layers are known, and so their operations."""
        return self.weights_on_no_path is not None


NOTHING = Measurement((), 0, None)  # for a phase whose network is not kept


def measure(
    wiring: Wiring | None,
    masks: Any,
    image_shape: Shape,
    num_timesteps: int,
    counts: Counts | None,
    images: int,
) -> Measurement:
    """Measure a network.

    Args:
      wiring: see `wiring.connections`; None if not known.
      masks: masks of the network.
      image_shape: height, width, channels; the number of frames first if the image changes over time, so that
        the first layer runs at every timestep.
      num_timesteps: T.
      counts: spikes, see `activity.count_spikes`; None for a network without spikes (`activation="relu"`).
      images: number of images that spikes were counted on; 0 without spikes.

    Returns:
      The measurement. Neurons of a sum are those of the layer; its shortcut has None of them.
    """
    kernels = w.by_name(masks)
    if wiring is None:
        unknown = [_unknown(name, mask) for name, mask in kernels.items()]
        return Measurement(tuple(unknown), 0, None)
    frames, shape = split_shape(image_shape)
    shapes, reach = w.shapes(wiring, kernels, shape), health.reach(wiring, kernels, shape)
    dead, idle = health.dead_channels(wiring, reach), health.weights_on_no_path(wiring, kernels, reach)
    later = 0.0 if frames is None else 1.0  # how often the first layer runs at a later timestep
    layers: list[LayerRecord] = []
    counted: set[str] = {w.LOGITS}  # neurons of a sum are counted once
    for c in wiring:
        if c.name is None:
            continue
        mask, analog = kernels[c.name], c.source == w.IMAGE or counts is None
        multiplied = activity.macs(c, mask, shapes[c.source]) if analog else 0
        spikes = None if counts is None or c.target in counted else counts[c.target, 0]
        counted.add(c.target)
        added = [0.0] * num_timesteps
        if counts is not None:
            sums = activity.synops(c, mask, shapes[c.source], counts, num_timesteps)
            added = [n / images for n in sums]
        layers.append(
            LayerRecord(
                name=c.name,
                weights=mask.size,
                kept=int(np.count_nonzero(mask)),
                channels=mask.shape[-1],
                dead_channels=int(dead[c.name].sum()),
                **_firing(spikes, images),
                synops_per_image=tuple(added),
                macs_per_image=(float(multiplied),) + (later * multiplied,) * (num_timesteps - 1),
            )
        )
    return Measurement(tuple(layers), images, sum(idle.values()))


def spikes_of_layers(wiring: Wiring, fires: Mapping[str, np.ndarray]) -> Spikes | None:
    """The spikes of an image by layer, from `activity.Spikes.first`; None if no layer has neurons."""
    behind: dict[str, str] = {}  # neurons of a sum are those of the first layer
    for c in wiring:
        if c.name is not None and c.target != w.LOGITS:
            behind.setdefault(c.target, c.name)
    layers = [LayerSpikes.of(name, fires[neurons]) for neurons, name in behind.items()]
    return Spikes(layers=tuple(layers)) if layers else None


def _unknown(name: str, mask: np.ndarray) -> LayerRecord:
    """The layer of a network whose connections are not known: its counts of weights."""
    return LayerRecord(
        name=name,
        weights=mask.size,
        kept=int(np.count_nonzero(mask)),
        channels=mask.shape[-1],
        dead_channels=None,
        **_firing(None, 0),
        synops_per_image=(),
        macs_per_image=(),
    )


def _firing(spikes: np.ndarray | None, images: int) -> dict[str, Any]:
    if spikes is None:
        names = ("neurons", "silent_neurons", "saturated_neurons", "firing_rate", "spikes_per_image")
        return dict.fromkeys(names)
    neurons, by_timestep = spikes[0].size, spikes.reshape(len(spikes), -1).sum(1, dtype=np.int64).tolist()
    return {
        "neurons": neurons,
        "silent_neurons": health.silent(spikes),
        "saturated_neurons": health.saturated(spikes, images),
        "firing_rate": tuple(n / (neurons * images) for n in by_timestep),
        "spikes_per_image": sum(by_timestep) / images,
    }
