"""Dynamic sparse training: a network that is sparse from the start, and whose masks move (RigL and SET).

The masks begin at random. After each epoch, until a share of the epochs has passed, each layer drops a
fraction of its weights, smallest first, and grows as many: where the dense gradient is largest (RigL, Evci et
al. 2020) or at random (SET, Mocanu et al. 2018). There is no search before the training run; the ticket is
the last masks on the initial weights, and its accuracy that of the network that was trained.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.console import Console

from snnlth_jax import configs, data, masks, pruning
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.run import earlier
from snnlth_jax.run.results import Result
from snnlth_jax.search import final, scoring
from snnlth_jax.search.outcome import Work
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs, full_variant
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.session import Session, run
from snnlth_jax.train import TrainState

PyTree = Any

__all__ = ["search"]


def search(
    config: configs.DynamicConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Train a network with moving masks, and the controls of its ticket, or resume such a run.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    return run(config, _search, dataset, model, programs, console)


def _search(session: Session[configs.ResolvedDynamic]) -> None:
    for phase in session.remaining("dynamic"):
        for _ in session.train(phase, lambda phase, last: _start(session, last), change=_rewire(session)):
            pass
        ticket = session.save_ticket(phase, phase.round, session.carry.state.masks)
        session.finish(phase, ticket, _work(session, phase))
    final.train(session)


def _start(session: Session[configs.ResolvedDynamic], last: Carry) -> Carry:
    """Random masks on the initial weights, which the ticket keeps whole."""
    config, state = session.config, session.initial_state()
    scores = pruning.random(session.mask_key, state.params)
    scope: pruning.Scope = "erk" if config.distribution == "erk" else "layer"
    kept = pruning.prune(scores, state.masks, config.sparsity, scope)
    return last._replace(state=_masked(state, kept))


def _rewire(session: Session[configs.ResolvedDynamic]) -> Callable[[int, TrainState], TrainState]:
    """The change of the masks before the next epoch."""
    config = session.config

    def change(epoch: int, state: TrainState) -> TrainState:
        fraction = _fraction(config, epoch)
        if not fraction:
            return state
        with session.timed():
            new: TrainState = jax.block_until_ready(changed(epoch, state, fraction))
        return new

    def changed(epoch: int, state: TrainState, fraction: float) -> TrainState:
        key = jax.random.fold_in(session.score_key, epoch)
        if config.criterion == "set":
            growth = pruning.random(key, state.params)
        else:
            arguments = state.params, state.batch_stats, *scoring.draw(session, key, config.batch_size)
            size = "rigl", full_variant(config), config.batch_size
            growth = session.variants.scorer(size, _dense_gradient(session), *arguments)[0](*arguments)
        return _masked(state, _rewired(state.params, state.masks, growth, jnp.float32(fraction)))

    return change


def _fraction(config: configs.ResolvedDynamic, epoch: int) -> float:
    """The share that is dropped after this number of epochs."""
    if epoch == 0:
        return 0.0
    last = round(config.update_until * config.epochs)
    return pruning.drop_fraction(epoch, last, config.drop_fraction)


def _dense_gradient(session: Session[configs.ResolvedDynamic]) -> Callable[..., PyTree]:
    """Magnitude of the gradient with respect to all weights, those that are absent included."""

    def magnitude(params: PyTree, *arguments: PyTree) -> PyTree:
        gradient = jax.grad(lambda params: scoring.loss(session, params, *arguments))(params)
        return pruning.magnitude(gradient)

    return magnitude


def _masked(state: TrainState, kept: PyTree) -> TrainState:
    return state._replace(params=masks.apply(state.params, kept), masks=kept)


_rewired = jax.jit(pruning.rewire)


def _work(session: Session[configs.ResolvedDynamic], phase: Phase) -> Work:
    """Work of the epochs, and of a dense gradient of one batch for each change of RigL's."""
    config, epochs = session.config, session.progress.epoch
    changes = sum(_fraction(config, epoch) > 0 for epoch in range(1, epochs + 1))
    scored = changes * config.batch_size if config.criterion == "rigl" else 0
    images = epochs * len(session.train_split.labels) + scored
    forward = images * session.variants.forward_flops(full_variant(config))
    return Work(images, forward, train_flops(forward), session.progress.row.device_seconds)
