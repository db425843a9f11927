"""What a search would do, before it does it (`--dry-run`): its trainings, their cost, memory and time.

The time is that of a few steps on these devices; that of other networks and of evaluations is in proportion
to their FLOPs. Nothing is written.
"""

import math
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from snnlth_jax import configs, masks
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.machine import sharding
from snnlth_jax.search import ledger
from snnlth_jax.search.programs import TWIN, Network, Networks
from snnlth_jax.train import Program, zero_metrics

if TYPE_CHECKING:
    from snnlth_jax.search.session import Phase

__all__ = ["PROBE_SECONDS", "PROBE_STEPS", "make"]

PROBE_STEPS, PROBE_SECONDS = 20, 30.0


def make(config: configs.Resolved, networks: Networks, phases: "Sequence[Phase]") -> dict[str, Any]:
    """The plan of a search, at most: Early-Bird may stop it sooner, Early-Time choose fewer timesteps.

    Args:
      config: resolved.
      networks: its networks; the one that tickets are for is compiled here, and the twin where it is used.
      phases: of the search.

    Returns:
      `trainings`, a row for each: kind, round, network, epochs, sparsity, FLOPs and seconds, evaluations
      included; `flops` and `seconds` of all; `programs`, by network that was compiled here: compile_seconds,
      images_per_second, and memory, the bytes that it takes of each device (None where that is not known);
      `compiled`, the networks that the search compiles; `device_memory`, the bytes that a device has (or
      None); `checkpoint_bytes` of each of those that are kept.
    """
    dataset = networks.dataset
    train, test = networks.placed(dataset.train), networks.placed(dataset.test)
    state = networks.init_state(jax.random.key(config.seed))
    total = masks.count(state.masks)[1]
    full = Network(config.activation, config.num_timesteps)
    programs, seconds_per_flop = {}, {}
    for network in dict.fromkeys([full, *(TWIN for phase in phases if _network(config, phase) == TWIN)]):
        program = networks.program(network, sharding.placed(state, networks.devices), train, test)
        rate = _images_per_second(config, networks, program, train)
        programs[str(network)] = {
            "compile_seconds": program.compile_seconds,
            "images_per_second": rate,
            "memory": program.memory,
        }
        seconds_per_flop[network.activation] = 1 / (rate * train_flops(networks.forward_flops(network)))

    evaluated = len(dataset.test.labels) + (len(dataset.validation.labels) if dataset.validation else 0)
    rows: list[dict[str, Any]] = []
    for phase in phases:
        network = _network(config, phase)
        epochs = (
            ledger.epochs_to_trained(rows, phase.round)
            if phase.last_epoch is None
            else phase.last_epoch - phase.first_epoch
        )
        forward = networks.forward_flops(network)
        flops = epochs * len(dataset.train.labels) * train_flops(forward)
        flops += math.ceil(epochs / config.eval_every) * evaluated * forward
        row = {"kind": phase.kind, "round": phase.round, "network": str(network), "epochs": epochs}
        row |= {"sparsity": 1 - _kept(config, phase, total) / total, "flops": flops}
        rows.append(row | {"seconds": flops * seconds_per_flop[network.activation]})
    return {
        "trainings": rows,
        "flops": sum(row["flops"] for row in rows),
        "seconds": math.fsum(row["seconds"] for row in rows),
        "programs": programs,
        "compiled": list(dict.fromkeys(row["network"] for row in rows if row["epochs"])),
        "device_memory": (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"),
        "checkpoint_bytes": sum(x.nbytes for x in jax.tree.leaves((state, state.params, state.batch_stats))),
    }


def _network(config: configs.Resolved, phase: "Phase") -> Network:
    """The one that a phase trains; with Early-Time the largest that it may choose."""
    full = Network(config.activation, config.num_timesteps)
    if phase.kind == "round" and config.method == "transfer":
        return TWIN
    if phase.kind in ("round", "search") and getattr(config, "early_time", False):
        return full._replace(num_timesteps=config.early_time_timesteps or config.num_timesteps - 1)
    return full


def _kept(config: configs.Resolved, phase: "Phase", total: int) -> int:
    """Of the prunable weights those that a phase trains, but for `--like`, whose file says it."""
    if phase.round == 0 or phase.kind == "dense":
        return total
    fraction = getattr(config, "prune_fraction", getattr(config, "sparsity", None)) or 0.0
    kept = total
    for _ in range(phase.round):
        kept -= int(Decimal(repr(fraction)) * kept)
    return kept


def _images_per_second(config: configs.Resolved, networks: Networks, program: Program, split: Any) -> float:
    """Of training, by a few steps after a first one."""

    def run(steps: int) -> float:
        # anew each time, since training consumes the arrays of its state
        state = sharding.placed(networks.init_state(jax.random.key(config.seed)), networks.devices)
        metrics = sharding.placed(zero_metrics(), networks.devices)
        scalars = jnp.float32(config.learning_rate), jnp.int32(0), jnp.int32(steps)
        started = time.perf_counter()
        _, metrics, _ = program.train(state, metrics, split, jax.random.key(config.seed), *scalars)
        return int(metrics.examples) / (time.perf_counter() - started)

    seconds_per_step = config.batch_size / run(1)
    return run(max(1, min(PROBE_STEPS, program.steps_per_epoch, int(PROBE_SECONDS / seconds_per_step))))
