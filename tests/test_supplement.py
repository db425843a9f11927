"""The networks of the paper's supplement, against NumPy that steps the whole network through time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from snnlth_jax import configs, models, pruning
from snnlth_jax.analysis.flops import macs
from snnlth_jax.errors import InputError
from snnlth_jax.models import VGG, ResNet

T = 3
ALEXNET = models.create("alexnet", num_classes=3, width=0.02)
# the stages of resnet34 that matter: one that keeps the size, one that halves it, and the stem's stride
RESNET = ResNet(stage_sizes=(1, 2), widths=(4, 6), stem=4, hidden=None, num_classes=3, strides=(2, 1, 2))
BOTH = pytest.mark.parametrize("model", [ALEXNET, RESNET], ids=["alexnet", "resnet"])


def images():
    return np.random.default_rng(0).normal(size=(4, 16, 16, 3))


def variables_of(model):
    """Random variables in double precision, with which neurons of all layers fire."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), jnp.ones((1, 16, 16, 3)))

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        low, high = {"scale": (1, 2), "var": (0.5, 1)}.get(kind, (-0.3, 0.5))
        return rng.uniform(low, high, leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Stepped:
    """A network in NumPy, one timestep at a time: logits, running statistics and rates of all neurons."""

    def __init__(self, variables, x, num_timesteps, train, activation="lif"):
        self.params, self.stats = (
            {"/".join(path): np.array(leaf) for path, leaf in flatten_dict(variables[kind]).items()}
            for kind in ("params", "batch_stats")
        )
        self.train, self.activation = train, activation
        self.potentials, self.rates, self.first = {}, {}, {}
        forward = self.alexnet if "layer01/norm/mean" in self.stats else self.resnet
        self.logits = np.stack([forward(x) for _ in range(num_timesteps)])

    def alexnet(self, x):
        x = self.pool(self.fire("layer01", self.once("layer01", x, stride=2)))
        x = self.pool(self.fire("layer02", self.conv_norm("layer02", x)))
        for layer in ("layer03", "layer04", "layer05"):
            x = self.fire(layer, self.conv_norm(layer, x))
        x = self.pool(x).reshape(len(x), -1)
        for layer in ("layer06", "layer07"):
            x = self.fire(layer, self.norm(layer, self.linear(f"{layer}/linear", x)))
        return self.linear("readout", x)

    def resnet(self, x):
        x = self.fire("block0", self.once("block0", x, stride=2))
        for block, stride in (("block1_1", 1), ("block2_1", 2), ("block2_2", 1)):
            y = self.fire(f"{block}/first", self.conv_norm(f"{block}/first", x, stride))
            y = self.conv_norm(f"{block}/second", y)
            if stride == 2:
                x = self.conv_norm(f"{block}/shortcut", x, 2)
            x = self.fire(f"{block}/second", x + y)
        return self.linear("readout", x.mean((1, 2)))

    def once(self, layer, x, stride):
        """The first layer, at the first timestep alone."""
        if layer not in self.first:
            self.first[layer] = self.conv_norm(layer, x, stride)
        return self.first[layer]

    def conv_norm(self, layer, x, stride=1):
        kernel = self.params[f"{layer}/conv/kernel"]
        size = len(kernel)
        padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
        y = np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], kernel)
        return self.norm(layer, y + self.params.get(f"{layer}/conv/bias", 0))

    def norm(self, layer, x):
        mean, var = self.stats[f"{layer}/norm/mean"], self.stats[f"{layer}/norm/var"]
        if self.train:
            axes = tuple(range(x.ndim - 1))
            self.stats[f"{layer}/norm/mean"] = 0.9 * mean + 0.1 * x.mean(axes)
            self.stats[f"{layer}/norm/var"] = 0.9 * var + 0.1 * x.var(axes, ddof=1)
            mean, var = x.mean(axes), x.var(axes)
        scale, bias = self.params[f"{layer}/norm/scale"], self.params[f"{layer}/norm/bias"]
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def linear(self, layer, x):
        return x @ self.params[f"{layer}/kernel"] + self.params[f"{layer}/bias"]

    def fire(self, layer, current):
        if self.activation == "relu":
            return np.maximum(current, 0)
        v = 0.25 * self.potentials.get(layer, 0.0) + 0.75 * current
        spikes = (v >= 1) * 1.0
        self.potentials[layer] = v * (1 - spikes)
        self.rates.setdefault(layer, []).append(spikes)
        return spikes

    @staticmethod
    def pool(x):
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


