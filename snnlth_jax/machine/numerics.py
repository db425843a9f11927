"""JAX's settings that decide numbers, or that forbid to compute, pinned: the environment does not matter."""

import contextlib
import logging
import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import jax

__all__ = ["PINNED", "pinned", "software"]

log = logging.getLogger(__name__)

# JAX's own defaults; None is the same as "allow"
PINNED: dict[str, Any] = {
    "jax_disable_jit": False,
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_default_matmul_precision": None,
    "jax_random_seed_offset": 0,
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
}
# JAX's own defaults of what changes the last bits of numbers
_COMPILATION: dict[str, Any] = {
    "jax_disable_most_optimizations": False,
    "jax_exec_time_optimization_effort": 0.0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_memory_fitting_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_optimization_level": "UNKNOWN",
    "jax_softmax_custom_jvp": False,
    "jax_use_direct_linearize": True,
}
_NO_NUMBERS = (
    "--xla_force_host_platform_device_count",
    "--xla_dump",
    "--xla_cpu_parallel_codegen_split_count",
)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Compute with the settings of `PINNED`; others are named in a warning, and are back afterwards.

    >>> with jax.enable_x64(True), pinned():
    ...     print(jax.numpy.arange(2.0).dtype)
    float32
    """
    before = {name: getattr(jax.config, name) for name in PINNED}
    if others := [f"{name} {value}" for name, value in before.items() if value not in (None, PINNED[name])]:
        log.warning("not followed, so that results do not depend on it: %s", ", ".join(others))
    offset = "jax_random_seed_offset"
    with (
        jax.disable_jit(PINNED["jax_disable_jit"]),
        jax.enable_x64(PINNED["jax_enable_x64"]),
        jax.default_prng_impl(PINNED["jax_default_prng_impl"]),
        jax.threefry_partitionable(PINNED["jax_threefry_partitionable"]),
        jax.default_matmul_precision(PINNED["jax_default_matmul_precision"]),
        jax.transfer_guard("allow"),
    ):
        try:
            jax.config.update(offset, PINNED[offset])
            yield
        finally:
            jax.config.update(offset, before[offset])


def software() -> str:
    """Compilers of this process and their settings; with others, results are equal up to rounding only."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_NO_NUMBERS)]
    settings = [
        f"{name} {value}"
        for name, default in _COMPILATION.items()
        if (value := jax.config.values.get(name, default)) != default
    ]
    return " ".join([f"jax {version('jax')}", f"jaxlib {version('jaxlib')}", *sorted(flags), *settings])
