"""Images as uint8 arrays in host memory, and their augmentation on the device (`augment`).

`dataset` knows the datasets by name; `own` the ones of users: `arrays` (npz), `folder`, `tfds` and functions.
"""

from snnlth_jax.data import augment, dataset
from snnlth_jax.data.contract import Dataset, Spec, describe
from snnlth_jax.data.dataset import load, locate, prepare, spec
from snnlth_jax.data.splits import Split

__all__ = ["Dataset", "Spec", "Split", "augment", "dataset", "describe", "load", "locate", "prepare", "spec"]
