"""The plan of a search (`--dry-run`): its training runs, their cost, memory and time.

The time follows from a few steps on these devices; that of other variants and of evaluations is in proportion
to their FLOPs. Nothing is written.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from rich.console import Console

from snnlth_jax import configs, data, masks, tickets
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.configs import targets
from snnlth_jax.machine import hosts, sharding
from snnlth_jax.run.tables import duration, gigabytes, new_table, operations, say
from snnlth_jax.search.phases import Phase, all_epochs
from snnlth_jax.search.programs import TWIN, Variants, full_variant
from snnlth_jax.train import Program, zero_metrics

__all__ = [
    "PROBE_SECONDS",
    "PROBE_STEPS",
    "Plan",
    "PlannedProgram",
    "PlannedTraining",
    "make",
    "show",
    "trainings",
]

PROBE_STEPS, PROBE_SECONDS = 20, 30.0


@dataclasses.dataclass(frozen=True)
class PlannedTraining:
    """A planned training run; FLOPs and seconds include its evaluations."""

    name: str
    variant: str
    epochs: int
    sparsity: float
    flops: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class PlannedProgram:
    """A program compiled for a plan; `memory` is in bytes of each device, None if unknown."""

    compile_seconds: float
    images_per_second: float
    memory: int | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The training runs of a search, at most, and their cost.

    Attributes:
      trainings: its training runs.
      programs: programs that were compiled, by the name of their variant.
      device_memory: bytes that a device has; None if unknown.
      checkpoint_bytes: size of each checkpoint.
    """

    trainings: tuple[PlannedTraining, ...]
    programs: Mapping[str, PlannedProgram]
    device_memory: int | None
    checkpoint_bytes: int

    @property
    def flops(self) -> int:
        """FLOPs of all training runs."""
        return sum(training.flops for training in self.trainings)

    @property
    def seconds(self) -> float:
        """Seconds of all training runs."""
        return math.fsum(training.seconds for training in self.trainings)

    @property
    def compiled(self) -> tuple[str, ...]:
        """Names of the variants that the search compiles."""
        return tuple(dict.fromkeys(training.variant for training in self.trainings if training.epochs))


