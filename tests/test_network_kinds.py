"""Other neurons and batch norms than the paper's: networks against NumPy in double precision.

The reference knows layers, time and definitions, and steps each layer of neurons through time.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from snnlth_jax import configs, masks, models, neurons
from snnlth_jax.commands import words
from snnlth_jax.errors import InputError
from snnlth_jax.interop.torch import from_state_dict, to_state_dict
from snnlth_jax.models import VGG, ResNet
from snnlth_jax.models.norms import BatchNormThroughTime, ThresholdBatchNorm
from snnlth_jax.search.programs import Variant, network

T = 3
VGG_FIELDS = {"features": (4, "M", 6, "M"), "hidden": (5,), "num_classes": 3}
RESNET_FIELDS = {
    "stage_sizes": (2,),
    "widths": (6,),
    "stem": 4,
    "hidden": 5,
    "num_classes": 3,
    "strides": (1, 2),
}
KINDS = {
    "tdbn, IF, soft reset": (
        {"norm": "tdbn", "neuron": neurons.IF(v_threshold=0.7, v_reset=None)},
        {"gain": 0.7, "threshold": 0.7, "soft": True, "decay": 0.0},
    ),
    "bntt, PLIF": (
        {"norm": "bntt", "norm_timesteps": T + 2, "neuron": neurons.PLIF(tau=1.6, v_reset=-0.1)},
        {"threshold": 1.0, "reset": -0.1},
    ),
}


def variables_of(model):
    rng = np.random.default_rng(1)
    sample = jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float64)
    shapes = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), sample)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        low, high = {"scale": (1, 2), "var": (0.5, 1), "tau_logit": (0.2, 2)}.get(kind, (-0.3, 0.5))
        low, high = (0.5, 1.5) if path[-2].key == "hidden" else (low, high)  # or it would be silent
        return rng.uniform(low, high, leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Reference:
    """A network in NumPy; `x` of a layer is `[T, B, ...]`, the image repeated for every timestep."""

    def __init__(self, variables, x, train, kind, soft=False, gain=1.0, threshold=1.0, reset=0.0, decay=None):
        self.params, self.stats = (
            {"/".join(path): np.array(leaf) for path, leaf in flatten_dict(variables[name]).items()}
            for name in ("params", "batch_stats")
        )
        self.train, self.kind, self.soft, self.gain = train, kind, soft, gain
        self.threshold, self.reset, self.decay = threshold, reset, decay
        self.spikes = {}
        images = np.stack([x] * T)
        forward = self.vgg if "layer01/norm/scale" in self.params else self.resnet
        self.logits = forward(images)

    def vgg(self, x):
        for layer in ("layer01", "layer02"):
            x = self.pool(self.fire(layer, self.conv_norm(layer, x, 1)))
        x = x.reshape(*x.shape[:2], -1)
        x = self.fire("layer03", self.norm("layer03", self.linear("layer03/linear", x), 1))
        return self.linear("readout", x)

    def resnet(self, x):
        x = self.fire("block0", self.conv_norm("block0", x, 1))
        for block, stride in (("block1_1", 2), ("block1_2", 1)):
            y = self.fire(f"{block}/first", self.conv_norm(f"{block}/first", x, 1, stride))
            y = self.conv_norm(f"{block}/second", y, 2)
            x = self.conv_norm(f"{block}/shortcut", x, 2, stride) if stride == 2 else x
            x = self.fire(f"{block}/second", x + y)
        return self.linear("readout", self.fire("hidden", self.linear("hidden", x.mean((2, 3)))))

    def conv_norm(self, layer, x, paths, stride=1):
        kernel = self.params[f"{layer}/conv/kernel"]
        size = len(kernel)
        padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
        y = np.einsum("tbhwcij,ijco->tbhwo", windows[:, :, ::stride, ::stride], kernel)
        return self.norm(layer, y + self.params.get(f"{layer}/conv/bias", 0), paths)

    def norm(self, layer, x, paths):
        scale, name = self.params[f"{layer}/norm/scale"], f"{layer}/norm"
        first = layer in ("layer01", "block0")
        if self.kind == "bntt":
            y = np.empty_like(x)
            for t in range(T):
                mean, var = self.moments(name, x[t], (t,))
                y[t] = scale[t] * (x[t] - mean) / np.sqrt(var + 1e-5)
            return y
        # the image is one input: its statistics are taken once, not T times
        mean, var = self.moments(name, x[:1] if first else x, ())
        bias = self.params[f"{name}/bias"]
        return self.gain / paths**0.5 * scale * (x - mean) / np.sqrt(var + 1e-5) + bias

    def moments(self, name, x, row):
        axes = tuple(range(x.ndim - 1))
        if not self.train:
            return self.stats[f"{name}/mean"][row], self.stats[f"{name}/var"][row]
        for key, new in ("mean", x.mean(axes)), ("var", x.var(axes, ddof=1)):
            self.stats[f"{name}/{key}"][row] = 0.9 * self.stats[f"{name}/{key}"][row] + 0.1 * new
        return x.mean(axes), x.var(axes)

    def linear(self, layer, x):
        return x @ self.params[f"{layer}/kernel"] + self.params[f"{layer}/bias"]

    def fire(self, layer, current):
        k = self.decay  # 1 / tau; without a leak the input is not divided either
        if k is None:
            k = 1 / (1 + np.exp(-self.params[f"{layer}_neuron/tau_logit"]))
        v, spikes = np.full(current.shape[1:], self.reset), []
        for x in current:
            h = v + x if self.decay == 0 else v + k * (x - (v - self.reset))
            s = (h >= self.threshold) * 1.0
            v = h - s * self.threshold if self.soft else (1 - s) * h + s * self.reset
            spikes.append(s)
        self.spikes[layer] = np.stack(spikes)
        return self.spikes[layer]

    @staticmethod
    def pool(x):
        steps, batch, height, width, channels = x.shape
        return x.reshape(steps, batch, height // 2, 2, width // 2, 2, channels).max((3, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [VGG, ResNet])
def test_a_network_is_its_definition_in_both_modes(build, kind, x64):
    fields, constants = KINDS[kind]
    model = build(**VGG_FIELDS if build is VGG else RESNET_FIELDS, **fields)
    variables, x = variables_of(model), np.random.default_rng(0).normal(size=(4, 8, 8, 2))

    @jax.jit
    def both(variables, x):
        apply = partial(model.apply, variables, x, num_timesteps=T)
        collections = ["batch_stats", "intermediates"]
        return apply(mutable=["intermediates"]), apply(train=True, mutable=collections)

    for train, (logits, updates) in zip((False, True), both(variables, x), strict=True):
        expected = Reference(variables, x, train, fields["norm"], **constants)
        spikes = flatten_dict(updates["intermediates"], sep="/")
        assert set(spikes) == {f"{layer}_spikes" for layer in expected.spikes}
        for layer, own in expected.spikes.items():
            np.testing.assert_array_equal(spikes[f"{layer}_spikes"][0], own)
            assert 0 < own.sum() < own.size, layer
        np.testing.assert_allclose(logits, expected.logits, rtol=1e-9, atol=1e-12)
        if train:
            for path, leaf in flatten_dict(updates["batch_stats"], sep="/").items():
                np.testing.assert_allclose(leaf, expected.stats[path], rtol=1e-9, err_msg=path)
    if fields["norm"] == "bntt":  # rows beyond T stay as they were
        leaf = updates["batch_stats"][next(iter(updates["batch_stats"]))]
        leaf = flatten_dict(leaf, sep="/")
        before = flatten_dict(variables["batch_stats"][next(iter(variables["batch_stats"]))], sep="/")
        for name in leaf:
            np.testing.assert_array_equal(leaf[name][T:], before[name][T:])


@pytest.mark.parametrize("norm", [ThresholdBatchNorm(gain=1.5), BatchNormThroughTime(3, 4)], ids=type)
def test_several_devices_have_the_statistics_of_one(norm, x64):
    x = jnp.asarray(np.random.default_rng(2).normal(3.0, 2.0, (3, 8, 2, 5)))
    variables = norm.init(jax.random.key(0), x)

    def apply(module, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    whole, updates = apply(norm, x)
    parts = jnp.stack(jnp.split(x, 4, axis=1))
    split, own = jax.vmap(partial(apply, norm.clone(axis_name="batch")), axis_name="batch")(parts)
    np.testing.assert_allclose(jnp.concatenate(split, axis=1), whole, rtol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-9), own, updates)
    # and a width that is the definition's: the threshold, or 1
    np.testing.assert_allclose(np.std(whole), 1.5 if isinstance(norm, ThresholdBatchNorm) else 1, rtol=1e-4)


def test_fewer_timesteps_are_the_first_of_more(x64):
    model = VGG(**VGG_FIELDS, norm="bntt", norm_timesteps=4, neuron=neurons.PLIF(2.0))
    variables, x = variables_of(model), np.random.default_rng(0).normal(size=(4, 8, 8, 2))
    few, many = (jax.jit(partial(model.apply, num_timesteps=steps))(variables, x) for steps in (2, 4))
    np.testing.assert_allclose(few, many[:2], rtol=1e-12)
    with pytest.raises(
        ValueError, match="num_timesteps must be at most norm_timesteps 4 with norm 'bntt', got 5"
    ):
        model.apply(variables, x, num_timesteps=5)


# ---------------------------------------------------------------- neurons


def test_an_if_neuron_adds_up_exactly():
    currents = np.random.default_rng(0).normal(0.3, 1.0, (50, 7)).astype(np.float32)
    v, spikes = np.zeros(7, np.float32), []
    for x in currents:
        h = v + x
        spikes.append(h >= 1)
        v = np.where(spikes[-1], np.float32(0), h)
    last, got = neurons.lif_scan(neurons.IF(), currents)
    np.testing.assert_array_equal(got, spikes)
    np.testing.assert_array_equal(last, v)
    assert 0.1 < np.mean(spikes) < 0.9


@pytest.mark.parametrize("reset", [0.1, None])
def test_the_gradient_of_a_learned_tau_is_that_of_backpropagation_by_hand(reset, x64):
    rng = np.random.default_rng(0)
    currents, weights, w = rng.normal(0.8, 1.0, (6, 9)), rng.normal(size=(6, 9)), 0.4
    rest, k = reset or 0.0, 1 / (1 + np.exp(-w))
    v, before, charged, fired = np.full(9, rest), [], [], []
    for x in currents:
        before.append(v)
        charged.append(v + k * (x - (v - rest)))
        fired.append((charged[-1] >= 1) * 1.0)
        v = charged[-1] - fired[-1] if reset is None else (1 - fired[-1]) * charged[-1] + fired[-1] * rest
    slope, dv = 0.0, np.zeros(9)
    for t in range(5, -1, -1):
        surrogate = 1 / (1 + (np.pi * (charged[t] - 1)) ** 2)
        dh = weights[t] * surrogate + dv * (1 if reset is None else 1 - fired[t])
        slope += np.sum(dh * (currents[t] - (before[t] - rest))) * k * (1 - k)
        dv = dh * (1 - k)
    neuron = neurons.PLIF(v_reset=reset)
    got = jax.grad(lambda w: jnp.sum(weights * neurons.lif_scan(neuron.at(w), currents)[1]))(w)
    np.testing.assert_allclose(got, slope, rtol=1e-10)
    assert abs(slope) > 0.01


def test_a_plif_begins_as_the_lif_of_its_tau():
    for tau in (4 / 3, 2.0, 50.0, 1.001):
        neuron = neurons.PLIF(tau)
        np.testing.assert_allclose(neuron.at(neuron.initial).tau, tau, rtol=1e-12)
    assert neurons.PLIF(2.0).at(-1000.0).tau == np.inf  # no leak
    for tau in (1.0, np.inf, np.nan, jnp.ones(3)):
        with pytest.raises(ValueError, match="tau must be"):
            neurons.PLIF(tau)
    for name, options in (
        ("lifo", {}),
        ("lif", {"surrogate_name": "tan"}),
        ("lif", {"surrogate_name": ["atan"]}),
        ("if", {"surrogate_scale": 0.0}),
    ):
        with pytest.raises(ValueError, match="must be"):
            neurons.create(name, **options)


def test_what_is_learned_beside_the_weights_is_not_prunable():
    model = models.create("resnet7", 10, width=0.1, norm="bntt", norm_timesteps=3, neuron=neurons.PLIF())
    params = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), jnp.zeros((1, 8, 8, 3)))[
        "params"
    ]
    by_rule = {leaf.name: leaf for leaf in masks.explain(params)}
    taus = [name for name in by_rule if name.endswith("tau_logit")]
    assert len(taus) == 1 + 2 * 2 + 1
    assert all(by_rule[name].rule == "fewer than two axes" for name in taus)
    assert by_rule["block0/norm/scale"].shape[0] == 3
    assert by_rule["block0/norm/scale"].rule == "named scale"
    assert not any(leaf.prunable for leaf in by_rule.values() if not leaf.name.endswith("kernel"))
    # a stack of networks has two axes more, and another reason
    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, 2, *x.shape), x.dtype), params)
    assert not any(leaf.prunable for leaf in masks.explain(stacked) if leaf.name.endswith("tau_logit"))


@pytest.mark.parametrize("norm", ["timestep", "tdbn", "bntt"])
@pytest.mark.parametrize("arch", ["vgg5", "alexnet", "resnet7"])
def test_bfloat16_stays_bfloat16_and_the_twin_has_the_same_parameters(arch, norm):
    changes = {"neuron": "plif", "norm": norm, "dtype": "bfloat16", "width": 0.1, "num_timesteps": 4}
    model = network(configs.resolve(configs.TrainConfig(dataset="cifar10", arch=arch, **changes)), 10)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    trees = {}
    for variant in (Variant("lif", 4), Variant("lif", 2), Variant("relu", 1)):
        own = model.clone(activation=variant.activation)
        init = partial(own.init, num_timesteps=variant.num_timesteps)
        trees[variant] = variables = jax.eval_shape(init, jax.random.key(0), x)
        apply = partial(own.apply, num_timesteps=variant.num_timesteps, train=True)
        logits, updates = jax.eval_shape(
            partial(apply, mutable=["batch_stats", "intermediates"]),
            {k: variables[k] for k in ("params", "batch_stats")},
            x,
        )
        assert logits.shape == (variant.num_timesteps, 2, 10)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates["intermediates"])} == {jnp.dtype(jnp.bfloat16)}
        assert jax.tree.structure(updates["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    first, *others = [
        jax.tree.map(lambda x: (x.shape, x.dtype), {k: tree[k] for k in ("params", "batch_stats")})
        for tree in trees.values()
    ]
    assert all(other == first for other in others)


@pytest.mark.parametrize("other", [{"neuron": neurons.PLIF()}, {"norm": "bntt", "norm_timesteps": 3}])
def test_the_authors_networks_are_others(other):
    model = models.create("vgg5", 10, width=0.1, **other)
    for convert in (partial(to_state_dict, model), lambda entries: from_state_dict(model, entries, None)):
        with pytest.raises(ValueError, match=r"no learned tau .PLIF."):
            convert({"params": {}})


# ---------------------------------------------------------------- by configuration


def test_the_network_of_a_configuration_is_made_of_names_and_numbers():
    default = network(configs.resolve(configs.TrainConfig()), 10)
    assert default == models.create("vgg5", 10)
    assert hash(default) == hash(models.create("vgg5", 10))
    config = configs.ImpConfig(
        neuron="plif", neuron_tau=3.0, v_threshold=0.5, v_reset="none", surrogate="triangle", norm="bntt"
    )
    made = network(configs.resolve(config), 7)
    assert made.neuron == neurons.PLIF(3.0, 0.5, None, spike=neurons.surrogate.triangle(1.0))
    assert (made.norm, made.norm_timesteps) == ("bntt", 4)
    eb = network(configs.resolve(configs.EbConfig(neuron="if", tau=0.5, surrogate_scale=3.0)), 7)
    assert eb.neuron == neurons.IF(spike=neurons.surrogate.atan(3.0))


REFUSED = [
    ({"neuron": "if", "neuron_tau": 2.0}, "neuron_tau 2.0: allowed: with neuron lif or plif: if has no leak"),
    ({"neuron": "plif", "neuron_tau": 1.0}, "neuron_tau 1.0: allowed: above 1"),
    ({"neuron_tau": 0.5}, "neuron_tau 0.5: allowed: a number of at least 1"),
    ({"neuron_tau": float("nan")}, "neuron_tau nan"),
    ({"neuron_tau": float("inf")}, "neuron_tau inf"),
    ({"v_threshold": 0.0}, "v_threshold 0.0: allowed: above 0.0"),
    ({"v_threshold": 1.0, "v_reset": 1.5}, "v_threshold 1.0: allowed: above 1.5"),
    ({"v_threshold": -0.5, "v_reset": "none"}, "v_threshold -0.5: allowed: above 0.0"),
    ({"v_threshold": -0.5, "v_reset": -1.0, "norm": "tdbn"}, "v_threshold -0.5: allowed: above 0, with norm"),
    ({"v_reset": float("inf")}, "v_reset inf"),
    ({"surrogate_scale": 0.0}, "surrogate_scale 0.0"),
    ({"surrogate": "tanh"}, "surrogate tanh: allowed: atan, sigmoid"),
    ({"activation": "relu", "neuron": "plif"}, "neuron plif: allowed: lif with activation relu"),
    ({"activation": "relu", "v_reset": "none"}, "v_reset none: allowed: 0.0 with activation relu"),
    ({"activation": "relu", "surrogate": "sigmoid"}, "surrogate sigmoid: allowed: atan with"),
    ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
    ({"loss": "ce"}, "loss ce: allowed: mean-ce"),
    (
        {"loss": "sum-ce", "early_time": True, "early_time_loss": "over-t"},
        "early_time_loss over-t: allowed: mean, with loss sum-ce",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda x: str(x))
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(InputError) as refused:
        configs.resolve(configs.ImpConfig(**changes))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_tau_is_short_for_neuron_tau_except_where_it_is_another():
    _, config = words.parse(["imp", "--tau=2.5", "--v-reset", "none", "--neuron", "plif"])
    assert (config.neuron_tau, config.v_reset, config.neuron) == (2.5, "none", "plif")
    assert words.parse(["transfer", "--tau", "3", "--v-reset", "-0.5"])[1].neuron_tau == 3.0
    _, config = words.parse(["eb", "--tau", "0.1", "--neuron-tau", "3"])
    assert (config.tau, config.neuron_tau) == (0.1, 3.0)
