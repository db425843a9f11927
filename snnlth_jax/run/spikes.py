"""The spikes of a trained network for one image, as the file that a search leaves of them."""

import json
from typing import Annotated

import msgspec
import numpy as np
from etils import epath

from snnlth_jax import files
from snnlth_jax.run import results
from snnlth_jax.run.results import Count, Name

__all__ = ["MOST_NEURONS", "LayerSpikes", "Spikes", "read", "write"]

MOST_NEURONS = 64  # of a layer that are told apart

Bits = Annotated[str, msgspec.Meta(max_length=MOST_NEURONS // 4, pattern=r"\A([0-9a-f]{2})+\Z")]


class LayerSpikes(results.Record, frozen=True, kw_only=True):
    """Spikes of the neurons behind a layer.

    Attributes:
      name: name of its weights in masks and tickets.
      neurons: number of neurons.
      firing: number of neurons that fire at each timestep.
      some: which of `MOST_NEURONS` evenly chosen neurons (or all, if there are fewer) fire at each timestep,
        a bit for each, high bit first, in hexadecimal digits.
    """

    name: Name
    neurons: Annotated[int, msgspec.Meta(ge=1)]
    firing: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
    some: tuple[Bits, ...]

    def __post_init__(self) -> None:
        digits = 2 * -(-min(MOST_NEURONS, self.neurons) // 8)
        if max(self.firing) > self.neurons:
            raise ValueError(f"layer {self.name}: {max(self.firing)} of {self.neurons} neurons fire")
        if [len(bits) for bits in self.some] != [digits] * len(self.firing):
            raise ValueError(f"layer {self.name}: some is not {len(self.firing)} times {digits} digits")

    @classmethod
    def of(cls, name: str, fires: np.ndarray) -> "LayerSpikes":
        """The spikes of a layer from whether each neuron fires, `[T, ...]`."""
        fires = fires.reshape(len(fires), -1) > 0
        _, neurons = fires.shape
        # a stride that divides no number of channels, so that it meets them all
        chosen = np.sort(np.arange(min(MOST_NEURONS, neurons)) * 1_000_003 % neurons)
        some = tuple(bits.tobytes().hex() for bits in np.packbits(fires[:, chosen], axis=1))
        return cls(name=name, neurons=neurons, firing=tuple(fires.sum(axis=1).tolist()), some=some)

    def pattern(self) -> np.ndarray:
        """Whether each of the neurons of `some` fires, booleans `[neurons, T]`.

        >>> LayerSpikes.of("conv/kernel", np.array([[0, 1, 0], [0, 1, 1]])).pattern().tolist()
        [[False, False], [True, True], [False, True]]
        """
        rows = np.stack([np.frombuffer(bytes.fromhex(bits), np.uint8) for bits in self.some], axis=1)
        pattern: np.ndarray = np.unpackbits(rows, axis=0, count=min(MOST_NEURONS, self.neurons)).astype(bool)
        return pattern


class Spikes(results.Record, frozen=True, kw_only=True):
    """Spikes for one image, by layer in the order of the forward pass."""

    layers: Annotated[tuple[LayerSpikes, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if len({len(layer.firing) for layer in self.layers}) > 1:
            raise ValueError("layers have different numbers of timesteps")


def write(path: epath.Path, spikes: Spikes) -> None:
    """Write spikes, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, (json.dumps(results.to_json(spikes)) + "\n").encode())


def read(path: epath.Path) -> Spikes | None:
    """Read spikes; None without a file, as in runs of earlier versions and of networks without spikes.

    Raises:
      InputError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        spikes: Spikes = results.convert(results.parse(results.content(path)), Spikes)
    except (ValueError, RecursionError) as error:
        raise results.damaged(path, error) from error
    return spikes
