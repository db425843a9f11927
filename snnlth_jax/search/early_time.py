"""Early-Time: search with fewer timesteps (the paper's own method).

Weights that matter at T timesteps are already visible at T' < T. The dense network is trained for N epochs at
T; D_t is the divergence between its predictions after t timesteps and after all T. T' is the first t, from 2,
whose D_t has fallen below a fraction lambda of D_2: the search runs at T', and its tickets are trained at T.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from rich.console import Console

from snnlth_jax import configs, data, losses
from snnlth_jax.analysis.flops import train_flops
from snnlth_jax.data.augment import augment
from snnlth_jax.search import outcome
from snnlth_jax.search.session import Phase, Session, run

__all__ = ["LAMBDAS", "measure", "normalise", "phases", "probe", "search", "select_timesteps"]

LAMBDAS = tuple(round(0.1 * i, 1) for i in range(1, 11))


def normalise(divergences: Mapping[int, float], normalisation: str = "first") -> dict[int, float]:
    """The candidates' divergences, t = 2 ... T - 1, over that of t = 2 ("first"), or the largest ("max").

    Timestep 1 has no temporal dynamics and is left out (the paper). Where all are 0 they stay 0.

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
    """T', the first t from 2 to T - 1 with a normalised divergence below the threshold; T if none is.

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


def measure(session: Session) -> dict[int, float]:
    """D_t for t = 1 ... T on augmented training images, from one forward pass; nothing changes.

    Batch norm uses the statistics of these images, timestep by timestep, as in training.
    """
    config, network, state = session.config, session.network(), session.arrays["state"]
    order_key, augment_key = jax.random.split(
        jax.random.fold_in(session.score_key, session.progress["epoch"])
    )
    examples = min(config.early_time_examples, len(session.train_split.labels))
    chosen = jax.random.permutation(order_key, len(session.train_split.labels))[:examples]
    images = augment(augment_key, session.train_split.images[chosen], session.networks.augmentation)
    divergences = _divergences(
        {"params": state.params, "batch_stats": state.batch_stats},
        images,
        model=session.networks.model(network),
        num_timesteps=network.num_timesteps,
        direction=config.early_time_direction,
        reduction=config.early_time_reduction,
    )
    return {t: float(d) for t, d in enumerate(divergences, start=1)}


@partial(jax.jit, static_argnames=("model", "num_timesteps", "direction", "reduction"))
def _divergences(variables, images, *, model, num_timesteps, direction, reduction):
    logits, _ = model.apply(
        variables, images, num_timesteps=num_timesteps, train=True, mutable=["batch_stats"]
    )
    return losses.timestep_divergence(logits, direction, reduction)


# --- before a search


def phases(config: configs.Resolved) -> list[Phase]:
    """The probe, if the search is to have one."""
    measured = config.early_time and config.early_time_timesteps is None
    return [Phase("probe", 0, 0, config.early_time_epochs)] if measured else []


def probe(session: Session, phase: Phase, new: bool) -> None:
    """Train at T for a few epochs, as the search will begin, and choose T'."""
    config, network = session.config, session.network()
    if new:
        session.arrays["state"] = session.init_state()
    for _ in session.train(network):
        pass
    with session.timed():
        divergences = measure(session)
    found = session.progress["early_time"] = _outcome(config, divergences)
    session.recorder.write("early_time", epoch=config.early_time_epochs, **found)
    curve = ", ".join(f"D_{t} {d:.3f}" for t, d in found["normalised"].items())
    chosen, full = found["num_timesteps"], network.num_timesteps
    told = f"T' = {chosen} of {full}" if chosen < full else f"none below it, so all {full}"
    session.recorder.say(f"Early-Time: {curve}; lambda {config.early_time_lambda}: {told} timesteps")
    images = config.early_time_epochs * len(session.train_split.labels)
    measured = min(config.early_time_examples, len(session.train_split.labels))
    forward = session.networks.forward_flops(network)
    outcome.finish_phase(
        session,
        network,
        images=images + measured,
        forward_flops=(images + measured) * forward,
        train_flops=train_flops(images * forward) + measured * forward,
    )


def _outcome(config: configs.Resolved, divergences: Mapping[int, float]) -> dict[str, Any]:
    normalised = normalise(divergences, config.early_time_normalisation)
    return {
        "num_timesteps": select_timesteps(
            divergences, config.early_time_lambda, config.early_time_normalisation
        ),
        "lambda": config.early_time_lambda,
        "divergences": {str(t): d for t, d in divergences.items()},
        "normalised": {str(t): d for t, d in normalised.items()},
    }


# --- as a command of its own


def search(config: configs.Resolved, dataset: data.Dataset, console: Console | None = None) -> dict[str, Any]:
    """Measure only: D_t after each of N epochs at T (Fig. 4), and T' for each of `LAMBDAS` (Fig. 7b).

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    phase = Phase("probe", 0, 0, config.early_time_epochs)
    return run(config, dataset, [phase], {"probe": _measure_all}, console)


def _measure_all(session: Session, phase: Phase, new: bool) -> None:
    config, network = session.config, session.network()
    for epoch in session.train(network):
        divergences = measure(session)
        found = _outcome(config, divergences)
        by_lambda = {
            str(each): select_timesteps(divergences, each, config.early_time_normalisation)
            for each in LAMBDAS
        }
        session.recorder.write("early_time", epoch=epoch, **found, by_lambda=by_lambda)
        before = (session.progress["early_time"] or {}).get("over_epochs", [])
        now = {"epoch": epoch, "normalised": found["normalised"], "by_lambda": by_lambda}
        session.progress["early_time"] = found | {"over_epochs": [*before, now]}
    outcome.finish_phase(session, network)
