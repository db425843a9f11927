"""Programs of a search, compiled for absent devices (`snnlth compile`)."""

import dataclasses
import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from snnlth_jax import configs, data
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.errors import InputError
from snnlth_jax.machine import accelerators, aot, sharding
from snnlth_jax.machine.kernels import KINDS, Budget, Kernel, budget, kernels_of_step
from snnlth_jax.run.tables import duration, gigabytes, new_table, operations, say
from snnlth_jax.search import phases, plan
from snnlth_jax.search.programs import Variants, full_variant
from snnlth_jax.train import compile_steps

__all__ = ["Compiled", "Memory", "compile_for", "show"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of each device's memory that a program takes: its arguments, and what it needs besides."""

    arguments: int
    temporaries: int

    @property
    def total(self) -> int:
        """Both; results take the place of arguments."""
        return self.arguments + self.temporaries


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A training program for absent devices.

    Attributes:
      topology: name of the devices and their layout.
      kind: kind of device.
      devices: number of devices.
      memory: memory of the program on each device.
      device_memory: bytes that a device has.
      flops_per_step: FLOPs of a step on each device, the arithmetic of the layers alone.
      compile_seconds: seconds of compiling.
      text: the program.
      kernels: kernels that a step starts on each device.
      budget: their sums, and their time at the rates of the device.
      compiler: the compiler's own analysis of the whole program ("bytes accessed", "optimal_seconds", ...).
      search_epochs: number of epochs of the search, at most.
      search_seconds: time of the search at these rates, at most.
    """

    topology: str
    kind: str
    devices: int
    memory: Memory
    device_memory: int
    flops_per_step: int
    compile_seconds: float
    text: str
    kernels: tuple[Kernel, ...]
    budget: Budget
    compiler: dict[str, float]
    search_epochs: int
    search_seconds: float


def compile_for(topology: str, config: configs.TrainConfig) -> Compiled:
    """Compile the training of a configuration's dense network.

    Args:
      topology: see `machine.aot.devices_of`.
      config: a search, not resolved; no values of its data are read.

    Raises:
      InputError: the program does not fit, or the batch cannot be divided among the devices.
    """
    aot.prepare()
    resolved = configs.resolve(dataclasses.replace(config, devices=1))  # not the devices of this machine
    chips = aot.devices_of(topology)
    if resolved.batch_size % len(chips):
        evenly = f"a multiple of {len(chips)}, the devices of {topology}"
        raise InputError("`batch_size`", resolved.batch_size, allowed=evenly)
    mesh = Mesh(chips, (sharding.AXIS,))
    devices = sharding.Devices(mesh) if len(chips) > 1 else None
    dataset = _shapes(resolved, mesh)
    variants, variant = Variants(resolved, dataset, devices=devices), full_variant(resolved)
    state = jax.eval_shape(variants.init_state, jax.random.key(0))
    whole = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
    started = time.perf_counter()
    try:
        program: Any = compile_steps(
            variants.model(variant),
            variants.tx,
            state,
            dataset.train,
            augmentation=variants.augmentation,
            batch_size=resolved.batch_size,
            num_timesteps=variant.num_timesteps,
            devices=devices,
            loss_factor=variants.loss_factor(variant),
            loss_fn=variants.loss,
        ).call
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("RESOURCE_EXHAUSTED"):
            raise
        problem = f"does not fit: {reason.partition(': ')[2]} Allowed: a smaller `batch_size`, more chips"
        raise InputError("`topology`", topology, problem=problem) from error
    seconds = time.perf_counter() - started
    sizes, card = program.memory_analysis(), accelerators.ACCELERATORS[topology.partition(":")[0]]
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    memory = Memory(sizes.argument_size_in_bytes, sizes.temp_size_in_bytes + results)
    if memory.total > card.memory:
        needs = f"needs {gigabytes(memory.total)}, a device has {gigabytes(int(card.memory))}"
        allowed = "a smaller `batch_size`, other devices"
        raise InputError("`topology`", topology, problem=f"does not fit: {needs}", allowed=allowed)
    flops = resolved.batch_size * train_flops(variants.forward_flops(variant))
    text = program.as_text()
    step = kernels_of_step(text)
    rate = card.flops["bfloat16" if resolved.dtype == "bfloat16" else "float32"]
    sums = budget(step, flops_per_second=rate, bandwidth=card.bandwidth)
    per_flop = sums.seconds / flops
    trainings = plan.trainings(resolved, variants, phases.of(resolved), {"lif": per_flop, "relu": per_flop})
    return Compiled(
        topology=topology,
        kind=chips[0].device_kind,
        devices=len(chips),
        memory=memory,
        device_memory=int(card.memory),
        flops_per_step=flops // len(chips),
        compile_seconds=seconds,
        text=text,
        kernels=tuple(step),
        budget=sums,
        compiler=dict(program.cost_analysis() or {}),
        search_epochs=sum(training.epochs for training in trainings),
        search_seconds=math.fsum(training.seconds for training in trainings),
    )


def _shapes(config: configs.ResolvedTrain, mesh: Mesh) -> data.Dataset:
    """A dataset without values, on the devices of a mesh."""
    spec = data.spec(config.dataset, config.data_dir)
    divided = config.shard_data == "yes"
    placement = NamedSharding(mesh, PartitionSpec(sharding.AXIS) if divided else PartitionSpec())

    def split(examples: int) -> data.Split:
        stored = -(-examples // mesh.size) * mesh.size if divided else examples
        images: Any = jax.ShapeDtypeStruct((stored, *spec.image_shape), jnp.uint8, sharding=placement)
        labels: Any = jax.ShapeDtypeStruct((examples,), jnp.int32)
        return data.Split(images, labels)

    examples = max(1, spec.train_size - config.validation_examples)
    train = split(min(examples, config.train_examples or examples))
    test = split(spec.test_size)
    return data.Dataset(
        spec.name, spec.num_classes, spec.image_shape, train, None, test, spec.augmentation, fingerprint=""
    )


def show(compiled: Compiled, console: Console) -> None:
    """Print what a step of a program costs."""
    line = partial(say, console)
    sums, memory = compiled.budget, compiled.memory
    line(f"{compiled.topology}: {compiled.devices} x {compiled.kind}")
    line(f"compiled in {compiled.compile_seconds:.0f} s, and fits")
    available = gigabytes(compiled.device_memory)
    line(
        f"memory: at most {gigabytes(memory.total)} of the {available} of each device, "
        f"{gigabytes(memory.arguments)} of arguments and {gigabytes(memory.temporaries)} besides"
    )
    line(f"arithmetic: {operations(compiled.flops_per_step)} per step on each device")
    table = new_table("a step on each device", "", "kernels", "GB")
    for kind in KINDS:
        table.add_row(kind, f"{sums.counts[kind]}", f"{sums.bytes[kind] / 1e9:.3f}")
    table.add_row("all", f"{sums.kernels}", f"{sum(sums.bytes.values()) / 1e9:.3f}")
    console.print(table)
    line(f"{sums.small} of the {sums.kernels} kernels move less than 1 MB")
    line(f"{1e3 * sums.seconds:.2f} ms per step at the device's rates, a bound that no program reaches")
    line(f"at most {compiled.search_epochs} epochs, {duration(compiled.search_seconds)} at these rates")
