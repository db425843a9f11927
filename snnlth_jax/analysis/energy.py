"""Energy and memory accesses of a network, from the operations of its layers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from snnlth_jax.errors import InputError

__all__ = ["ENERGY_AC", "ENERGY_MAC", "Energy", "Layer", "Traffic", "energy", "traffic"]

ENERGY_MAC = 4.6  # pJ: 32-bit multiplication and addition, 45 nm (Horowitz 2014)
ENERGY_AC = 0.9  # pJ: the addition alone


class Layer(Protocol):
    """Operations of a layer for one image at each timestep, and the spiking neurons behind it, if any."""

    @property
    def macs_per_image(self) -> Sequence[float]:
        """Multiply-accumulates at each timestep."""

    @property
    def synops_per_image(self) -> Sequence[float]:
        """Additions that spikes cause at each timestep, see `activity`."""

    @property
    def neurons(self) -> int | None:
        """Number of neurons."""

    @property
    def spikes_per_image(self) -> float | None:
        """Spikes over neurons and timesteps."""


class Energy(NamedTuple):
    """Operations of one image, and their energy."""

    macs: float
    synops: float
    picojoules: float


class Traffic(NamedTuple):
    """Memory accesses of one image: 32-bit words, and spikes as events."""

    weights_read: float
    potentials_read: float
    potentials_written: float
    spikes: float


def energy(layers: Iterable[Layer], mac: float = ENERGY_MAC, ac: float = ENERGY_AC) -> Energy:
    r"""Energy of the arithmetic of one image: :math:`E = e_{MAC} \cdot MACs + e_{AC} \cdot SynOps`.

    It leaves out memory (see `traffic`) and neuron updates, which often cost more, and which a spiking
    network cannot skip. Operations alone flatter spiking networks.

    Args:
      layers: layers of a network.
      mac: picojoules of a multiply-accumulate, :math:`e_{MAC}`.
      ac: picojoules of an addition, :math:`e_{AC}`.

    Raises:
      InputError: an energy that is not a number of at least 0.

    >>> from types import SimpleNamespace
    >>> energy([SimpleNamespace(macs_per_image=[10.0, 0.0], synops_per_image=[0.0, 10.0])])
    Energy(macs=10.0, synops=10.0, picojoules=55.0)
    """
    for name, value in (("mac", mac), ("ac", ac)):
        if not 0 <= value <= 1e12:
            raise InputError(f"`energy_{name}`", value, allowed="picojoules, 0 or more, at most 1e12")
    layers = list(layers)
    macs = sum(sum(layer.macs_per_image) for layer in layers)
    synops = sum(sum(layer.synops_per_image) for layer in layers)
    return Energy(macs, synops, mac * macs + ac * synops)


def traffic(layers: Iterable[Layer]) -> Traffic:
    """Memory accesses of one image on event-driven hardware that keeps nothing between two operations.

    Each operation reads its weight, and reads and writes the potential (or sum) that it adds to; each spiking
    neuron reads and writes its potential once more per timestep, to leak, fire and reset; each spike is sent
    once. Caches and reuse reduce these numbers; reads of inputs and currents are not counted.

    >>> from types import SimpleNamespace
    >>> operations = {"macs_per_image": [0, 0], "synops_per_image": [3.0, 4.0]}
    >>> traffic([SimpleNamespace(**operations, neurons=5, spikes_per_image=2.0)])
    Traffic(weights_read=7.0, potentials_read=17.0, potentials_written=17.0, spikes=2.0)
    """
    operations, updates, spikes = 0.0, 0, 0.0
    for layer in layers:
        operations += sum(layer.macs_per_image) + sum(layer.synops_per_image)
        updates += (layer.neurons or 0) * len(layer.synops_per_image)
        spikes += layer.spikes_per_image or 0.0
    return Traffic(operations, operations + updates, operations + updates, spikes)
