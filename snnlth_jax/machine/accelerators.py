"""Accelerators by name: rates and memory of one device, and what XLA asks of a GPU to compile for it.

Sources: the data sheets of NVIDIA H100 SXM5 80 GB, A100 SXM4 80 GB and L4, and the white paper of Ada for the
RTX 4090 (rates without sparsity, products summed in float32); Cloud TPU's pages on the system architecture of
each generation; limits of GPUs: CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability". Memory that a program may use on a TPU is from the compiler's error for one that does not fit. A
chip of v3 and of TPU7x is two devices; rates are those of a device. float32 runs as TF32 on GPUs and as one
pass of bfloat16 on TPUs, as XLA does unless told otherwise.
"""

import dataclasses
from collections.abc import Mapping

__all__ = ["ACCELERATORS", "Accelerator", "Gpu"]


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Limits of a GPU that XLA needs to know.

    Attributes:
      description: name of the device.
      capability: compute capability.
      cores: number of streaming multiprocessors.
      shared_per_core: bytes of shared memory of each.
      shared_per_block: bytes of it that a block may have when it asks.
      threads_per_core: threads that each holds.
      l2_bytes: bytes of the L2 cache.
      clock_ghz: boost clock.
      global_bytes: bytes of its memory, as CUDA gives them.
    """

    description: str
    capability: tuple[int, int]
    cores: int
    shared_per_core: int
    shared_per_block: int
    threads_per_core: int
    l2_bytes: int
    clock_ghz: float
    global_bytes: int

    def target_config(self, bandwidth: float) -> str:
        """The text of XLA's GpuTargetConfigProto.

        Args:
          bandwidth: bytes per second.
        """
        major, minor = self.capability
        fields = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 49152,
            "shared_memory_per_core": self.shared_per_core,
            "threads_per_core_limit": self.threads_per_core,
            "core_count": self.cores,
            "fpus_per_core": 64 if self.capability == (8, 0) else 128,
            "block_dim_limit_x": 2147483647,
            "block_dim_limit_y": 65535,
            "block_dim_limit_z": 65535,
            "memory_bandwidth": int(bandwidth),
            "l2_cache_size": self.l2_bytes,
            "clock_rate_ghz": self.clock_ghz,
            "device_memory_size": self.global_bytes,
            "shared_memory_per_block_optin": self.shared_per_block,
            "registers_per_core_limit": 65536,
            "registers_per_block_limit": 65536,
        }
        info = "\n".join(f"  {name}: {value}" for name, value in fields.items())
        return (
            f"gpu_device_info {{\n{info}\n  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
            'platform_name: "CUDA"\n'
            "dnn_version_info { major: 9 minor: 7 }\n"
            "runtime_version { major: 12 minor: 8 }\n"
            f'device_description_str: "{self.description}"\n'
        )


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A device.

    Attributes:
      flops: FLOP/s of products of matrices by number format.
      bandwidth: bytes per second of its memory.
      memory: bytes that a program may use.
      gpu: limits of a GPU; None for a TPU.
    """

    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    gpu: Gpu | None = None


def _tpu(tera: float, gigabytes_per_second: float, gibibytes: float) -> Accelerator:
    rates = {"bfloat16": tera * 1e12, "float32": tera * 1e12}
    return Accelerator(rates, gigabytes_per_second * 1e9, gibibytes * 2**30)


ACCELERATORS: Mapping[str, Accelerator] = {
    "h100": Accelerator(
        {"bfloat16": 989.4e12, "float32": 494.7e12},
        3.35232e12,
        84929347584,
        Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 233472, 232448, 2048, 52428800, 1.98, 84929347584),
    ),
    "a100": Accelerator(
        {"bfloat16": 312e12, "float32": 156e12},
        2.039e12,
        84987740160,
        Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 167936, 166912, 2048, 41943040, 1.41, 84987740160),
    ),
    "l4": Accelerator(
        {"bfloat16": 121e12, "float32": 60e12},
        300e9,
        23580639232,
        Gpu("NVIDIA L4", (8, 9), 58, 102400, 101376, 1536, 50331648, 2.04, 23580639232),
    ),
    "rtx4090": Accelerator(
        {"bfloat16": 165.2e12, "float32": 82.6e12},
        1008e9,
        25393364992,
        Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 102400, 101376, 1536, 75497472, 2.52, 25393364992),
    ),
    "v3": _tpu(61.5, 450, 15.48),
    "v4": _tpu(275, 1228, 30.75),
    "v5e": _tpu(197, 819, 15.75),
    "v5p": _tpu(459, 2765, 95.74),
    "v6e": _tpu(918, 1640, 31.25),
    "tpu7x": _tpu(1153.5, 3690, 94.75),
}
