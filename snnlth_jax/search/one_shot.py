"""Pruning at initialisation, in one shot: magnitude, random, SNIP, GraSP and SynFlow (paper, Fig. 9).

The weights as drawn are scored, the lowest are removed, and the rest is trained. No search: they are what one
has to beat. On the spiking network, or on its ReLU twin (`activation`).
"""

import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from snnlth_jax import configs, data, losses, masks, models, pruning, tickets
from snnlth_jax.analysis.flops import macs
from snnlth_jax.data.augment import normalise
from snnlth_jax.search import final, outcome
from snnlth_jax.search.programs import TWIN
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.search.session import Phase, Session, run
from snnlth_jax.train import NonFiniteLoss

PyTree = Any

__all__ = ["flow", "search", "synflow_masks"]


def search(config: configs.Resolved, dataset: data.Dataset, console: Console | None = None) -> dict[str, Any]:
    """Prune and train, or go on with it where the last process stopped.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    if config.like is not None:  # before anything is written
        model = models.create(config.arch, dataset.num_classes, width=config.width)
        images = jnp.zeros((1, *dataset.image_shape))
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, num_timesteps=1), images)
        tickets.check(config.like, tickets.load(config.like), variables["params"])
    phases = [Phase("scores", 0, 0, 0), *final.phases(config, [1], 0)]
    return run(config, dataset, phases, {"scores": _score, **final.TRAINERS}, console)


def flow(model: Any, batch_stats: PyTree, images: jax.Array) -> Callable[[PyTree], jax.Array]:
    """SynFlow's R as a function of the parameters: the summed output of the network for images of ones.

    Without biases. Of the ReLU network with running statistics, which is linear in each layer for weights
    that are not negative.
    """

    def total(params: PyTree) -> jax.Array:
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.zeros_like(x) if path[-1].key == "bias" else x, params
        )
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, jnp.ones_like(images), num_timesteps=1).sum()

    return total


def synflow_masks(
    scores: Callable[[PyTree], PyTree], params: PyTree, sparsity: float, iterations: int, scope: pruning.Scope
) -> PyTree:
    """Down to the density d in n steps, d^(i / n) after the i-th, scored anew each time.

    Args:
      scores: `pruning.synflow` of the network's `flow`, compiled; of the parameters.
      params: as initialised.
      sparsity: 1 - d.
      iterations: n.
      scope: see `pruning.prune`.
    """
    density = _density(sparsity)
    kept = masks.make(params)
    for i in range(1, iterations + 1):
        step = density if i == iterations else density ** (i / iterations)
        kept = pruning.keep_top(scores(masks.apply(params, kept)), kept, step, scope)
    return kept


def _density(sparsity: float) -> float:
    """1 - sparsity as decimal numbers, so that 0.95 leaves 0.05 and not 0.050000000000000044."""
    return float(1 - Decimal(repr(float(sparsity))))


def _score(session: Session, phase: Phase, new: bool) -> None:
    state = session.arrays["state"]
    with session.timed():
        kept, row = _masks(session, state)
        jax.block_until_ready(kept)
    session.arrays["state"] = state._replace(masks=kept)
    ticket = outcome.save_ticket(session, 1, session.network(), kept, RewindPoint.of(state))
    outcome.finish_phase(session, session.network(), ticket, **row)


def _masks(session: Session, state: Any) -> tuple[PyTree, dict[str, Any]]:
    """The masks, and what they cost: images, FLOPs and seconds."""
    config, everything, params = session.config, state.masks, state.params
    if config.like is not None:
        like = masks.tree_map(jnp.asarray, tickets.load(config.like).masks)
        return pruning.shuffle(session.mask_key, like), {}
    if config.criterion in ("random", "magnitude"):
        key = session.mask_key
        free = pruning.magnitude(params) if config.criterion == "magnitude" else pruning.random(key, params)
        return pruning.prune(free, everything, config.sparsity, config.scope), {}

    if config.criterion == "synflow":
        total, images = flow(session.networks.model(TWIN), state.batch_stats, session.networks.sample), 0
        criterion, times = partial(pruning.synflow, total), config.synflow_iterations
    else:
        images, times = _examples(session), 1
        of = {"snip": pruning.snip, "grasp": pruning.grasp}[config.criterion]
        criterion = partial(of, _loss(session, state.batch_stats, images))
    started = time.perf_counter()
    scores = jax.jit(criterion).lower(params).compile()
    compile_seconds = time.perf_counter() - started

    def timed(params: PyTree) -> PyTree:
        begun = time.perf_counter()
        found = jax.block_until_ready(scores(params))
        seconds.append(time.perf_counter() - begun)
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found)):
            raise NonFiniteLoss(f"scores of {config.criterion}")
        return found

    seconds: list[float] = []
    if config.criterion == "synflow":
        kept = synflow_masks(timed, params, config.sparsity, times, config.scope)
        forward = 2 * times * macs(total, params)
    else:
        kept = pruning.prune(timed(params), everything, config.sparsity, config.scope)
        forward = images * session.networks.forward_flops(session.network())
    return kept, {
        "images": images,
        "forward_flops": forward,
        "train_flops": 2 * times * macs(criterion, params),
        "device_seconds": sum(seconds),
        "compile_seconds": compile_seconds,
    }


def _examples(session: Session) -> int:
    available = len(session.train_split.labels)
    return min(1000, available) if session.config.score_examples is None else session.config.score_examples


def _loss(session: Session, batch_stats: PyTree, examples: int) -> Callable[[PyTree], jax.Array]:
    """The training loss on so many random training images, not augmented, a batch at a time."""
    network = session.network()
    model, size = session.networks.model(network), min(session.config.batch_size, examples)
    split = session.train_split
    order = jax.random.permutation(session.score_key, len(split.labels))[:examples]
    images, labels = split.images[order], split.labels[order]
    full = examples // size * size

    def of_batch(params: PyTree, chosen: jax.Array) -> jax.Array:
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            normalise(images[chosen], session.networks.augmentation),
            num_timesteps=network.num_timesteps,
            train=True,
            mutable=["batch_stats"],
        )
        return losses.cross_entropy(logits, labels[chosen]).sum()

    def loss(params: PyTree) -> jax.Array:
        # checkpointed: the activations of one batch at a time are kept
        batches = jnp.arange(full).reshape(-1, size)
        sums = jax.lax.map(jax.checkpoint(lambda chosen: of_batch(params, chosen)), batches)
        rest = of_batch(params, jnp.arange(full, examples)) if full < examples else 0.0
        return (sums.sum() + rest) / examples

    return loss
