"""One step of training, and one of evaluation, for one device; all state is in `TrainState`.

With `axis_name` a step averages gradients and batch statistics over that mapped axis.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from snnlth_jax import losses, masks
from snnlth_jax.data.frames import as_input

PyTree = Any
LossFn = Callable[[jax.Array, jax.Array], jax.Array]  # of logits [T, B, classes] and labels, for each example

__all__ = ["Batch", "Metrics", "TrainState", "eval_step", "init_state", "train_step", "zero_metrics"]


class TrainState(NamedTuple):
    """Arrays that training changes. Masks are traced like the rest: new masks compile nothing."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    masks: PyTree
    opt_state: PyTree


class Batch(NamedTuple):
    """Normalised images `[B, H, W, C]`, or frames `[B, T, H, W, C]`, and integer labels `[B]`."""

    images: jax.Array
    labels: jax.Array


class Metrics(NamedTuple):
    """Sums over examples, so that uneven batches and devices add up."""

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array


def zero_metrics() -> Metrics:
    """Sums over no examples."""
    return Metrics(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def init_state(key: jax.Array, model: Any, tx: optax.GradientTransformation, images: jax.Array) -> TrainState:
    """A new state without removed weights; only the shape of `images` matters, see `Batch`."""
    variables = _init(key, images, model=model)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        masks=masks.make(params),
        opt_state=tx.init(params),
    )


@partial(jax.jit, static_argnames="model")
def _init(key: jax.Array, images: jax.Array, *, model: Any) -> PyTree:
    return model.init(key, as_input(model, images, 1), num_timesteps=1)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Any,
    tx: optax.GradientTransformationExtraArgs,
    learning_rate: float | jax.Array,
    num_timesteps: int,
    axis_name: str | None = None,
    loss_factor: float = 1.0,
    loss_fn: LossFn = losses.cross_entropy,
) -> tuple[TrainState, Metrics]:
    """One optimiser step on the mean over the batch of a loss, by default the paper's cross-entropy.

    Args:
      state: state before the step.
      batch: batch of this device.
      model: a network of `snnlth_jax.models`, or a Flax module with the same arguments; its `axis_name` must
        be the same.
      tx: see `optimizers.create`.
      learning_rate: learning rate of this step.
      num_timesteps: T.
      axis_name: mapped axis (`vmap`, `pmap`, `shard_map`) to average gradients and batch statistics over. In
        `shard_map` it needs `check_vma=False`: otherwise the gradients of replicated parameters arrive
        summed already.
      loss_factor: constant factor on the loss, and so on its gradient; the metrics are without it.
      loss_fn: function from logits `[T, B, classes]` and labels `[B]` to the losses `[B]`, see `losses.Loss`.

    Returns:
      The state after the step, and this device's metrics.
    """
    chex.assert_equal_shape_prefix((batch.images, batch.labels), 1)

    def objective(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            as_input(model, batch.images, num_timesteps),
            num_timesteps=num_timesteps,
            train=True,
            mutable=["batch_stats"],
        )
        loss = loss_fn(logits, batch.labels)
        batch_stats = updates.get("batch_stats", {})
        return loss_factor * loss.mean(), (loss, losses.correct(logits, batch.labels), batch_stats)

    grads, (loss, correct, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
    if axis_name is not None:
        grads = jax.lax.pmean(grads, axis_name)
    with jax.named_scope("optimiser"):
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, masks=state.masks, learning_rate=learning_rate
        )
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            masks=state.masks,
            opt_state=opt_state,
        )
    return state, Metrics(loss.sum(), correct.sum(dtype=jnp.int32), jnp.int32(loss.size))


def eval_step(
    state: TrainState,
    batch: Batch,
    weights: jax.Array,
    *,
    model: Any,
    num_timesteps: int,
    loss_fn: LossFn = losses.cross_entropy,
) -> tuple[Metrics, jax.Array]:
    """Metrics of one batch with running statistics, and whether each example is classified correctly `[B]`.

    `weights` `[B]` is 0 for padding, 1 for examples; `loss_fn` is as for `train_step`.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = as_input(model, batch.images, num_timesteps)
    logits = model.apply(variables, images, num_timesteps=num_timesteps, train=False)
    loss = loss_fn(logits, batch.labels)
    correct = losses.correct(logits, batch.labels) & (weights > 0)
    metrics = Metrics(
        loss=jnp.sum(loss * weights),
        correct=jnp.sum(correct, dtype=jnp.int32),
        examples=jnp.sum(weights > 0, dtype=jnp.int32),
    )
    return metrics, correct
