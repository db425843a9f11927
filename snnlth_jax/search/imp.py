"""Iterative magnitude pruning with late rewinding (the paper; Frankle et al. 2020).

Round 0 trains the dense network for E epochs and keeps its weights of epoch r. Round k removes the fraction p
of the weights left that ended smallest in round k - 1, sets the survivors back to epoch r and trains on to
epoch E, with a fresh optimiser and a full schedule. After k prunings a fraction (1 - p)^k is left.

With Early-Time all rounds run with T' timesteps, and tickets are then trained at the full T. With other
`rewinding` the survivors keep the weights that they ended with (Renda et al. 2020).
"""

from typing import Any

import jax
from rich.console import Console

from snnlth_jax import configs, data, pruning
from snnlth_jax.search import early_time, final, outcome
from snnlth_jax.search.programs import Network
from snnlth_jax.search.rewinding import RewindPoint, rewind
from snnlth_jax.search.session import Phase, Session, run

__all__ = ["phases", "round_at", "search"]


def search(config: configs.Resolved, dataset: data.Dataset, console: Console | None = None) -> dict[str, Any]:
    """Run a search, or go on with it where the last process stopped.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    trainers = {"probe": early_time.probe, "round": _round, **final.TRAINERS}
    return run(config, dataset, _phases(config), trainers, console)


def _phases(config: configs.Resolved) -> list[Phase]:
    return [
        *early_time.phases(config),
        *phases(config),
        *final.phases(config, config.final_rounds, config.rewind_epoch, trained=not config.early_time),
    ]


def phases(config: configs.Resolved) -> list[Phase]:
    """The rounds of a search."""
    return [Phase("round", r, config.rewind_epoch if r else 0, config.epochs) for r in range(config.rounds)]


def _round(session: Session, phase: Phase, new: bool) -> None:
    round_at(session, phase, new, session.search_network(), session.config.rewinding)


def round_at(session: Session, phase: Phase, new: bool, network: Network, rewinding: str = "weights") -> None:
    """What is left of a round: prune and rewind where it is new, train, save its ticket."""
    config, arrays = session.config, session.arrays
    if new and phase.round == 0:
        arrays["state"] = session.init_state()
        arrays["rewind"] = RewindPoint.of(arrays["state"])
    elif new:
        with session.timed():
            state = arrays["state"]
            if rewinding != "weights":
                arrays["rewind"] = RewindPoint.of(state)
            magnitude = pruning.magnitude(state.params)
            pruned = pruning.prune(magnitude, state.masks, config.prune_fraction, config.scope)
            state = rewind(state, arrays["rewind"], pruned, session.tx, config.bn_on_rewind)
            arrays["state"] = jax.block_until_ready(state)
    for epoch in session.train(network):
        if phase.round == 0 and epoch <= config.rewind_epoch and rewinding == "weights":
            arrays["rewind"] = RewindPoint.of(arrays["state"])
    ticket = outcome.save_ticket(session, phase.round, network, arrays["state"].masks, arrays["rewind"])
    outcome.finish_phase(session, network, ticket)
