"""The final training runs: a ticket at the full T, and beside it the controls that it must beat.

    ticket    the weights that the search rewound to, its masks
    random    the same weights, masks shuffled within each layer: does the structure matter?
    redrawn   the ticket's masks, newly drawn weights: do the weights matter?
    dense     no masks, as many epochs as search and ticket together: is the search worth it?

They start from the ticket's file, so that they are the same for all searches.
"""

from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax import configs, masks, pruning
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.rewinding import RewindPoint, rewind
from snnlth_jax.search.session import Session
from snnlth_jax.train import TrainState

PyTree = Any

__all__ = ["train"]


def train(session: Session[configs.ResolvedTrain]) -> None:
    """Train the tickets and their controls."""
    starts = {"ticket": _ticket, "random": _random, "redrawn": _redrawn, "dense": _dense}

    def start(phase: Phase, last: Carry) -> Carry:
        return last._replace(state=starts[phase.kind](session, phase.round))

    for phase in session.remaining(*starts):
        for _ in session.train(phase, start):
            pass
        session.finish(phase, session.ticket_name(phase.round))


def _ticket(session: Session[configs.ResolvedTrain], number: int) -> TrainState:
    kept, point = _load(session, number)
    return rewind(session.initial_state(), point, kept, session.tx)


def _random(session: Session[configs.ResolvedTrain], number: int) -> TrainState:
    kept, point = _load(session, number)
    shuffled = pruning.shuffle(jax.random.fold_in(session.mask_key, number), kept)
    return rewind(session.initial_state(), point, shuffled, session.tx)


def _redrawn(session: Session[configs.ResolvedTrain], number: int) -> TrainState:
    kept, _ = _load(session, number)
    state = session.initial_state(redrawn=number)
    return rewind(state, RewindPoint.of(state), kept, session.tx)


def _dense(session: Session[configs.ResolvedTrain], number: int) -> TrainState:
    return session.initial_state()


def _load(session: Session[configs.ResolvedTrain], number: int) -> tuple[PyTree, RewindPoint]:
    """Masks and weights of the ticket of a round."""
    ticket = session.load_ticket(number)
    kept = masks.tree_map(jnp.asarray, ticket.masks)
    return kept, RewindPoint.of_ticket(ticket)
