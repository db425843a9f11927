"""Sparsity by layer."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from snnlth_jax import masks as masks_lib

__all__ = ["Counts", "Layer", "by_round", "collapsed", "layers"]


class Counts(Protocol):
    """Name of a layer, and its number of weights before and after pruning."""

    @property
    def name(self) -> str:
        """Name of the weights in masks and tickets."""

    @property
    def weights(self) -> int:
        """Number before pruning."""

    @property
    def kept(self) -> int:
        """Number after pruning."""


class Layer(NamedTuple):
    """`Counts` of a layer, and the fraction of its weights that is removed."""

    name: str
    weights: int
    kept: int
    sparsity: float


def layers(masks: Any) -> list[Layer]:
    """One entry per prunable layer, in the order of the tree; as text to print, see `masks.table`.

    >>> import jax.numpy as jnp
    >>> layers({"conv": {"kernel": jnp.array([[True, False]]), "bias": None}})
    [Layer(name='conv/kernel', weights=2, kept=1, sparsity=0.5)]
    """
    return [
        Layer(name, total, int(kept), _sparsity(int(kept), total))
        for name, (kept, total) in masks_lib.by_layer(masks).items()
    ]


def collapsed(masks: Any) -> list[str]:
    """Names of the layers without any kept weight: layer collapse (Tanaka et al. 2020).

    >>> import jax.numpy as jnp
    >>> collapsed({"first": jnp.array([False]), "second": jnp.array([True])})
    ['first']
    """
    return [name for name, (kept, _) in masks_lib.by_layer(masks).items() if not kept]


def by_round(rounds: Iterable[Sequence[Counts]]) -> dict[str, list[float]]:
    """Sparsity of each layer over rounds (the paper's Fig. 6c), and of all weights, as `all`.

    Args:
      rounds: layers of the network after each round.

    >>> by_round([[Layer("a", 4, 4, 0.0), Layer("b", 4, 2, 0.5)]])
    {'a': [0.0], 'b': [0.5], 'all': [0.25]}
    """
    table: dict[str, list[float]] = {}
    for network in rounds:
        for layer in network:
            table.setdefault(layer.name, []).append(_sparsity(layer.kept, layer.weights))
        kept, weights = sum(layer.kept for layer in network), sum(layer.weights for layer in network)
        table.setdefault("all", []).append(_sparsity(kept, weights))
    return table


def _sparsity(kept: int, total: int) -> float:
    """Share of removed weights; 0 of none, as `masks.sparsity`."""
    return 1 - kept / total if total else 0.0
