"""The convolution that the networks use is XLA's, whichever way this platform computes it."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from snnlth_jax.analysis.flops import macs
from snnlth_jax.models import _conv_cpu, _winograd

SIDES = [(1, 1), (2, 1), (2, 2), (3, 2), (5, 4), (8, 8)]
CASES = [
    (side, size, stride)
    for size, sides in {1: SIDES[-2:], 3: SIDES, 5: SIDES[::2]}.items()
    for side in sides
    for stride in (1, 2)
]


def around(kernel):
    return [(kernel.shape[0] // 2,) * 2] * 2


def conv(x, kernel, stride=1):
    return _conv_cpu.conv(x, kernel, (stride, stride), around(kernel))


def reference(x, kernel, stride=1):
    padding = around(kernel)
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

    ours = jax.jit(lambda: outcome(lambda x, k: conv(x, k, stride)))()
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
        curvature(conv),
        curvature(reference),
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def objective(conv, stride):
    return lambda x, k: jnp.sum(jnp.tanh(conv(x, k, stride)) ** 2) + jnp.sum(conv(x, k, stride))


WAYS = {
    "jvp": lambda f, t: lambda *a: jax.jvp(f, a, t)[1],
    "linearize": lambda f, t: lambda *a: jax.linearize(f, *a)[1](*t),
    "jvp of image": lambda f, t: lambda x, k: jax.jvp(lambda x: f(x, k), (x,), t[:1])[1],
    "forward over reverse": lambda f, t: lambda *a: jax.jvp(jax.grad(f, (0, 1)), a, t)[1],
    "reverse over forward": lambda f, t: jax.grad(lambda *a: jax.jvp(f, a, t)[1], (0, 1)),
    "reverse over reverse": lambda f, t: jax.grad(lambda *a: jnp.vdot(jax.grad(f, 1)(*a), t[1]), (0, 1)),
    "forward over forward": lambda f, t: lambda *a: jax.jvp(lambda *a: jax.jvp(f, a, t)[1], a, t)[1],
    "image by kernel": lambda f, t: jax.grad(lambda *a: jnp.vdot(jax.grad(f, 0)(*a), t[0]), 1),
    "checkpointed": lambda f, t: lambda *a: jax.jvp(jax.grad(jax.checkpoint(f), (0, 1)), a, t)[1],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stride", [1, 2])
def test_all_modes_of_differentiation(way, stride, x64):
    x, kernel = arguments((4, 4), 3)
    tangents = jnp.cos(x), jnp.sin(kernel)
    got, expected = (jax.jit(WAYS[way](objective(f, stride), tangents))(x, kernel) for f in (conv, reference))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, expected)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)], ids=["both", "images", "kernels"])
def test_maps_and_modes(axes, x64):
    """A map of gradients, the gradient of a map, and the tangent of either."""
    x, kernel = arguments((4, 4), 3)
    both = tuple(
        jnp.stack([a, -2 * a]) if axis == 0 else a for a, axis in zip((x, kernel), axes, strict=True)
    )

    def outcome(conv):
        f = objective(conv, 1)
        inside = jax.vmap(jax.grad(f, (0, 1)), axes)
        outside = jax.grad(lambda *a: jax.vmap(f, axes)(*a).sum(), (0, 1))
        tangent = jax.jvp(lambda *a: jax.vmap(f, axes)(*a), both, both)[1]
        return inside(*both), outside(*both), jax.jvp(outside, both, both)[1], tangent

    got, expected = jax.jit(lambda: outcome(conv))(), jax.jit(lambda: outcome(reference))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, expected)


@pytest.mark.parametrize("way", ["forward over reverse", "reverse over reverse"])
def test_forward_mode_with_minimal_filtering(way, x64, monkeypatch):
    fits = _winograd.fits
    monkeypatch.setattr(_winograd, "fits", lambda *a, channels, tiles: fits(*a, channels=0, tiles=0))
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (3, 6, 4, 5)), jax.random.normal(keys[1], (3, 3, 5, 3))
    tangents = jnp.cos(x), jnp.sin(kernel)
    got, expected = (jax.jit(WAYS[way](objective(f, 1), tangents))(x, kernel) for f in (conv, reference))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_reverse_mode_compiles_to_its_own_parts_and_nothing_else(stride):
    """Forward mode is free: the gradients are those functions of this module, with not an operation more."""

    @jax.custom_vjp
    def direct(x, kernel):
        return conv(x, kernel, stride)

    def backward(saved, grad):
        x, kernel = saved
        return (
            _conv_cpu._cpu_grad_x(kernel, grad, stride=stride, shape=x.shape),
            _conv_cpu._cpu_grad_kernel(x, grad, stride=stride, shape=kernel.shape),
        )

    direct.defvjp(lambda x, kernel: (direct(x, kernel), (x, kernel)), backward)
    x, kernel = arguments((6, 6), 3)

    def operations(conv):
        program = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(conv(x, k))), (0, 1))).lower(x, kernel)
        lines = program.compile().as_text().splitlines()
        return collections.Counter(
            found[1] for line in lines if (found := re.search(r"= \S+ ([\w-]+)\(", line))
        )

    assert operations(lambda x, k: conv(x, k, stride)) == operations(direct)


def test_gradients_cost_what_is_computed():
    """Each product once for the output and once for each gradient; what does not run is not counted."""
    x, kernel = arguments((6, 6), 3)
    forward = macs(conv, x, kernel)
    f = objective(lambda x, k, _: conv(x, k), 1)
    assert macs(f, x, kernel) == 2 * forward  # two convolutions
    assert macs(jax.grad(f, (0, 1)), x, kernel) == 6 * forward
    assert macs(jax.grad(f, 1), x, kernel) == 4 * forward


def test_vmap_over_replicates(x64):
    x, kernel = arguments((4, 4), 3)
    xs, kernels = jnp.stack([x, -x]), jnp.stack([kernel, 2 * kernel])
    got = jax.vmap(jax.grad(lambda k, x: jnp.sum(conv(x, k) ** 3)))(kernels, xs)
    for i in (0, 1):
        expected = jax.grad(lambda k, i=i: jnp.sum(reference(xs[i], k, 1) ** 3))(kernels[i])
        np.testing.assert_allclose(got[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("apart", ["images", "kernel"])
def test_shard_map_over_one_of_the_two(apart, x64):
    """Replicates over devices share their images; data parallel ones their kernel."""
    x, kernel = arguments((4, 4), 3)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("each",))
    both = [jnp.stack([a, 2 * a]) if name == apart else a for name, a in (("images", x), ("kernel", kernel))]
    specs = tuple(P("each") if name == apart else P() for name in ("images", "kernel"))

    def mapped(conv):
        def each(x, k):
            x, k = (a[0] if a.ndim > 4 else a for a in (x, k))
            return jax.grad(lambda k: jnp.sum(conv(x, k) ** 3))(k)[None]

        return jax.jit(jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=P("each")))(*both)

    np.testing.assert_allclose(mapped(conv), mapped(reference), rtol=1e-9, atol=1e-9)

    def tangent(conv):
        def each(x, k):
            x, k = (a[0] if a.ndim > 4 else a for a in (x, k))
            return jax.jvp(jax.grad(lambda k: jnp.sum(conv(x, k) ** 3)), (k,), (jnp.cos(k),))[1][None]

        return jax.jit(jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=P("each")))(*both)

    np.testing.assert_allclose(tangent(conv), tangent(reference), rtol=1e-9, atol=1e-9)


def test_what_it_does_not_do_is_refused():
    x, kernel = arguments((6, 6), 3)
    for kernel_, strides, padding in (
        (kernel, (1, 1), "VALID"),
        (kernel, (1, 2), around(kernel)),
        (kernel[:2], (1, 1), around(kernel)),
        (kernel[:2, :2], (1, 1), around(kernel)),
    ):
        with pytest.raises(NotImplementedError, match="window_strides"):
            _conv_cpu.conv(x, kernel_, strides, padding)
    with pytest.raises(NotImplementedError, match="rhs_dilation"):
        _conv_cpu.conv(x, kernel, (1, 1), around(kernel), rhs_dilation=(2, 2))


# images, height, width, channels in and out; whether the convolution and the gradient of its input, and
# whether the kernel's gradient, are by minimal filtering
LARGE = {
    (41, 8, 6, 128, 160): (True, True),
    (12, 8, 8, 64, 96): (True, False),
    (160, 2, 4, 128, 64): (True, False),
    (9, 9, 8, 64, 64): (False, False),
    (3, 4, 4, 64, 64): (False, False),
}


@pytest.mark.parametrize(("sizes", "stride"), [*((sizes, 1) for sizes in LARGE), (next(iter(LARGE)), 2)])
def test_large_ones_and_their_gradients(sizes, stride, x64, monkeypatch):
    """Some images at a time, of which the last has fewer."""
    taken = []
    monkeypatch.setattr(_winograd, "_CACHE", 4 * 8 * 48 * 160 * 6)
    monkeypatch.setattr(_conv_cpu, "_CACHE", 8 * 48 * 9 * 128 * 6)
    for name in ("conv", "grad_x", "grad_kernel"):
        way = getattr(_winograd, name)
        monkeypatch.setattr(_winograd, name, lambda *a, name=name, way=way: taken.append(name) or way(*a))
    *image, channels, outputs = sizes
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*image, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, outputs))

    def outcome(conv):
        y, pullback = jax.vjp(conv, x, kernel)
        return y, *pullback(jax.random.normal(keys[2], y.shape))

    ours, theirs = outcome(lambda x, k: conv(x, k, stride)), outcome(lambda x, k: reference(x, k, stride))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
    inputs, kernels = LARGE[sizes] if stride == 1 else (False, False)
    assert set(taken) == ({"conv", "grad_x"} if inputs else set()) | ({"grad_kernel"} if kernels else set())


def test_minimal_filtering_is_as_precise_as_float32_allows():
    """To 1e-6 of the largest number, the convolution and both gradients."""
    keys = jax.random.split(jax.random.key(0), 3)
    spikes = (jax.random.uniform(keys[0], (20, 16, 16, 128)) < 0.2).astype(jnp.float32)
    kernel = jax.random.normal(keys[1], (3, 3, 128, 128)) / 34
    grad = jax.random.normal(keys[2], (20, 16, 16, 128))
    y, pullback = jax.vjp(conv, spikes, kernel)
    with jax.enable_x64(True):
        exact_y, exactly = jax.vjp(reference, *(jnp.asarray(a, jnp.float64) for a in (spikes, kernel)))
        expected = jax.device_get((exact_y, *exactly(jnp.asarray(grad, jnp.float64))))
    for a, b in zip((y, *pullback(grad)), expected, strict=True):
        assert a.dtype == jnp.float32
        assert np.abs(np.asarray(a) - b).max() < 1e-6 * np.abs(b).max()


def test_half_precision_rounds_and_does_no_worse():
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (20, 8, 8, 64)), jax.random.normal(keys[1], (3, 3, 64, 64)) / 24
    exact, pullback = jax.vjp(reference, x, kernel)
    y, half = jax.vjp(conv, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    for a, b in zip((y, *half(exact.astype(jnp.bfloat16))), (exact, *pullback(exact)), strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(np.asarray(a, np.float32) - np.asarray(b)).max() < 2e-2 * np.abs(b).max()
