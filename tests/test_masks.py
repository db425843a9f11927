import functools
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snnlth_jax import _axes, masks, pruning


def network():
    return {
        "conv": {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8)), "bias": jnp.ones(8)},
        "norm": {"scale": jnp.ones(8), "bias": jnp.zeros(8)},
        "dense": {"kernel": jax.random.normal(jax.random.key(1), (8, 5)), "bias": jnp.zeros(5)},
    }


def half(params, seed=7):
    return pruning.prune(pruning.random(jax.random.key(seed), params), masks.make(params), 0.5)


def test_weights_are_prunable_and_nothing_else_is():
    m = masks.make(network())
    assert m["conv"]["kernel"].all()
    assert m["conv"]["kernel"].dtype == bool
    assert [m["conv"]["bias"], m["norm"]["scale"], m["norm"]["bias"], m["dense"]["bias"]] == [None] * 4
    assert masks.count(m) == (288 + 40, 288 + 40)


def test_names_of_biases_decide_not_their_rank():
    """Haiku's scale is [1, 1, 1, C]; Equinox's convolution bias [C, 1, 1]; a one-class head is [n, 1]."""
    m = masks.make({"scale": jnp.ones((1, 1, 1, 8)), "bias": jnp.ones((8, 1, 1)), "kernel": jnp.ones((8, 1))})
    assert m["scale"] is None
    assert m["bias"] is None
    assert m["kernel"] is not None
    m = masks.make(
        {
            "kernel": {"value": jnp.ones((2, 2))},
            "bias": {"value": jnp.ones((2, 2))},
            "n": jnp.ones((2, 2), int),
        }
    )
    assert m["kernel"]["value"] is not None
    assert m["bias"]["value"] is None
    assert m["n"] is None


def test_prunable_is_the_callers_choice():
    m = masks.make(network(), prunable=lambda name, leaf: name == "dense/kernel")
    assert masks.by_layer(m) == {"dense/kernel": (40, 40)}


class Layer(NamedTuple):
    weight: jax.Array
    bias: jax.Array | None


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(4)(x)))


@pytest.mark.parametrize(
    "params",
    [
        Layer(jnp.ones((4, 4)), None),
        (jnp.ones((4, 4)), [jnp.ones((2, 8)), jnp.ones(3)]),
        {"mlp/~/linear_0": {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}},
        Linen().init(jax.random.key(0), jnp.ones((1, 4))),
    ],
    ids=["module with None", "tuple and list", "haiku", "linen"],
)
def test_any_pytree(params):
    m = half(params)
    kept, total = masks.count(m)
    assert kept == total - total // 2
    tx = masks.freeze_pruned(optax.sgd(0.1, momentum=0.9))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params, masks=m)
    new = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal_shapes(new, params)
    masks.tree_map(lambda keep, w: np.testing.assert_array_equal(w == 0, ~keep), m, new)


OPTIMISERS = {
    "momentum and weight decay": optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.3, momentum=0.9)),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
}


@pytest.mark.parametrize("tx", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_removed_weights_are_exactly_zero_after_any_number_of_steps(tx):
    params = network()
    m = masks.make(params)
    tx = masks.freeze_pruned(tx)
    state = tx.init(params)

    @jax.jit
    def step(params, state, m, key):
        grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), params)
        updates, state = tx.update(grads, state, params, masks=m)
        return optax.apply_updates(params, updates), state

    for i in range(12):
        if i % 4 == 3:  # with momentum under way, and without setting the weights to zero by hand
            m = pruning.prune(pruning.magnitude(params), m, 0.4)
        params, state = step(params, state, m, jax.random.key(i))
        masks.tree_map(lambda keep, w: np.testing.assert_array_equal(w != 0, keep), m, params)
    assert masks.count(m)[0] < masks.count(m)[1] // 4


