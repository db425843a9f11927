"""Early-Bird: the magnitude mask of the dense network stops changing long before training ends (the paper;
You et al. 2020).

The search trains the dense network at a raised learning rate. Before the first epoch and after each it
draws a mask: that of one-shot magnitude pruning to the sparsity. It stops as soon as the newest of q masks is
closer than tau to each of the q - 1 before it; the ticket is that mask, on the initial weights.

Two masks that keep k of P weights each, s of them in common, have two distances. The paper's is Hamming,
2 (k - s) / P, at density d never above 2 d: at 98 % sparsity two masks that share half of their weights
"agree" within tau = 0.02. The other is "overlap", 1 - s / k, which does not depend on the sparsity. Both are
recorded.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from snnlth_jax import configs, data, masks, pruning
from snnlth_jax.machine import hosts
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.earlier import adopted
from snnlth_jax.run.events import MaskEvent
from snnlth_jax.run.results import EarlyBirdRecord, Result
from snnlth_jax.search import early_time, final
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.search.session import Session, run
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
      newest: packed mask, see `pack`.
      others: packed masks.
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
        kept_other, shared = _ones(other), _ones(newest & other)
        most = max(kept, kept_other)
        result["hamming"].append((kept + kept_other - 2 * shared) / total)
        result["overlap"].append(1 - shared / most if most else 0.0)
    return result


def fires(to_earlier: Sequence[float], queue: int, tau: float) -> bool:
    """Whether the search stops: it has q masks, and the newest is closer than tau to all others.

    Args:
      to_earlier: distances from the newest mask to those drawn before it, oldest first.
      queue: q, the newest mask included.
      tau: bound; a distance equal to it does not stop the search.

    >>> fires([0.9, 0.01, 0.01], queue=3, tau=0.02), fires([0.01], queue=3, tau=0.02)
    (True, False)
    """
    return len(to_earlier) >= queue - 1 and max(to_earlier[-(queue - 1) :]) < tau


def _ones(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


# --- the search


def search(
    config: configs.EbConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Search a ticket by Early-Bird, train it and its controls, or resume such a search.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = adopted(config, configs.resolve(config))
    empty_queue = partial(_empty_queue, config)
    return run(config, _search, dataset, model, programs, console, empty_queue)


def _search(session: Session[configs.ResolvedEb]) -> None:
    train = partial(_train_until_it_fires, session, {})
    early_time.choose_timesteps(session, train)
    for phase in session.remaining("search"):
        train(phase)
        bird, queue = session.progress.early_bird, session.carry.queue
        assert bird is not None
        assert queue is not None
        session.recorder.message(_message(bird, session.config.tau))
        newest = unpack(np.asarray(queue[-1]), session.carry.state.masks)
        session.finish(phase, session.save_ticket(phase, 1, newest))
    final.train(session)


def _train_until_it_fires(
    session: Session[configs.ResolvedEb], history: dict[int, np.ndarray | None], phase: Phase
) -> None:
    config = session.config

    def draw_and_decide(epoch: int) -> bool:
        with session.timed():
            return _draw(session, epoch, history).fired

    def start(phase: Phase, last: Carry) -> Carry:
        if phase.continues:
            return last
        state = session.initial_state()
        session.carry = Carry.of(state, _empty_queue(config, state))
        _draw(session, 0, history)
        return session.carry

    if phase.continues and session.progress.early_bird and session.progress.early_bird.fired:
        session.begin(phase, start)  # it fired before Early-Time had its epochs: none is left
        return
    for epoch, carry in session.train(phase, start, draw_and_decide):
        if epoch <= config.rewind_epoch:
            session.carry = carry._replace(rewind=RewindPoint.of(carry.state))


def _message(bird: EarlyBirdRecord, tau: float) -> str:
    largest = f"largest {bird.criterion} distance {bird.largest:.4f}, tau {tau}"
    if bird.fired:
        return f"Early-Bird: fired after {bird.epoch} epochs ({largest})"
    return f"Early-Bird: never fired in {bird.epoch} epochs ({largest}); the last mask is used"


def _empty_queue(config: configs.EbConfig, state: TrainState) -> jax.Array:
    """The queue before the first mask, `[q, bytes]`; the newest mask is the last."""
    return jnp.zeros((config.queue, pack(state.masks).size), jnp.uint8)


def _draw(
    session: Session[configs.ResolvedEb], epoch: int, history: dict[int, np.ndarray | None]
) -> EarlyBirdRecord:
    """Draw the mask of this epoch, measure its distances to all earlier masks, and put it into the queue.

    The queue decides, and checkpoints hold it; files hold the earlier masks, for the matrix of distances.
    """
    config, state, queue = session.config, session.carry.state, session.carry.queue
    assert queue is not None
    mask_tree = pruning.prune(pruning.magnitude(state.params), state.masks, config.sparsity, config.scope)
    newest, (_, total) = pack(mask_tree), masks.count(mask_tree)
    in_queue = list(np.asarray(queue)[-min(epoch, config.queue - 1) :]) if epoch else []
    recent = distances(newest, in_queue, total)
    for earlier in range(epoch - len(in_queue)):
        if earlier not in history:
            path = session.mask_file(earlier)
            history[earlier] = rundir.read_bits(path)
            if history[earlier] is None:
                session.recorder.message(f"{path}: missing or damaged, its distances stay unknown")
    older = [history[earlier] for earlier in range(epoch - len(in_queue))]
    to_older = [distances(newest, [bits], total) if bits is not None else None for bits in older]
    bird = EarlyBirdRecord(
        fired=fires(recent[config.criterion], config.queue, config.tau),
        epoch=epoch,
        criterion=config.criterion,
        **{f"largest_{name}": max(values, default=1.0) for name, values in recent.items()},
    )
    session.recorder.record(
        MaskEvent(
            epoch=epoch,
            fired=bird.fired,
            **{name: (*(d[name][0] if d else None for d in to_older), *recent[name]) for name in recent},
        )
    )
    session.progress.early_bird = bird
    if hosts.is_first():
        rundir.write_bits(session.mask_file(epoch), newest)
    queue = jnp.concatenate([queue[1:], jnp.asarray(newest)[None]])
    session.carry = session.carry._replace(queue=queue)
    return bird