def make(config: configs.ResolvedTrain, variants: Variants, phases: Sequence[Phase]) -> Plan:
    """The plan of a search, at most: Early-Bird may stop it sooner, Early-Time choose fewer timesteps.

    Args:
      config: resolved.
      variants: variants of its network; the full one is compiled, and the twin if a phase uses it.
      phases: phases of the search.
    """
    dataset = variants.dataset
    train, test = variants.on_devices(dataset.train), variants.on_devices(dataset.test)
    state = variants.init_state(jax.random.key(config.seed))
    programs, seconds_per_flop = {}, {}
    twin = [TWIN] if any(phase.variant == TWIN for phase in phases) else []
    for variant in dict.fromkeys([full_variant(config), *twin]):
        replicated = sharding.replicate(state, variants.devices)
        program, _ = variants.program(variant, replicated, train, test)
        rate = _images_per_second(config, variants, program, train)
        programs[str(variant)] = PlannedProgram(program.compile_seconds, rate, program.memory)
        seconds_per_flop[variant.activation] = 1 / (rate * train_flops(variants.forward_flops(variant)))

    return Plan(
        trainings=trainings(config, variants, phases, seconds_per_flop),
        programs=programs,
        device_memory=(jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"),
        checkpoint_bytes=sum(x.nbytes for x in jax.tree.leaves((state, state.params, state.batch_stats))),
    )


def trainings(
    config: configs.ResolvedTrain,
    variants: Variants,
    phases: Sequence[Phase],
    seconds_per_flop: Mapping[str, float],
) -> tuple[PlannedTraining, ...]:
    """The training runs of a search, and the time of each.

    Args:
      config: resolved.
      variants: variants of its network; no values of its data are read.
      phases: phases of the search.
      seconds_per_flop: time by activation, `lif` and `relu`.
    """
    dataset = variants.dataset
    shapes = jax.eval_shape(variants.init_state, jax.random.key(0)).masks
    total = sum(mask.size for mask in jax.tree.leaves(shapes))
    evaluated = len(dataset.test.labels) + (len(dataset.validation.labels) if dataset.validation else 0)
    planned: list[PlannedTraining] = []
    for phase, count in zip(phases, all_epochs(phases), strict=True):
        forward = variants.forward_flops(phase.variant)
        flops = count * len(dataset.train.labels) * train_flops(forward)
        flops += math.ceil(count / config.eval_every) * evaluated * forward
        # each network on a line sees the training images twice, for its statistics and for its loss
        flops += phase.points * (2 * len(dataset.train.labels) + len(dataset.test.labels)) * forward
        planned.append(
            PlannedTraining(
                name=str(phase),
                variant=str(phase.variant),
                epochs=count,
                sparsity=1 - _kept(config, phase, total) / total,
                flops=flops,
                seconds=flops * seconds_per_flop[phase.variant.activation],
            )
        )
    return tuple(planned)


def _kept(config: configs.ResolvedTrain, phase: Phase, total: int) -> int:
    """Number of prunable weights that a phase trains; with `--like` the file decides, and this is all."""
    if phase.ticket is not None:
        return int(masks.count(tickets.load(phase.ticket).masks)[0])
    if isinstance(config, configs.ResolvedRounds):
        return targets.kept_after(
            phase.prunings, config.rounds, config.prune_fraction, config.sparsity, total
        )
    sparsity = getattr(config, "sparsity", None) or 0.0
    return targets.kept_after(phase.prunings, 2, sparsity, None, total)


def _images_per_second(
    config: configs.ResolvedTrain, variants: Variants, program: Program, split: data.Split
) -> float:
    """Rate of training, measured by a few steps after a first one."""

    def run(steps: int) -> float:
        # new each time, since training consumes the arrays of its state
        state = sharding.replicate(variants.init_state(jax.random.key(config.seed)), variants.devices)
        metrics = sharding.replicate(zero_metrics(), variants.devices)
        scalars = jnp.float32(config.learning_rate), jnp.int32(0), jnp.int32(steps)
        started = time.perf_counter()
        _, metrics, _ = program.train(state, metrics, split, jax.random.key(config.seed), *scalars)
        return int(metrics.examples) / (time.perf_counter() - started)

    seconds_per_step = hosts.broadcast_from_first(config.batch_size / run(1))
    return run(max(1, min(PROBE_STEPS, program.steps_per_epoch, int(PROBE_SECONDS / seconds_per_step))))


def show(plan: Plan, console: Console) -> None:
    """Print a plan: a line per training run, then memory and time."""
    table = new_table("plan", "", "network", "sparsity", "epochs", "FLOP", "time")
    for training in plan.trainings:
        table.add_row(
            training.name,
            training.variant,
            f"{100 * training.sparsity:.2f} %",
            f"{training.epochs}",
            operations(training.flops),
            duration(training.seconds),
        )
    console.print(table)
    available = f" of {gigabytes(plan.device_memory)}" if plan.device_memory else ""
    lines = []
    for variant, program in plan.programs.items():
        rate, memory = program.images_per_second, gigabytes(program.memory)
        compiling = f"compiled in {program.compile_seconds:.0f} s"
        lines.append(f"{variant}: {rate:,.0f} images/s, {memory}{available} on each device, {compiling}")
    whole = f"{operations(plan.flops)} and {duration(plan.seconds)} on these devices"
    lines.append(f"at most {whole}; compiled: {', '.join(plan.compiled)}")
    lines.append(f"a checkpoint has {gigabytes(plan.checkpoint_bytes)}, three are kept")
    lines.append("nothing was written")
    for line in lines:
        say(console, line)
