"""A user's own network: refused in one line where it cannot be searched; the connections derived of it."""

import textwrap
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from snnlth_jax import configs, evaluation, masks, models, networks, tickets
from snnlth_jax.analysis import tracing, wiring
from snnlth_jax.analysis.wiring import Connection
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.errors import InputError
from snnlth_jax.interop import stablehlo
from snnlth_jax.models import own
from snnlth_jax.neurons import LIF, lif_scan
from snnlth_jax.run import results
from snnlth_jax.search import imp


def traced(model, shape):
    images = jnp.ones((1, *shape))
    variables = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), images)
    return tracing.trace(model, variables, masks.make(variables["params"]), shape)


@pytest.mark.parametrize(
    ("name", "side", "width"),
    [("vgg5", 8, 0.1), ("alexnet", 16, 0.01), ("resnet7", 8, 0.1)],
)
def test_the_connections_of_our_networks_follow_from_their_programs(name, side, width):
    model = models.create(name, 10, width=width)
    assert traced(model, (side, side, 2)) == wiring.connections(model)


class Net(nn.Module):
    """Layers of all kinds, in the words of Flax and `jnp` alone."""

    num_classes: int
    kind: str = "plain"

    def fire(self, current, num_timesteps, name):
        current = jnp.broadcast_to(current, (num_timesteps, *current.shape[1:]))
        spikes = lif_scan(LIF(), current)[1]
        if self.kind != "silent":
            self.sow("intermediates", f"{name}_spikes", spikes)
        return spikes

    @nn.compact
    def __call__(self, x, *, num_timesteps, train=False):
        x = nn.Conv(4, (3, 3), strides=2, padding=1, name="a")(x[None])
        x = self.fire(x, num_timesteps, "a")
        shape = x.shape
        if self.kind == "average":
            y = nn.avg_pool(x.reshape(-1, *shape[2:]), (2, 2), (2, 2))
        else:
            y = nn.max_pool(x.reshape(-1, *shape[2:]), (2, 2), (2, 2))
        y = y.reshape(*shape[:2], *y.shape[1:])
        padding = "VALID" if self.kind == "valid" else 1
        y = jax.checkpoint(lambda y: 0.5 * y)(y)
        y = nn.Conv(
            4, (3, 3), padding=padding, feature_group_count=2 if self.kind == "groups" else 1, name="b"
        )(y)
        if self.kind == "linear":
            y = nn.Dense(4, name="between")(y)
        y = self.fire(y, num_timesteps, "b")
        mean = nn.Dense(6, use_bias=False, name="c")(y.mean((2, 3)))
        flat = nn.Dense(6, name="d")(y.reshape(*y.shape[:2], -1))
        z = self.fire(mean + flat, num_timesteps, "c")
        z = self.fire(z + nn.Dense(6, name="e")(z), num_timesteps, "e")
        return nn.Dense(self.num_classes, name="out")(z)


class TwoLayers(nn.Module):
    num_classes: int
    sows: bool = True

    @nn.compact
    def __call__(self, x, *, num_timesteps, train=False):
        current = nn.Dense(12, name="hidden")(x.reshape(1, len(x), -1))
        spikes = lif_scan(LIF(), jnp.broadcast_to(current, (num_timesteps, *current.shape[1:])))[1]
        if self.sows:
            self.sow("intermediates", "hidden_spikes", spikes)
        return nn.Dense(self.num_classes, name="readout")(spikes)


def test_connections_of_another_network():
    assert traced(Net(3), (8, 8, 2)) == (
        Connection("a/kernel", "image", "a", stride=2),
        Connection("b/kernel", "a", "b", poolings=1),
        Connection("c/kernel", "b", "c", mean=True),
        Connection("d/kernel", "b", "c"),
        Connection("e/kernel", "c", "e"),
        Connection(None, "c", "e"),
        Connection("out/kernel", "e", "logits"),
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("silent", "sows no spikes"),
        ("average", "b/kernel reads a in a way"),
        ("valid", "b/kernel reads a in a way"),
        ("groups", "b/kernel reads a in a way"),
        ("linear", "between/kernel is behind other weights"),
    ],
)
def test_what_has_no_description_is_not_guessed(kind, message):
    with pytest.raises(ValueError, match=message):
        traced(Net(3, kind), (16, 16, 2))


def test_a_module_can_say_its_connections():
    class Telling(Net):
        def connections(self):
            return [Connection("a/kernel", "image", "a")]

    assert wiring.connections(Telling(3)) == (Connection("a/kernel", "image", "a"),)


# --- searches