@BOTH
def test_both_modes_are_stepping_the_whole_network(model, x64):
    x, variables = images(), variables_of(model)

    @jax.jit
    def both(variables, x):
        apply = partial(model.apply, variables, x, num_timesteps=T)
        collections = ["batch_stats", "intermediates"]
        return apply(mutable=["intermediates"]), apply(train=True, mutable=collections)

    for train, (logits, updates) in zip((False, True), both(variables, x), strict=True):
        expected = Stepped(variables, x, T, train)
        assert logits.dtype == jnp.float64
        np.testing.assert_allclose(logits, expected.logits, rtol=1e-9, atol=1e-12)
        spikes = flatten_dict(updates["intermediates"], sep="/")
        assert set(spikes) == {f"{layer}_spikes" for layer in expected.rates}
        for layer, rates in expected.rates.items():
            np.testing.assert_array_equal(spikes[f"{layer}_spikes"][0], rates)
            assert 0 < np.sum(rates) < np.size(rates), layer
        if train:
            stats = flatten_dict(updates["batch_stats"], sep="/")
            assert set(stats) == set(expected.stats)
            for name, running in expected.stats.items():
                np.testing.assert_allclose(stats[name], running, rtol=1e-9, atol=1e-12, err_msg=name)


@BOTH
def test_relu_twin_and_a_mapped_axis(model, x64):
    """The twin has one timestep; two halves of a batch over a mapped axis are the whole."""
    x, variables = images(), variables_of(model)
    twin = model.clone(activation="relu", axis_name="batch")

    @jax.jit
    def halves(variables, x):
        apply = partial(twin.apply, variables, num_timesteps=1, train=True, mutable=["batch_stats"])
        axes = {"out_axes": (1, None), "axis_name": "batch"}
        logits, updates = jax.vmap(apply, **axes)(x.reshape(2, 2, *x.shape[1:]))
        return logits.reshape(1, 4, -1), updates["batch_stats"]

    logits, stats = halves(variables, x)
    expected = Stepped(variables, x, 1, True, "relu")
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-9, atol=1e-12)
    for name, running in flatten_dict(stats, sep="/").items():
        np.testing.assert_allclose(running, expected.stats[name], rtol=1e-9, atol=1e-12)


@BOTH
def test_scores_at_initialisation(model):
    """SNIP scores weights of all layers, in bfloat16; GraSP, which is slow to compile, is traced."""
    x = jnp.asarray(images(), jnp.float32)
    variables = jax.tree.map(jnp.float32, variables_of(model))
    model = model.clone(dtype=jnp.bfloat16)

    def loss(params):
        state = {**variables, "params": params}
        y, _ = model.apply(state, x, num_timesteps=2, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.tanh(y) ** 2)

    params = variables["params"]
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    scores = jax.tree.leaves(jax.jit(partial(pruning.snip, loss))(params))
    assert [leaf.shape for leaf in scores] == shapes
    assert all(jnp.isfinite(leaf).all() and (leaf.any() or leaf.ndim < 2) for leaf in scores)
    traced = jax.eval_shape(partial(pruning.grasp, loss), params)
    assert [leaf.shape for leaf in jax.tree.leaves(traced)] == shapes


# --- counts by hand


