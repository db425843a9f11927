"""Masks and pruning wherever the weights lie: any sharding of a mesh, and axes that divide the weights."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from snnlth_jax import masks, pruning

SPECS = [P("a"), P(None, "b"), P("a", "b"), P(None, ("a", "b"))]
KEY = jax.random.key(0)


def weights():
    """Two weights with many ties, and a bias."""
    first, second = jax.random.split(KEY)
    return {
        "a": {"kernel": jnp.round(2 * jax.random.normal(first, (8, 12))) / 2, "bias": jnp.ones(12)},
        "c": {"kernel": jnp.round(2 * jax.random.normal(second, (4, 4))) / 2},
    }


def everything(params, key):
    """Results of the functions of masks and pruning for weights."""
    kept = pruning.prune(pruning.magnitude(params), masks.make(params), 0.3)
    new = {
        "erk": pruning.keep_top(pruning.magnitude(params), kept, 0.4, "erk"),
        "shuffle": pruning.shuffle(key, kept),
        "2:4": pruning.keep_n_of_m(pruning.magnitude(params), kept, 2, 4),
        "channels": pruning.prune_channels(pruning.magnitude(params), kept, 0.5),
        "packed": masks.unpack(masks.pack(kept)),
    }
    m = new["shuffle"]
    numbers = (
        masks.count(m)[0],
        masks.sparsity(m),
        masks.distance(m, kept),
        masks.overlap(m, kept),
        masks.is_subset(m, kept),
        masks.by_layer(m)["c/kernel"][0],
    )
    return new, numbers, masks.apply(params, kept)


@functools.cache
def expected():
    return jax.device_get(everything(weights(), KEY))


def check(got):
    chex.assert_trees_all_close(jax.device_get(got), expected(), rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [*((spec, AxisType.Explicit) for spec in SPECS), *((spec, AxisType.Auto) for spec in SPECS[2:])],
    ids=str,
)
def test_every_sharding_gives_the_same(spec, kind):
    """Compiled, compiled with the mesh in the context, and eager where a mesh is strictest."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(kind,) * 2, devices=jax.devices()[:4])
    params = weights()
    for layer in ("a", "c"):
        params[layer]["kernel"] = jax.device_put(params[layer]["kernel"], NamedSharding(mesh, spec))
    check(jax.jit(everything)(params, KEY))
    if spec == P("a", "b"):
        if kind == AxisType.Explicit:
            check(everything(params, KEY))
        with jax.set_mesh(mesh):
            check(jax.jit(everything)(params, KEY))


def divided(params, axis_name):
    """Results that a search needs, of weights that are divided over an axis."""
    kept = masks.make(params)
    kept = pruning.prune(pruning.magnitude(params), kept, 0.3, axis_name=axis_name)
    layer = pruning.prune(pruning.magnitude(params), kept, 0.3, "layer", axis_name=axis_name)
    top = pruning.keep_top(pruning.magnitude(params), kept, 0.4, axis_name=axis_name)
    counted = pruning.remove_lowest(params, kept, pruning.uniform(kept, 0.5, axis_name), axis_name=axis_name)
    shuffled = pruning.shuffle(KEY, kept, axis_name=axis_name)
    numbers = (
        masks.count(kept, axis_name)[0],
        jnp.int32(masks.count(kept, axis_name)[1]),
        masks.sparsity(kept, axis_name),
        masks.distance(kept, layer, axis_name),
        masks.overlap(kept, layer, axis_name),
        masks.is_subset(layer, kept, axis_name),
        {name: n for name, (n, _) in masks.by_layer(shuffled, axis_name).items()},
    )
    return (kept, layer, top, counted), numbers