@pytest.mark.parametrize("sows", [True, False])
def test_a_search_with_ones_own_network(tmp_path, sows, caplog):
    config = configs.ImpConfig(
        **small.NETWORK | {"width": 1.0},
        rounds=2,
        num_timesteps=2,
        arch="test_own_networks:TwoLayers",
        arch_option=(f"sows={sows}",),
        workdir=str(tmp_path),
    )
    result = imp.search(config)
    dense, ticket = result.rounds
    total = 8 * 8 * 12 + 12 * 10
    assert (dense.total, ticket.kept) == (total, total - total // 4)
    assert tuple(result.config["arch_option"]) == (f"sows={sows}",)
    assert [layer.name for layer in dense.layers] == ["hidden/kernel", "readout/kernel"]
    assert sum(layer.kept for layer in ticket.layers) == ticket.kept
    file = tmp_path / "networks" / "dense.safetensors"
    with pytest.raises(InputError, match="author's own; allowed: test_own_networks:TwoLayers"):
        networks.classifier(file)  # a file alone calls no function
    network = networks.classifier(file, arch="test_own_networks:TwoLayers")
    evaluated = evaluation.evaluate(network)
    assert evaluated.test_accuracy == dense.final_test_accuracy
    content = stablehlo.from_network(networks.load(file), "test_own_networks:TwoLayers")
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    alone = jax.export.deserialize(bytearray(content)).call(images)
    np.testing.assert_allclose(alone, network(images), rtol=1e-5, atol=1e-6)
    assert evaluated.layers == dense.layers
    with pytest.raises(InputError, match="author's own"):
        configs.of_ticket(tmp_path / "tickets" / "round_01.safetensors")
    again = configs.of_ticket(
        tmp_path / "tickets" / "round_01.safetensors", arch="test_own_networks:TwoLayers"
    )
    assert again.arch_option == config.arch_option
    assert dense.connected == sows
    if sows:
        assert sum(dense.layers[1].synops_per_image) > 0
    else:
        assert "dead channels, spikes and SynOps are not measured" in caplog.text
    assert results.to_json(results.from_json(results.to_json(result))) == results.to_json(result)


def refused(**changes):
    with pytest.raises(InputError) as caught:
        imp.search(
            configs.ImpConfig(**{**small.NETWORK, "width": 1.0, "rounds": 2, "workdir": "runs/no"} | changes)
        )
    return str(caught.value)


def test_what_is_wrong_with_a_network_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_that_fail.py").write_text(
        textwrap.dedent("""
        import flax.linen as nn
        import jax.numpy as jnp

        class Net(nn.Module):
            kind: str
            @nn.compact
            def __call__(self, x, *, num_timesteps, train=False):
                if self.kind == "raises":
                    raise RuntimeError("no such thing")
                if self.kind == "biases":
                    bias = self.param("bias", nn.initializers.ones, (10,)).reshape(1, 1, 10)
                    return jnp.zeros((num_timesteps, len(x), 10)) + bias
                x = nn.Dense(10)(x.reshape(len(x), -1))
                if self.kind == "once":
                    return x
                if self.kind == "depends":
                    return x[None] + self.param("p", nn.initializers.ones, (num_timesteps, 1, 1))
                if self.kind == "cache":
                    self.variable("cache", "x", jnp.zeros, ())
                return jnp.broadcast_to(x, (num_timesteps, *x.shape))

        def make(num_classes, kind="fine"):
            return Net(kind)

        class Plain(nn.Module):
            @nn.compact
            def __call__(self, x):
                return x

        def plain(num_classes):
            return Plain()

        def nothing(num_classes):
            return None

        def positional(n, /, size=1):
            return size

        number = 3
        """)
    )
    arch = "nets_that_fail:make"
    for change, message in (
        ({"arch": "no_such_module:make"}, "no module no_such_module"),
        ({"arch": "nets_that_fail:mke"}, "nearest: make"),
        ({"arch": "nets_that_fail:number"}, "is a int; allowed: a function"),
        ({"arch": "nets_that_fail:nothing"}, "returned a NoneType; allowed: a flax.linen.Module"),
        ({"arch": "nets_that_fail:plain"}, "a call failed, TypeError"),
        ({"arch": arch, "arch_option": ("kind=raises",)}, "a call failed, RuntimeError: no such thing"),
        ({"arch": arch, "arch_option": ("kind=biases",)}, "has no prunable parameters"),
        ({"arch": arch, "arch_option": ("kind=once",)}, "its logits are of shape"),
        ({"arch": arch, "arch_option": ("kind=depends",)}, "depend on num_timesteps"),
        ({"arch": arch, "arch_option": ("kind=cache",)}, "has variables cache"),
        ({"arch": "nets_that_fail:positional", "arch_option": ("size=3",)}, "returned a int"),
        (
            {"arch": "nets_that_fail:positional", "arch_option": ("site=3",)},
            "site: allowed: size",
        ),
        ({"arch": arch, "arch_option": ("kid=raises",)}, "arch_option kid: allowed: kind; nearest: kind"),
        ({"arch": arch, "arch_option": ("size",)}, "arch_option size: allowed: name=value"),
        ({"arch": arch, "arch_option": ("kind=a", "kind=b")}, "each name once"),
        ({"arch": arch, "width": 0.5}, "width 0.5: allowed: 1.0 with arch"),
        ({"arch": arch, "neuron": "plif", "neuron_tau": 2.0}, "neuron plif: allowed: lif with arch"),
        ({"arch": arch, "dtype": "bfloat16"}, "which has no field dtype"),
        ({"arch": arch, "activation": "relu"}, "has no ReLU twin"),
        ({"arch": "vgg5", "arch_option": ("kind=a",)}, "with arch MODULE:FUNCTION"),
        ({"arch": "vgg55"}, "nearest: vgg5"),
    ):
        assert message in refused(**change), change
    assert not (tmp_path / "runs").exists()


