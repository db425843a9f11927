"""Measurements after every training run: its layers, their health, spikes and operations."""

from typing import Any, NamedTuple

import numpy as np

from snnlth_jax.analysis import activity, health
from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.activity import Counts
from snnlth_jax.analysis.wiring import Shape, Wiring
from snnlth_jax.run.results import LayerRecord

__all__ = ["MOST_IMAGES", "NOTHING", "Measurement", "images_to_count_on", "measure"]

MOST_IMAGES = 1000


def images_to_count_on(images: np.ndarray) -> np.ndarray:
    """The test images that spikes are counted on: all, or `MOST_IMAGES` evenly spaced among them.

    >>> len(images_to_count_on(np.zeros(360))), images_to_count_on(np.arange(10_000))[:3].tolist()
    (360, [0, 10, 20])
    """
    count = min(MOST_IMAGES, len(images))
    return images[np.arange(count) * len(images) // count]


class Measurement(NamedTuple):
    """Fields of `results.Row` that are measured of a network.

    Attributes:
      layers: its prunable layers.
      measured_images: number of images that spikes were counted on; 0 for a network without spikes.
      weights_on_no_path: kept weights that are on no path from the image to the logits.
    """

    layers: tuple[LayerRecord, ...]
    measured_images: int
    weights_on_no_path: int | None

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
    frames: bool = False,
) -> Measurement:
    """Measure a network.

    Args:
      wiring: see `wiring.connections`; None if not known.
      masks: masks of the network.
      image_shape: height, width, channels.
      num_timesteps: T.
      counts: spikes, see `activity.count_spikes`; None for a network without spikes (`activation="relu"`).
      images: number of images that spikes were counted on; 0 without spikes.
      frames: whether the image changes over time, so that the first layer runs at every timestep.

    Returns:
      The measurement. Neurons of a sum are those of the layer; its shortcut has None of them.
    """
    kernels = w.by_name(masks)
    if wiring is None:
        unknown = [_unknown(name, mask) for name, mask in kernels.items()]
        return Measurement(tuple(unknown), 0, None)
    shapes, reach = w.shapes(wiring, kernels, image_shape), health.reach(wiring, kernels, image_shape)
    dead, idle = health.dead_channels(wiring, reach), health.weights_on_no_path(wiring, kernels, reach)
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
                macs_per_image=(float(multiplied),) + (float(frames * multiplied),) * (num_timesteps - 1),
            )
        )
    return Measurement(tuple(layers), images, sum(idle.values()))


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
