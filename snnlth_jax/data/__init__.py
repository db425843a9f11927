"""Images as uint8 arrays in host memory (`datasets`), and their augmentation on the device (`augment`)."""

from snnlth_jax.data import augment, datasets
from snnlth_jax.data.datasets import Dataset, Spec, Split, load, prepare, spec

__all__ = ["Dataset", "Spec", "Split", "augment", "datasets", "load", "prepare", "spec"]
