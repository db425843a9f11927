"""An epoch of training as one compiled loop of steps, and a generator over epochs.

All functions are pure, and every random draw is keyed by (seed, phase, epoch, step), so that a run resumes
with the same numbers.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snnlth_jax import losses
from snnlth_jax.data import Split
from snnlth_jax.data.augment import Augmentation, draw, normalise, transform
from snnlth_jax.data.frames import as_input
from snnlth_jax.machine import hosts, sharding
from snnlth_jax.models.own import cloned
from snnlth_jax.train.step import (
    Batch,
    LossFn,
    Metrics,
    TrainState,
    eval_step,
    train_step,
    zero_metrics,
)

PyTree = Any

__all__ = [
    "Epoch",
    "Evaluation",
    "NonFiniteLoss",
    "Program",
    "compile_evaluation",
    "compile_program",
    "compile_steps",
    "fit",
]


class NonFiniteLoss(ArithmeticError):
    """Training diverged; the message names epoch and step."""


# --- many steps, compiled


_Carry = tuple[TrainState, Metrics, jax.Array]  # the last is the first step that was not finite, or -1


class Evaluation(NamedTuple):
    """Metrics of a split, and whether each of its N examples is classified correctly: `[N]`, in order."""

    metrics: Metrics
    correct: jax.Array


class Program(NamedTuple):
    """A training configuration, compiled once and for all rounds of a search.

    `train(state, metrics, split, key, learning_rate, start, stop)` runs the steps start ... stop - 1 of an
    epoch, adds to the metrics, and returns `(state, metrics, failed)`, failed = the first step that was not
    finite, or -1; state and metrics are donated. `evaluate(state, split)` returns the `Evaluation` of a
    whole split. `statistics(state, split, key)` returns the running statistics of batch norm that training on
    these images without augmentation would settle at, if the weights of the state did not change; it is
    compiled when it is first called. `memory` is the bytes on each device while it trains, see
    `sharding.Compiled`.
    """

    train: Callable[..., _Carry]
    evaluate: Callable[..., Evaluation]
    statistics: Callable[..., PyTree]
    steps_per_epoch: int
    compile_seconds: float
    memory: int | None


def compile_program(
    model: Any,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    train_split: Split,
    test_split: Split,
    *,
    augmentation: Augmentation,
    batch_size: int,
    num_timesteps: int,
    devices: sharding.Devices | None = None,
    loss_factor: float = 1.0,
    loss_fn: LossFn = losses.cross_entropy,
) -> Program:
    """Compile an epoch of training and an evaluation for arrays of these shapes.

    Images stay uint8 on the device; permutation, gathering, augmentation and the step all happen there.
    With several devices, which must divide the batch size, each takes its part of every batch. Arrays can be
    shapes (`sharding.abstract`). All are whole on each device, except that the images of the splits may be
    divided by `sharding.shard`: each batch is then put together from the devices that have its images.
    `loss_factor` and `loss_fn` are those of `train_step`; evaluations report the same loss.
    """
    common: dict[str, Any] = {
        "model": model,
        "num_timesteps": num_timesteps,
        "augmentation": augmentation,
        "batch_size": batch_size,
        "devices": devices,
    }
    evaluate, statistics = partial(_evaluate, loss_fn=loss_fn, **common), partial(_statistics, **common)
    started = time.perf_counter()
    steps = compile_steps(
        tx=tx, state=state, split=train_split, loss_factor=loss_factor, loss_fn=loss_fn, **common
    )
    # a validation split of another shape than the test set needs one more compilation
    functions: dict[Any, Callable[..., Any]] = {}

    def compiled_for(function: Callable[..., Any], state: TrainState, split: Split, *key: Any) -> Any:
        # divided images are filled up, labels are not
        shapes = function, split.images.shape, split.labels.shape
        if shapes not in functions:
            functions[shapes] = sharding.compiled(function, (state, split, *key), devices).call
        return functions[shapes]

    def evaluate_split(state: TrainState, split: Split) -> Evaluation:
        evaluation: Evaluation = compiled_for(evaluate, state, split)(state, split)
        return evaluation

    def statistics_on(state: TrainState, split: Split, key: jax.Array) -> PyTree:
        state, key = sharding.replicate((state, key), devices)
        return compiled_for(statistics, state, split, key)(state, split, key)

    compiled_for(evaluate, state, test_split)

    def train(state: TrainState, metrics: Metrics, split: Split, *arguments: jax.Array) -> _Carry:
        state, metrics, *rest = sharding.replicate((state, metrics, *arguments), devices)
        carry: _Carry = steps.call(state, metrics, split, *rest)
        return carry

    return Program(
        train=train if devices else steps.call,
        evaluate=evaluate_split,
        statistics=statistics_on,
        steps_per_epoch=-(-train_split.labels.shape[0] // batch_size),
        compile_seconds=time.perf_counter() - started,
        memory=steps.memory,
    )


def compile_steps(
    model: Any,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    split: Split,
    *,
    augmentation: Augmentation,
    batch_size: int,
    num_timesteps: int,
    devices: sharding.Devices | None = None,
    loss_factor: float = 1.0,
    loss_fn: LossFn = losses.cross_entropy,
) -> sharding.Compiled:
    """Compile the training of `compile_program` alone; its arguments, and `call` is its `train`.

    Args:
      model: as for `compile_program`.
      tx: as for `train_step`.
      state: a state of these shapes.
      split: images and labels of these shapes, to train on.
      augmentation: changes of the images, their mean and std.
      batch_size: number of images of a step.
      num_timesteps: T.
      devices: None for one.
      loss_factor: as for `train_step`.
      loss_fn: as for `train_step`.
    """
    steps = partial(
        _train_steps,
        model=model,
        tx=tx,
        augmentation=augmentation,
        batch_size=batch_size,
        num_timesteps=num_timesteps,
        devices=devices,
        loss_factor=loss_factor,
        loss_fn=loss_fn,
    )
    key, scalars = jax.eval_shape(jax.random.key, 0), _scalars(0.0, 0, 0)
    return sharding.compiled(steps, (state, zero_metrics(), split, key, *scalars), devices, donate=2)


def compile_evaluation(
    model: Any,
    state: TrainState,
    split: Split,
    *,
    augmentation: Augmentation,
    batch_size: int,
    num_timesteps: int,
    loss_fn: LossFn = losses.cross_entropy,
) -> Callable[[TrainState, Split], Evaluation]:
    """Compile the evaluation of `compile_program` alone, for one device; the same numbers.

    Args:
      model: as for `compile_program`.
      state: a state of these shapes; its optimiser's state does not matter.
      split: images and labels of these shapes.
      augmentation: mean and std of the images.
      batch_size: number of images at a time.
      num_timesteps: T.
      loss_fn: loss that the metrics have.
    """
    evaluate = partial(
        _evaluate,
        model=model,
        augmentation=augmentation,
        batch_size=batch_size,
        num_timesteps=num_timesteps,
        devices=None,
        loss_fn=loss_fn,
    )
    call: Callable[[TrainState, Split], Evaluation] = sharding.compiled(evaluate, (state, split), None).call
    return call


def _scalars(learning_rate: float, start: int, stop: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    return jnp.float32(learning_rate), jnp.int32(start), jnp.int32(stop)


def _train_steps(
    state: TrainState,
    metrics: Metrics,
    split: Split,
    key: jax.Array,
    learning_rate: jax.Array,
    start: jax.Array,
    stop: jax.Array,
    *,
    model: Any,
    tx: optax.GradientTransformationExtraArgs,
    augmentation: Augmentation,
    batch_size: int,
    num_timesteps: int,
    devices: sharding.Devices | None,
    loss_factor: float,
    loss_fn: LossFn,
) -> _Carry:
    """Run steps in a `while_loop` with traced bounds; a `scan` would compile anew for each number of steps.

    An epoch can be one call of this program, or several with progress shown in between. The last batch is
    smaller if the batch size does not divide the examples, and needs a second copy of the step.
    """
    examples = len(split.labels)
    full, rest = divmod(examples, batch_size)
    order_key, augment_key = jax.random.split(key)
    order = jax.random.permutation(order_key, examples)

    def step(index: jax.Array | int, size: int, carry: _Carry) -> _Carry:
        state, metrics, failed = carry
        # a last batch that the devices do not divide is computed by each of them
        sharers = devices if devices is not None and size % devices.count == 0 else None
        with jax.named_scope("data"):
            chosen = jax.lax.dynamic_slice(order, (index * batch_size,), (size,))
            shape = (size, *split.images.shape[1:])
            draws = draw(jax.random.fold_in(augment_key, index), shape, augmentation)
            images, labels = _fetch(split, chosen, sharers)
            draws = draws if sharers is None else _part(draws, sharers)
            batch = Batch(transform(draws, images, augmentation), labels)
        state, new = train_step(
            state,
            batch,
            model=model if sharers is None else cloned(model, axis_name=sharding.AXIS),
            tx=tx,
            learning_rate=learning_rate,
            num_timesteps=num_timesteps,
            axis_name=None if sharers is None else sharding.AXIS,
            loss_factor=loss_factor,
            loss_fn=loss_fn,
        )
        if sharers is not None:
            new = jax.lax.psum(new, sharding.AXIS)
        failed = jnp.where(jnp.isfinite(new.loss), failed, index)
        return state, jax.tree.map(jnp.add, metrics, new), failed

    def unfinished(loop: tuple[jax.Array, _Carry]) -> jax.Array:
        index, (_, _, failed) = loop
        return (index < jnp.minimum(stop, full)) & (failed < 0)

    _, carry = jax.lax.while_loop(
        unfinished,
        lambda loop: (loop[0] + 1, step(loop[0], batch_size, loop[1])),
        (start, (state, metrics, jnp.int32(-1))),
    )
    if rest:
        last = (stop > full) & (carry[2] < 0)
        carry = jax.lax.cond(last, lambda carry: step(full, rest, carry), lambda carry: carry, carry)
    state, metrics, failed = carry
    # a step of finite loss can still leave the weights infinite
    trained = (state.params, state.batch_stats)
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trained)]).all()
    return state, metrics, jnp.where(finite | (failed >= 0), failed, stop - 1)


def _evaluate(
    state: TrainState,
    split: Split,
    *,
    model: Any,
    augmentation: Augmentation,
    batch_size: int,
    num_timesteps: int,
    devices: sharding.Devices | None,
    loss_fn: LossFn,
) -> Evaluation:
    """Evaluate every example once: copies of weight 0 fill the last batch."""
    examples = len(split.labels)
    positions = jnp.arange(-(-examples // batch_size) * batch_size).reshape(-1, batch_size)

    def step(metrics: Metrics, indices: jax.Array) -> tuple[Metrics, jax.Array]:
        images, labels = _fetch(split, jnp.minimum(indices, examples - 1), devices)
        weights = (indices < examples).astype(jnp.float32)
        weights = weights if devices is None else _part(weights, devices)
        batch = Batch(normalise(images, augmentation), labels)
        new, correct = eval_step(
            state, batch, weights, model=model, num_timesteps=num_timesteps, loss_fn=loss_fn
        )
        return jax.tree.map(jnp.add, metrics, new), correct

    metrics, correct = jax.lax.scan(step, zero_metrics(), positions)
    if devices is not None:
        metrics = jax.lax.psum(metrics, sharding.AXIS)
        correct = jax.lax.all_gather(correct, sharding.AXIS, axis=1, tiled=True)
    return Evaluation(metrics, correct.reshape(-1)[:examples])


def _statistics(
    state: TrainState,
    split: Split,
    key: jax.Array,
    *,
    model: Any,
    augmentation: Augmentation,
    batch_size: int,
    num_timesteps: int,
    devices: sharding.Devices | None,
) -> PyTree:
    """Running statistics r that batch norm would settle at, over whole batches in the order of the key.

    A step of training moves them to d r + u, where d is a constant and u follows from the batch. They settle
    at the mean of u over the batches, divided by 1 - d.
    """
    whole = len(split.labels) // batch_size
    order = jax.random.permutation(key, len(split.labels))
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    model = model if devices is None else cloned(model, axis_name=sharding.AXIS)

    def moved(params: PyTree, batch_stats: PyTree, chosen: jax.Array) -> PyTree:
        images, _ = _fetch(split, chosen, devices)
        _, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            as_input(model, normalise(images, augmentation), num_timesteps),
            num_timesteps=num_timesteps,
            train=True,
            mutable=["batch_stats"],
        )
        return updates.get("batch_stats", {})

    zeros, ones = (jax.tree.map(like, state.batch_stats) for like in (jnp.zeros_like, jnp.ones_like))
    no_weights = jax.tree.map(jnp.zeros_like, state.params)  # so that u is 0 and d has all its digits
    moved_from = (moved(no_weights, start, batches[0]) for start in (ones, zeros))
    decay = jax.tree.map(jnp.subtract, *moved_from)

    def add(total: PyTree, chosen: jax.Array) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, moved(state.params, zeros, chosen)), None

    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda u, d: u / (whole * (1 - d)), total, decay)


def _fetch(split: Any, chosen: jax.Array, devices: sharding.Devices | None) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a batch: the part of this device, or the whole batch without devices."""
    own = chosen if devices is None else _part(chosen, devices)
    rows = len(split.images)
    if rows >= len(split.labels):
        return split.images[own], split.labels[own]
    # a device has only these rows of the images: each adds its own, and zeros for the others
    row = chosen - jax.lax.axis_index(sharding.AXIS) * rows
    present = (row >= 0) & (row < rows)
    images = split.images[jnp.clip(row, 0, rows - 1)]
    addend = images * present.reshape(-1, *(1,) * (images.ndim - 1)).astype(jnp.uint8)
    if devices is None:
        return jax.lax.psum(addend, sharding.AXIS), split.labels[own]
    return jax.lax.psum_scatter(addend, sharding.AXIS, tiled=True), split.labels[own]


