from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from snnlth_jax import models
from snnlth_jax.errors import InputError
from snnlth_jax.models import VGG, ResNet, _conv_cpu
from snnlth_jax.models.layers import ConvNorm, TimestepBatchNorm, fire, max_pool
from snnlth_jax.neurons import LIF

SMALL_VGG = VGG(features=(4, "M", 6, "M"), num_classes=3)
SMALL_RESNET = ResNet(stage_sizes=(2,), widths=(6,), stem=4, hidden=5, num_classes=3)
SMALL = pytest.mark.parametrize("model", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])


def images(batch=4, size=8):
    return 2 * jax.random.normal(jax.random.key(0), (batch, size, size, 3))


@cache
def initialised(model, size=8):
    """Variables for `images()`, some leaves raised, so that neurons do fire in all layers."""
    variables = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(1), images(size=size))

    def louder(path, leaf):
        return 3 * leaf if path[-1].key == "scale" or path[-2].key == "hidden" else leaf

    return jax.tree_util.tree_map_with_path(louder, variables)


def in_float64(variables):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)


def shapes_of(model, size):
    init = partial(model.init, num_timesteps=1)
    return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


def run(model, variables, x, **options):
    """Logits and updates, compiled."""
    apply = partial(model.apply, mutable=["batch_stats"], **options)
    return jax.jit(apply)(variables, x)


@pytest.mark.parametrize(
    ("name", "num_classes", "prunable", "total"),
    [
        ("vgg16", 10, 14_715_584, 14_728_266),
        ("vgg16", 100, 14_761_664, None),
        ("resnet19", 10, 12_619_968, None),
        ("resnet19", 100, 12_643_008, None),
        ("alexnet", 10, 23_262_912, 23_290_954),
        ("resnet34", 200, 21_362_368, 21_379_592),
    ],
)
def test_counts_are_the_papers(name, num_classes, prunable, total):
    params = flatten_dict(shapes_of(models.create(name, num_classes), 32)["params"])
    assert sum(leaf.size for path, leaf in params.items() if path[-1] == "kernel") == prunable
    if total is not None:
        assert sum(leaf.size for leaf in params.values()) == total


@pytest.mark.parametrize("name", models.names())
def test_registry(name):
    size = models.min_image_size(name)
    model = models.create(name, num_classes=7, width=0.1, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((3, size, size, 1), jnp.float32)
    init = partial(model.init_with_output, num_timesteps=2)
    logits, variables = jax.eval_shape(init, jax.random.key(0), x)
    assert logits.shape == (2, 3, 7)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_width_scales_every_layer():
    model = models.create("resnet19", num_classes=10, width=0.3)
    assert (model.stage_sizes, model.widths, model.stem, model.hidden) == ((3, 3, 2), (38, 77, 154), 19, 77)
    assert models.create("vgg5", 10, width=1e-9).features == (1, 1, "M", 1, 1, "M")


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "resnet19", "resnet34"])
def test_parameters_sort_by_depth(name):
    """The order `jax.tree` gives, and so that of every table of layers, is that of the computation."""
    params = shapes_of(models.create(name, 10, width=0.1), 32)["params"]
    assert sorted(params) == list(params)


def test_initial_vgg():
    model = VGG(features=(64, 128), num_classes=100)
    params = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(0), images(1, 4))["params"]
    kernel = params["layer02"]["conv"]["kernel"]
    std = np.sqrt(2 / (9 * 128))
    np.testing.assert_allclose(kernel.std(), std, rtol=0.02)
    assert abs(kernel).max() > 3.5 * std  # not truncated
    np.testing.assert_allclose(params["readout"]["kernel"].std(), 0.01, rtol=0.02)
    for layer in (params["layer01"]["conv"], params["layer01"]["norm"], params["readout"]):
        assert not layer["bias"].any()
    assert (params["layer01"]["norm"]["scale"] == 1).all()


def test_initial_resnet():
    model = ResNet(stage_sizes=(1,), widths=(64,), stem=32, hidden=256)
    params = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(0), images(1, 4))["params"]
    assert "bias" not in params["block0"]["conv"]
    for leaf, fan_in in [
        (params["block1_1"]["second"]["conv"]["kernel"], 9 * 64),
        (params["block1_1"]["shortcut"]["conv"]["kernel"], 32),
        (params["hidden"]["kernel"], 64),
        (params["hidden"]["bias"], 64),
        (params["readout"]["kernel"], 256),
    ]:
        bound = fan_in**-0.5
        assert 0.98 * bound < abs(leaf).max() <= bound
        np.testing.assert_allclose(leaf.std(), bound / np.sqrt(3), rtol=0.1)


