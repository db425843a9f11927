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

from snnlth_jax import configs, masks, pruning, tickets
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.rewinding import RewindPoint, rewind
from snnlth_jax.search.session import Session
from snnlth_jax.train import TrainState

__all__ = ["begin", "train"]


def train(session: Session[configs.ResolvedTrain]) -> None:
    """Train the tickets and their controls."""

    def start(phase: Phase, last: Carry) -> Carry:
        redraw = phase.kind == "redrawn"
        state = session.initial_state(redrawn=phase.round if redraw else 0)
        if phase.kind != "dense":
            ticket, shuffle = session.load_ticket(phase.round), phase.kind == "random"
            state, _ = begin(session, state, phase.round, ticket, redraw=redraw, shuffle=shuffle)
        return last._replace(state=state)

    for phase in session.remaining("ticket", "random", "redrawn", "dense"):
        for _ in session.train(phase, start):
            pass
        session.finish(phase, session.ticket_name(phase.round))


def begin(
    session: Session[Any],
    drawn: TrainState,
    number: int,
    ticket: tickets.Ticket,
    *,
    redraw: bool = False,
    shuffle: bool = False,
) -> tuple[TrainState, RewindPoint]:
    """The state from which the ticket of a round, or a control of it, is trained, and where it rewinds to.

    Args:
      session: the session.
      drawn: a newly drawn state.
      number: the round.
      ticket: the ticket.
      redraw: keep the drawn weights instead of the ticket's.
      shuffle: shuffle the ticket's masks within each layer.
    """
    kept = masks.tree_map(jnp.asarray, ticket.masks)
    if shuffle:
        kept = pruning.shuffle(jax.random.fold_in(session.mask_key, number), kept)
    point = RewindPoint.of(drawn) if redraw else RewindPoint.of_ticket(ticket)
    return rewind(drawn, point, kept, session.tx), point
