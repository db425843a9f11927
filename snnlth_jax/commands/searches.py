"""`snnlth imp` and all other searches, and `snnlth train`: a configuration, run."""

import dataclasses
import logging
import os
import signal
from typing import Annotated, Any

import tyro
from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.commands.output import fail
from snnlth_jax.configs.fields import IDENTITY, File
from snnlth_jax.machine import compile_cache, hosts, memory
from snnlth_jax.machine.signals import answered_within

__all__ = ["Train", "search"]

log = logging.getLogger(__name__)

_NO_CHOICE = (
    "warning: with T = 3 Early-Time has one candidate, T' = 2, which is compared with itself and never "
    "chosen: the search has all 3 timesteps; --early-time-timesteps 2 sets T', --num-timesteps 4 gives a "
    "choice"
)
PATIENCE = 25.0  # seconds to answer a signal in


@dataclasses.dataclass(frozen=True)
class Train(configs.RetrainConfig):
    """Train the ticket of a file again: another seed, T or learning rate, other data, or as a control.

    Settings that are not given are those of the ticket's search.
    """

    ticket: Annotated[tyro.conf.Positional[str], File("TICKET"), IDENTITY] = ""
    """Ticket file: tickets/round_NN.safetensors in the directory of a run."""


def search(config: configs.TrainConfig, console: Console | None = None) -> None:
    """Run the search of a configuration, resolved or not, as its command does.

    Args:
      config: the configuration.
      console: console for progress and results; standard output by default.

    Raises:
      InputError: the configuration is not allowed, or not on these devices.
    """
    from snnlth_jax.run import earlier
    from snnlth_jax.search import (
        dynamic,
        early_bird,
        early_time,
        imp,
        one_shot,
        replicates,
        retrain,
        stability,
        transfer,
    )

    modules: dict[str, Any] = {
        "imp": imp,
        "eb": early_bird,
        "one-shot": one_shot,
        "dynamic": dynamic,
        "transfer": transfer,
        "probe-timesteps": early_time,
        "stability": stability,
        "retrain": retrain,
    }
    compile_cache.keep_programs()
    memory.keep()
    if config.distributed:
        hosts.connect()
    run = modules[config.method].search

    def resolve() -> configs.ResolvedTrain:
        resolved = earlier.adopted(config, configs.resolve(config))
        configs.check_devices(resolved)  # before --seeds take a directory
        return resolved

    resolved: configs.ResolvedTrain = hosts.raise_together(resolve)
    measures = isinstance(resolved, configs.EarlyTime) and resolved.measures_timesteps
    if measures and resolved.num_timesteps == 3:
        log.warning("%s", _NO_CHOICE)
    if hosts.is_first():
        log.debug("%s\n%s", resolved.workdir, configs.written(resolved).rstrip())
    with answered_within(PATIENCE, _give_up):
        if resolved.seeds:
            replicates.run(run, resolved, console)
        else:
            run(resolved, **({} if console is None else {"console": console}))


def _give_up(number: signal.Signals) -> None:
    """Exit from a long computation: a preempted machine is gone 30 seconds after the signal."""
    Console().show_cursor()
    fail(75, f"stopped by {number.name} in the middle; the same command resumes after the last checkpoint")
    os._exit(75)
