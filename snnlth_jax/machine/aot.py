"""Compile a training run for absent TPUs, with their real compiler (`snnlth compile`).

The result has the memory and the arithmetic of each chip, before anything is rented. This needs libtpu, which
prints noise and can disturb other programs of the machine: see requirements-tpu.txt.
"""

import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from snnlth_jax.errors import InputError

__all__ = ["MEMORY", "devices_of", "prepare"]

# GiB of each device that a program may use, from the compiler's error for one that does not fit
MEMORY = {"v3": 15.48, "v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}


def devices_of(topology: str) -> list[Any]:
    """The chips of a topology, `generation:AxB` or `generation:AxBxC`; programs only compile for them.

    Raises:
      InputError: libtpu is not installed, or does not know the topology.
    """
    generation, _, layout = topology.partition(":")
    if generation not in MEMORY or not re.fullmatch(r"\d+x\d+(x\d+)?", layout):
        allowed = f"{', '.join(MEMORY)}, a colon and a layout such as 2x2 or 2x2x1"
        raise InputError("`topology`", topology, allowed=allowed)
    prepare()
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if layout in ("1x1", "1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        allowed = "2x2, 2x2x1 and larger ones"
        raise InputError("`topology`", topology, problem=reason, allowed=allowed) from error
    except RuntimeError as error:
        needs = "needs libtpu: pip install -r requirements-tpu.txt, in an environment of its own"
        raise InputError("snnlth compile", problem=needs) from error
    return list(description.devices)


def prepare() -> None:
    """Keep JAX from looking for a TPU and from warnings about its absence; call this before any other use."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # JAX cannot read such programs from it
    quiet = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    for name, value in (quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}).items():
        os.environ.setdefault(name, value)
