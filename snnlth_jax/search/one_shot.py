"""Pruning at initialisation, in one shot: magnitude, random, SNIP, GraSP and SynFlow (paper, Fig. 9).

A criterion scores the initial weights; the lowest are removed, and the rest is trained. There is no search:
these tickets are the baselines. The network is the spiking one, or its ReLU twin (`activation`).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich.console import Console

from snnlth_jax import configs, data, masks, pruning, tickets
from snnlth_jax.analysis.flops import macs
from snnlth_jax.configs import targets
from snnlth_jax.data.frames import as_input
from snnlth_jax.machine import hosts
from snnlth_jax.run import earlier
from snnlth_jax.run.results import Result
from snnlth_jax.search import final, scoring
from snnlth_jax.search.outcome import Work
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import TWIN, Programs, full_variant, parameters
from snnlth_jax.search.session import Session, run
from snnlth_jax.train import NonFiniteLoss, TrainState

PyTree = Any

__all__ = ["flow", "search", "synflow_masks"]


def search(
    config: configs.OneShotConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Prune at initialisation, train the ticket and its controls, or resume such a search.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    if config.like is not None:  # before anything is written
        dataset = hosts.raise_together(lambda: _check_like(config, dataset, model))
    return run(config, _search, dataset, model, programs, console)


def _check_like(
    config: configs.ResolvedOneShot, dataset: data.Dataset | None, model: nn.Module | None
) -> data.Dataset:
    """The dataset, once the ticket of `like` is one of the network."""
    assert config.like is not None
    ticket, dataset = tickets.load(config.like), dataset or configs.load_dataset(config)
    tickets.check_trainable(config.like, ticket, parameters(config, dataset, model))
    return dataset


def _search(session: Session[configs.ResolvedOneShot]) -> None:
    _score(session)
    final.train(session)


def flow(model: Any, batch_stats: PyTree, images: jax.Array) -> Callable[[PyTree], jax.Array]:
    """SynFlow's R as a function of the parameters: the summed output of the network for images of ones.

    The network is the ReLU network without biases and with running statistics, which is linear in each layer
    for weights that are not negative.
    """

    def total(params: PyTree) -> jax.Array:
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.zeros_like(x) if path[-1].key == "bias" else x, params
        )
        variables = {"params": params, "batch_stats": batch_stats}
        output: jax.Array = model.apply(variables, jnp.ones_like(images), num_timesteps=1)
        return output.sum()

    return total


def synflow_masks(
    scores: Callable[[PyTree], PyTree], params: PyTree, sparsity: float, iterations: int, scope: pruning.Scope
) -> PyTree:
    """Prune to the density d in n steps, to d^(i / n) in the i-th, with new scores in each step.

    Args:
      scores: `pruning.synflow` of the network's `flow`, compiled, as a function of the parameters.
      params: parameters at initialisation.
      sparsity: 1 - d.
      iterations: n.
      scope: see `pruning.prune`.
    """
    density = targets.density(sparsity)
    kept = masks.make(params)
    for i in range(1, iterations + 1):
        step = density if i == iterations else density ** (i / iterations)
        kept = pruning.keep_top(scores(masks.apply(params, kept)), kept, step, scope)
    return kept


def _score(session: Session[configs.ResolvedOneShot]) -> None:
    """Score the weights, remove the lowest, save the ticket."""
    for phase in session.remaining("scores"):
        session.begin(phase)
        state = session.carry.state
        with session.timed():
            kept, work = _masks(session, state)
            jax.block_until_ready(kept)
        session.carry = session.carry._replace(state=state._replace(masks=kept))
        ticket = session.save_ticket(phase, 1, kept)
        session.finish(phase, ticket, work)


def _masks(session: Session[configs.ResolvedOneShot], state: TrainState) -> tuple[PyTree, Work | None]:
    """The masks and their cost: images, FLOPs and seconds."""
    config, everything, params = session.config, state.masks, state.params
    if config.like is not None:
        like = masks.tree_map(jnp.asarray, tickets.load(config.like).masks)
        return pruning.shuffle(session.mask_key, like), None
    assert config.sparsity is not None  # None with `like` only
    if config.criterion in ("random", "magnitude"):
        key = session.mask_key
        values = pruning.magnitude(params) if config.criterion == "magnitude" else pruning.random(key, params)
        return pruning.prune(values, everything, config.sparsity, config.scope), None

    variants, batch_stats = session.variants, state.batch_stats
    variant = full_variant(config)
    if config.criterion == "synflow":
        images, times = 0, config.synflow_iterations
        arguments: tuple[PyTree, ...] = (batch_stats,)

        def loss(params: PyTree, batch_stats: PyTree) -> jax.Array:
            model = variants.model(TWIN)
            return flow(model, batch_stats, as_input(model, variants.sample, 1))(params)

    else:
        images, times = _examples(session), 1
        chosen = scoring.draw(session, session.score_key, images)
        arguments, loss = (batch_stats, *chosen), partial(scoring.loss, session)
    score = {"snip": pruning.snip, "grasp": pruning.grasp, "synflow": pruning.synflow}[config.criterion]

    def criterion(params: PyTree, *arguments: PyTree) -> PyTree:
        return score(lambda params: loss(params, *arguments), params)

    key = (config.criterion, variant, config.batch_size)
    scores, compile_seconds = variants.scorer(key, criterion, params, *arguments)
    seconds: list[float] = []

    def timed(params: PyTree) -> PyTree:
        started = time.perf_counter()
        values = jax.block_until_ready(scores(params, *arguments))
        seconds.append(time.perf_counter() - started)
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(values)):
            raise NonFiniteLoss(f"scores of {config.criterion}")
        return values

    if config.criterion == "synflow":
        kept = synflow_masks(timed, params, config.sparsity, times, config.scope)
        forward = 2 * times * macs(loss, params, *arguments)
    else:
        kept = pruning.prune(timed(params), everything, config.sparsity, config.scope)
        forward = images * variants.forward_flops(variant)
    return kept, Work(
        images,
        forward_flops=forward,
        train_flops=2 * times * macs(criterion, params, *arguments),
        device_seconds=sum(seconds),
        compile_seconds=compile_seconds,
    )


def _examples(session: Session[configs.ResolvedOneShot]) -> int:
    available = len(session.train_split.labels)
    return min(1000, available) if session.config.score_examples is None else session.config.score_examples
