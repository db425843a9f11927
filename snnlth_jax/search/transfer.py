"""Transferred tickets (the paper's TT): found in the ReLU twin of a network, trained as a spiking one.

The twin has the same layers and parameters and no time, so that its search costs about T times less. Its
masks and rewound weights are then the spiking network's.
"""

from typing import Any

from rich.console import Console

from snnlth_jax import configs, data
from snnlth_jax.search import final, imp
from snnlth_jax.search.programs import TWIN
from snnlth_jax.search.session import Phase, Session, run

__all__ = ["search"]


def search(config: configs.Resolved, dataset: data.Dataset, console: Console | None = None) -> dict[str, Any]:
    """Run a search, or go on with it where the last process stopped.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    phases = [*imp.phases(config), *final.phases(config, config.final_rounds, config.rewind_epoch)]
    return run(config, dataset, phases, {"round": _twins_round, **final.TRAINERS}, console)


def _twins_round(session: Session, phase: Phase, new: bool) -> None:
    imp.round_at(session, phase, new, TWIN)
