"""Images as uint8 arrays in host memory (`dataset`), and their augmentation on the device (`augment`)."""

from snnlth_jax.data import augment, dataset
from snnlth_jax.data.dataset import Dataset, Spec, Split, load, locate, prepare, spec

__all__ = ["Dataset", "Spec", "Split", "augment", "dataset", "load", "locate", "prepare", "spec"]