def looped_batch_norm(variables, x, momentum=0.9, eps=1e-5):
    """One timestep after another, running statistics updated in order."""
    scale, bias = (np.asarray(variables["params"][k]) for k in ("scale", "bias"))
    mean, var = (np.asarray(variables["batch_stats"][k]) for k in ("mean", "var"))
    outputs = []
    for x_t in np.asarray(x):
        axes = tuple(range(x_t.ndim - 1))
        outputs.append((x_t - x_t.mean(axes)) / np.sqrt(x_t.var(axes) + eps) * scale + bias)
        mean = momentum * mean + (1 - momentum) * x_t.mean(axes)
        var = momentum * var + (1 - momentum) * x_t.var(axes, ddof=1)
    evaluated = (np.asarray(x) - mean) / np.sqrt(var + eps) * scale + bias
    return np.stack(outputs), {"mean": mean, "var": var}, evaluated


def norm_and_variables(x):
    norm, rng = TimestepBatchNorm(), np.random.default_rng(0)
    variables = norm.init(jax.random.key(0), x)
    return norm, jax.tree.map(lambda leaf: leaf + rng.uniform(size=leaf.shape), variables)


@pytest.mark.parametrize("shape", [(1, 5, 3, 2, 4), (4, 5, 3, 2, 4), (3, 6, 4)])
def test_batch_norm_is_a_loop_over_timesteps(shape, x64):
    x = 2 + 3 * jax.random.normal(jax.random.key(0), shape)
    norm, variables = norm_and_variables(x)
    expected, expected_stats, expected_eval = looped_batch_norm(variables, x)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
    for name, running in expected_stats.items():
        np.testing.assert_allclose(updates["batch_stats"][name], running, rtol=1e-12)
    np.testing.assert_allclose(norm.apply({**variables, **updates}, x), expected_eval, rtol=1e-10, atol=1e-12)


def test_init_leaves_running_statistics_alone():
    x = images()[None]
    for train in (True, False):
        # the axis does not exist during init, and need not
        stats = TimestepBatchNorm(axis_name="batch").init(jax.random.key(0), x, train=train)["batch_stats"]
        assert not stats["mean"].any()
        assert (stats["var"] == 1).all()


def split_by_vmap(apply, axis):
    def split(x):
        parts = x.reshape(*x.shape[:axis], 4, -1, *x.shape[axis + 1 :])
        y, updates = jax.vmap(apply, in_axes=axis, out_axes=(1, None), axis_name="batch")(parts)
        return y.reshape(y.shape[0], -1, *y.shape[3:]), updates

    return split


def split_by_shard_map(apply, axis):
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    in_specs = PartitionSpec(*(None,) * axis, "batch")
    return jax.shard_map(
        apply, mesh=mesh, in_specs=in_specs, out_specs=(PartitionSpec(None, "batch"), PartitionSpec())
    )


@pytest.mark.parametrize("split", [split_by_vmap, split_by_shard_map])
@pytest.mark.parametrize("what", ["norm", "network"])
def test_several_devices_are_one(what, split, x64):
    """Outputs, running statistics, and gradients with respect to parameters and input."""
    if what == "norm":
        x, axis = jax.random.normal(jax.random.key(0), (3, 8, 2, 2, 5)), 1
        (model, variables), options = norm_and_variables(x), {}
    else:
        x, axis = images(8), 0
        model, variables, options = SMALL_VGG, in_float64(initialised(SMALL_VGG)), {"num_timesteps": 3}

    def outcome(model, split):
        def objective(params, x):
            state = {**variables, "params": params}
            y, updates = split(partial(model.apply, state, train=True, mutable=["batch_stats"], **options))(x)
            return jnp.sum(jnp.sin(y)), (y, updates)

        return jax.jit(jax.grad(objective, (0, 1), has_aux=True))(variables["params"], x)

    got = outcome(model.clone(axis_name="batch"), partial(split, axis=axis))
    expected = outcome(model, lambda apply: apply)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, expected)


