"""Stability to the order of images: the reason for a rewind epoch (Frankle, Dziugaite, Roy, Carbin 2020).

Two copies of the dense network's weights of epoch r are trained to the end, each with its own order of images
and its own augmentation. The network is stable at r if the error does not rise on the line between the two
trained networks: both are then in one basin, which r epochs of training chose. Winning tickets are found by
rewinding to such an epoch. The search trains the dense network once, and two copies for each epoch and each
mask.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.console import Console

from snnlth_jax import configs, data, masks, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.machine import hosts
from snnlth_jax.run import earlier
from snnlth_jax.run.events import StabilityEvent
from snnlth_jax.run.results import InterpolationRecord, Result, StabilityRecord
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs, parameters
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.rewinding import RewindPoint, rewind
from snnlth_jax.search.session import Session, run

PyTree = Any

__all__ = ["barrier", "interpolate", "propose", "search"]


# --- the rule


def interpolate(a: PyTree, b: PyTree, alpha: float) -> PyTree:
    """The weights at a place on the line from `a` (alpha 0) to `b` (alpha 1).

    They are computed from the nearer end, so that both ends are exact, and so is the line between equals.

    >>> [interpolate(2.0, 6.0, alpha) for alpha in (0.0, 0.25, 0.75, 1.0)]
    [2.0, 3.0, 5.0, 6.0]
    """

    def between(x: Any, y: Any) -> Any:
        return x + alpha * (y - x) if alpha <= 0.5 else y - (1 - alpha) * (y - x)

    return jax.tree.map(between, a, b)


def barrier(errors: Sequence[float]) -> float:
    """Largest error on a line, less the mean error of its ends.

    >>> barrier([0.125, 0.5, 0.375]), barrier([0.25, 0.125, 0.25])
    (0.25, 0.0)
    """
    return max(errors) - (errors[0] + errors[-1]) / 2


def propose(barriers: Mapping[int, Sequence[float]], bound: float) -> int | None:
    """The first epoch whose barriers, at all sparsities, are below the bound; None if there is none.

    >>> propose({0: [0.3, 0.4], 1: [0.01, 0.05], 2: [0.0, 0.01]}, bound=0.02)
    2
    """
    return min((epoch for epoch, of_epoch in barriers.items() if max(of_epoch) < bound), default=None)


# --- the search


def search(
    config: configs.StabilityConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Measure the stability of a network at each epoch and sparsity, or resume such a search.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    if config.tickets:  # before anything is written
        dataset = hosts.raise_together(lambda: _check_tickets(config, dataset, model))
    return run(config, _search, dataset, model, programs, console)


def _check_tickets(
    config: configs.ResolvedStability, dataset: data.Dataset | None, model: nn.Module | None
) -> data.Dataset:
    """The dataset, once all tickets are of the network, the dataset and the seed."""
    dataset = dataset or configs.load_dataset(config)
    params = parameters(config, dataset, model)
    wanted = {"dataset": configs.dataset_name(config), "seed": config.seed}
    for file in config.ticket_files:
        ticket = tickets.load(file)
        tickets.check_trainable(file, ticket, params)
        for name, value in wanted.items():
            if (given := ticket.provenance.get(name, value)) != value:
                raise InputError(
                    "`tickets`", file, problem=f"a ticket of {name} {given}", allowed=f"of {value}"
                )
    return dataset


def _search(session: Session[configs.ResolvedStability]) -> None:
    _train_trunk(session)
    for phase in session.remaining("copy-a", "copy-b"):
        for _ in session.train(phase, partial(_copy, session)):
            pass
        if phase.points:
            with session.timed():
                measured = _measure(session, phase)
            _record(session, measured)
        session.finish(phase)


def _train_trunk(session: Session[configs.ResolvedStability]) -> None:
    """Train the dense network, and write its weights of the epochs that are copied."""
    epochs = session.config.stability_epochs

    def start(phase: Phase, last: Carry) -> Carry:
        state = session.initial_state()
        if 0 in epochs:
            session.save_weights(phase, 0, state)
        return last._replace(state=state)

    for phase in session.remaining("trunk"):
        for epoch, carry in session.train(phase, start):
            if epoch in epochs:
                session.save_weights(phase, epoch, carry.state)
        session.finish(phase)


def _copy(session: Session[configs.ResolvedStability], phase: Phase, last: Carry) -> Carry:
    """The first arrays of a copy; its rewind point is the trained network of the phase before."""
    point = RewindPoint.of_ticket(session.load_weights(phase.first_epoch))
    kept = masks.make(point.params)
    if phase.ticket is not None:
        kept = masks.tree_map(jnp.asarray, tickets.load(phase.ticket).masks)
    state = rewind(session.initial_state(), point, kept, session.tx)
    return last._replace(state=state, rewind=RewindPoint.of(last.state))


def _measure(session: Session[configs.ResolvedStability], phase: Phase) -> InterpolationRecord:
    """Evaluate the networks on the line from the network of the phase before to that of this one."""
    carry, last = session.carry, phase.points - 1
    a, b = jax.device_get((carry.rewind.params, carry.state.params))
    alphas = [point / last for point in range(phase.points)]
    errors, losses = [], []
    for alpha in alphas:
        metrics = session.evaluate(phase, interpolate(a, b, alpha))
        train, test = metrics["train"], metrics["test"]
        errors.append(1 - int(test.correct) / int(test.examples))
        losses.append(float(train.loss) / int(train.examples))
    kept, total = map(int, masks.count(carry.state.masks))
    return InterpolationRecord(
        epoch=phase.first_epoch,
        ticket=phase.ticket,
        kept=kept,
        total=total,
        alphas=tuple(alphas),
        test_errors=tuple(errors),
        train_losses=tuple(losses),
        barrier=barrier(errors),
    )


def _record(session: Session[configs.ResolvedStability], newest: InterpolationRecord) -> None:
    """Add a measurement to those before it; the last one decides the rewind epoch."""
    before, bound = session.progress.stability, session.config.stability_bound
    measured = (*(before.interpolations if before else ()), newest)
    barriers: dict[int, list[float]] = {}
    for one in measured:
        barriers.setdefault(one.epoch, []).append(one.barrier)
    whole = len(measured) == sum(phase.points > 0 for phase in session.phases)
    session.progress.stability = StabilityRecord(
        bound=bound, proposed=propose(barriers, bound) if whole else None, interpolations=measured
    )
    session.recorder.record(StabilityEvent.from_record(newest))
    verdict = f"below {bound:g}: stable" if newest.barrier < bound else f"not below {bound:g}: unstable"
    session.recorder.message(
        f"epoch {newest.epoch}, sparsity {100 * newest.sparsity:.2f} %: "
        f"error barrier {newest.barrier:.4f}, {verdict}"
    )
