"""Trained networks as files: weights, batch statistics, masks, and how to build and call the network.

`recipe` says how, `storage` writes and reads the file, `classifier` makes a function of it, `images` reads
those of users.
"""

from snnlth_jax.networks.classifier import Classifier, classifier
from snnlth_jax.networks.recipe import Recipe, describe, model
from snnlth_jax.networks.storage import FORMAT, Network, check, load, save, summary

__all__ = [
    "FORMAT",
    "Classifier",
    "Network",
    "Recipe",
    "check",
    "classifier",
    "describe",
    "load",
    "model",
    "save",
    "summary",
]
