"""Iterative magnitude pruning with late rewinding (the paper; Frankle et al. 2020).

Round 0 trains the dense network for E epochs and keeps its weights of epoch r. Round k removes the fraction p
of the weights left that ended smallest in round k - 1, sets the survivors back to epoch r and trains on to
epoch E, with a fresh optimiser and a full schedule. After k prunings a fraction (1 - p)^k is left.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

from snnlth_jax import configs, data, masks, pruning, tickets
from snnlth_jax.search.session import Phase, Session, run
from snnlth_jax.training import TrainState

PyTree = Any

__all__ = ["RewindPoint", "rewind", "search"]


class RewindPoint(NamedTuple):
    """What the survivors go back to: a copy of parts of a `TrainState`."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree

    @classmethod
    def of(cls, state: TrainState) -> "RewindPoint":
        """Copied, since training consumes the arrays of its state."""
        return jax.tree.map(jnp.copy, cls(state.step, state.params, state.batch_stats))


def rewind(
    state: TrainState,
    point: RewindPoint,
    new_masks: PyTree,
    tx: optax.GradientTransformation,
    bn_on_rewind: str = "rewind",
) -> TrainState:
    r"""The state that starts a round: :math:`m \odot w_r`, and a fresh optimiser.

    Args:
      state: at the end of the round before.
      point: the weights :math:`w_r` and running statistics at the rewind epoch; copied.
      new_masks: the masks m of the new round.
      tx: the optimiser.
      bn_on_rewind: running statistics "rewind" with the weights, "keep" those of the round before (as the
        authors' code does), or "reset" to mean 0 and variance 1.
    """
    batch_stats = {
        "rewind": lambda: point.batch_stats,
        "keep": lambda: state.batch_stats,
        "reset": lambda: jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.full_like(x, 1.0 if path[-1].key == "var" else 0.0), point.batch_stats
        ),
    }[bn_on_rewind]()
    # copied, since training consumes the arrays of its state
    step, params, batch_stats = jax.tree.map(jnp.copy, (point.step, point.params, batch_stats))
    params = masks.apply(params, new_masks)
    return TrainState(step, params, batch_stats, new_masks, tx.init(params))


def search(config: configs.Resolved, dataset: data.Dataset, console: Console | None = None) -> dict[str, Any]:
    """Run a search, or go on with it where the last process stopped.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    return run(_search, config, dataset, _phases(config), console)


def _search(session: Session) -> None:
    config = session.config
    state = session.init_state()
    arrays = session.restore({"state": state, "rewind": RewindPoint.of(state)})
    state, point = arrays["state"], arrays["rewind"]
    for phase, new in session.remaining():
        if new and phase != session.phases[0]:
            state = rewind(state, point, _new_masks(session, phase, state), session.tx, config.bn_on_rewind)
        for epoch, trained in session.train(state, config.num_timesteps):
            state = trained
            if phase.round == 0 and epoch <= config.rewind_epoch:
                point = RewindPoint.of(state)
            session.checkpoint({"state": state, "rewind": point})
        ticket = None
        if phase.kind == "ticket":
            ticket = session.save_ticket(phase, state.masks, point.params, point.batch_stats)
        session.finish_phase(state, config.num_timesteps, ticket)


def _phases(config: configs.Resolved) -> list[Phase]:
    pruned = range(1, config.rounds)
    controls = {"none": (), "last": pruned[-1:], "all": pruned}[config.random_control]
    return [
        Phase("ticket", 0, 0),
        *(Phase("ticket", r, config.rewind_epoch) for r in pruned),
        *(Phase("random", r, config.rewind_epoch) for r in controls),
    ]


def _new_masks(session: Session, phase: Phase, state: TrainState) -> PyTree:
    if phase.kind == "ticket":
        config = session.config
        return pruning.prune(
            pruning.magnitude(state.params), state.masks, config.prune_fraction, config.scope
        )
    ticket = tickets.load(session.paths.ticket(phase.round))
    return pruning.shuffle(
        jax.random.fold_in(session.mask_key, phase.round), masks.tree_map(jnp.asarray, ticket.masks)
    )
