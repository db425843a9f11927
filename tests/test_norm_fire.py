"""Norm, fire and pool: the kernels, emulated, are their definition, the composition of the layers."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from snnlth_jax import models, networks, pruning, surrogate
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.errors import InputError
from snnlth_jax.models import _statistics_gpu as gpu
from snnlth_jax.models import norm_fire as nf
from snnlth_jax.models.firing import fire, max_pool
from snnlth_jax.models.norms import TimestepBatchNorm
from snnlth_jax.neurons import IF, LIF, PLIF

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def inputs(shape, others=0, normed=1, dtype=float):
    """Inputs of a layer; those that are normalised are far from 0."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    normal = lambda shape: jax.random.normal(next(keys), shape)  # noqa: E731
    terms = [
        nf.Normed(3 + 2 * normal(shape), 1 + normal(shape[-1:]) / 5, normal(shape[-1:]))
        for _ in range(normed)
    ]
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype), [*terms, *(normal(shape) / 3 for _ in range(others))]
    )


def weighed(outputs, statistics):
    """A scalar to which every entry of outputs and statistics matters differently."""
    leaves = jax.tree.leaves((outputs, statistics))
    return sum(
        jnp.vdot(jnp.cos(jnp.arange(x.size) + 1.0 + i).reshape(x.shape).astype(x.dtype), x)
        for i, x in enumerate(leaves)
    )


def value_and_grad(kernels, terms, *args, **options):
    """Output, statistics and gradients."""

    @partial(jax.value_and_grad, has_aux=True)
    def of(terms):
        result = nf.norm_fire(terms, *args, kernels=kernels, **options)
        return weighed(*result), result

    return jax.jit(of)(terms)


def check_against_definition(kernels, most, *args, **options):
    """Kernels compute the values and gradients of the definition, whose mean output is below `most`."""
    expected, got = (value_and_grad(how, *args, **options) for how in ("plain", kernels))
    output, *_ = expected[0][1][0]
    assert 0 < np.mean(output) < most
    chex.assert_trees_all_close(got, expected, **CLOSE)


@pytest.mark.parametrize(
    ("shape", "steps", "others", "normed", "neuron", "options"),
    [
        ((1, 2, 4, 4, 3), 3, 0, 1, LIF(), {"pool": True}),
        ((2, 2, 4, 2, 3), 2, 1, 2, LIF(2.0, spike=surrogate.sigmoid(3.0)), {}),
        ((6, 2, 3, 3, 2), 6, 0, 1, LIF(v_reset=None, detach_reset=False, spike=surrogate.triangle()), {}),
        ((2, 1, 6, 4, 5), 2, 1, 1, IF(0.5, spike=surrogate.rectangle()), {"epsilon": 1e-2}),
        ((1, 33, 4, 8, 70), 1, 0, 1, LIF(v_reset=-0.5, spike=surrogate.fast_sigmoid(2.0)), {"pool": True}),
        ((1, 3, 4, 4, 2), 1, 0, 2, LIF(), {"activation": "relu"}),
        ((1, 3, 3, 5, 2), 4, 0, 1, LIF(), {"readers": 2}),
        ((2, 3, 4, 4, 3), 2, 0, 2, LIF(), {"readers": 3, "pool": True}),
        ((1, 3, 4, 4, 2), 1, 0, 1, LIF(), {"readers": 9, "pool": True}),
        ((2, 33, 4, 6, 70), 2, 1, 1, LIF(), {"readers": 2}),
    ],
    ids=[
        "repeated",
        "two inputs and an array",
        "soft reset",
        "array",
        "many programs",
        "relu",
        "repeated and read twice",
        "read three times",
        "read nine times",
        "array and read twice",
    ],
)
def test_kernels_are_the_definition(shape, steps, others, normed, neuron, options, x64):
    check_against_definition("interpret", 3, inputs(shape, others, normed), neuron, steps, **options)


