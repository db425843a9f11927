"""`snnlth data`: datasets, downloaded or checked."""

import dataclasses
import os
from typing import Literal

import tyro

from snnlth_jax.commands import spelling
from snnlth_jax.commands.output import show
from snnlth_jax.errors import not_one_of

__all__ = ["Data"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Prepare a dataset for `--data-dir`, once: download it, which needs TensorFlow; a search does not. Or
    check any, also your own: classes, images, mean and std.

    Of tiny_imagenet `prepare` checks the folder, or says where to get it.
    """

    action: tyro.conf.Positional[Literal["prepare", "check"]]
    name: tyro.conf.Positional[str]
    """Dataset: cifar10, cifar100, svhn_cropped, fashion_mnist, mnist, tiny_imagenet or tfds:NAME; to check,
    any that a search takes."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets to write to. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets."""

    def run(self) -> None:
        from snnlth_jax import data

        exists = os.path.exists(self.name)
        name = self.name if exists else spelling.known(self.name, data.dataset.SPECS)
        if self.action == "check":
            show(data.describe(data.load(name, self.data_dir)))
            return
        if name not in data.dataset.SPECS and not name.startswith("tfds:"):
            raise not_one_of("data prepare", name, [*data.dataset.SPECS, "tfds:NAME"])
        directory = data.prepare(name, self.data_dir)
        if directory is not None:
            show(f"{name}: ready in {directory}")
