"""Pruning: scores of weights, and from scores to masks at an exact count.

A criterion returns *scores*, a pytree like the parameters, higher = more worth keeping; `prune` and
`keep_top` remove the lowest. The number removed is exact whatever the ties (of equal scores the first in
the order of the tree go first), nothing is sorted, and all of it works under `jit` and on sharded arrays.

    masks = prune(magnitude(params), masks, 0.25)          # one step of iterative magnitude pruning

`remove_lowest` is the primitive: its counts may be traced, and `overall`, `uniform` and `erk` compute them.
"""

from snnlth_jax.pruning.balance import balance, loads, utilisation
from snnlth_jax.pruning.budget import cost, keep_within
from snnlth_jax.pruning.distributions import erk, overall, uniform
from snnlth_jax.pruning.lamp import lamp
from snnlth_jax.pruning.removal import SCOPES, Scope, keep_top, prune, remove_lowest, shuffle
from snnlth_jax.pruning.rewire import drop_fraction, rewire
from snnlth_jax.pruning.scores import grasp, magnitude, random, snip, synflow
from snnlth_jax.pruning.structured import keep_n_of_m, prune_channels

__all__ = [
    "SCOPES",
    "Scope",
    "balance",
    "cost",
    "drop_fraction",
    "erk",
    "grasp",
    "keep_n_of_m",
    "keep_top",
    "keep_within",
    "lamp",
    "loads",
    "magnitude",
    "overall",
    "prune",
    "prune_channels",
    "random",
    "remove_lowest",
    "rewire",
    "shuffle",
    "snip",
    "synflow",
    "uniform",
    "utilisation",
]