@pytest.mark.parametrize(
    ("shape", "steps", "others", "normed", "neuron", "options"),
    [
        ((2, 16, 4, 2, 128), 2, 0, 1, LIF(), {"pool": True}),
        ((1, 32, 1, 3, 256), 3, 1, 1, LIF(), {"readers": 3}),
        ((1, 128, 2, 4, 32), 3, 0, 1, LIF(v_reset=None), {"pool": True}),
        ((2, 128, 1, 3, 16), 2, 1, 2, LIF(2.0, spike=surrogate.sigmoid(3.0)), {"readers": 2}),
        ((2, 256, 2, 1, 16), 2, 0, 1, LIF(), {}),
        ((2, 16, 2, 2, 16), 2, 0, 1, LIF(), {"pool": True}),
        ((6, 64, 2, 2, 128), 6, 0, 1, LIF(), {"pool": True}),
    ],
    ids=[
        "channels as lanes",
        "repeated, dy kept",
        "images as lanes, repeated",
        "two inputs and an array",
        "two rows of images",
        "a part of a row of images",
        "images in parts",
    ],
)
def test_kernels_of_a_tpu_are_the_definition(shape, steps, others, normed, neuron, options, x64):
    check_against_definition("interpret-tpu", 1, inputs(shape, others, normed), neuron, steps, **options)


def test_definition_is_the_composition_of_the_layers(x64):
    (term,) = inputs((3, 2, 4, 4, 2))
    norm = TimestepBatchNorm(epsilon=1e-3)
    variables = {"params": {"scale": term.scale, "bias": term.bias}}
    y, updates = norm.apply(
        {**variables, "batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)}},
        term.x,
        train=True,
        mutable=["batch_stats"],
    )
    expected = max_pool(fire(y, 3, LIF(), "lif"))
    (output,), ((mean, var),) = nf.norm_fire([term], LIF(), 3, pool=True, epsilon=1e-3)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_allclose(mean, term.x.mean((1, 2, 3)), **CLOSE)
    np.testing.assert_allclose(var, term.x.var((1, 2, 3)), **CLOSE)
    running = sum(0.1 * 0.9 ** (2 - t) * mean[t] for t in range(3))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], running, **CLOSE)


def test_statistics_far_from_zero():
    """Parts of 8 programs; in float32 E[x^2] - E[x]^2 would be off by more than the variance."""
    x = 1e4 + jax.random.normal(jax.random.key(0), (1, 67, 8, 8, 3))
    means, m2s, counts = gpu.statistics(x, jnp.float32, True)
    assert len(counts) > 1
    assert counts.sum() == 67 * 64
    rows = np.float64(x).reshape(-1, 3)
    for part, (mean, m2) in enumerate(zip(means[:, 0], m2s[:, 0], strict=True)):
        own = rows[counts[:part].sum() : counts[: part + 1].sum()]
        np.testing.assert_allclose(mean, own.mean(0), rtol=1e-6)
        np.testing.assert_allclose(m2 / len(own), own.var(0), rtol=1e-3)


@pytest.mark.parametrize("how", ["vmap", "pmap", "shard_map"])
def test_devices_are_one(how, x64):
    """Statistics of the whole batch; gradients of the mean of all losses."""
    (term,) = inputs((1, 4, 4, 4, 3))

    def part(x, scale, bias, kernels="interpret", axis_name="batch"):
        def loss(x, scale, bias):
            result = nf.norm_fire([nf.Normed(x, scale, bias)], LIF(), 2, axis_name=axis_name, kernels=kernels)
            (output,), statistics = result
            weights = jnp.cos(jnp.arange(output[:, :1].size)).reshape(output[:, :1].shape)
            return jnp.vdot(weights, output.mean(1, keepdims=True)) + weighed(output[:0], statistics), result

        grads, result = jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
        if axis_name is None:
            return grads, result
        # a device's gradient of its own images is that of the mean, times the number of devices
        size = jax.lax.axis_size(axis_name)
        return (grads[0] / size, *jax.lax.pmean(grads[1:], axis_name)), result

    ((dx, *expected), ((output,), statistics)) = jax.jit(partial(part, kernels="plain", axis_name=None))(
        *term
    )
    parts = jnp.stack(jnp.split(term.x, 2, axis=1))
    if how == "shard_map":
        specs = {"in_specs": (P("batch"), P(), P()), "out_specs": P("batch"), "check_vma": False}
        mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))

        def alone(x, *parameters):
            return jax.tree.map(lambda leaf: leaf[None], part(x[0], *parameters))

        mapped = jax.jit(jax.shard_map(alone, mesh=mesh, **specs))
    elif how == "pmap":
        mapped = jax.pmap(part, "batch", in_axes=(0, None, None), devices=jax.devices()[:2])
    else:
        mapped = jax.jit(jax.vmap(part, in_axes=(0, None, None), axis_name="batch"))
    (dx_parts, *got), ((outputs,), of_parts) = jax.device_get(mapped(parts, *term[1:]))
    np.testing.assert_allclose(np.concatenate(list(dx_parts), 1), dx, **CLOSE)
    np.testing.assert_array_equal(np.concatenate(list(outputs), 1), output)
    for device in range(2):
        here = jax.tree.map(lambda leaf: leaf[device], (got, of_parts))  # noqa: B023
        chex.assert_trees_all_close(here, (expected, statistics), **CLOSE)


