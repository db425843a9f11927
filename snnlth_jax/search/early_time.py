"""Early-Time: search with fewer timesteps (the paper's own method).

Weights that matter at T timesteps are already visible at T' < T. The search trains the dense network for N
epochs at T; D_t is the divergence between its predictions after t timesteps and after all T. T' is the first
t, from 2, with a D_t below a fraction lambda of D_2. The search continues with the same network, optimiser,
schedule and order of images at T' (the paper, Algorithm 1), and its tickets are trained at T.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import msgspec
from rich.console import Console

from snnlth_jax import configs, data, losses
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.data.augment import augment
from snnlth_jax.data.frames import as_input
from snnlth_jax.models import own
from snnlth_jax.run import earlier
from snnlth_jax.run.events import EarlyTimeEvent
from snnlth_jax.run.results import EarlyTimeEpoch, EarlyTimeRecord, Result
from snnlth_jax.search.outcome import Work
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs, full_variant
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.session import Session, run

__all__ = ["LAMBDAS", "choose_timesteps", "measure", "normalise", "search", "select_timesteps"]

_Searched = configs.ResolvedImp | configs.ResolvedEb
_Measured = _Searched | configs.ResolvedProbe

LAMBDAS = tuple(round(0.1 * i, 1) for i in range(1, 11))


def normalise(divergences: Mapping[int, float], normalisation: str = "first") -> dict[int, float]:
    """Divide the candidates' divergences, t = 2 ... T - 1, by that of t = 2 ("first") or the largest ("max").

    Timestep 1 has no temporal dynamics and is left out (the paper). If all are 0 they stay 0.

    >>> normalise({1: 2.0, 2: 0.5, 3: 0.25, 4: 0.0})
    {2: 1.0, 3: 0.5}
    """
    candidates = {t: d for t, d in divergences.items() if 2 <= t < max(divergences)}
    values = list(candidates.values()) or [0.0]
    scale = {"first": values[0], "max": max(values)}[normalisation]
    return {t: d / scale if scale else float(d > 0) for t, d in candidates.items()}


def select_timesteps(
    divergences: Mapping[int, float], threshold: float = 0.6, normalisation: str = "first"
) -> int:
    """Select T', the first t from 2 to T - 1 with a normalised divergence below the threshold; T if none is.

    Args:
      divergences: D_t by t, up to D_T; see `losses.timestep_divergence`.
      threshold: the paper's lambda, in (0, 1].
      normalisation: "first" by D_2 (paper), or "max" by the largest (authors' code).

    >>> select_timesteps({1: 2.0, 2: 0.5, 3: 0.25, 4: 0.1, 5: 0.0})
    3
    """
    for t, d in normalise(divergences, normalisation).items():
        if d < threshold:
            return t
    return max(divergences)


def measure(session: Session[_Measured]) -> dict[int, float]:
    """Measure D_t for t = 1 ... T on augmented training images, in one forward pass; nothing changes.

    Batch norm uses the statistics of these images, timestep by timestep, as in training.
    """
    config, variant, state = session.config, full_variant(session.config), session.carry.state
    order_key, augment_key = jax.random.split(jax.random.fold_in(session.score_key, session.progress.epoch))
    split, augmentation = session.train_split, session.variants.augmentation
    chosen = jax.random.permutation(order_key, len(split.labels))[: _examples(session)]
    divergences = _divergences(
        {"params": state.params, "batch_stats": state.batch_stats},
        augment(augment_key, split.images[chosen], augmentation),
        # without kernels: the same T' on every device, and no kernel that jit would divide among several
        model=own.cloned(session.variants.model(variant), kernels="plain"),
        num_timesteps=variant.num_timesteps,
        direction=config.early_time_direction,
        reduction=config.early_time_reduction,
    )
    return {t: float(d) for t, d in enumerate(divergences, start=1)}


@partial(jax.jit, static_argnames=("model", "num_timesteps", "direction", "reduction"))
def _divergences(
    variables: Any,
    images: jax.Array,
    *,
    model: nn.Module,
    num_timesteps: int,
    direction: Literal["forward", "reverse"],
    reduction: Literal["sum", "mean"],
) -> jax.Array:
    logits, _ = model.apply(
        variables,
        as_input(model, images, num_timesteps),
        num_timesteps=num_timesteps,
        train=True,
        mutable=["batch_stats"],
    )
    return losses.timestep_divergence(logits, direction, reduction)


def _examples(session: Session[_Measured]) -> int:
    return min(session.config.early_time_examples, len(session.train_split.labels))


# --- at the beginning of a search


def choose_timesteps(session: Session[_Searched], train: Callable[[Phase], None]) -> None:
    """Train the probe, if there is one: the first epochs of the search, at T; then choose T'.

    Args:
      session: session of a search.
      train: the search's own training of its dense network; a search that restarts does without.
    """
    config, variant = session.config, full_variant(session.config)
    for phase in session.remaining("probe"):
        if config.early_time_start == "restart":
            for _ in session.train(phase, partial(_begin, session)):
                pass
        else:
            train(phase)
        epochs = session.progress.epoch
        with session.timed():
            measured = _record(config, measure(session))
        session.progress.early_time = measured
        session.recorder.record(_event(epochs, measured))
        curve = ", ".join(f"D_{t} {d:.3f}" for t, d in measured.normalised.items())
        chosen, full = measured.num_timesteps, variant.num_timesteps
        choice = f"T' = {chosen} of {full}" if chosen < full else f"none below it, so all {full}"
        session.recorder.message(
            f"Early-Time: {curve}; lambda {config.early_time_lambda}: {choice} timesteps"
        )
        trained = epochs * len(session.train_split.labels)
        images, forward = trained + _examples(session), session.variants.forward_flops(variant)
        work = Work(
            images,
            forward_flops=images * forward,
            train_flops=train_flops(trained * forward) + _examples(session) * forward,
            device_seconds=session.progress.row.device_seconds,
        )
        session.finish(phase, work=work)


def _begin(session: Session[_Measured], phase: Phase, last: Carry) -> Carry:
    return last._replace(state=session.initial_state())


def _record(config: _Measured, divergences: Mapping[int, float]) -> EarlyTimeRecord:
    threshold, normalisation = config.early_time_lambda, config.early_time_normalisation
    return EarlyTimeRecord(
        num_timesteps=select_timesteps(divergences, threshold, normalisation),
        threshold=threshold,
        divergences=dict(divergences),
        normalised=normalise(divergences, normalisation),
    )


def _event(
    epoch: int, measured: EarlyTimeRecord, by_lambda: dict[float, int] | None = None
) -> EarlyTimeEvent:
    return EarlyTimeEvent(
        epoch=epoch,
        num_timesteps=measured.num_timesteps,
        threshold=measured.threshold,
        divergences=measured.divergences,
        normalised=measured.normalised,
        by_lambda=by_lambda,
    )


# --- as a command of its own


def search(
    config: configs.ProbeConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Only measure: D_t after each of N epochs at T (Fig. 4), and T' for each of `LAMBDAS` (Fig. 7b).

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    return run(config, _measure_all, dataset, model, programs, console)


def _measure_all(session: Session[configs.ResolvedProbe]) -> None:
    config = session.config
    for phase in session.remaining("probe"):
        for epoch, _ in session.train(phase, partial(_begin, session)):
            divergences = measure(session)
            measured = _record(config, divergences)
            by_lambda = {
                value: select_timesteps(divergences, value, config.early_time_normalisation)
                for value in LAMBDAS
            }
            newest = EarlyTimeEpoch(epoch=epoch, normalised=measured.normalised, by_lambda=by_lambda)
            session.recorder.record(_event(epoch, measured, by_lambda))
            before = session.progress.early_time
            over_epochs = (*(before.over_epochs if before else ()), newest)
            session.progress.early_time = msgspec.structs.replace(measured, over_epochs=over_epochs)
        session.finish(phase)
