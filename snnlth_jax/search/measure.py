"""What is recorded of every training: its layers, their health, spikes and operations."""

from typing import Any, NamedTuple

import numpy as np

from snnlth_jax.analysis import activity, health
from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.activity import Counts
from snnlth_jax.analysis.wiring import Shape, Wiring

__all__ = ["MOST_IMAGES", "measured", "record"]

MOST_IMAGES = 1000


def measured(images: np.ndarray) -> np.ndarray:
    """The test images that spikes are counted on: all, or `MOST_IMAGES` evenly spaced among them.

    >>> len(measured(np.zeros(360))), measured(np.arange(10_000))[:3].tolist()
    (360, [0, 10, 20])
    """
    count = min(MOST_IMAGES, len(images))
    return images[np.arange(count) * len(images) // count]


def record(
    wiring: Wiring,
    masks: Any,
    image_shape: Shape,
    num_timesteps: int,
    counts: Counts | None,
    images: int,
) -> dict[str, Any]:
    """What a row of result.json says about its layers; JSON values.

    Args:
      wiring: see `wiring.connections`.
      masks: of the network.
      image_shape: height, width, channels.
      num_timesteps: T.
      counts: spikes, see `activity.count_spikes`; None for a network without (`activation="relu"`).
      images: so many they were counted on; 0 for none.

    Returns:
      `layers`, one entry for each layer in the order of the forward pass: `name`, `weights`, `kept`;
      `channels` and `dead_channels`, see `health`; of the spiking neurons that follow `neurons`,
      `silent_neurons`, `saturated_neurons`, `firing_rate` (spikes per neuron and image, at each timestep) and
      `spikes_per_image`, None where there are none, or where a shortcut's are those of the layer it bypasses;
      `synops_per_image` and `macs_per_image` at each timestep, see `activity`. Beside it `measured_images`
      and `weights_on_no_path`.
    """
    kernels = w.by_name(masks)
    of, found = w.shapes(wiring, kernels, image_shape), health.reach(wiring, kernels, image_shape)
    dead, idle = health.dead_channels(wiring, found), health.weights_on_no_path(wiring, kernels, found)
    layers: list[dict[str, Any]] = []
    told: set[str] = {w.LOGITS}
    for c in wiring:
        if c.name is None:
            continue
        mask, analog = kernels[c.name], c.source == w.IMAGE or counts is None
        multiplied = activity.macs(c, mask, of[c.source]) if analog else 0
        spikes = None if counts is None or c.target in told else counts[c.target, 0]
        told.add(c.target)
        added = [0.0] * num_timesteps
        if counts is not None:
            sums = activity.synops(c, mask, of[c.source], counts, num_timesteps)
            added = [n / images for n in sums]
        layers.append(
            {
                "name": c.name,
                "weights": mask.size,
                "kept": int(np.count_nonzero(mask)),
                "channels": mask.shape[-1],
                "dead_channels": int(dead[c.name].sum()),
                **_firing(spikes, images),
                "synops_per_image": added,
                "macs_per_image": [float(multiplied)] + [0.0] * (num_timesteps - 1),
            }
        )
    return {"layers": layers, "measured_images": images, "weights_on_no_path": sum(idle.values())}


def _firing(spikes: np.ndarray | None, images: int) -> dict[str, Any]:
    if spikes is None:
        keys = ("neurons", "silent_neurons", "saturated_neurons", "firing_rate", "spikes_per_image")
        return dict.fromkeys(keys)
    neurons, by_timestep = spikes[0].size, spikes.reshape(len(spikes), -1).sum(1, dtype=np.int64).tolist()
    return {
        "neurons": neurons,
        "silent_neurons": health.silent(spikes),
        "saturated_neurons": health.saturated(spikes, images),
        "firing_rate": [n / (neurons * images) for n in by_timestep],
        "spikes_per_image": sum(by_timestep) / images,
    }


class Measured(NamedTuple):  # SHIM
    layers: tuple
    images: int
    weights_on_no_path: int | None


NOTHING = Measured((), 0, None)
