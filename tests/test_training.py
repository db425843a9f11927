import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snnlth_jax import data, losses, masks, models, pruning, train
from snnlth_jax.data.augment import Augmentation, normalise
from snnlth_jax.models import _conv_cpu
from snnlth_jax.neurons import LIF
from snnlth_jax.train import Batch, optimizers

PLAIN = Augmentation(mean=(0.5,), std=(0.5,))
RANDOM = Augmentation(mean=(0.5,), std=(0.5,), crop_padding=1, flip=True, cutout=2)


def split(examples, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (examples, 4, 4, 1), np.uint8)
    return data.Split(jnp.asarray(images), jnp.asarray(rng.integers(0, classes, examples), jnp.int32))


def network(**kwargs):
    return models.VGG(features=(4, "M", 5), num_classes=3, **kwargs)


@functools.cache
def compiled(examples=13, batch_size=4, augmentation=RANDOM, num_timesteps=2, optimizer="sgd"):
    model, tx = network(), optimizers.create(optimizer)
    state = train.init_state(jax.random.key(0), model, tx, jnp.zeros((1, 4, 4, 1)))
    program = train.compile_program(
        model,
        tx,
        state,
        split(examples),
        split(7, seed=1),
        augmentation=augmentation,
        batch_size=batch_size,
        num_timesteps=num_timesteps,
    )
    return program, model, tx


def fresh(model, tx):
    return train.init_state(jax.random.key(0), model, tx, jnp.zeros((1, 4, 4, 1)))


def run(program, state, start, stop, metrics=None, examples=13, rate=0.1):
    metrics = train.zero_metrics() if metrics is None else metrics
    return program.train(
        state,
        metrics,
        split(examples),
        jax.random.key(1),
        jnp.float32(rate),
        jnp.int32(start),
        jnp.int32(stop),
    )


def test_losses_against_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 5, 4)).astype(np.float32), rng.integers(0, 4, 5)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.stack([log_softmax[:, b, labels[b]] for b in range(5)], 1).mean(0)
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-5)
    np.testing.assert_array_equal(losses.correct(logits, labels), logits.sum(0).argmax(-1) == labels)


def test_loss_has_the_same_size_at_every_number_of_timesteps():
    logits = jax.random.normal(jax.random.key(0), (1, 5, 4))
    labels = jnp.arange(5) % 4
    np.testing.assert_allclose(
        losses.cross_entropy(jnp.tile(logits, (7, 1, 1)), labels),
        losses.cross_entropy(logits, labels),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ("cosine", 4, [0.3, 0.3 / 2 * (1 + 0.5**0.5), 0.15, 0.3 / 2 * (1 - 0.5**0.5)]),
        ("step", 8, [0.3] * 4 + [0.03] * 2 + [0.003] * 2),
        ("step", 7, [0.3] * 3 + [0.03] * 2 + [0.003] * 2),  # torch: milestones 3 and 5
    ],
)
def test_learning_rates(schedule, epochs, expected):
    rate = optimizers.learning_rates(schedule, 0.3, epochs)
    np.testing.assert_allclose([rate(e) for e in range(epochs)], expected, rtol=1e-12)


def test_sgd_is_the_authors_rule():
    """Weight decay on everything, into the gradient, before the momentum; three steps by hand."""
    tx = optimizers.create("sgd", momentum=0.9, weight_decay=0.01)
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5, 0.0])}
    m, state = masks.make(params), tx.init(params)
    expected, momentum = jax.tree.map(np.asarray, params), jax.tree.map(np.zeros_like, params)
    for rate in (0.3, 0.2, 0.1):
        grads = jax.tree.map(lambda p: jnp.cos(p) + 1, params)
        updates, state = tx.update(grads, state, params, masks=m, learning_rate=rate)
        params = optax.apply_updates(params, updates)
        momentum = jax.tree.map(lambda b, g, p: 0.9 * b + g + 0.01 * p, momentum, grads, expected)
        expected = jax.tree.map(lambda p, b, rate=rate: p - rate * b, expected, momentum)
        chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_an_epoch_is_its_steps():
    """The compiled loop, uneven last batch included, against one train_step after the other."""
    program, model, tx = compiled(augmentation=PLAIN)
    state, metrics, failed = run(program, fresh(model, tx), 0, program.steps_per_epoch)
    assert program.steps_per_epoch == 4
    assert int(failed) == -1
    assert int(metrics.examples) == 13
    assert int(state.step) == 4

    order_key, _ = jax.random.split(jax.random.key(1))
    order = jax.random.permutation(order_key, 13)
    expected, total = fresh(model, tx), train.zero_metrics()
    step = jax.jit(
        functools.partial(train.train_step, model=model, tx=tx, num_timesteps=2, learning_rate=0.1)
    )
    for first in range(0, 13, 4):
        chosen = order[first : first + 4]
        expected, new = step(
            expected, Batch(normalise(split(13).images[chosen], PLAIN), split(13).labels[chosen])
        )
        total = jax.tree.map(jnp.add, total, new)
    chex.assert_trees_all_close(state, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, total, rtol=1e-5)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1), (3, 1), (1, 3)])