@pytest.mark.parametrize("how", ["shard_map", "shard_map unchecked", "vmap", "pmap"])
def test_a_divided_axis_counts_as_one(how):
    """Each of four devices has a quarter of the rows; masks and counts are those of all of them."""
    params = {name: layer["kernel"] for name, layer in weights().items()}
    whole, numbers = jax.device_get(divided(params, None))
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    if how.startswith("shard_map"):
        step = jax.shard_map(
            functools.partial(divided, axis_name="x"),
            mesh=mesh,
            in_specs=P("x"),
            out_specs=(P("x"), P()),
            check_vma=how == "shard_map",
        )
        got, counted = jax.device_get(jax.jit(step)(params))
    else:
        split = jax.tree.map(lambda w: w.reshape(4, -1, *w.shape[1:]), params)
        transform = {"vmap": jax.vmap, "pmap": jax.pmap}[how]
        step = transform(functools.partial(divided, axis_name="x"), axis_name="x")
        got, counted = jax.device_get((jax.jit(step) if how == "vmap" else step)(split))
        got = jax.tree.map(lambda m: m.reshape(-1, *m.shape[2:]), got)
        counted = jax.tree.map(lambda n: n[0], counted)
    chex.assert_trees_all_equal(got, whole)
    chex.assert_trees_all_close(counted, numbers, rtol=1e-6)


def test_a_replicated_leaf_counts_once_beside_a_divided_one():
    """`shard_map` knows which leaves are the same on all devices."""
    params = {name: layer["kernel"] for name, layer in weights().items()}
    whole, numbers = jax.device_get(divided(params, None))
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    specs = {"a": P("x"), "c": P()}
    step = jax.shard_map(
        functools.partial(divided, axis_name="x"), mesh=mesh, in_specs=(specs,), out_specs=((specs,) * 4, P())
    )
    got, counted = jax.device_get(jax.jit(step)(params))
    chex.assert_trees_all_equal(got, whole)
    chex.assert_trees_all_close(counted[:-1], numbers[:-1], rtol=1e-6)


def test_a_divided_axis_without_its_name_is_pruned_device_by_device():
    """A network a device: nothing is shared, and nothing is counted together."""
    params = {name: layer["kernel"] for name, layer in weights().items()}
    split = jax.tree.map(lambda w: w.reshape(4, -1, *w.shape[1:]), params)
    got = jax.vmap(lambda w: pruning.prune(w, masks.make(w), 0.5), axis_name="x")(split)
    for i in range(4):
        one, mine = (jax.tree.map(lambda x, i=i: x[i], tree) for tree in (split, got))
        chex.assert_trees_all_equal(mine, pruning.prune(one, masks.make(one), 0.5))


def test_more_than_32_bits_are_refused_or_counted():
    """4,294,967,296 weights, of which there is only the shape."""
    shape = jax.ShapeDtypeStruct((65536, 65536), jnp.float32)
    with pytest.raises(ValueError, match="4,294,967,296 weights: traced counts have 32 bits"):
        jax.eval_shape(lambda w: pruning.prune({"w": w}, masks.make({"w": w}), 0.5), shape)
    with pytest.raises(ValueError, match="4,294,967,296 weights"):
        jax.eval_shape(lambda w: masks.count(masks.make({"w": w}))[0], shape)


def keep_within(scores, mask):
    return pruning.keep_within([scores], [mask], [jnp.ones((), jnp.float32)], 5.0)[0]


def balance(scores, mask):
    return pruning.balance([scores], [mask], [mask], 2)[0]


@pytest.mark.parametrize("prune", [keep_within, balance])
def test_each_device_may_prune_what_it_sees(prune):
    scores = jnp.arange(32.0).reshape(8, 4)
    mask = jnp.ones((8, 4), bool)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    divided = jax.shard_map(prune, mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x"))(scores, mask)
    alone = jnp.concatenate([prune(scores[rows], mask[rows]) for rows in (slice(0, 4), slice(4, 8))])
    chex.assert_trees_all_equal(divided, alone)


def test_a_density_may_be_another_on_each_device():
    kept = {"a": jnp.ones((50, 50), bool), "b": jnp.ones((10, 10), bool)}

    def counts(density):
        return jnp.stack(list(pruning.erk(kept, density[0]).values()))[None]

    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    densities = jnp.array([0.1, 0.5])
    divided = jax.shard_map(counts, mesh=mesh, in_specs=P("x"), out_specs=P("x"))(densities)
    assert divided.tolist() == jnp.concatenate([counts(densities[:1]), counts(densities[1:])]).tolist()
