"""Facts about tickets, against brute force over every position, neuron and connection."""

import itertools
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnlth_jax import masks, models
from snnlth_jax.analysis import activity, energy, health, sparsity
from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.flops import macs
from snnlth_jax.errors import InputError
from snnlth_jax.search import measure

VGG = models.VGG((3, "M", 4, 4, "M"), num_classes=3)
RESNET = models.ResNet(stage_sizes=(2, 1), widths=(4, 5), stem=3, hidden=6, num_classes=3)
BOTH = pytest.mark.parametrize("model", [VGG, RESNET], ids=["vgg", "resnet"])
# with what the networks of the supplement have besides: a stride, hidden layers; stages that keep the size
ALEXNET = models.VGG((3, "M", 4), num_classes=3, stride=2, hidden=(6, 5))
RESNET34 = RESNET.clone(widths=(3, 5), hidden=None, strides=(2, 1, 2))
ALL = pytest.mark.parametrize(
    "model", [VGG, RESNET, ALEXNET, RESNET34], ids=["vgg", "resnet", "alexnet", "resnet34"]
)
SIZE, T = (7, 6, 2), 3


def network(model, seed=0, density=0.35, size=SIZE, positive=False):
    """Variables with weights removed at random, their masks by name, and images."""
    x = np.random.default_rng(seed).uniform(0.5, 1.5, (7, *size)).astype(np.float32)
    variables = jax.device_get(
        jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(seed), x[:1] * 0.0)
    )
    rng = np.random.default_rng(seed)
    kept = masks.tree_map(lambda m: rng.random(m.shape) < density, masks.make(variables["params"]))

    def draw(path, leaf):
        name = path[-1].key
        if positive:
            return rng.uniform(0.5, 1.0, leaf.shape).astype(np.float32)
        if name == "kernel":
            return rng.normal(0.2, 1.0, leaf.shape).astype(np.float32)
        return leaf if name == "scale" else rng.uniform(0, 0.5, leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, variables["params"])
    params = jax.device_get(masks.apply(params, kept))
    return {"params": params, "batch_stats": variables["batch_stats"]}, kept, x


def described(model, kept, size=SIZE):
    wiring, named = w.connections(model), w.by_name(kept)
    return wiring, named, health.reach(wiring, named, size)


def counted(model, variables, images, batch_size=3):
    count = partial(activity.count_spikes, model, w.connections(model))
    count = jax.jit(partial(count, num_timesteps=T, batch_size=batch_size))
    return jax.device_get(count(variables, images).counts)


def observed(model, variables, images, kind):
    """Inputs and outputs of each module of a kind, by its name."""
    seen = {}

    def look(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, kind) and context.method_name == "__call__":
            seen["/".join(context.module.path)] = (np.asarray(args[0]), np.asarray(out))
        return out

    with nn.intercept_methods(look):
        model.apply(variables, images, num_timesteps=T)
    return seen


def windows(shape, out, size, stride):
    """All pairs of positions that a convolution connects: (output, input, weight of the window)."""
    for row, column, i, j in itertools.product(range(out[0]), range(out[1]), range(size), range(size)):
        at = row * stride + i - size // 2, column * stride + j - size // 2
        if 0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]:
            yield (row, column), at, (i, j)


# --- operations and spikes