def test_an_epoch_in_pieces_is_bit_identical(pieces):
    program, model, tx = compiled()
    whole, whole_metrics, _ = run(program, fresh(model, tx), 0, 4)
    state, metrics, start = fresh(model, tx), None, 0
    for piece in pieces:
        state, metrics, _ = run(program, state, start, start + piece, metrics)
        start += piece
    chex.assert_trees_all_equal(state, whole)
    chex.assert_trees_all_equal(metrics, whole_metrics)


def test_keys_decide_order_and_augmentation():
    program, model, tx = compiled()
    fit = functools.partial(
        train.fit, program, split=split(13), learning_rate=lambda e: 0.1, first_epoch=0, last_epoch=2
    )

    def states(key):
        return [
            jax.device_get(epoch.state.params)
            for epoch in fit(state=fresh(model, tx), key=jax.random.key(key))
        ]

    first, again, other = states(0), states(0), states(1)
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(*(jax.tree.leaves(s[-1])[-1] for s in (first, other)))
    # going on after epoch 1 is never having stopped
    state = next(fit(state=fresh(model, tx), key=jax.random.key(0))).state
    second = list(
        train.fit(
            program,
            state,
            split(13),
            key=jax.random.key(0),
            learning_rate=lambda e: 0.1,
            first_epoch=1,
            last_epoch=2,
        )
    )
    assert [epoch.number for epoch in second] == [2]
    chex.assert_trees_all_equal(jax.device_get(second[0].state.params), first[1])


def test_evaluation_counts_every_image_once():
    """Seven test images in batches of four, against one batch of seven with running statistics."""
    program, model, tx = compiled()
    state, _, _ = run(program, fresh(model, tx), 0, 4)
    test = split(7, seed=1)
    metrics, correct = program.evaluate(state, test)
    logits = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        normalise(test.images, RANDOM),
        num_timesteps=2,
        train=False,
    )
    assert int(metrics.examples) == 7
    np.testing.assert_array_equal(correct, losses.correct(logits, test.labels))
    assert int(metrics.correct) == correct.sum()
    np.testing.assert_allclose(metrics.loss, losses.cross_entropy(logits, test.labels).sum(), rtol=1e-5)
    # another number of images, less than a batch
    assert int(program.evaluate(state, split(3)).metrics.examples) == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_removed_weights_stay_exactly_zero_and_new_masks_compile_nothing(optimizer):
    program, model, tx = compiled(optimizer=optimizer)
    state = fresh(model, tx)
    for _ in range(3):
        new_masks = pruning.prune(pruning.magnitude(state.params), state.masks, 0.3)
        state = state._replace(masks=new_masks, params=masks.apply(state.params, new_masks))
        state, _, _ = run(program, state, 0, 4)  # an ahead-of-time program: other shapes would be an error
        masks.tree_map(lambda keep, w: np.testing.assert_array_equal(w != 0, keep), state.masks, state.params)
    assert masks.sparsity(state.masks) > 0.6


def test_training_learns():
    """Bright against dark images, in a few steps."""
    program, model, tx = compiled(examples=24, batch_size=8, augmentation=PLAIN)
    labels = jnp.arange(24) % 3
    images = jnp.broadcast_to((labels * 120).astype(jnp.uint8).reshape(-1, 1, 1, 1), (24, 4, 4, 1))
    bright = data.Split(images, labels)
    epochs = train.fit(
        program,
        fresh(model, tx),
        bright,
        key=jax.random.key(0),
        learning_rate=lambda e: 0.1,
        first_epoch=0,
        last_epoch=25,
    )
    *_, last = epochs
    assert last.metrics.correct == 24
    assert last.metrics.loss / 24 < 0.3


def test_divergence_names_epoch_and_step():
    program, model, tx = compiled(augmentation=PLAIN)
    epochs = train.fit(
        program,
        fresh(model, tx),
        split(13),
        key=jax.random.key(0),
        learning_rate=lambda e: 0.1 if e == 0 else float("inf"),
        first_epoch=0,
        last_epoch=3,
    )
    assert next(epochs).number == 1
    with pytest.raises(train.NonFiniteLoss, match=r"epoch 2, step [1-4] of 4"):
        next(epochs)


