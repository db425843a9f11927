"""Losses are those of NumPy, for the shapes and labels that they are declared for; others are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from snnlth_jax import losses

LOGITS = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
LABELS = np.array([0, 3, 4, 1])
OF_LABELS = [losses.cross_entropy, losses.correct]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([np.int8, np.uint8, np.int32, np.uint32, np.int64]))
def test_against_numpy(seed, dtype):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, 4).astype(dtype)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -log_softmax[:, np.arange(4), labels].mean(0)
    np.testing.assert_allclose(losses.cross_entropy(logits.astype(np.float32), labels), expected, rtol=1e-5)
    np.testing.assert_array_equal(losses.correct(logits, labels), logits.sum(0).argmax(-1) == labels)


@pytest.mark.parametrize("loss", OF_LABELS)
@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (LOGITS.sum(0), LABELS),
        (LOGITS[None], LABELS),
        (LOGITS[:, :, None], LABELS),
        (LOGITS[:0], LABELS),
        (LOGITS[..., :0], LABELS),
        (LOGITS, LABELS[:, None]),
        (LOGITS, LABELS[:1]),
        (LOGITS[:, :1], LABELS),
        (LOGITS, LABELS[0]),
        (LOGITS, np.eye(5, dtype=int)[LABELS]),
        (LOGITS, np.eye(5, dtype=np.float32)[LABELS]),
        (LOGITS, LABELS.astype(np.float32)),
        (LOGITS, LABELS > 1),
        (LOGITS, np.broadcast_to(LABELS, (3, 4))),
        (LOGITS.astype(complex), LABELS),
    ],
)
def test_other_shapes_are_refused(loss, logits, labels):
    """One line that names the shapes, when a program is traced too."""
    for traced in (False, True):
        with pytest.raises(
            ValueError, match=r"^(labels must be integers \[B\]|logits must be real)"
        ) as refusal:
            jax.eval_shape(loss, logits, labels) if traced else loss(logits, labels)
        line = str(refusal.value).splitlines()[0]
        assert str(logits.shape) in line
        assert line.startswith("logits") or str(labels.shape) in line


@pytest.mark.parametrize("loss", OF_LABELS)
@pytest.mark.parametrize(
    ("label", "dtype"), [(5, int), (-1, int), (-5, np.int8), (255, np.uint8), (2**32, np.int64)]
)
def test_known_labels_that_are_no_class_are_refused(loss, label, dtype):
    labels = LABELS.astype(dtype)
    labels[2] = label
    with pytest.raises(ValueError, match=rf"^labels must lie in 0 \.\.\. 4, got {label} at \[2\]$"):
        loss(LOGITS, labels)
    with pytest.raises(ValueError, match=rf"^labels must lie in 0 \.\.\. 4, got {label} at \[2\]"):
        jax.jit(lambda logits: loss(logits, labels))(LOGITS)


def test_traced_labels_that_are_no_class_are_never_right():
    labels = jnp.array([-1, 3, 5, 1])
    valid = np.array([False, True, False, True])
    loss = jax.jit(losses.cross_entropy)(LOGITS, labels)
    np.testing.assert_array_equal(jnp.isnan(loss), ~valid)
    np.testing.assert_array_equal(loss[valid], losses.cross_entropy(LOGITS, LABELS)[valid])
    slopes = jax.jit(jax.grad(lambda logits, labels: losses.cross_entropy(logits, labels).sum()))(
        LOGITS, labels
    )
    np.testing.assert_array_equal(jnp.isnan(slopes).any((0, 2)), ~valid)
    # whatever is predicted, with labels that have room for few classes
    for size, dtype in ((300, jnp.int8), (300, jnp.uint8), (5, jnp.int32)):
        logits = jnp.zeros((1, 4, size)).at[:, jnp.arange(4), jnp.array([0, 3, size - 1, 1])].set(1.0)
        right = jax.jit(losses.correct)(logits, jnp.array([-1, 3, -1, 1]).astype(dtype))
        assert right.tolist() == [False, True, False, True]


def test_many_classes_in_small_labels():
    """Labels of a dtype that cannot hold all classes are compared, not wrapped."""
    logits = jnp.zeros((1, 2, 300)).at[0, 0, 44].set(1.0).at[0, 1, 299].set(1.0)
    assert losses.correct(logits, jnp.array([44, 43], jnp.uint8)).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_modes_of_jax_and_half_precision(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    plain = losses.cross_entropy(logits, LABELS), losses.correct(logits, LABELS)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        for labels in (jnp.asarray(LABELS, jnp.uint8), jnp.asarray(LABELS, jnp.int32)):
            strict = losses.cross_entropy(logits, labels), losses.correct(logits, labels)
            jax.tree.map(np.testing.assert_array_equal, strict, plain)
        for reduction in ("sum", "mean"):
            divergences = losses.timestep_divergence(logits, reduction=reduction)
            assert divergences.dtype == jnp.float32
            assert bool(jnp.isfinite(divergences).all())
    assert plain[0].dtype == jnp.float32


@pytest.mark.parametrize("logits", [LOGITS[0], LOGITS[None], LOGITS[:0], LOGITS[:, :0]])
def test_divergence_of_other_shapes_is_refused(logits):
    for of in (losses.timestep_divergence, partial(jax.eval_shape, losses.timestep_divergence)):
        with pytest.raises(ValueError, match=r"^logits must be .*, got .*shape \(") as refusal:
            of(logits)
        assert str(logits.shape) in str(refusal.value)


def test_divergence_refuses_other_words():
    with pytest.raises(ValueError, match=r"^reduction must be 'sum' or 'mean', got 'avg'$"):
        losses.timestep_divergence(LOGITS, reduction="avg")
    with pytest.raises(ValueError, match=r"^direction must be 'forward' or 'reverse', got 'backward'$"):
        losses.timestep_divergence(LOGITS, "backward")


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "f2", "bfloat16", "float8_e4m3fn", ">f4"])
def test_narrow_logits_are_added_up_in_float32(dtype):
    """No sum of integers wraps around, and none of halves ties or overflows."""
    high = 100 if np.dtype(jnp.dtype(dtype) if dtype[0] != ">" else dtype).itemsize == 1 else 30_000
    logits = np.full((5, 2, 3), high).astype(dtype)
    logits[:, 0, 2] = logits[:, 1, 1] = high // 2
    logits[4, :, 0] = 0
    wide = logits.astype(np.float32)
    np.testing.assert_array_equal(losses.correct(logits, [1, 2]), [True, True])
    for reduction in ("sum", "mean"):
        got = losses.timestep_divergence(logits, reduction=reduction)
        np.testing.assert_array_equal(got, losses.timestep_divergence(wide, reduction=reduction))
    if logits.dtype.kind not in "iu":
        np.testing.assert_array_equal(
            losses.cross_entropy(logits, [1, 2]), losses.cross_entropy(wide, [1, 2])
        )


def test_nan_is_never_right():
    logits = LOGITS.copy()
    logits[1, 0, 3] = np.nan
    for of in (losses.correct, jax.jit(losses.correct)):
        assert of(logits, logits.sum(0).argmax(-1)).tolist() == [False, True, True, True]


def test_impossible_classes_diverge_by_nothing():
    """A logit of minus infinity, as of a class that is masked: the limit of x log x at 0."""
    logits = LOGITS.copy()
    logits[..., 1] = -np.inf
    without = np.delete(LOGITS, 1, axis=-1)
    for direction in ("forward", "reverse"):
        got, slope = jax.value_and_grad(lambda x, d=direction: losses.timestep_divergence(x, d).sum())(logits)
        np.testing.assert_allclose(got, losses.timestep_divergence(without, direction).sum(), rtol=1e-5)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (None, LABELS, "logits must be an array of real numbers, got None"),
        ("text", LABELS, "logits must be an array of real numbers, got 'text'"),
        (LOGITS.astype(object), LABELS, "logits must be an array of real numbers, got ndarray of object"),
        (LOGITS, None, r"labels must be integers \[B\] .*, got object of shape \(\) for .*"),
        (LOGITS, ["a"] * 4, r"labels must be integers \[B\] .*, got <U1 of shape \(4,\) for .*"),
        (LOGITS, [0, 1, 2, 2**40], rf"labels must lie in 0 ... 4, got {2**40} at \[3\]"),
    ],
)
@pytest.mark.parametrize("loss", OF_LABELS)
def test_what_is_no_array_is_refused(loss, logits, labels, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        loss(logits, labels)


@pytest.mark.parametrize("axis", ["examples", "classes"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_logits_may_be_divided_over_devices(axis, kind):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,), devices=jax.devices()[:4])
    spec = PartitionSpec(None, "x") if axis == "examples" else PartitionSpec(None, None, "x")
    logits = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
    for of in (
        lambda x: losses.cross_entropy(x, LABELS),
        lambda x: losses.correct(x, LABELS),
        losses.timestep_divergence,
        jax.grad(lambda x: losses.cross_entropy(x, LABELS).sum()),
    ):
        got = jax.jit(of)(jax.device_put(logits, NamedSharding(mesh, spec)))
        np.testing.assert_allclose(got, of(logits), rtol=1e-5, atol=1e-6)
