"""Lottery tickets of deep spiking neural networks, in JAX.

The library: `surrogate`, `neurons`, `masks`, `pruning`, `losses`, which need jax, numpy and optax alone. The
experiment on top of it is imported by name: `models`, `data`, `training`, `search`, `tickets`, `interop`.
"""

from snnlth_jax import losses, masks, neurons, pruning, surrogate

__all__ = ["losses", "masks", "neurons", "pruning", "surrogate"]