def test_kept_weights_move_as_in_the_network_without_the_others():
    """Adam on the kept weights alone, as a vector of their own, takes the same steps."""
    tx = optax.adamw(1e-2)
    params = {"w": jax.random.normal(jax.random.key(0), (4, 6))}
    m = half(params)
    keep = np.asarray(m["w"])
    params = masks.apply(params, m)
    frozen = masks.freeze_pruned(tx)
    state, small = frozen.init(params), params["w"][keep]
    small_state = tx.init(small)
    for i in range(5):
        grads = {"w": jax.random.normal(jax.random.key(i), (4, 6))}
        updates, state = frozen.update(grads, state, params, masks=m)
        params = optax.apply_updates(params, updates)
        updates, small_state = tx.update(grads["w"][keep], small_state, small)
        small = optax.apply_updates(small, updates)
    np.testing.assert_allclose(params["w"][keep], small, rtol=1e-6)


def test_narrow_gradients_still_end_at_exactly_zero():
    """A removed float32 weight that was not zero yet, under bfloat16 updates."""
    params, m = {"w": jnp.array([[1.2345678, 1.0]])}, {"w": jnp.array([[False, True]])}
    tx = masks.freeze_pruned(optax.sgd(0.5))
    updates, _ = tx.update({"w": jnp.ones((1, 2), jnp.bfloat16)}, tx.init(params), params, masks=m)
    assert optax.apply_updates(params, updates)["w"].tolist() == [[0.0, 0.5]]


def test_apply_stops_values_and_gradients():
    params = {"w": jnp.array([[1.0, jnp.nan, -3.0]])}
    m = {"w": jnp.array([[True, False, False]])}
    np.testing.assert_array_equal(masks.apply(params, m)["w"], [[1.0, 0.0, 0.0]])
    assert not np.signbit(masks.apply(params, m)["w"]).any()
    grads = jax.grad(lambda p: jnp.sum(masks.apply(p, m)["w"] ** 2))(params)
    np.testing.assert_array_equal(grads["w"], [[2.0, 0.0, 0.0]])


def test_pack_round_trip():
    params = {"a": jnp.ones((3, 5)), "b": jnp.ones(3), "c": jnp.ones((8, 2)), "d": jnp.ones((1, 1))}
    m = half(params)
    packed = masks.pack(m)
    assert packed["b"] is None
    assert [leaf.size for leaf in jax.tree.leaves(packed)] == [2, 2, 1]
    chex.assert_trees_all_equal(masks.unpack(packed), m)
    chex.assert_trees_all_equal(jax.jit(lambda m: masks.unpack(masks.pack(m)))(m), m)
    stacked = jax.vmap(masks.pack)(jax.tree.map(lambda x: jnp.stack([x, ~x]), m))
    assert stacked["a"].bits.shape == (2, 2)


def test_comparisons_against_numpy():
    params = network()
    a, b = half(params, 1), half(params, 2)
    flat_a, flat_b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    assert masks.distance(a, b) == np.mean(flat_a != flat_b)
    assert masks.overlap(a, b) == np.sum(flat_a & flat_b) / np.sum(flat_a)
    assert masks.sparsity(a) == 1 - flat_a.mean()
    assert not masks.is_subset(a, b)
    both = masks.tree_map(jnp.logical_and, a, b)
    assert masks.is_subset(both, a)
    assert masks.is_subset(both, b)
    assert not masks.is_subset(a, both)
    under_jit = jax.jit(lambda a, b: (masks.distance(a, b), masks.overlap(a, b), masks.sparsity(a)))(a, b)
    np.testing.assert_allclose(
        under_jit, [masks.distance(a, b), masks.overlap(a, b), masks.sparsity(a)], rtol=1e-6
    )
    for one, other in ((a, b), (b, a)):  # one of the two is a constant
        np.testing.assert_allclose(
            jax.jit(lambda m, of=one: masks.overlap(of, m))(other), masks.overlap(a, b)
        )