@ALL
def test_synops_are_the_additions_over_every_connection(model):
    variables, kept, images = network(model)
    wiring, named, _ = described(model, kept)
    of, counts = w.shapes(wiring, named, SIZE), counted(model, variables, images)
    inputs = {
        f"{name}/kernel": x
        for name, (x, _) in observed(model, variables, images, (nn.Conv, nn.Dense)).items()
    }
    assert set(inputs) == set(named) == {c.name for c in wiring if c.name}
    for c in wiring:
        if c.name is None or c.source == w.IMAGE:
            continue
        mask, x = named[c.name], inputs[c.name]
        x = x.reshape(T, -1, *x.shape[-3:]) if mask.ndim == 4 else x
        expected = np.zeros(T, int)
        if mask.ndim == 2:
            spikes = x * (np.prod(of[c.source][:2]) if c.mean else 1)  # a mean, times the positions
            expected += np.rint(spikes.sum(1) @ mask.sum(1)).astype(int)
        else:
            shape, stride = x.shape[2:4], c.stride
            for _, (row, column), tap in windows(shape, [-(-n // stride) for n in shape], len(mask), stride):
                expected += (x[:, :, row, column].sum(1) @ mask[tap].sum(-1)).astype(int)
        assert activity.synops(c, mask, of[c.source], counts, T) == expected.tolist()
        assert expected.any()


@ALL
def test_the_spikes_of_the_first_image_are_those_of_it_alone(model):
    variables, _, images = network(model)
    count = partial(activity.count_spikes, model, w.connections(model), num_timesteps=T)
    first = jax.device_get(jax.jit(partial(count, batch_size=3))(variables, images)).first
    alone = jax.device_get(jax.jit(partial(count, batch_size=1))(variables, images[:1])).counts
    assert {(name, 0) for name in first} == {site for site in alone if not site[1]}
    for name, spikes in first.items():
        np.testing.assert_array_equal(spikes, alone[name, 0])
    assert any(spikes.any() for spikes in first.values())


@ALL
def test_macs_of_the_first_layer_and_of_networks_without_spikes(model):
    _, kept, _ = network(model)
    wiring, named, _ = described(model, kept)
    first = named[wiring[0].name]
    stride = 2 if model in (ALEXNET, RESNET34) else 1
    out = [-(-n // stride) for n in SIZE[:2]]
    expected = sum(int(first[tap].sum()) for _, _, tap in windows(SIZE, out, 3, stride))
    assert activity.macs(wiring[0], first, SIZE) == expected
    # with nothing removed: those of the traced program, without its products with padding
    dense = w.by_name(masks.tree_map(np.ones_like, kept))
    relu = model.clone(activation="relu")
    variables, x = jax.eval_shape(lambda: network(model)[0]), jnp.zeros((1, *SIZE))
    of = w.shapes(wiring, dense, SIZE)
    total = sum(activity.macs(c, dense[c.name], of[c.source]) for c in wiring if c.name)
    assert total == macs(partial(relu.apply, num_timesteps=1), variables, x, padding=False)


def test_spikes_are_those_of_neurons_stepped_one_by_one():
    variables, _, images = network(VGG)
    counts = counted(VGG, variables, images)
    norms = observed(VGG, variables, images, models.layers.TimestepBatchNorm)
    for depth in (1, 2, 3):
        currents = np.broadcast_to(
            norms[f"layer{depth:02}/norm"][1], (T, *norms[f"layer{depth:02}/norm"][1].shape[1:])
        )
        v, expected = np.zeros(currents.shape[1:], np.float32), []
        for x in currents:
            v = v + (x - v) / np.float32(4 / 3)
            expected.append((v >= 1).sum(0))
            v = np.where(v >= 1, 0, v)
        np.testing.assert_array_equal(counts[f"layer{depth:02}", 0], expected)
        assert 0 < np.sum(expected) < np.size(expected) * len(images)


def test_spikes_of_a_resnet_are_what_the_next_layers_read():
    variables, _, images = network(RESNET)
    counts = counted(RESNET, variables, images)
    inputs = observed(RESNET, variables, images, (nn.Conv, nn.Dense))
    for c in w.connections(RESNET):
        if c.name and c.source != w.IMAGE:
            x = inputs[c.name.removesuffix("/kernel")][0]
            if not c.mean:
                np.testing.assert_array_equal(counts[c.source, 0], x.sum(1))
            else:
                np.testing.assert_allclose(counts[c.source, 0].mean((1, 2)), x.sum(1), rtol=1e-6)


@BOTH
def test_counts_do_not_depend_on_the_batches(model):
    variables, _, images = network(model)
    expected = counted(model, variables, images, 7)
    for size in (1, 4, 5):
        jax.tree.map(np.testing.assert_array_equal, counted(model, variables, images, size), expected)


def test_nothing_is_computed_for_what_is_not_measured():
    variables, _, images = network(VGG)
    with_spikes = jax.eval_shape(
        partial(VGG.apply, num_timesteps=T, mutable=["intermediates"]), variables, images
    )
    assert set(with_spikes[1]["intermediates"]) == {f"layer{i:02}_spikes" for i in (1, 2, 3)}
    assert jax.eval_shape(partial(VGG.apply, num_timesteps=T), variables, images).shape == (T, 7, 3)
    assert set(variables) == {"params", "batch_stats"}


# --- what does nothing


def silenced(model, params, c, channel):
    """Parameters with which a channel of the neurons that a connection charges never fires."""
    params = jax.tree.map(np.copy, params)
    layer = params
    for key in c.name.split("/")[:-1]:
        if key != "conv":
            layer = layer[key]
    layer = layer.get("norm", layer)
    layer["bias"][channel] = -1e6
    return params


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_channels_that_reach_no_logit_are_those_that_change_nothing(model, seed):
    """With positive weights all that can change the logits does; spikes are unchanged for any weights."""
    density = 0.3 if model is VGG else 0.15
    generic, kept, images = network(model, seed, density)
    positive, same, _ = network(model, seed, density, positive=True)
    jax.tree.map(np.testing.assert_array_equal, kept, same)
    wiring, _, found = described(model, kept)
    relu, total = model.clone(activation="relu"), {True: 0, False: 0}
    spiking = jax.jit(partial(model.apply, num_timesteps=T))
    twin = jax.jit(partial(relu.apply, num_timesteps=1))
    for c in wiring:
        if c.name is None or c.target == w.LOGITS or "shortcut" in c.name:
            continue
        alive = found.to_logits[c.target].reshape(-1, found.to_logits[c.target].shape[-1]).any(0)
        for channel in range(len(alive)):
            total[bool(alive[channel])] += 1
            without = {**positive, "params": silenced(model, positive["params"], c, channel)}
            assert np.any(twin(without, images) != twin(positive, images)) == alive[channel]
            if not alive[channel]:
                without = {**generic, "params": silenced(model, generic["params"], c, channel)}
                np.testing.assert_array_equal(spiking(without, images), spiking(generic, images))
    assert min(total.values()) > 0


def graph(model, named, size):
    """Every neuron and pooling window as a node, every connection as an edge with its weight."""
    edges = []

    def conv(name, source, target, shape, stride=1):
        out = [-(-n // stride) for n in shape]
        for there, here, tap in windows(shape, out, len(named[name]), stride):
            for i, o in np.argwhere(named[name][tap]):
                edges.append(((source, *here, i), (target, *there, o), (name, *tap, i, o)))
        return out

    def pool(source, target, shape, channels):
        for row, column, c in itertools.product(range(shape[0] // 2 * 2), range(shape[1] // 2 * 2), channels):
            edges.append(((source, row, column, c), (target, row // 2, column // 2, c), None))
        return [n // 2 for n in shape]

    def dense(name, source, target, rows):
        for at, (i, o) in itertools.product(rows, np.argwhere(named[name])):
            if at[-1] == i:
                edges.append(((source, *at[0]), (target, o), (name, i, o)))

    if isinstance(model, models.VGG):
        shape = pool("1", "1p", conv("layer01/conv/kernel", "x", "1", size[:2]), range(3))
        shape = conv("layer02/conv/kernel", "1p", "2", shape)
        shape = pool("3", "3p", conv("layer03/conv/kernel", "2", "3", shape), range(4))
        flat = itertools.product(range(shape[0]), range(shape[1]), range(4))
        dense("readout/kernel", "3p", "out", [(at, i) for i, at in enumerate(flat)])
        return edges
    shape, source = conv("block0/conv/kernel", "x", "0", size[:2]), "0"
    for name, width in (("block1_1", 4), ("block1_2", 4), ("block2_1", 5)):
        stride = 2 if name.endswith("1") else 1
        out = conv(f"{name}/first/conv/kernel", source, f"{name}/first", shape, stride)
        conv(f"{name}/second/conv/kernel", f"{name}/first", name, out)
        if stride == 2:
            conv(f"{name}/shortcut/conv/kernel", source, name, shape, 2)
        else:
            for at in itertools.product(range(out[0]), range(out[1]), range(width)):
                edges.append(((source, *at), (name, *at), None))
        shape, source = out, name
    everywhere = itertools.product(range(shape[0]), range(shape[1]), range(5))
    dense("hidden/kernel", source, "hidden", [(at, at[-1]) for at in everywhere])
    dense("readout/kernel", "hidden", "out", [((i,), i) for i in range(6)])
    return edges


def reachable(start, edges):
    neighbours = {}
    for there, here in edges:
        neighbours.setdefault(there, []).append(here)
    found, new = set(start), list(start)
    while new:
        new = [here for there in new for here in neighbours.get(there, [])]
        new = list(set(new) - found)
        found |= set(new)
    return found


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_weights_on_no_path_are_those_of_a_search_through_the_graph(model, seed):
    _, kept, _ = network(model, seed, 0.25 if model is VGG else 0.2, (5, 4, 2))
    wiring, named, found = described(model, kept, (5, 4, 2))
    edges = graph(model, named, (5, 4, 2))
    forward = reachable(
        [("x", *at) for at in itertools.product(range(5), range(4), range(2))], [e[:2] for e in edges]
    )
    back = reachable([("out", i) for i in range(3)], [e[1::-1] for e in edges])
    used = {weight for there, here, weight in edges if weight and there in forward and here in back}
    expected = {name: int(mask.sum()) - sum(u[0] == name for u in used) for name, mask in named.items()}
    assert health.weights_on_no_path(wiring, named, found) == expected
    assert sum(expected.values()) > 0
    assert used


def test_a_window_over_one_pixel_has_weights_on_no_path():
    model = models.VGG((2,), num_classes=2)
    _, kept, _ = network(model, density=2, size=(1, 1, 1))
    wiring, named, found = described(model, kept, (1, 1, 1))
    assert health.weights_on_no_path(wiring, named, found) == {"layer01/conv/kernel": 16, "readout/kernel": 0}


def test_dead_channels_of_either_kind():
    model = models.VGG((2, 2), num_classes=2)
    _, kept, _ = network(model, density=2)
    kept["layer01"]["conv"]["kernel"][..., 0] = False  # that no input reaches
    kept["layer02"]["conv"]["kernel"][:, :, 1] = False  # that reaches nothing
    wiring, _, found = described(model, kept)
    dead = health.dead_channels(wiring, found)
    assert {name: channels.tolist() for name, channels in dead.items()} == {
        "layer01/conv/kernel": [True, True],
        "layer02/conv/kernel": [True, True],
        "readout/kernel": [True, True],
    }
    # what fires by its bias alone still counts for the logits, and cannot be cut out
    layers = health.compaction(wiring, w.by_name(kept), SIZE)["layers"]
    assert [each["cut"] for each in layers.values()] == [1, 0, 0]
    assert layers["layer01/conv/kernel"]["computed"] == 0


def test_a_shortcut_carries_channels():
    _, kept, _ = network(RESNET, density=2)
    kept["block1_1"]["second"]["conv"]["kernel"][..., 0] = False
    kept["block1_2"]["first"]["conv"]["kernel"][:, :, 0] = False
    wiring, _, found = described(RESNET, kept)
    assert not any(channels.any() for channels in health.dead_channels(wiring, found).values())
    kept["block1_1"]["shortcut"]["conv"]["kernel"][..., 0] = False  # now only a path through block1_2 is left
    wiring, _, found = described(RESNET, kept)
    dead = health.dead_channels(wiring, found)
    of_sum = ("block1_1/second/conv/kernel", "block1_1/shortcut/conv/kernel")
    assert {name for name, channels in dead.items() if channels.any()} == set(of_sum)
    assert all(dead[name].tolist() == [True, False, False, False] for name in of_sum)


@BOTH
def test_compaction_of_a_dense_network_saves_nothing(model):
    variables, kept, x = network(model, density=2)
    found = health.compaction(w.connections(model), w.by_name(kept), SIZE, T)
    assert found["macs"] == found["macs_dense"]
    assert found["macs"] == macs(partial(model.apply, num_timesteps=T), variables, x[:1])


def test_compaction_leaves_the_matrix_of_what_is_left():
    _, kept, _ = network(VGG, density=2)
    kept["layer03"]["conv"]["kernel"][:, :, 1] = False
    layers = health.compaction(w.connections(VGG), w.by_name(kept), SIZE)["layers"]
    assert layers["layer02/conv/kernel"]["cut"] == 1
    assert layers["layer02/conv/kernel"]["macs"] * 4 == layers["layer02/conv/kernel"]["macs_dense"] * 3
    assert layers["layer03/conv/kernel"]["read"] == 3


# --- what is recorded


def test_the_record_of_a_saturated_network():
    """Every neuron fires always: all follows from the architecture."""
    variables, kept, images = network(VGG, density=2)
    biases = jax.tree_util.tree_map_with_path(
        lambda path, x: np.full_like(x, 1e6) if path[-1].key == "bias" else x, variables["params"]
    )
    counts = counted(VGG, {**variables, "params": biases}, images)
    measurement = measure.measure(w.connections(VGG), kept, SIZE, T, counts, len(images))
    assert measurement.measured_images == 7
    assert measurement.weights_on_no_path == 0
    first, second, third, readout = measurement.layers
    assert (first.neurons, second.neurons, third.neurons) == (7 * 6 * 3, 3 * 3 * 4, 3 * 3 * 4)
    for layer in (first, second, third):
        assert layer.saturated_neurons == layer.neurons
        assert layer.silent_neurons == layer.dead_channels == 0
        assert layer.firing_rate == (1.0,) * T
        assert layer.spikes_per_image == T * layer.neurons
    assert first.synops_per_image == (0.0,) * T
    pairs = (3 * 7 - 2) * (3 * 6 - 2)  # of rows times of columns
    assert first.macs_per_image == (pairs * 2 * 3, 0.0, 0.0)
    assert second.synops_per_image == (7.0 * 7 * 3 * 4,) * T
    assert readout.synops_per_image == (4.0 * 3,) * T
    assert readout.neurons is readout.firing_rate is None
    assert energy.energy(measurement.layers).synops == T * (588 + 784 + 12)


def test_the_record_of_a_network_without_spikes():
    _, kept, _ = network(RESNET)
    layers = measure.measure(w.connections(RESNET), kept, SIZE, 1, None, 0).layers
    for layer in layers:
        assert layer.synops_per_image == (0.0,)
        assert layer.macs_per_image[0] > 0
        assert layer.neurons is layer.silent_neurons is layer.spikes_per_image is None
    assert {x.name: (x.kept, x.weights) for x in layers} == dict(masks.by_layer(kept))
    assert [layer.name for layer in layers] == list(masks.by_layer(kept))


def test_a_sum_counts_its_neurons_once():
    variables, kept, images = network(RESNET)
    counts = counted(RESNET, variables, images)
    layers = measure.measure(w.connections(RESNET), kept, SIZE, T, counts, len(images)).layers
    spikes = sum(layer.spikes_per_image or 0 for layer in layers)
    assert spikes == pytest.approx(sum(c.sum() for c in counts.values()) / len(images))
    assert [layer.name for layer in layers if layer.neurons is None] == [
        "block1_1/shortcut/conv/kernel",
        "block2_1/shortcut/conv/kernel",
        "readout/kernel",
    ]


@pytest.mark.parametrize(("mac", "ac"), [(4.6, 0.9), (3.1, 0.1), (1.0, 0.0)])
def test_energy_and_traffic_in_closed_form(mac, ac):
    layers = [
        SimpleNamespace(macs_per_image=[10.0, 0], synops_per_image=[0, 0], neurons=4, spikes_per_image=1.5),
        SimpleNamespace(
            macs_per_image=[0, 0], synops_per_image=[6, 8.0], neurons=None, spikes_per_image=None
        ),
    ]
    assert energy.energy(layers, mac, ac) == (10, 14, 10 * mac + 14 * ac)
    assert energy.traffic(layers) == energy.Traffic(
        weights_read=24, potentials_read=24 + 2 * 4, potentials_written=24 + 2 * 4, spikes=1.5
    )


@pytest.mark.parametrize(("mac", "ac"), [(-1, 0.9), (4.6, float("nan")), (float("inf"), 0.9)])
def test_energies_that_are_none_are_refused(mac, ac):
    with pytest.raises(InputError, match=r"^energy_(mac|ac) .*: allowed: picojoules, 0 or more"):
        energy.energy([], mac, ac)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match=r"^the connections of Dense are not known, allowed: VGG, ResNet"):
        w.connections(nn.Dense(3))


def test_sparsity_by_layer():
    _, kept, _ = network(VGG)
    kept["readout"]["kernel"] = np.zeros_like(kept["readout"]["kernel"])
    layers = sparsity.layers(kept)
    assert sparsity.collapsed(kept) == ["readout/kernel"]
    table = sparsity.by_round([layers, layers])
    assert table["readout/kernel"] == [1.0, 1.0]
    assert table["all"] == [pytest.approx(masks.sparsity(kept))] * 2
    (empty,) = sparsity.layers({"w": jnp.zeros((0, 3), bool)})
    assert empty.sparsity == masks.sparsity({"w": jnp.zeros((0, 3), bool)}) == 0
    assert sparsity.by_round([[empty], []]) == {"w": [0.0], "all": [0.0, 0.0]}
