r"""Two tickets of one network compared: how far apart, which weights both keep, and whether by chance.

Of N weights of a layer one mask keeps a, the other b, and both keep k. If the second were drawn at random
among all masks that keep b weights, k would be hypergeometric:

.. math::
    P(k) &= \binom{a}{k} \binom{N - a}{b - k} \Big/ \binom{N}{b} \\
    \mu &= a b / N, \qquad
    \sigma^2 = \frac{a\, b\, (N - a)(N - b)}{N^2 (N - 1)} \\
    z &= (k - \mu) / \sigma, \qquad
    p = \sum_{j \ge k} P(j)

Layers are independent under this hypothesis, which keeps the counts of each layer: over all layers
:math:`z = \sum (k - \mu) / \sqrt{\sum \sigma^2}`, and p is that of a normal distribution.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from snnlth_jax import masks as masks_lib
from snnlth_jax.errors import InputError
from snnlth_jax.tickets import Ticket, check, places

__all__ = ["Overlap", "check_same_network", "describe", "outside", "overlaps"]

PyTree = Any


class Overlap(NamedTuple):
    """Shared weights of two masks, of one layer or of all.

    Attributes:
      name: the layer; "all" for the sum over the layers.
      total: number of prunable weights N.
      first: number of weights that the first mask keeps, a.
      second: number of weights that the second mask keeps, b.
      shared: number of weights that both keep, k.
      expected: mean of k by chance.
      deviation: standard deviation of k by chance.
      p_value: probability of k or more by chance.
    """

    name: str
    total: int
    first: int
    second: int
    shared: int
    expected: float
    deviation: float
    p_value: float

    @property
    def distance(self) -> float:
        """Normalised Hamming distance: the fraction of weights that one mask alone keeps."""
        return (self.first + self.second - 2 * self.shared) / self.total if self.total else 0.0

    @property
    def overlap(self) -> float:
        """Shared weights over kept weights of the mask that keeps more; 1 where both keep none."""
        most = max(self.first, self.second)
        return self.shared / most if most else 1.0

    @property
    def z(self) -> float:
        """Standard deviations above chance; 0 where the counts leave no choice."""
        return (self.shared - self.expected) / self.deviation if self.deviation else 0.0


def overlaps(first: PyTree, second: PyTree) -> list[Overlap]:
    """Shared weights of each layer, and of all in the last entry; equations at the top of this module.

    Args:
      first: masks.
      second: masks of the same network.

    Raises:
      ValueError: masks of different structures or shapes.

    >>> first = {"w": np.array([True, True, False, False]), "b": None}
    >>> second = {"w": np.array([True, True, False, True]), "b": None}
    >>> layer, whole = overlaps(first, second)
    >>> layer.shared, layer.expected, layer.p_value  # 2 of 2; 3 of the 6 pairs of 4 lie among 3
    (2, 1.5, 0.5)
    >>> layer.distance, round(layer.overlap, 2), round(layer.z, 2)
    (0.25, 0.67, 1.0)
    """
    kept, others = masks_lib.by_layer(first), masks_lib.by_layer(second)
    both = masks_lib.by_layer(masks_lib.tree_map(lambda a, b: np.asarray(a) & np.asarray(b), first, second))
    masks_lib.distance(first, second)  # refuses pairs where one alone is None
    layers = [
        _layer(name, total, int(kept[name][0]), int(others[name][0]), int(shared))
        for name, (shared, total) in both.items()
    ]
    whole = Overlap(
        "all",
        total=sum(layer.total for layer in layers),
        first=sum(layer.first for layer in layers),
        second=sum(layer.second for layer in layers),
        shared=sum(layer.shared for layer in layers),
        expected=sum(layer.expected for layer in layers),
        deviation=math.sqrt(sum(layer.deviation**2 for layer in layers)),
        p_value=1.0,
    )
    return [*layers, whole._replace(p_value=0.5 * math.erfc(whole.z / math.sqrt(2)))]


def _layer(name: str, total: int, first: int, second: int, shared: int) -> Overlap:
    expected = first * second / total if total else 0.0
    product = first * second * (total - first) * (total - second)
    deviation = math.sqrt(product / (total**2 * (total - 1))) if total > 1 else 0.0
    p_value = _tail(total, first, second, shared)
    return Overlap(name, total, first, second, shared, expected, deviation, p_value)


def _tail(total: int, first: int, second: int, shared: int) -> float:
    """P(k >= shared), by the ratios P(k + 1) / P(k), which need no factorials."""
    low, high = max(0, first + second - total), min(first, second)
    k = np.arange(low, high, dtype=float)
    ratios = np.log(first - k) + np.log(second - k) - np.log(k + 1) - np.log(total - first - second + k + 1)
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    weights = np.exp(logs - logs.max())
    above = logs[shared - low :]
    tail = float(np.exp(above - above.max()).sum()) * math.exp(above.max() - logs.max())
    return min(1.0, tail / float(weights.sum()))


def outside(inner: PyTree, outer: PyTree) -> dict[str, int]:
    """Number of weights of each layer that `inner` keeps and `outer` does not; empty if it is nested.

    >>> outside({"w": np.array([True, True])}, {"w": np.array([True, False])})
    {'w': 1}
    """
    extra = masks_lib.tree_map(lambda i, o: np.asarray(i) & ~np.asarray(o), inner, outer)
    return {name: int(kept) for name, (kept, _) in masks_lib.by_layer(extra).items() if kept}


def check_same_network(names: tuple[object, object], first: Ticket, second: Ticket) -> None:
    """Check that two tickets are of one network, in weights, statistics and what of them is prunable.

    Args:
      names: names of the tickets, for the error.
      first: a ticket.
      second: another.

    Raises:
      InputError: naming the differences.
    """
    check(names[0], first, second.params)
    check(names[0], first._replace(params=first.batch_stats), second.batch_stats)
    prunable = [
        {"/".join(path) for path, mask in places.leaves(ticket.masks).items() if mask is not None}
        for ticket in (first, second)
    ]
    if differing := sorted(prunable[0] ^ prunable[1]):
        of = names[0] if differing[0] in prunable[0] else names[1]
        problem = f"a ticket of another network: {differing[0]} is prunable in {of} alone"
        raise InputError(f"{names[0]}: {problem}")
    try:
        masks_lib.distance(first.masks, second.masks)
    except ValueError as error:  # containers of other kinds
        raise InputError(f"{names[0]}: a ticket of another network: {error}") from error


def describe(layers: list[Overlap]) -> str:
    """Distance, overlap and significance of each layer, as text to print.

    >>> print(describe(overlaps({"w": np.array([True, False])}, {"w": np.array([True, False])})))
    layer            first     second     shared   by chance  distance  overlap        z  p-value
    w                    1          1          1         0.5    0.0000   1.0000      1.0      0.5
    all                  1          1          1         0.5    0.0000   1.0000      1.0     0.16
    """
    width = max(11, *(len(layer.name) for layer in layers))
    head = f"{'layer':{width}} {'first':>10} {'second':>10} {'shared':>10} {'by chance':>11}"
    lines = [f"{head}  distance  overlap {'z':>8}  p-value"]
    for layer in layers:
        counts = f"{layer.first:10,} {layer.second:10,} {layer.shared:10,} {layer.expected:11,.1f}"
        p_value = f"{layer.p_value:.2g}" if layer.p_value else "<1e-300"
        measures = f"{layer.distance:8.4f} {layer.overlap:8.4f} {layer.z:8.1f} {p_value:>8}"
        lines.append(f"{layer.name:{width}} {counts}  {measures}")
    return "\n".join(lines)