@pytest.mark.parametrize("values", ["spikes", "reals"])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_max_pool_and_its_gradient(values, size):
    """The gradient goes to the first maximum of a window, also where several are equal."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, *size, 2)).astype(np.float32)
    if values == "spikes":
        x = (x > 0).astype(np.float32)
    height, width = size[0] // 2, size[1] // 2
    cotangent = rng.normal(size=(2, 3, height, width, 2)).astype(np.float32)
    y, pull_back = jax.vjp(max_pool, x)
    expected_y, expected_grad = np.zeros_like(cotangent), np.zeros_like(x)
    for t, b, i, j, c in np.ndindex(cotangent.shape):
        window = x[t, b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = divmod(int(window.argmax()), 2)  # argmax is the first
        expected_y[t, b, i, j, c] = window.max()
        expected_grad[t, b, 2 * i + row, 2 * j + column, c] = cotangent[t, b, i, j, c]
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(pull_back(jnp.asarray(cotangent))[0], expected_grad)


@pytest.mark.parametrize(
    ("model", "train"),
    [(SMALL_VGG, False), (SMALL_VGG, True), (SMALL_RESNET, False)],
    ids=["vgg", "vgg-train", "resnet"],
)
def test_later_timesteps_do_not_matter_to_earlier_ones(model, train, x64):
    x, variables = images(), in_float64(initialised(model))
    seven, _ = run(model, variables, x, train=train, num_timesteps=7)  # too many to be unrolled
    two, _ = run(model, variables, x, train=train, num_timesteps=2)
    assert not np.allclose(two[0], two[1])
    np.testing.assert_allclose(two, seven[:2], rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [(SMALL_VGG, ("layer01",), ("layer02",)), (SMALL_RESNET, ("block0",), ("block1_1", "first"))],
    ids=["vgg", "resnet"],
)
def test_first_convolution_runs_once(model, first, second):
    x, variables = images(), initialised(model)
    one, two = (
        flatten_dict(run(model, variables, x, num_timesteps=t, train=True)[1]["batch_stats"]) for t in (1, 2)
    )
    np.testing.assert_allclose(two[*first, "norm", "var"], one[*first, "norm", "var"], rtol=1e-6)
    assert not np.allclose(two[*second, "norm", "var"], one[*second, "norm", "var"])


def test_relu_twin():
    model = VGG(features=(4, "M"), num_classes=3, activation="relu")
    x, variables = images(), initialised(model)
    logits = model.apply(variables, x, num_timesteps=1)
    layer = {name: collection["layer01"] for name, collection in variables.items()}
    y = ConvNorm(4, jax.nn.initializers.zeros, use_bias=True).apply(layer, x)
    y = max_pool(jax.nn.relu(y)).reshape(4, -1)
    np.testing.assert_allclose(logits[0], y @ variables["params"]["readout"]["kernel"], rtol=1e-5, atol=1e-6)


@SMALL
def test_bfloat16(model):
    x, variables = images(), initialised(model)
    model = model.clone(dtype=jnp.bfloat16)
    logits, updates = run(model, variables, x, num_timesteps=2, train=True)
    assert jnp.isfinite(logits).all()
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, updates))} == {jnp.dtype("float32")}
    observed = partial(model.apply, num_timesteps=2, capture_intermediates=True, mutable=["intermediates"])
    inner = flatten_dict(jax.eval_shape(observed, variables, x)[1]["intermediates"])
    del inner[("__call__",)]  # the logits
    assert {leaf.dtype for leaf in jax.tree.leaves(inner)} == {jnp.dtype("bfloat16")}


def refusal(call, message):
    """A ValueError that begins with a line like this, whatever JAX notes below it."""
    with pytest.raises(ValueError, match=rf"^{message}(\n|$)"):
        call()


@pytest.mark.parametrize(
    ("model", "size", "num_timesteps", "message"),
    [
        (SMALL_VGG, 3, 1, r"images of 3 x 3 pixels are too small for 2 poolings: .* at least 4"),
        (SMALL_VGG, 8, 0, r"num_timesteps must be at least 1, got 0"),
        (SMALL_RESNET, 8, -1, r"num_timesteps must be at least 1, got -1"),
        (SMALL_VGG, 8, 2.0, r"num_timesteps must be a whole number, got 2.0"),
        (SMALL_VGG, 8, True, r"num_timesteps must be a whole number, got True"),
        (SMALL_RESNET, 8, None, r"num_timesteps must be a whole number, got None"),
        (SMALL_RESNET, 8, np.ones(2, int), r"num_timesteps must be a whole number, got array\(\[1, 1\]\)"),
        (SMALL_VGG.clone(activation="relu"), 8, 2, r"a network .* num_timesteps must be 1, got 2"),
        (SMALL_RESNET.clone(activation="relu"), 8, 0, r"a network .* num_timesteps must be 1, got 0"),
        (SMALL_VGG.clone(activation="tanh"), 8, 1, r"activation must be 'lif' or 'relu', got 'tanh'"),
        (SMALL_VGG.clone(num_classes=0), 8, 1, r"num_classes must be at least 1, got 0"),
        (SMALL_RESNET.clone(num_classes=2.5), 8, 1, r"num_classes must be a whole number, got 2.5"),
        (SMALL_VGG.clone(features=(4, "X")), 8, 1, r"features\[1\] must be a whole number, got 'X'"),
        (SMALL_VGG.clone(features=(0, "M")), 8, 1, r"features\[0\] must be at least 1, got 0"),
        (SMALL_VGG.clone(stride=2), 6, 1, r"images of 6 x 6 pixels .* 2 poolings: .* at least 7"),
        (SMALL_VGG.clone(stride=0), 8, 1, r"stride must be at least 1, got 0"),
        (SMALL_VGG.clone(hidden=(0,)), 8, 1, r"hidden\[0\] must be at least 1, got 0"),
        (SMALL_RESNET.clone(strides=(1, 0)), 8, 1, r"strides\[1\] must be at least 1, got 0"),
        (SMALL_RESNET.clone(strides=(2,)), 8, 1, r"strides must be 2, of the stem and .*, got \(2,\)"),
        (SMALL_RESNET.clone(stem=-1), 8, 1, r"stem must be at least 1, got -1"),
        (SMALL_RESNET.clone(hidden=0), 8, 1, r"hidden must be at least 1, got 0"),
        (SMALL_RESNET.clone(stage_sizes=(0,)), 8, 1, r"stage_sizes must be at least 1, got 0"),
        (SMALL_RESNET.clone(widths=(6, 6)), 8, 1, r"stage_sizes and widths .*, got \(2,\) and \(6, 6\)"),
        (SMALL_VGG.clone(dtype=jnp.int8), 8, 1, r"dtype must be a floating-point dtype, got int8"),
        (
            SMALL_RESNET.clone(param_dtype=int),
            8,
            1,
            r"param_dtype must be a floating-point dtype, got int\d+",
        ),
    ],
)
def test_what_networks_refuse(model, size, num_timesteps, message):
    refusal(
        lambda: model.init(jax.random.key(0), images(1, size), num_timesteps=num_timesteps),
        message,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_timesteps": 2}, r"num_timesteps must be a whole number, got .*int32.*"),
        ({"train": True}, r"train must be True or False, got .*bool.*"),
    ],
)
def test_traced_options_are_refused(options, message):
    variables = initialised(SMALL_VGG)

    def apply(options):
        return SMALL_VGG.apply(variables, images(), **{"num_timesteps": 1} | options)

    refusal(lambda: jax.jit(apply)(options), message)


@SMALL
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images()[0], r"images must be \[B, H, W, C\], got shape \(8, 8, 3\)"),
        (images()[None, None], r"images must be \[T, B, H, W, C\], got shape \(1, 1, 4, 8, 8, 3\)"),
        (images().reshape(4, -1), r"images must be \[B, H, W, C\], got shape \(4, 192\)"),
        (images()[:0], r"images must be \[B, H, W, C\], got shape \(0, 8, 8, 3\)"),
        (images().astype(jnp.uint8), r"images must be floating-point numbers, normalised; got uint8"),
        (images() > 0, r"images must be floating-point numbers, normalised; got bool"),
        (images()[..., :1], r"channels of images \(4, 8, 8, 1\): .*conv/kernel are for 3, got 1"),
    ],
)
def test_images_that_networks_refuse(model, x, message):
    for apply in (model.apply, partial(jax.eval_shape, partial(model.apply, num_timesteps=2))):
        options = {"num_timesteps": 2} if apply == model.apply else {}
        refusal(lambda apply=apply, options=options: apply(initialised(model), x, **options), message)


def test_images_of_another_size_than_at_first():
    """A VGG's readout is made for one size; a ResNet averages over the image."""
    variables = initialised(SMALL_VGG)
    message = r"features of the last layer, \(4, 4, 6\): the parameters readout/kernel are for 24, got 96"
    refusal(lambda: SMALL_VGG.apply(variables, images(size=16), num_timesteps=1), message)
    assert run(SMALL_RESNET, initialised(SMALL_RESNET), images(size=16), num_timesteps=1)[0].shape == (
        1,
        4,
        3,
    )


