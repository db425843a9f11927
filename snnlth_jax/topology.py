"""Compile a training for TPUs that are not there, with their real compiler (`snnlth compile`).

Says what a search would want of each chip before anything is rented. Needs libtpu, which prints noise and can
get in the way on other machines: see requirements-tpu.txt.
"""

import dataclasses
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snnlth_jax import configs, cost, data, sharding
from snnlth_jax.errors import InputError
from snnlth_jax.search.networks import Network, Networks

__all__ = ["compile_for", "devices_of"]

# GiB of each device that the compiler gives out, from its own error where a program does not fit
_MEMORY = {"v3": 15.48, "v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}


def devices_of(topology: str) -> list[Any]:
    """The chips of a topology, as `generation:AxB` or `generation:AxBxC`, to compile for and nothing else.

    Raises:
      InputError: libtpu is not installed, or does not know the topology.
    """
    generation, _, layout = topology.partition(":")
    if generation not in _MEMORY or not re.fullmatch(r"\d+x\d+(x\d+)?", layout):
        allowed = f"{', '.join(_MEMORY)}, a colon and a layout such as 2x2 or 2x2x1"
        raise InputError(f"--topology {topology}: allowed: {allowed}")
    _prepare()
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if layout in ("1x1", "1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise InputError(f"--topology {topology}: {reason}; allowed: 2x2, 2x2x1 and larger ones") from error
    except RuntimeError as error:
        raise InputError(
            "snnlth compile: needs libtpu: pip install -r requirements-tpu.txt, in an environment of its own"
        ) from error
    return list(found.devices)


def _prepare() -> None:
    """Before anything else is asked of JAX: no looking for a TPU, and no noise about there being none."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # such programs cannot be read from it
    quiet = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    for name, value in (quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}).items():
        os.environ.setdefault(name, value)


def compile_for(topology: str, config: configs.TrainConfig) -> dict[str, Any]:
    """Compile training and evaluation of a configuration's dense network.

    Args:
      topology: see `devices_of`.
      config: not resolved; what matters of it are the network, the batch size and the shapes of the data.

    Returns:
      `topology`, `kind` and `devices`; `memory`, an upper bound in bytes on what the program takes of each,
      and `device_memory`, what there is; `flops_per_step` of each, the arithmetic of the layers alone;
      `compile_seconds`.

    Raises:
      InputError: it does not fit, or cannot be divided among the devices.
    """
    _prepare()
    resolved = configs.resolve(dataclasses.replace(config, devices=1))  # not those that are here
    chips = devices_of(topology)
    if resolved.batch_size % len(chips):
        evenly = f"a multiple of {len(chips)}, the devices of {topology}"
        raise InputError(f"--batch-size {resolved.batch_size}: allowed: {evenly}")
    spec = data.spec(resolved.dataset)
    devices = sharding.Devices(Mesh(chips, (sharding.AXIS,)))
    rows = NamedSharding(devices.mesh, PartitionSpec(sharding.AXIS))

    def split(examples: int) -> Any:
        labels: Any = jax.ShapeDtypeStruct((examples,), jnp.int32)
        divided = resolved.shard_data == "yes"
        stored = -(-examples // len(chips)) * len(chips) if divided else examples
        where = {"sharding": rows} if divided else {}
        images: Any = jax.ShapeDtypeStruct((stored, *spec.image_shape), jnp.uint8, **where)
        return data.Split(images, labels)

    train, test = split(spec.train_size), split(spec.test_size)
    dataset = data.Dataset(
        spec.name, spec.num_classes, spec.image_shape, train, None, test, spec.augmentation, fingerprint=""
    )
    networks = Networks(resolved, dataset)
    networks.devices = devices
    network = Network(resolved.activation, resolved.num_timesteps)
    state = jax.eval_shape(networks.init_state, jax.random.key(0))
    try:
        program = networks.program(network, state, train, test)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("RESOURCE_EXHAUSTED"):
            raise
        reason = reason.partition(": ")[2]
        raise InputError(
            f"--topology {topology}: does not fit: {reason} Allowed: a smaller --batch-size, more chips"
        ) from error
    flops = resolved.batch_size * cost.train_flops(networks.forward_flops(network))
    return {
        "topology": topology,
        "kind": chips[0].device_kind,
        "devices": len(chips),
        "memory": program.memory,
        "device_memory": int(_MEMORY[topology.partition(":")[0]] * 2**30),
        "flops_per_step": flops // len(chips),
        "compile_seconds": program.compile_seconds,
    }