def test_options_are_literals_or_texts():
    options = own.options_of(["a=3", "b=0.5", "c=None", "d=(1, 2)", "e=mean", "f=", "g=x=y"])
    assert options == {"a": 3, "b": 0.5, "c": None, "d": (1, 2), "e": "mean", "f": "", "g": "x=y"}


def test_batch_statistics_need_a_name_to_be_shared_over():
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x, *, num_timesteps, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(10)(x.reshape(len(x), -1)))
            return jnp.broadcast_to(x, (num_timesteps, *x.shape))

    config = configs.ImpConfig(**small.NETWORK | {"devices": 2}, rounds=2, workdir="runs/no")
    with pytest.raises(InputError, match="devices 2: vgg5 has batch statistics and no field axis_name"):
        imp.search(config, model=Norm())


def test_the_derived_connections_give_the_spikes_of_a_network_stepped_by_hand():
    """SynOps of the layer behind the pooling, counted spike by spike."""
    from snnlth_jax.analysis import activity

    model, shape = Net(3), (8, 8, 2)
    images = jax.random.normal(jax.random.key(1), (3, *shape)) * 3
    variables = model.init(jax.random.key(0), images, num_timesteps=1)
    layers = traced(model, shape)
    counts = jax.device_get(
        activity.count_spikes(model, layers, variables, images, num_timesteps=3, batch_size=2).counts
    )
    _, sown = model.apply(variables, images, num_timesteps=3, mutable=["intermediates"])
    spikes = np.asarray(sown["intermediates"]["a_spikes"][0])  # [3, 3, 4, 4, 4]
    pooled = spikes.reshape(3, 3, 2, 2, 2, 2, 4).max((3, 5))
    assert pooled.sum() > 0
    by_hand = 0
    for row in range(2):
        for column in range(2):
            fan_out = 4 * 4  # 3x3 window on a 2x2 map: every position reaches all four, 4 channels each
            by_hand += pooled[:, :, row, column].sum() * fan_out
    ones = np.ones((3, 3, 4, 4), bool)
    (c,) = (c for c in layers if c.name == "b/kernel")
    assert sum(activity.synops(c, ones, (4, 4, 4), counts, 3)) == by_hand


def test_a_file_names_no_function_and_no_data(tmp_path):
    params = {"hidden": {"kernel": np.ones((4, 3), np.float32)}}
    for field, value in (("dataset", "os:getcwd"), ("dataset", "other.npz"), ("arch", "os:getcwd")):
        file = tmp_path / f"{field}.safetensors"
        tickets.save(file, tickets.Ticket(masks.make(params), params, {}, {field: value}))
        with pytest.raises(InputError, match=r"yours, as for its search|to call that function of yours"):
            configs.of_ticket(file)
    assert configs.of_ticket(tmp_path / "dataset.safetensors", dataset="digits").dataset == "digits"
    model = models.VGG((3, "M"), num_classes=10)
    variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)), num_timesteps=1)
    recipe = networks.describe(
        model, image_shape=(8, 8, 1), normalisation=Augmentation((0.5,), (0.5,)), num_timesteps=2
    )
    network = networks.Network(
        recipe, masks.make(variables["params"]), *variables.values(), {"dataset": "os:getcwd"}
    )
    with pytest.raises(InputError, match="'os:getcwd', no dataset of this package; allowed: yours"):
        evaluation.evaluate(networks.classifier(network))
    for size, allowed in ((2048, True), (10**9, False)):
        known = network._replace(provenance={"dataset": "digits", "batch_size": size})
        if allowed:  # larger than the 360 test images
            assert evaluation.evaluate(networks.classifier(known)).batch_size == size
        else:
            with pytest.raises(InputError, match="batch_size 1000000000: allowed: 1 to 65536"):
                evaluation.evaluate(networks.classifier(known))