def conv(side, inputs, outputs, size=3):
    """Weights of a convolution, and its products for outputs of side x side pixels, padding included."""
    weights = size * size * inputs * outputs
    return weights, side * side * weights


def alexnet(num_classes):
    # 32 -> 16 by stride, then 8, 4 and 2 by pooling
    yield conv(16, 3, 64)
    yield conv(8, 64, 192)
    yield from (conv(4, 192, 384), conv(4, 384, 256), conv(4, 256, 256))
    for inputs, outputs in ((2 * 2 * 256, 4096), (4096, 4096), (4096, num_classes)):
        yield inputs * outputs, inputs * outputs


def convnet5(num_classes):
    yield from (conv(16, 3, 32), conv(16, 32, 64), conv(8, 64, 128))
    for inputs, outputs in ((4 * 4 * 128, 1024), (1024, num_classes)):
        yield inputs * outputs, inputs * outputs


def resnet34(num_classes):
    yield conv(32, 3, 64)
    yield from [conv(32, 64, 64)] * 6
    for side, blocks, inputs in ((16, 4, 64), (8, 6, 128), (4, 3, 256)):
        outputs = 2 * inputs
        yield from (conv(side, inputs, outputs), conv(side, inputs, outputs, size=1))
        yield from [conv(side, outputs, outputs)] * (2 * blocks - 1)
    yield 512 * num_classes, 512 * num_classes


@pytest.mark.parametrize(
    ("name", "by_hand", "side", "num_classes"),
    [("alexnet", alexnet, 32, 10), ("convnet5", convnet5, 32, 10), ("resnet34", resnet34, 64, 200)],
)
def test_weights_and_products_by_hand(name, by_hand, side, num_classes):
    model, x = models.create(name, num_classes), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), x)
    weights, products = map(sum, zip(*by_hand(num_classes), strict=True))
    kernels = [leaf for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "kernel"]
    assert sum(leaf.size for leaf in kernels) == weights
    first = next(by_hand(num_classes))[1]  # once for all timesteps
    assert macs(partial(model.apply, num_timesteps=T), variables, x) == T * products - (T - 1) * first


def test_layers_of_weights_are_those_of_the_name():
    for name, layers in (("alexnet", 8), ("convnet5", 5), ("resnet34", 34)):
        model = models.create(name, 10, width=0.05)
        shapes = jax.eval_shape(
            partial(model.init, num_timesteps=1), jax.random.key(0), jnp.ones((1, 16, 16, 3))
        )
        paths = [path for path in flatten_dict(shapes["params"]) if path[-1] == "kernel"]
        assert len([path for path in paths if "shortcut" not in path]) == layers


def test_initial_hidden_layers():
    model = VGG(features=(4, "M"), hidden=(64, 128), num_classes=100)
    params = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(0), jnp.ones((1, 8, 8, 3)))[
        "params"
    ]
    kernel = params["layer03"]["linear"]["kernel"]
    np.testing.assert_allclose(kernel.std(), (2 / 128) ** 0.5, rtol=0.02)
    assert not params["layer03"]["linear"]["bias"].any()
    np.testing.assert_allclose(params["readout"]["kernel"].std(), 0.01, rtol=0.02)


def test_hidden_layers_cannot_train_on_one_image():
    message = "batch norm cannot train on one value per channel and timestep"
    train = partial(ALEXNET.apply, num_timesteps=1, train=True, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(train, jax.tree.map(jnp.float32, variables_of(ALEXNET)), jnp.ones((1, 16, 16, 3)))
    config = configs.resolve(configs.ImpConfig(dataset="cifar10", arch="alexnet"))
    configs.check_examples(config, 130)
    with pytest.raises(
        InputError, match=r"batch_size 128: leaves 1 of 129 .*; allowed: 2 or more of them, with alexnet$"
    ):
        configs.check_examples(config, 129)
    configs.check_examples(configs.resolve(configs.ImpConfig(dataset="cifar10")), 129)
