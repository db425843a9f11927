"""Training losses by name, against NumPy and by finite differences; a step of training on each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snnlth_jax import losses, train

RNG = np.random.default_rng(0)
LOGITS, LABELS = 2 * RNG.normal(size=(3, 4, 5)), np.array([0, 4, 2, 2])


def entropy(target, logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return -(target * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def by_hand(name, logits, labels, smoothing):
    target = np.full((len(labels), logits.shape[-1]), smoothing / logits.shape[-1])
    target[np.arange(len(labels)), labels] += 1 - smoothing
    each = np.mean([entropy(target, z) for z in logits], axis=0)
    return {
        "mean-ce": each,
        "sum-ce": entropy(target, logits.sum(0)),
        "tet": 0.999 * each + 0.001 * ((logits - 1) ** 2).mean((0, 2)),
        "mse-rate": ((logits.mean(0) - target) ** 2).mean(-1),
    }[name]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", losses.NAMES)
def test_a_loss_and_its_gradient_are_the_formula(name, smoothing, x64):
    loss = losses.Loss(name, smoothing)
    expected = by_hand(name, LOGITS, LABELS, smoothing)
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-12)
    slopes = jax.grad(lambda logits: loss(logits, LABELS).mean())(jnp.asarray(LOGITS))
    for index in [(0, 0, 0), (1, 2, 2), (2, 3, 4), (2, 1, 4)]:
        ends = []
        for step in (1e-5, -1e-5):
            moved = LOGITS.copy()
            moved[index] += step
            ends.append(by_hand(name, moved, LABELS, smoothing).mean())
        np.testing.assert_allclose(slopes[index], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-10)


def test_gradients_have_their_closed_forms(x64):
    """softmax less target, over T; of the sum the same at every timestep; of the rate 2 / (T K) times it."""
    onehot, logits = np.eye(5)[LABELS], jnp.asarray(LOGITS)
    slope = {}
    for name in losses.NAMES:
        slope[name] = jax.grad(lambda z, name=name: losses.Loss(name)(z, LABELS).sum())(logits)
    np.testing.assert_allclose(slope["mean-ce"], (jax.nn.softmax(logits) - onehot[None]) / 3, atol=1e-12)
    summed = jax.nn.softmax(logits.sum(0)) - onehot
    np.testing.assert_allclose(slope["sum-ce"], np.stack([summed] * 3), atol=1e-12)
    rate = 2 / (3 * 5) * (LOGITS.mean(0) - onehot)
    np.testing.assert_allclose(slope["mse-rate"], np.stack([rate] * 3), atol=1e-12)
    together = 0.999 * slope["mean-ce"] + 0.001 * 2 * (LOGITS - 1) / 15
    np.testing.assert_allclose(slope["tet"], together, atol=1e-12)


def test_with_one_timestep_two_losses_are_one():
    np.testing.assert_array_equal(
        losses.Loss("sum-ce", 0.2)(LOGITS[:1], LABELS), losses.Loss("mean-ce", 0.2)(LOGITS[:1], LABELS)
    )


@pytest.mark.parametrize("name", losses.NAMES)
def test_what_is_no_class_has_no_loss(name):
    labels = jnp.array([0, -1, 5, 2])
    loss = jax.jit(losses.Loss(name, 0.1))(LOGITS.astype(np.float32), labels)
    assert np.isnan(loss).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="labels must lie in"):
        losses.Loss(name)(LOGITS, np.array([0, 1, 2, 5]))
    half = losses.Loss(name)(jnp.asarray(LOGITS, jnp.bfloat16), LABELS)
    assert half.dtype == jnp.float32


def test_a_loss_is_a_value():
    assert losses.Loss() == losses.Loss("mean-ce", 0.0)
    assert len({losses.Loss(), losses.Loss("tet"), losses.Loss("tet", 0.1), losses.Loss("tet")}) == 3
    logits = jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    programs = [jax.make_jaxpr(loss)(logits, labels) for loss in (losses.Loss(), losses.cross_entropy)]
    assert str(programs[0]) == str(programs[1])
    for arguments in (("ce",), ("tet", 1.0), ("tet", -0.1), ("tet", float("nan"))):
        with pytest.raises(ValueError, match=r"loss must be one of|label_smoothing must lie in \[0, 1\)"):
            losses.Loss(*arguments)
    for epsilon in (1.0, 1.5, -0.3, float("nan"), "a", None):
        with pytest.raises(ValueError, match=r"label_smoothing must (lie in \[0, 1\)|be a real number)"):
            losses.cross_entropy(jnp.zeros((3, 4, 5)), jnp.zeros(4, int), epsilon)


class Linear:
    """A network of one matrix, for which a step is known by hand."""

    def apply(self, variables, x, *, num_timesteps, train, mutable=None):
        logits = jnp.einsum("bi,tio->tbo", x, variables["params"]["w"])
        return (logits, {"batch_stats": {}}) if train else logits


@pytest.mark.parametrize("name", ["tet", "mse-rate"])
def test_a_step_and_an_evaluation_are_of_the_loss(name, x64):
    x, w = RNG.normal(size=(4, 2)), RNG.normal(size=(3, 2, 5))
    tx = optax.with_extra_args_support(optax.identity())
    params = {"w": jnp.asarray(w)}
    state = train.TrainState(jnp.int32(0), params, {}, {"w": None}, tx.init(params))
    batch = train.Batch(jnp.asarray(x), jnp.asarray(LABELS))
    loss_fn = losses.Loss(name, 0.1)

    def update(grads, state, params, **_):
        return jax.tree.map(jnp.negative, grads), state

    tx = optax.GradientTransformationExtraArgs(tx.init, update)
    step = partial(train.train_step, model=Linear(), tx=tx, learning_rate=1.0, num_timesteps=3)
    new, metrics = step(state, batch, loss_factor=0.5, loss_fn=loss_fn)
    logits = np.einsum("bi,tio->tbo", x, w)
    np.testing.assert_allclose(metrics.loss, by_hand(name, logits, LABELS, 0.1).sum(), rtol=1e-12)
    slope = jax.grad(lambda z: 0.5 * loss_fn(z, LABELS).mean())(jnp.asarray(logits))
    np.testing.assert_allclose(new.params["w"], w - np.einsum("bi,tbo->tio", x, slope), rtol=1e-10)
    evaluated, _ = train.eval_step(
        state, batch, jnp.array([1.0, 1, 0, 1]), model=Linear(), num_timesteps=3, loss_fn=loss_fn
    )
    np.testing.assert_allclose(evaluated.loss, by_hand(name, logits, LABELS, 0.1)[[0, 1, 3]].sum(), rtol=1e-6)
