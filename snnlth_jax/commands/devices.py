"""`snnlth compile` and `snnlth doctor`: devices that are not here, and those that are."""

import dataclasses
from typing import Literal

from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.commands.output import show
from snnlth_jax.machine import compile_cache

__all__ = ["Compile", "Doctor"]


@dataclasses.dataclass(frozen=True)
class Compile:
    """Compile IMP's training for absent GPUs or TPUs: memory, kernels, bytes, FLOPs, and the time of these at
    the rates of the device. Needs NVIDIA's compiler or libtpu (docs/performance.md)."""

    topology: str
    """One GPU: h100, a100, l4, rtx4090; or generation and layout of TPU chips: v4:2x2x1, v5e:2x2, v5p:2x2x1,
    v6e:2x2, tpu7x:2x2x1, or a larger layout."""
    dataset: str = "cifar10"
    """Dataset that gives the shapes of images; no data are read, except your own."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets, for tfds:NAME. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    arch: str = "vgg16"
    """Network, see `snnlth imp`."""
    arch_option: tuple[str, ...] = ()
    """Options of your own network, name=value."""
    width: float = 1.0
    """Factor on the number of channels of every layer."""
    num_timesteps: int = 5
    """T, the number of timesteps."""
    batch_size: int = 128
    """Number of examples in a step, over all chips."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation."""
    shard_data: Literal["auto", "yes", "no"] = "no"
    """Divide the images among the chips: yes; auto and no keep a copy on each."""
    epochs: int | None = None
    """Number of epochs of a training run, for the time of the search, see `snnlth imp`."""
    rounds: int | None = None
    """Number of rounds, for the time of the search, see `snnlth imp`."""

    def run(self) -> None:
        from snnlth_jax.search import ahead

        values = dataclasses.asdict(self)
        name = values.pop("topology").lower()
        ahead.show(ahead.compile_for(name, configs.ImpConfig(**values)), Console())


@dataclasses.dataclass(frozen=True)
class Doctor(configs.Dataset):
    """Look for problems that would keep a search from running here: versions, devices, disk, dataset."""

    workdir: str = "runs"
    """Directory of the search."""

    def run(self) -> int:
        from snnlth_jax.machine import doctor

        compile_cache.keep_programs()
        findings = doctor.examine(self.dataset, self.data_dir, self.workdir)
        show(doctor.report(findings))
        return int(any(finding.level == "error" for finding in findings))
