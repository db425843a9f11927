"""Lottery tickets of deep spiking neural networks, in JAX."""
