"""The programs of a search compiled for devices that are not there (`snnlth compile`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snnlth_jax import configs, data
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.errors import InputError
from snnlth_jax.machine import aot, sharding
from snnlth_jax.search.programs import Network, Networks

__all__ = ["compile_for"]


def compile_for(topology: str, config: configs.TrainConfig) -> dict[str, Any]:
    """Compile training and evaluation of a configuration's dense network.

    Args:
      topology: see `machine.aot.devices_of`.
      config: not resolved; what matters of it are the network, the batch size and the shapes of the data.

    Returns:
      `topology`, `kind` and `devices`; `memory`, an upper bound in bytes on what the program takes of each,
      and `device_memory`, what there is; `flops_per_step` of each, the arithmetic of the layers alone;
      `compile_seconds`.

    Raises:
      InputError: it does not fit, or cannot be divided among the devices.
    """
    aot.prepare()
    resolved = configs.resolve(dataclasses.replace(config, devices=1))  # not those that are here
    chips = aot.devices_of(topology)
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
    flops = resolved.batch_size * train_flops(networks.forward_flops(network))
    return {
        "topology": topology,
        "kind": chips[0].device_kind,
        "devices": len(chips),
        "memory": program.memory,
        "device_memory": int(aot.MEMORY[topology.partition(":")[0]] * 2**30),
        "flops_per_step": flops // len(chips),
        "compile_seconds": program.compile_seconds,
    }