def test_what_layers_refuse():
    norm, unit = TimestepBatchNorm(), ConvNorm(2, jax.nn.initializers.ones)
    key, x = jax.random.key(0), jnp.ones((2, 3, 4, 4, 3))
    variables = unit.init(key, x)
    train = partial(unit.apply, variables, train=True, mutable=["batch_stats"])
    for call, message in (
        (lambda: norm.init(key, x[0, 0, 0]), r"x must be \[T, B, ..., C\], got shape \(4, 3\)"),
        (lambda: train(x[0]), r"x must be \[T, B, H, W, C\], got shape \(3, 4, 4, 3\)"),
        (lambda: unit.init(key, x[0, 0]), r"x must be \[T, B, H, W, C\], got shape \(4, 4, 3\)"),
        (lambda: max_pool(x[0, 0, 0]), r"x must be \[..., H, W, C\], H and W at least 2, got shape \(4, 3\)"),
        (lambda: max_pool(x[:, :, :1]), r"x must be .*, got shape \(2, 3, 1, 4, 3\)"),
        (lambda: fire(x, 2, LIF(), "tanh"), "activation must be 'lif' or 'relu', got 'tanh'"),
        (
            lambda: fire(x, 3, LIF(), "lif"),
            r"x must be \[3, ...\] or \[1, ...\], got shape \(2, 3, 4, 4, 3\)",
        ),
        (lambda: fire(x, 2.0, LIF(), "lif"), "num_timesteps must be a whole number, got 2.0"),
    ):
        refusal(call, message)


