"""What a ticket is worth: it is trained at the full T, and beside it the controls that it must beat.

    ticket    the weights that the search rewound to, its masks
    random    the same weights, masks shuffled within each layer: does the structure matter?
    redrawn   the ticket's masks, newly drawn weights: do the weights matter?
    dense     no masks, as many epochs as search and ticket together: is the search worth it?

They start from the ticket's file, and so are the same for all searches.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from snnlth_jax import configs, masks, pruning, tickets
from snnlth_jax.search import outcome
from snnlth_jax.search.rewinding import RewindPoint, rewind
from snnlth_jax.search.session import Phase, Session, Trainer
from snnlth_jax.train import TrainState

__all__ = ["TRAINERS", "phases", "train"]


def phases(
    config: configs.Resolved, rounds: Sequence[int], rewind_epoch: int, trained: bool = False
) -> list[Phase]:
    """Those of the tickets of these rounds.

    Args:
      config: resolved; its `controls` decide what is trained beside the tickets.
      rounds: of the search.
      rewind_epoch: epochs that the tickets' weights have behind them.
      trained: the search trained the tickets at the full T already; what is left are the controls.
    """
    control = {
        "random": [Phase("random", r, rewind_epoch, config.epochs) for r in rounds],
        "redrawn": [Phase("redrawn", r, 0, config.epochs) for r in rounds],
        "dense": [Phase("dense", r, 0, None) for r in rounds[-1:]],
    }
    own = [] if trained else [Phase("ticket", r, rewind_epoch, config.epochs) for r in rounds]
    return own + [phase for kind in config.controls for phase in control[kind]]


def train(session: Session, phase: Phase, new: bool) -> None:
    """What is left of a final training or a control."""
    if new:
        session.arrays["state"] = _start(session, phase)
    for _ in session.train(session.network()):
        pass
    outcome.finish_phase(session, session.network(), outcome.ticket_name(session, phase.round))


TRAINERS: dict[str, Trainer] = dict.fromkeys(("ticket", "random", "redrawn", "dense"), train)


def _start(session: Session, phase: Phase) -> TrainState:
    if phase.kind == "dense":
        return session.init_state()
    ticket = tickets.load(session.paths.ticket(phase.round))
    kept = masks.tree_map(jnp.asarray, ticket.masks)
    if phase.kind == "redrawn":
        state = session.init_state(redrawn=phase.round)
        return rewind(state, RewindPoint.of(state), kept, session.tx)
    if phase.kind == "random":
        kept = pruning.shuffle(jax.random.fold_in(session.mask_key, phase.round), kept)
    params, batch_stats = jax.tree.map(jnp.asarray, (ticket.params, ticket.batch_stats))
    state = session.init_state()
    return rewind(state, RewindPoint(state.step, params, batch_stats), kept, session.tx)