def test_forward_mode_and_second_derivatives(x64):
    """The derivatives are those of the definition: kernels write out the first gradient, JAX the others."""
    terms = inputs((2, 2, 2, 2, 2))

    def derivatives(kernels):
        def loss(terms):
            return weighed(*nf.norm_fire(terms, LIF(), 2, kernels=kernels))

        along = jax.tree.map(jnp.cos, terms)
        products = jax.jvp(jax.grad(loss), (terms,), (along,))[1]
        return jax.jvp(loss, (terms,), (along,))[1], products, pruning.grasp(loss, terms)

    got, expected = (jax.jit(derivatives, static_argnums=0)(how) for how in ("interpret", "plain"))
    chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("timesteps", "readers"), [(3, 1), (1, 3)], ids=["dy again", "dy kept"])
def test_bfloat16(timesteps, readers):
    """Potentials in float32 are closer to the truth than those of the definition."""
    terms = inputs((timesteps, 4, 4, 4, 8), dtype=jnp.bfloat16)
    options = {"pool": True, "readers": readers}
    (_, ((output, *_), statistics)), grads = value_and_grad(
        "interpret", terms, LIF(), 3, dtype=jnp.bfloat16, **options
    )
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), terms)
    (_, ((expected, *_), expected_statistics)), expected_grads = value_and_grad(
        "plain", wide, LIF(), 3, **options
    )
    assert output.dtype == grads[0].x.dtype == jnp.bfloat16
    assert statistics[0][0].dtype == jnp.float32
    np.testing.assert_array_equal(output.astype(jnp.float32), expected)
    chex.assert_trees_all_close(statistics, expected_statistics, rtol=1e-5)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, rtol=0.02, atol=0.02)


NETWORKS = {
    "vgg": (models.VGG((2, "M", "M", 3), 3, dtype=jnp.float64), (3, 4, 8, 2)),
    "odd": (models.VGG((2, "M"), 3, dtype=jnp.float64), (3, 5, 7, 2)),
    "resnet": (
        models.ResNet((1,), (3,), stem=2, hidden=None, num_classes=3, dtype=jnp.float64),
        (3, 4, 4, 2),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_as_without_kernels(name, x64):
    """Gradients and running statistics, those of a bias before the norm included."""
    model, shape = NETWORKS[name]
    steps = 1 if name == "resnet" else 2
    model, x = model.clone(param_dtype=jnp.float64), jax.random.normal(jax.random.key(0), shape)
    variables = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(1), x)
    params = jax.tree.map(lambda p: p + jnp.cos(jnp.arange(p.size)).reshape(p.shape) / 9, variables["params"])

    def train(kernels, params):
        def loss(params):
            logits, updates = model.clone(kernels=kernels).apply(
                {**variables, "params": params}, x, num_timesteps=steps, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(logits)), (logits, updates)

        return jax.grad(loss, has_aux=True)(params)

    got, expected = (jax.jit(train, static_argnums=0)(how, params) for how in ("interpret", "plain"))
    chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-11)