@SMALL
def test_constants_of_the_neurons_can_be_traced(model, x64):
    """Trained through a network, by both modes; as numbers, they give the same logits."""
    x, variables = images(), in_float64(initialised(model))

    def logits(neuron):
        return model.clone(neuron=neuron).apply(variables, x, num_timesteps=2).sum((0, 1))

    neuron = jax.tree.map(jnp.float64, model.neuron)
    got, backward = jax.jit(lambda n: (logits(n), jax.jacrev(logits)(n)))(neuron)
    forward = jax.jit(jax.jacfwd(logits))(neuron)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), backward, forward)
    assert forward.tau.any()
    expected = run(model, variables, x, num_timesteps=2)[0].sum((0, 1))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [SMALL_VGG, SMALL_RESNET.clone(stage_sizes=(1,)), SMALL_VGG.clone(activation="relu")],
    ids=["vgg", "resnet", "relu"],
)
def test_forward_mode_and_hessian_vector_products(model, x64, monkeypatch):
    """The tangent is that of the gradient; products with the Hessian are those by XLA's own convolutions.

    A surrogate gradient is the gradient of no function, so that its derivative is not symmetric: reverse over
    reverse is another product, except without spikes.
    """
    num_timesteps = 1 if model.activation == "relu" else 2
    x, variables = images(2, 4), in_float64(initialised(model, 4))
    keys = iter(jax.random.split(jax.random.key(5), 99))
    direction = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), variables["params"])

    def loss(params):
        state = {**variables, "params": params}
        y, _ = model.apply(state, x, num_timesteps=num_timesteps, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.tanh(y))

    def along(tree):
        return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (tree, direction)), strict=True))

    def tangents(params):
        return jax.jvp(loss, (params,), (direction,))[1], jax.jvp(jax.grad(loss), (params,), (direction,))

    tangent, (grads, product) = jax.jit(tangents)(variables["params"])
    np.testing.assert_allclose(tangent, along(grads), rtol=1e-9)
    if model.activation == "relu":
        expected = jax.jit(jax.grad(lambda params: along(jax.grad(loss)(params))))(variables["params"])
    else:
        monkeypatch.setattr(_conv_cpu, "_CONV", _conv_cpu._CONV.definition)
        _, (_, expected) = jax.jit(lambda params: tangents(params))(variables["params"])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), product, expected)


