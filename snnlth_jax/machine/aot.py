"""Compile a training run for absent TPUs and GPUs, with their real compiler (`snnlth compile`).

The result has the memory and the arithmetic of each device, before anything is rented. For TPUs this needs
libtpu, which prints noise and can disturb other programs of the machine (requirements-tpu.txt), for GPUs
the wheels of JAX's CUDA plugin and NVIDIA's compiler (requirements-gpu-compiler.txt): each in an
environment of its own.
"""

import importlib.util
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from snnlth_jax.errors import InputError
from snnlth_jax.machine.accelerators import ACCELERATORS

__all__ = ["devices_of", "prepare"]

_GPU_WHEELS = "requirements-gpu-compiler.txt"


def devices_of(topology: str) -> list[Any]:
    """The devices of a topology; programs only compile for them.

    Args:
      topology: a GPU's name, or a TPU's `generation:AxB` or `generation:AxBxC`.

    Raises:
      InputError: the compiler is not installed, or does not know the topology.
    """
    name, _, layout = topology.partition(":")
    gpus = [name for name, card in ACCELERATORS.items() if card.gpu]
    if name in gpus and not layout:
        prepare()
        return _gpu(name)
    if name in gpus or name not in ACCELERATORS or not re.fullmatch(r"\d+x\d+(x\d+)?", layout):
        tpus = [name for name, card in ACCELERATORS.items() if not card.gpu]
        allowed = f"{', '.join(gpus)}, or one of {', '.join(tpus)}, a colon and a layout such as 2x2 or 2x2x1"
        raise InputError("`topology`", topology, allowed=allowed)
    prepare()
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name == "v4" else {}
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


def _gpu(name: str) -> list[Any]:
    card = ACCELERATORS[name]
    assert card.gpu is not None
    needs = f"needs NVIDIA's compiler: pip install -r {_GPU_WHEELS}, in an environment of its own"
    if not any(importlib.util.find_spec(f"jax_cuda{release}_plugin") for release in (12, 13)):
        raise InputError("snnlth compile", problem=needs)
    target = card.gpu.target_config(card.bandwidth)
    try:
        description = topologies.get_topology_desc(platform="cuda", target_config=target, topology="1x1x1")
    except RuntimeError as error:
        raise InputError("snnlth compile", problem=needs) from error
    return list(description.devices)


def prepare() -> None:
    """Keep JAX from looking for a TPU or GPU, and from warnings about it; call this before any other use."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # JAX cannot read such programs from it
    quiet = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    quiet |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    for name, value in (quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}).items():
        os.environ.setdefault(name, value)
