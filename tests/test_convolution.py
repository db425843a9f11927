"""The convolution that the networks use is XLA's, whichever way this platform computes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from snnlth_jax.models.convolution import conv

CASES = [
    (side, size, stride)
    for side in [(1, 1), (2, 1), (2, 2), (3, 2), (5, 4), (8, 8)]
    for size in (1, 3, 5)
    for stride in (1, 2)
]


def reference(x, kernel, stride):
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arguments(side, size):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (3, *side, 4)), jax.random.normal(keys[1], (size, size, 4, 5))


@pytest.mark.parametrize(("side", "size", "stride"), CASES)
def test_values_and_gradients(side, size, stride, x64):
    x, kernel = arguments(side, size)

    def outcome(conv):
        y, pullback = jax.vjp(lambda x, k: conv(x, k), x, kernel)
        return y, *pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    ours = jax.jit(lambda: outcome(lambda x, k: conv(x, k, (stride, stride), None)))()
    theirs = jax.jit(lambda: outcome(lambda x, k: reference(x, k, stride)))()
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_of_gradients(x64):
    """Criteria like GraSP differentiate twice."""
    x, kernel = arguments((4, 4), 3)

    def curvature(conv):
        return jax.grad(lambda k: jnp.sum(jax.grad(lambda k: jnp.sum(jnp.tanh(conv(x, k)) ** 2))(k) ** 2))(
            kernel
        )

    ours, theirs = (
        curvature(lambda x, k: conv(x, k, (1, 1), None)),
        curvature(lambda x, k: reference(x, k, 1)),
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_vmap_over_replicates(x64):
    x, kernel = arguments((4, 4), 3)
    xs, kernels = jnp.stack([x, -x]), jnp.stack([kernel, 2 * kernel])
    got = jax.vmap(jax.grad(lambda k, x: jnp.sum(conv(x, k, (1, 1), None) ** 3)))(kernels, xs)
    for i in (0, 1):
        expected = jax.grad(lambda k, i=i: jnp.sum(reference(xs[i], k, 1) ** 3))(kernels[i])
        np.testing.assert_allclose(got[i], expected, rtol=1e-9, atol=1e-9)


# images, pixels, channels in and out: by minimal filtering all three, all but the kernel's gradient, none
LARGE = [(40, 8, 6, 128, 160), (12, 8, 8, 64, 96), (160, 2, 2, 128, 64), (9, 9, 8, 64, 64), (3, 4, 4, 64, 64)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sizes", LARGE)
def test_large_ones_and_their_gradients(sizes, stride, x64):
    *image, channels, outputs = sizes
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*image, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, outputs))

    def outcome(conv):
        y, pullback = jax.vjp(conv, x, kernel)
        return y, *pullback(jax.random.normal(keys[2], y.shape))

    ours = outcome(lambda x, k: conv(x, k, (stride, stride), None))
    theirs = outcome(lambda x, k: reference(x, k, stride))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_minimal_filtering_is_as_precise_as_float32_allows():
    keys = jax.random.split(jax.random.key(0), 2)
    spikes = (jax.random.uniform(keys[0], (20, 16, 16, 128)) < 0.2).astype(jnp.float32)
    kernel = jax.random.normal(keys[1], (3, 3, 128, 64)) / 34
    with jax.enable_x64(True):
        exact = reference(jnp.asarray(spikes, jnp.float64), jnp.asarray(kernel, jnp.float64), 1)
    error = np.abs(np.asarray(conv(spikes, kernel, (1, 1), None)) - np.asarray(exact)).max()
    assert error < 5e-6 * np.abs(exact).max()
