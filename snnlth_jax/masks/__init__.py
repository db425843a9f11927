"""Masks: which weights of a network are kept.

A *mask* is a boolean array of the shape of its weight, True = kept. *Masks* are a pytree with the structure
of the parameters they belong to, holding a mask for every prunable leaf and None for the rest. They work
on any pytree of arrays (Flax, Equinox, Haiku, plain dicts), under `jit`, `vmap`, `shard_map` and `pmap`.

    masks = make(params)                                   # everything kept
    tx = freeze_pruned(optax.sgd(0.1))                     # an optimiser that leaves removed weights at zero
    updates, opt_state = tx.update(grads, opt_state, params, masks=masks)
"""

from snnlth_jax.masks.counts import by_layer, count, distance, is_subset, overlap, sparsity, table
from snnlth_jax.masks.freezing import FrozenState, freeze_pruned, replace_masks
from snnlth_jax.masks.packing import PackedMask, pack, unpack
from snnlth_jax.masks.trees import Leaf, apply, check, explain, is_weight, make, tree_map

__all__ = [
    "FrozenState",
    "Leaf",
    "PackedMask",
    "apply",
    "by_layer",
    "check",
    "count",
    "distance",
    "explain",
    "freeze_pruned",
    "is_subset",
    "is_weight",
    "make",
    "overlap",
    "pack",
    "replace_masks",
    "sparsity",
    "table",
    "tree_map",
    "unpack",
]
