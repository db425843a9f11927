"""Programs of a search, compiled for absent devices (`snnlth compile`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snnlth_jax import configs, data
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.errors import InputError
from snnlth_jax.machine import aot, sharding
from snnlth_jax.machine.accelerators import ACCELERATORS
from snnlth_jax.run.tables import gigabytes
from snnlth_jax.search.programs import Variants, full_variant

__all__ = ["Compiled", "compile_for"]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A training program for absent devices.

    Attributes:
      topology: name of the devices and their layout.
      kind: kind of device.
      devices: number of devices.
      memory: upper bound in bytes on the memory of the program on each device; None if unknown.
      device_memory: bytes that a device has.
      flops_per_step: FLOPs of a step on each device, the arithmetic of the layers alone.
      compile_seconds: seconds of compiling.
    """

    topology: str
    kind: str
    devices: int
    memory: int | None
    device_memory: int
    flops_per_step: int
    compile_seconds: float

    def __str__(self) -> str:
        memory, available = gigabytes(self.memory), gigabytes(self.device_memory)
        return "\n".join(
            [
                f"{self.topology}: {self.devices} x {self.kind}",
                f"compiled in {self.compile_seconds:.0f} s, and fits",
                f"memory: at most {memory} of the {available} of each device",
                f"arithmetic: {self.flops_per_step / 1e12:.3g} TFLOP per step on each device",
            ]
        )


def compile_for(topology: str, config: configs.TrainConfig) -> Compiled:
    """Compile training and evaluation of a configuration's dense network.

    Args:
      topology: see `machine.aot.devices_of`.
      config: not resolved; only the network, the batch size and the shapes of the data matter.

    Raises:
      InputError: the program does not fit, or the batch cannot be divided among the devices.
    """
    aot.prepare()
    resolved = configs.resolve(dataclasses.replace(config, devices=1))  # not the devices of this machine
    chips = aot.devices_of(topology)
    if resolved.batch_size % len(chips):
        evenly = f"a multiple of {len(chips)}, the devices of {topology}"
        raise InputError("`batch_size`", resolved.batch_size, allowed=evenly)
    spec = data.spec(resolved.dataset, resolved.data_dir)
    devices = sharding.Devices(Mesh(chips, (sharding.AXIS,)))
    rows = NamedSharding(devices.mesh, PartitionSpec(sharding.AXIS))

    def split(examples: int) -> Any:
        labels: Any = jax.ShapeDtypeStruct((examples,), jnp.int32)
        divided = resolved.shard_data == "yes"
        stored = -(-examples // len(chips)) * len(chips) if divided else examples
        placement = {"sharding": rows} if divided else {}
        images: Any = jax.ShapeDtypeStruct((stored, *spec.image_shape), jnp.uint8, **placement)
        return data.Split(images, labels)

    train, test = split(spec.train_size), split(spec.test_size)
    dataset = data.Dataset(
        spec.name, spec.num_classes, spec.image_shape, train, None, test, spec.augmentation, fingerprint=""
    )
    variants, variant = Variants(resolved, dataset, devices=devices), full_variant(resolved)
    state = jax.eval_shape(variants.init_state, jax.random.key(0))
    try:
        program, _ = variants.program(variant, state, train, test)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("RESOURCE_EXHAUSTED"):
            raise
        problem = f"does not fit: {reason.partition(': ')[2]} Allowed: a smaller `batch_size`, more chips"
        raise InputError("`topology`", topology, problem=problem) from error
    flops = resolved.batch_size * train_flops(variants.forward_flops(variant))
    return Compiled(
        topology=topology,
        kind=chips[0].device_kind,
        devices=len(chips),
        memory=program.memory,
        device_memory=int(ACCELERATORS[topology.partition(":")[0]].memory),
        flops_per_step=flops // len(chips),
        compile_seconds=program.compile_seconds,
    )
