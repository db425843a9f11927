"""Compile a training run for absent TPUs, with their real compiler (`snnlth compile`).

It tells the memory and the arithmetic of each chip before anything is rented. Needs libtpu, which prints
noise and can get in the way on other machines: see requirements-tpu.txt.
"""

import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from snnlth_jax.errors import InputError

__all__ = ["MEMORY", "devices_of", "prepare"]

# GiB of each device that the compiler gives out, from its own error where a program does not fit
MEMORY = {"v3": 15.48, "v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}


def devices_of(topology: str) -> list[Any]:
    """The chips of a topology, as `generation:AxB` or `generation:AxBxC`, to compile for and nothing else.

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
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        allowed = "2x2, 2x2x1 and larger ones"
        raise InputError("`topology`", topology, problem=reason, allowed=allowed) from error
    except RuntimeError as error:
        needs = "needs libtpu: pip install -r requirements-tpu.txt, in an environment of its own"
        raise InputError("snnlth compile", problem=needs) from error
    return list(found.devices)


def prepare() -> None:
    """Before anything else is asked of JAX: no looking for a TPU, and no noise about there being none."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # such programs cannot be read from it
    quiet = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    for name, value in (quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}).items():
        os.environ.setdefault(name, value)