def test_only_traced_counts_have_32_bits(monkeypatch):
    monkeypatch.setattr(_axes, "MOST", 11)
    twelve = {"w": jnp.ones((3, 4), bool)}
    assert masks.count(twelve) == (12, 12)
    with pytest.raises(ValueError, match="12 weights: traced counts have 32 bits, at most 11"):
        jax.jit(masks.count)(twelve)


def test_hamming_goes_blind_where_overlap_does_not():
    """At 98 % sparsity two masks within tau = 0.02 may share less than half of what they keep."""
    n = 10_000
    kept, moved = round(0.75**14 * n), 95
    a = {"w": jnp.arange(n) < kept}
    other = {"w": (jnp.arange(n) >= moved) & (jnp.arange(n) < kept + moved)}
    assert masks.distance(a, other) == 2 * moved / n < 0.02
    assert masks.overlap(a, other) == (kept - moved) / kept < 0.47


def test_nothing_kept_and_nothing_prunable():
    none = {"w": jnp.zeros((2, 2), bool)}
    assert masks.overlap(none, none) == 1.0
    assert masks.sparsity(none) == 1.0
    assert masks.count({"b": None}) == (0, 0)
    assert masks.sparsity({"b": None}) == masks.distance({"b": None}, {"b": None}) == 0.0


def test_table_adds_up():
    text = masks.table(half(network()))
    assert text.splitlines()[-1].split() == ["all", "164", "328", "50.00", "%"]
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["conv/kernel", "dense/kernel", "all"]


@pytest.mark.parametrize("how", ["jit", "vmap", "shard_map", "pmap"])
def test_a_users_loop_under_every_transformation(how):
    """make -> freeze_pruned -> train -> prune, each replicate with its own data, as plain code would."""
    tx = masks.freeze_pruned(optax.sgd(0.1, momentum=0.9))
    params = {"w": jax.random.normal(jax.random.key(0), (6, 4)), "b": jnp.zeros(4)}

    def loop(x, p=params):
        def loss(p):
            return jnp.mean((x @ p["w"] + p["b"].reshape(1, -1) - 1) ** 2)

        m, state = masks.make(p), tx.init(p)
        for _ in range(3):
            for _ in range(2):
                updates, state = tx.update(jax.grad(loss)(p), state, p, masks=m)
                p = optax.apply_updates(p, updates)
            m = pruning.prune(pruning.magnitude(p), m, 0.25)
            p = masks.apply(p, m)
        return p, m

    xs = jax.random.normal(jax.random.key(1), (8, 5, 6))
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[loop(x) for x in xs])
    assert masks.count(jax.tree.map(lambda m: m[0], expected[1]))[0] == 24 - 6 - 4 - 3
    if how == "jit":
        got = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(jax.jit(loop), xs))
    elif how == "vmap":
        got = jax.jit(jax.vmap(loop))(xs)
    elif how == "pmap":
        got = jax.pmap(loop)(xs)
    else:
        mesh = jax.make_mesh((8,), ("replica",))
        spec = jax.sharding.PartitionSpec("replica")
        # the parameters become each device's own: of shared ones the gradients would be summed
        own = functools.partial(jax.tree.map, lambda leaf: jax.lax.pcast(leaf, "replica", to="varying"))
        stack = functools.partial(jax.tree.map, lambda leaf: leaf[None])
        per_device = jax.shard_map(
            lambda x: stack(loop(x[0], own(params))), mesh=mesh, in_specs=spec, out_specs=spec
        )
        got = jax.jit(per_device)(jax.device_put(xs, jax.sharding.NamedSharding(mesh, spec)))
    chex.assert_trees_all_equal(got[1], expected[1])
    chex.assert_trees_all_close(got[0], expected[0], rtol=1e-5, atol=1e-6)


def test_forgetting_parameters_or_masks_is_an_error():
    tx = masks.freeze_pruned(optax.sgd(0.1))
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params), masks=masks.make(params))
    with pytest.raises(ValueError, match="needs masks"):
        tx.update(params, tx.init(params), params)