def test_batch_norm_of_single_values_cannot_train():
    norm, variables = norm_and_variables(jnp.ones((3, 1, 2)))
    with pytest.raises(ValueError, match=r"one value per channel and timestep, got input \(3, 1, 2\)"):
        norm.apply(variables, jnp.ones((3, 1, 2)), train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width 0: allowed: a positive number"),
        ({"width": -1.0}, "width -1.0: allowed: a positive number"),
        ({"width": float("nan")}, "width nan: allowed: a positive number"),
        ({"width": float("inf")}, "width inf: allowed: a positive number"),
        ({"width": "1"}, "width '1': allowed: a positive number"),
        ({"width": True}, "width True: allowed: a positive number"),
        ({"num_classes": 0}, "num_classes 0: allowed: 1 or more"),
        ({"num_classes": -3}, "num_classes -3: allowed: 1 or more"),
        ({"num_classes": 10.0}, "num_classes 10.0: allowed: 1 or more"),
        ({"num_classes": True}, "num_classes True: allowed: 1 or more"),
        ({"neuron": LIF}, "neuron <class .*>: allowed: a neurons.LIF"),
        ({"activation": "relo"}, "activation relo: allowed: lif, relu; nearest: relu"),
        ({"dtype": jnp.int32}, "dtype .*: allowed: a floating-point dtype"),
    ],
)
def test_what_the_registry_refuses(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        models.create("vgg5", **{"num_classes": 10} | options)


def test_what_the_registry_knows():
    for refuses in (models.min_image_size, partial(models.create, num_classes=10)):
        with pytest.raises(
            InputError,
            match=r"^arch vgg12: allowed: vgg5, .*, resnet34, MODULE:FUNCTION of your own; nearest: vgg1.$",
        ):
            refuses("vgg12")
    assert models.create("vgg5", np.int64(7), np.float32(0.5), dtype="bfloat16").num_classes == 7


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (VGG(None), "features must be a tuple, got None"),
        (ResNet(stage_sizes=1), "stage_sizes must be a tuple, got 1"),
        (SMALL_VGG.clone(neuron=LIF), r"neuron must be a LIF, such as LIF\(\), got the class LIF"),
        (SMALL_RESNET.clone(neuron=None), r"neuron must be a LIF, such as LIF\(\), got a NoneType"),
        (SMALL_VGG.clone(dtype="foo"), "dtype must be a floating-point dtype, got 'foo'"),
    ],
)
def test_fields_that_networks_refuse(model, message):
    refusal(lambda: model.init(jax.random.key(0), images(), num_timesteps=1), message)


@SMALL
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.complex64])
def test_variables_of_other_numbers_are_refused(model, dtype):
    variables = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), initialised(model))
    message = rf"the parameters must be floating-point numbers, .*/conv/kernel is {jnp.dtype(dtype)}"
    refusal(lambda: model.apply(variables, images(), num_timesteps=1), message)


@SMALL
def test_images_on_an_explicit_mesh(model):
    """Timesteps and examples become one axis, which an Explicit mesh cannot divide; the message says how."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    divided = jax.device_put(images(), NamedSharding(mesh, PartitionSpec("x")))
    apply = partial(model.apply, num_timesteps=2)
    variables = jax.device_put(initialised(model), NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        refusal(
            lambda: apply(variables, divided),
            r"images divided over an Explicit mesh, float32\[4@x,.*: put the call in jax.sharding.*",
        )
        automatic = jax.sharding.auto_axes(apply, out_sharding=PartitionSpec(None, "x"))
        logits = jax.jit(automatic)(variables, divided)
    np.testing.assert_allclose(logits, apply(initialised(model), images()), rtol=1e-5, atol=1e-6)


def test_a_resnet_without_blocks_is_its_stem_and_readout():
    model = models.ResNet(stage_sizes=(), widths=(), strides=(1,), stem=4, hidden=None, num_classes=3)
    images = jnp.ones((2, 4, 4, 1))
    variables = jax.eval_shape(partial(model.init, num_timesteps=2), jax.random.key(0), images)
    assert set(variables["params"]) == {"block0", "readout"}


def test_logits_of_a_network_without_neurons_are_alike_at_all_timesteps():
    model, x = models.VGG(("M",), num_classes=3), images(2, 4)
    variables = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(0), x)
    logits = jax.jit(partial(model.apply, num_timesteps=3))(variables, x)
    assert logits.shape == (3, 2, 3)
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[:1], logits.shape))