def test_bfloat16_computes_narrow_and_keeps_wide():
    model, tx = network(dtype=jnp.bfloat16), optimizers.create()
    state = fresh(model, tx)
    images, labels = normalise(split(8).images, PLAIN), split(8).labels
    step = jax.jit(
        functools.partial(train.train_step, model=model, tx=tx, num_timesteps=2, learning_rate=0.1)
    )
    new, metrics = step(state, Batch(images, labels))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((new.params, new.batch_stats))} == {"float32"}
    assert "bf16[" in str(jax.make_jaxpr(step)(state, Batch(images, labels)))
    _, wide_metrics = jax.jit(
        functools.partial(train.train_step, model=network(), tx=tx, num_timesteps=2, learning_rate=0.1)
    )(state, Batch(images, labels))
    np.testing.assert_allclose(metrics.loss, wide_metrics.loss, rtol=0.05)
    chex.assert_tree_all_finite(new.params)


@pytest.mark.parametrize("how", ["vmap", "shard_map", "pmap"])
def test_devices_equal_one(how):
    """Gradients, batch statistics and metrics of two halves of a batch, against the whole."""
    tx = optimizers.create()
    whole = Batch(normalise(split(8).images, PLAIN), split(8).labels)
    kwargs = {"tx": tx, "num_timesteps": 2, "learning_rate": 0.1}
    state = fresh(network(), tx)
    expected, total = jax.jit(functools.partial(train.train_step, model=network(), **kwargs))(state, whole)

    step = functools.partial(train.train_step, model=network(axis_name="batch"), axis_name="batch", **kwargs)
    halves = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), whole)
    if how == "shard_map":
        mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
        replicated, over = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")

        def per_device(state, batch):
            new, metrics = step(state, jax.tree.map(lambda x: x[0], batch))
            return new, jax.tree.map(lambda x: x[None], metrics)

        # check_vma=False: or the gradients of replicated parameters come summed already
        sharded = jax.shard_map(
            per_device, mesh=mesh, in_specs=(replicated, over), out_specs=(replicated, over), check_vma=False
        )
        new, metrics = jax.jit(sharded)(state, halves)
    else:
        mapped = {"vmap": jax.vmap, "pmap": functools.partial(jax.pmap, devices=jax.devices()[:2])}[how]
        mapped = mapped(step, axis_name="batch", in_axes=(None, 0))
        new, metrics = (jax.jit(mapped) if how == "vmap" else mapped)(state, halves)
        chex.assert_trees_all_equal(*(jax.tree.map(lambda x, i=i: x[i], new) for i in (0, 1)))
        new = jax.tree.map(lambda x: x[0], new)
    chex.assert_trees_all_close(jax.device_get(new), jax.device_get(expected), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(jnp.sum, metrics), total, rtol=1e-5)


def test_any_flax_module_with_the_same_call():
    """A user's own network, without batch norm."""

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, *, num_timesteps, train=False):
            from snnlth_jax.neurons import lif_scan

            current = nn.Dense(6)(x.reshape(x.shape[0], -1))
            _, spikes = lif_scan(LIF(), jnp.broadcast_to(current, (num_timesteps, *current.shape)))
            return nn.Dense(3)(spikes)

    tx = optimizers.create("adam")
    state = train.init_state(jax.random.key(0), Own(), tx, jnp.zeros((1, 4, 4, 1)))
    new, metrics = train.train_step(
        state,
        Batch(normalise(split(8).images, PLAIN), split(8).labels),
        model=Own(),
        tx=tx,
        learning_rate=0.01,
        num_timesteps=3,
    )
    assert int(new.step) == 1
    assert int(metrics.examples) == 8


def test_the_ways_of_a_cpu_change_nothing_but_rounding(monkeypatch, x64):
    """Real digits, layers wide enough for minimal filtering: the same curve with XLA's own convolutions."""
    digits, curves = data.load("digits").train, []
    images = normalise(jnp.asarray(digits.images[:80]), data.spec("digits").augmentation).astype(jnp.float64)
    for plainly in (False, True):
        if plainly:
            monkeypatch.setattr(_conv_cpu, "_CONV", _conv_cpu._CONV.definition)
        model, tx = models.VGG((64, 64, "M", 64), param_dtype=jnp.float64), optimizers.create()
        state = train.init_state(jax.random.key(0), model, tx, images[:1])
        step = jax.jit(
            functools.partial(train.train_step, model=model, tx=tx, learning_rate=0.1, num_timesteps=3)
        )
        curve = []
        for number in range(12):
            chosen = np.arange(20) + 20 * (number % 4)
            state, metrics = step(state, Batch(images[chosen], jnp.asarray(digits.labels[chosen])))
            curve.append(float(metrics.loss) / 20)
        curves.append(curve)
    np.testing.assert_allclose(*curves, rtol=1e-9)
    assert curves[0][-1] < 0.7 * curves[0][0]