def _part(batch: PyTree, devices: sharding.Devices) -> PyTree:
    """The part of this device of arrays whose first axis is the batch."""

    def part(x: jax.Array) -> jax.Array:
        size = len(x) // devices.count
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(sharding.AXIS) * size, size)

    return jax.tree.map(part, batch)


# --- epochs


class Epoch(NamedTuple):
    """A completed epoch: `number` counts from 1; `seconds` is the time of the training steps."""

    number: int
    state: TrainState
    metrics: Metrics
    learning_rate: float
    seconds: float


def fit(
    program: Program,
    state: TrainState,
    split: Split,
    *,
    key: jax.Array,
    learning_rate: Callable[[int], float],
    first_epoch: int,
    last_epoch: int,
    on_progress: Callable[[int, int, TrainState, Metrics, float], None] = lambda *progress: None,
    change: Callable[[int, TrainState], TrainState] = lambda epoch, state: state,
    first_step: int = 0,
    metrics: Metrics | None = None,
    seconds: float = 0.0,
    seconds_per_call: float = 10.0,
) -> Iterator[Epoch]:
    """Train the epochs first_epoch + 1 ... last_epoch, and yield the state after each.

    Args:
      program: see `compile_program`.
      state: state after `first_epoch` epochs; it is donated.
      split: training images on the device.
      key: key of this training run; epochs and steps are folded into it.
      learning_rate: learning rate by number of completed epochs.
      first_epoch: number of completed epochs at the start.
      last_epoch: number of completed epochs at the end.
      on_progress: called within epochs with (epoch number, steps done, state, metrics, seconds) so far; the
        next steps consume state and metrics, so copy or save what is to be kept.
      change: function from the number of completed epochs and the state to the state that the next epoch
        begins with, such as one with other masks; also called before the first.
      first_step: number of completed steps of the first epoch, if a run resumes within it.
      metrics: metrics of these steps.
      seconds: time of these steps.
      seconds_per_call: approximate time of a call of the program, after which progress is shown; it does not
        change results.

    Yields:
      One `Epoch` each; the next one consumes its state, so copy what is to be kept.

    Raises:
      NonFiniteLoss: naming epoch and step, both counted from 1.
    """
    steps_per_call, steps, metrics = 1, first_step, metrics or zero_metrics()
    for epoch in range(first_epoch, last_epoch):
        rate, epoch_key = learning_rate(epoch), jax.random.fold_in(key, epoch)
        if steps == 0:
            state = change(epoch, state)
        while steps < program.steps_per_epoch:
            stop = min(steps + steps_per_call, program.steps_per_epoch)
            started = time.perf_counter()
            state, metrics, failed = program.train(
                state, metrics, split, epoch_key, *_scalars(rate, steps, stop)
            )
            failed_step = int(failed)  # waits for the device
            elapsed = hosts.broadcast_from_first(time.perf_counter() - started)
            if failed_step >= 0:
                raise NonFiniteLoss(f"epoch {epoch + 1}, step {failed_step + 1} of {program.steps_per_epoch}")
            steps_per_call = max(1, int((stop - steps) * seconds_per_call / elapsed))
            steps, seconds = stop, seconds + elapsed
            on_progress(epoch + 1, steps, state, metrics, seconds)
        yield Epoch(epoch + 1, state, jax.device_get(metrics), rate, seconds)
        metrics, steps, seconds = zero_metrics(), 0, 0.0
