"""Early-Bird: the magnitude mask of the dense network stands still long before training ends (the paper;
You et al. 2020).

The dense network is trained at a raised learning rate. Before each epoch the mask is drawn that one-shot
magnitude pruning to the sparsity would give now. The search stops as soon as the newest of q masks is closer
than tau to each of the q - 1 before it; the ticket is that mask, on the initial weights.

Two distances of masks that keep k of P weights each and s in common: the paper's, Hamming, 2 (k - s) / P, at
density d never above 2 d, so that at 98 % sparsity masks "agree" within tau = 0.02 that share half of their
weights; and "overlap", 1 - s / k, which does not depend on the sparsity. Both are recorded.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from snnlth_jax import configs, data, masks, pruning
from snnlth_jax.machine import hosts
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import early_time, final, outcome
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.search.session import Phase, Session, run
from snnlth_jax.train import TrainState

PyTree = Any

__all__ = ["distances", "fires", "pack", "search", "unpack"]


# --- the rule


def pack(mask_tree: PyTree) -> np.ndarray:
    """Masks as one vector of bits, uint8, leaf after leaf.

    >>> import jax.numpy as jnp
    >>> pack({"a": jnp.array([[True, False]]), "b": None, "c": jnp.array([True])}).tolist()
    [128, 128]
    """
    leaves = jax.tree.leaves(masks.pack(mask_tree))
    return np.concatenate([np.asarray(bits) for bits in leaves])


def unpack(bits: np.ndarray, like: PyTree) -> PyTree:
    """The inverse of `pack`, for masks of the structure of `like`."""
    packed = masks.pack(like)
    sizes = [leaf.size for leaf in jax.tree.leaves(packed)]
    parts = [jnp.asarray(part) for part in np.split(np.asarray(bits), np.cumsum(sizes)[:-1])]
    return masks.unpack(jax.tree.unflatten(jax.tree.structure(packed), parts))


def distances(newest: np.ndarray, others: Sequence[np.ndarray], total: int) -> dict[str, list[float]]:
    """Both distances from the newest mask to each of the others.

    Args:
      newest: packed, see `pack`.
      others: the same.
      total: number of prunable weights.

    Returns:
      "hamming": the share of all weights that only one of the two keeps (`masks.distance`); "overlap": one
      less the share of the kept weights that both keep (`1 - masks.overlap`). Both in [0, 1].

    >>> a, b = np.array([0b11000000], np.uint8), np.array([0b01100000], np.uint8)
    >>> distances(a, [a, b], total=8)
    {'hamming': [0.0, 0.25], 'overlap': [0.0, 0.5]}
    """
    kept = _ones(newest)
    result: dict[str, list[float]] = {"hamming": [], "overlap": []}
    for other in others:
        kept_there, shared = _ones(other), _ones(newest & other)
        most = max(kept, kept_there)
        result["hamming"].append((kept + kept_there - 2 * shared) / total)
        result["overlap"].append(1 - shared / most if most else 0.0)
    return result


def fires(to_earlier: Sequence[float], queue: int, tau: float) -> bool:
    """Whether the search stops: there are q masks, and the newest is closer than tau to all others.

    Args:
      to_earlier: distances from the newest mask to those drawn before it, oldest first.
      queue: q, the newest counted.
      tau: the bound; at the bound it does not stop.

    >>> fires([0.9, 0.01, 0.01], queue=3, tau=0.02), fires([0.01], queue=3, tau=0.02)
    (True, False)
    """
    return len(to_earlier) >= queue - 1 and max(to_earlier[-(queue - 1) :]) < tau


def _ones(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


# --- the search


def search(config: configs.Resolved, dataset: data.Dataset, console: Console | None = None) -> dict[str, Any]:
    """Run a search, or go on with it where the last process stopped.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    phases = [
        *early_time.phases(config),
        Phase("search", 0, 0, config.epochs),
        *final.phases(config, [1], config.rewind_epoch),
    ]
    trainers = {"probe": early_time.probe, "search": _train_until_it_fires, **final.TRAINERS}
    return run(config, dataset, phases, trainers, console, lambda state: {"queue": _empty(config, state)})


def _empty(config: configs.Resolved, state: TrainState) -> jax.Array:
    """The queue, `[q, bytes]`, newest mask last."""
    return jnp.zeros((config.queue, pack(state.masks).size), jnp.uint8)


def _train_until_it_fires(session: Session, phase: Phase, new: bool) -> None:
    config, network, arrays = session.config, session.search_network(), session.arrays
    history: dict[int, np.ndarray | None] = {}

    def fires_after(epoch: int) -> bool:
        with session.timed():
            arrays["queue"] = _draw(session, epoch, arrays["state"], arrays["queue"], history)
        return session.progress["early_bird"]["fired"]

    if new:
        state = session.init_state()
        arrays |= {"state": state, "rewind": RewindPoint.of(state), "queue": _empty(config, state)}
        fires_after(0)
    for epoch in session.train(network, fires_after):
        if epoch <= config.rewind_epoch:
            arrays["rewind"] = RewindPoint.of(arrays["state"])
    found = session.progress["early_bird"]
    largest = (
        f"largest {config.criterion} distance {found[f'largest_{config.criterion}']:.4f}, tau {config.tau}"
    )
    session.recorder.say(
        f"Early-Bird: fired after {found['epoch']} epochs ({largest})"
        if found["fired"]
        else f"Early-Bird: never fired in {found['epoch']} epochs ({largest}); the last mask is used"
    )
    drawn = unpack(np.asarray(arrays["queue"][-1]), arrays["state"].masks)
    ticket = outcome.save_ticket(session, 1, network, drawn, arrays["rewind"])
    outcome.finish_phase(session, network, ticket)


def _draw(
    session: Session, epoch: int, state: TrainState, queue: jax.Array, history: dict[int, np.ndarray | None]
) -> jax.Array:
    """Draw the mask of this epoch, measure it against all earlier ones, and put it into the queue.

    The queue decides and is checkpointed; those before it, for the matrix of distances, are files.
    """
    config, paths = session.config, session.paths
    drawn = pruning.prune(pruning.magnitude(state.params), state.masks, config.sparsity, config.scope)
    newest, (_, total) = pack(drawn), masks.count(drawn)
    in_queue = list(np.asarray(queue)[-min(epoch, config.queue - 1) :]) if epoch else []
    recent = distances(newest, in_queue, total)
    for e in range(epoch - len(in_queue)):
        if e not in history:
            history[e] = rundir.read_bits(paths.mask(e))
            if history[e] is None:
                session.recorder.say(f"{paths.mask(e)}: missing or damaged, its distances stay unknown")
    older = [history[e] for e in range(epoch - len(in_queue))]
    known = [distances(newest, [bits], total) if bits is not None else None for bits in older]
    fired = fires(recent[config.criterion], config.queue, config.tau)
    session.recorder.write(
        "mask",
        epoch=epoch,
        fired=fired,
        **{name: [*(d[name][0] if d else None for d in known), *recent[name]] for name in recent},
    )
    largest = {f"largest_{name}": max(values, default=1.0) for name, values in recent.items()}
    session.progress["early_bird"] = {
        "fired": fired,
        "epoch": epoch,
        "criterion": config.criterion,
        **largest,
    }
    if hosts.is_first():
        rundir.write_bits(paths.mask(epoch), newest)
    return jnp.concatenate([queue[1:], jnp.asarray(newest)[None]])
