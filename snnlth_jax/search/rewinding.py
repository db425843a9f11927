"""Rewinding: survivors of a pruning return to earlier weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snnlth_jax import masks, tickets
from snnlth_jax.train import TrainState

PyTree = Any

__all__ = ["RewindPoint", "rewind"]


class RewindPoint(NamedTuple):
    """Weights to which survivors return: a copy of parts of a `TrainState`."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree

    @classmethod
    def of(cls, state: TrainState) -> "RewindPoint":
        """A copy of a state, since training consumes the arrays of the state."""
        return cls(*jax.tree.map(jnp.copy, (state.step, state.params, state.batch_stats)))

    @classmethod
    def of_ticket(cls, ticket: tickets.Ticket) -> "RewindPoint":
        """The weights in a ticket file."""
        return cls(jnp.zeros((), jnp.int32), *jax.tree.map(jnp.asarray, (ticket.params, ticket.batch_stats)))

    def with_biases(self, params: PyTree) -> "RewindPoint":
        """The same weights with copies of the biases of `params`, those of batch norm included."""

        def chosen(path: tuple[Any, ...], own: jax.Array, other: jax.Array) -> jax.Array:
            return jnp.copy(other) if path[-1].key == "bias" else own

        return self._replace(params=jax.tree_util.tree_map_with_path(chosen, self.params, params))


def rewind(
    state: TrainState,
    point: RewindPoint,
    new_masks: PyTree,
    tx: optax.GradientTransformation,
    bn_on_rewind: str = "rewind",
) -> TrainState:
    r"""The state at the start of a round: :math:`m \odot w_r`, and a new optimiser state.

    Args:
      state: state at the end of the previous round.
      point: weights :math:`w_r` and running statistics at the rewind epoch, which are copied.
      new_masks: masks m of the new round.
      tx: optimiser.
      bn_on_rewind: running statistics "rewind" with the weights, "keep" those of the previous round (as
        in the authors' code), or "reset" to mean 0 and variance 1.
    """
    choices: dict[str, Callable[[], PyTree]] = {
        "rewind": lambda: point.batch_stats,
        "keep": lambda: state.batch_stats,
        "reset": lambda: jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.full_like(x, 1.0 if path[-1].key == "var" else 0.0), point.batch_stats
        ),
    }
    # copied, since training consumes the arrays of its state
    step, params, batch_stats = jax.tree.map(jnp.copy, (point.step, point.params, choices[bn_on_rewind]()))
    params = masks.apply(params, new_masks)
    return TrainState(step, params, batch_stats, new_masks, tx.init(params))