def test_where_the_kernels_do_not_go():
    """Intermediates need spikes that no pooling has reduced, a constant that is an array its gradient ..."""
    model, shape = NETWORKS["vgg"]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernels = model.clone(dtype=None, kernels="interpret")

    def traced(model, *mutable):
        def train(key, x):
            variables = model.init(key, x, num_timesteps=2)
            return model.apply(variables, x, num_timesteps=2, train=True, mutable=["batch_stats", *mutable])

        return "pallas_call" in str(jax.make_jaxpr(train)(jax.random.key(0), x))

    assert traced(kernels)
    assert not traced(kernels, "intermediates")
    assert not traced(kernels.clone(kernels="auto"))  # on a CPU
    for change in {"neuron": PLIF(2.0)}, {"norm": "tdbn"}, {"neuron": LIF(np.float32(2.0))}:
        assert not traced(kernels.clone(**change))
    assert not nf.takes(LIF(spike=lambda u: u), "interpret")
    for platform in "gpu", "tpu":
        device = jax.sharding.AbstractDevice(device_kind="absent", num_cores=None, platform=platform)
        mesh = jax.sharding.AbstractMesh((1,), ("batch",), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            assert nf.takes(LIF(), "auto")
            assert not nf.takes(LIF(), "plain")


def test_what_the_compiler_of_a_tpu_cannot_do(monkeypatch):
    """Other numbers, kernels that it would divide, and more arrays than fit are left to JAX's operations."""
    monkeypatch.setattr(nf, "_platform", lambda kernels: "tpu")

    def kernels(term, mapped=lambda layer: layer, **options):
        def layer(term):
            return nf.norm_fire([term], LIF(), 2, **options)[0][0]

        return str(jax.jit(mapped(layer)).trace(term).jaxpr).count("pallas_call")

    term = nf.Normed(jnp.zeros((2, 16, 2, 2, 128)), jnp.ones(128), jnp.ones(128))
    narrow, half = (jax.tree.map(partial(jnp.asarray, dtype=d), term) for d in (jnp.bfloat16, jnp.float16))
    assert kernels(term) == kernels(narrow) == kernels(term, readers=11) == 1
    assert kernels(half) == kernels(term, readers=12) == 0
    with jax.enable_x64(True):
        assert kernels(term) == 0
    mesh = jax.make_mesh((2,), ("batch",), devices=jax.devices()[:2])
    placed = jax.device_put(term, jax.sharding.NamedSharding(mesh, P()))
    assert kernels(placed) == 0  # under jit alone
    manual = partial(jax.shard_map, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    assert kernels(placed, manual) == 1


def test_a_tpu_takes_whole_rows():
    """Others are left to the compiler, and so are windows with more timesteps or images than a block has."""
    taken = {(5, 128, 32, 64): True, (5, 16, 8, 256): True, (5, 32, 32, 64): True, (5, 24, 8, 256): False}
    taken |= {(5, 192, 8, 64): False, (5, 128, 8, 8): False}
    taken |= {(10, 4096, 8, 64): False, (10, 4096, 8, 128): True}
    for (steps, images, side, channels), takes in taken.items():
        shapes = (steps, images, side, side, channels), (channels,), (channels,)
        normed = nf.Normed(*(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes))
        call = partial(nf.norm_fire, neuron=LIF(), num_timesteps=steps, kernels="interpret-tpu", pool=True)
        assert ("pallas_call" in str(jax.make_jaxpr(call)([normed]))) == takes, shapes


def test_kernels_are_no_part_of_a_network():
    """A network file is the same with and without them."""
    shape = {
        "image_shape": (8, 8, 3),
        "normalisation": Augmentation((0.5,) * 3, (0.5,) * 3),
        "num_timesteps": 2,
    }
    for model in models.create("vgg5", 10), models.VGG((2, "M"), 3):
        auto, plain = (
            networks.describe(model.clone(kernels=how), name="vgg5", **shape) for how in ("auto", "plain")
        )
        assert auto == plain


def test_kernels_by_name():
    assert models.create("vgg5", 10, kernels="plain").kernels == "plain"
    with pytest.raises(InputError, match="kernels fast: allowed: auto, plain, interpret, interpret-tpu"):
        models.create("vgg5", 10, kernels="fast")
    with pytest.raises(
        ValueError, match="kernels must be one of auto, plain, interpret, interpret-tpu; got 'fast'"
    ):
        nf.norm_fire(inputs((1, 2, 2, 2, 1), dtype=jnp.float32), LIF(), 2, kernels="fast")
