"""Masks and pruning on generated pytrees, dtypes and values, in JAX's strictest modes."""

import contextlib
import dataclasses
import functools
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from snnlth_jax import masks, pruning


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    kernel: Any
    inner: Any
    name: str = dataclasses.field(metadata={"static": True}, default="block")


FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
VALUES = [-math.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, math.inf, math.nan]


def kernels():
    shapes = st.sampled_from([(3, 5), (1, 4), (2, 2, 3), (0, 3)])
    return st.builds(
        lambda shape, dtype, seed: np.random.default_rng(seed).choice(VALUES, shape).astype(dtype),
        shapes,
        st.sampled_from(FLOATS),
        st.integers(0, 2**16),
    )


def others():
    """Leaves that are never prunable."""
    return st.one_of(
        hnp.arrays(np.int32, (2, 3), elements=st.integers(-5, 5)),
        hnp.arrays(np.float32, (3,), elements=st.just(1.0)),
        st.just(np.float32(2.0)),
        st.none(),
        st.builds(lambda seed: jax.random.key(seed), st.integers(0, 9)),
        st.just(jnp.tanh),
    )


def trees():
    leaf = st.one_of(kernels(), kernels(), others())
    layer = st.one_of(
        st.builds(Layer, leaf, leaf),
        st.builds(Block, leaf, leaf),
        st.lists(leaf, max_size=2),
        st.tuples(leaf, leaf),
        st.dictionaries(st.sampled_from(["kernel", "weight", "bias", "w"]), leaf, max_size=3),
        st.dictionaries(st.integers(0, 3), leaf, max_size=2),
        leaf,
    )
    return st.dictionaries(st.sampled_from(["a", "b", "conv/x", ""]), layer, min_size=1, max_size=3)


# the modes hold for what the user computes with; making the values of a test needs no mode
MODES = {
    "x64": functools.partial(jax.enable_x64, True),
    "strict promotion": functools.partial(jax.numpy_dtype_promotion, "strict"),
    "debug_nans": functools.partial(jax.debug_nans, True),
    "leaks": functools.partial(jax.checking_leaks),
    "none": contextlib.nullcontext,
}


def without_nan(leaf):
    return np.where(np.isnan(leaf), np.ones_like(leaf), leaf) if isinstance(leaf, np.ndarray) else leaf


def by_brute_force(scores, kept, count):
    """Kept weights, as one array, by a stable sort: NaN first, then the lowest, then the first in order."""
    pairs = []
    masks.tree_map(lambda m, s: pairs.append((np.ravel(m), np.ravel(np.asarray(s, float)))), kept, scores)
    alive, values = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    nan = np.isnan(values)
    order = np.lexsort((np.arange(len(values)), values, ~nan))
    removed = [i for i in order if alive[i]][:count]
    alive[removed] = False
    return alive


def flat(kept):
    leaves = [np.ravel(m) for m in jax.tree.leaves(kept)]
    return np.concatenate(leaves) if leaves else np.zeros(0, bool)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=4, deadline=None, database=None, derandomize=True)
@given(params=trees(), percent=st.integers(0, 99), seed=st.integers(0, 99))
def test_pruning_is_a_stable_sort_of_the_scores(mode, params, percent, seed):
    """Whatever the tree, the floats, ties, zeros, infinities and NaN."""
    if mode == "debug_nans":  # which refuses the NaN of the user
        params = jax.tree.map(without_nan, params)
    with MODES[mode]():
        everything = masks.make(params)
        before = pruning.prune(pruning.random(jax.random.key(seed), params), everything, 0.3)
        after = pruning.prune(params, before, percent / 100)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        kept, total = masks.count(before)
        removed = math.floor(Fraction(str(percent / 100)) * kept)
        assert masks.is_subset(after, before)
        assert masks.count(after) == (kept - removed, total)
        if total:
            np.testing.assert_array_equal(flat(after), by_brute_force(params, before, removed))
            assert masks.sparsity(after) == (total - kept + removed) / total
        same = pruning.remove_lowest(params, before, removed)
        chex.assert_trees_all_equal(same, after)
        chex.assert_trees_all_equal(masks.unpack(masks.pack(after)), after)
        shuffled = pruning.shuffle(jax.random.key(seed), after)
        assert masks.by_layer(shuffled) == masks.by_layer(after)
        assert masks.distance(after, after) == 0
        assert masks.overlap(after, after) == 1
        pruned = masks.apply(params, after)
        assert jax.tree.structure(pruned) == jax.tree.structure(params)
        masks.tree_map(
            lambda m, w, p: np.testing.assert_array_equal(
                np.asarray(p, np.float64), np.where(m, np.asarray(w, np.float64), 0)
            ),
            after,
            params,
            pruned,
        )
        listed = masks.explain(params)
        assert sum(leaf.prunable for leaf in listed) == len(jax.tree.leaves(after))
        assert len(listed) == len(jax.tree.leaves(params))


@settings(max_examples=6, deadline=None, database=None, derandomize=True)
@given(
    shapes=st.lists(st.sampled_from([(1, 1), (7, 3), (16, 60), (59, 41)]), min_size=1, max_size=5),
    percent=st.integers(1, 100),
)
def test_counts_of_densities_are_exact_traced_or_not(shapes, percent):
    everything = {str(i): jnp.ones(shape, bool) for i, shape in enumerate(shapes)}
    total, density = masks.count(everything)[1], percent / 100
    expected = math.floor((1 - Decimal(str(density))) * total)
    assert int(pruning.overall(everything, density)) == expected
    for distribution in (pruning.erk, pruning.uniform, pruning.overall):
        counts = distribution(everything, density)
        traced = jax.jit(distribution)(everything, jnp.float32(density))
        chex.assert_trees_all_equal(traced, counts)
        if distribution is pruning.erk:
            assert sum(map(int, jax.tree.leaves(counts))) == expected
        if distribution is pruning.uniform:
            assert jax.tree.map(int, counts) == {
                name: math.floor((1 - Decimal(str(density))) * m.size) for name, m in everything.items()
            }


def test_a_sparsity_schedule_runs_in_one_compiled_loop():
    """Zhu and Gupta's cubic schedule, with ERK, in a scan."""
    params = {
        "a": jax.random.normal(jax.random.key(0), (30, 40)),
        "c": jax.random.normal(jax.random.key(1), (40, 9)),
    }

    def step(kept, i):
        density = 0.1 + 0.9 * (1 - (i + 1) / 10) ** 3
        kept = pruning.remove_lowest(pruning.magnitude(params), kept, pruning.erk(kept, density))
        return kept, (masks.count(kept)[0], density)

    kept, (counts, densities) = jax.jit(lambda m: jax.lax.scan(step, m, jnp.arange(10)))(masks.make(params))
    total = 30 * 40 + 40 * 9
    assert counts[-1] == masks.count(kept)[0] == total - math.floor(Fraction("0.9") * total)
    np.testing.assert_allclose(counts, total * densities, atol=1.01)
    chex.assert_trees_all_equal(kept["c"], pruning.keep_top(pruning.magnitude(params), kept, 0.1, "erk")["c"])


# --- what does not fit is refused, with the name of the leaf


W = {"conv": {"kernel": jnp.ones((3, 3, 3, 8)), "bias": jnp.ones(8)}, "out": {"kernel": jnp.ones((8, 2))}}
GREY = {
    "conv": {"kernel": jnp.ones((3, 3, 1, 8), bool), "bias": None},
    "out": {"kernel": jnp.ones((8, 2), bool)},
}
SGD = optax.sgd(1.0).init(W)
NAMED = r"conv/kernel: .*\(3, 3, 1, 8\).*\(3, 3, 3, 8\)"
USES = {
    "apply": lambda m: masks.apply(W, m),
    "prune": lambda m: pruning.prune(pruning.magnitude(W), m, 0.5),
    "keep_top": lambda m: pruning.keep_top(pruning.magnitude(W), m, 0.5, "erk"),
    "remove_lowest": lambda m: pruning.remove_lowest(pruning.magnitude(W), m, 3),
    "n of m": lambda m: pruning.keep_n_of_m(pruning.magnitude(W), m, 1, 1),
    "channels": lambda m: pruning.prune_channels(pruning.magnitude(W), m, 0.5),
    "freeze": lambda m: masks.freeze_pruned(optax.sgd(1.0)).update(W, SGD, W, masks=m),
    "distance": lambda m: masks.distance(m, masks.make(W)),
    "overlap": lambda m: masks.overlap(m, masks.make(W)),
    "is_subset": lambda m: masks.is_subset(m, masks.make(W)),
}
COUNTED = {
    "count": masks.count,
    "sparsity": masks.sparsity,
    "by_layer": masks.by_layer,
    "table": masks.table,
    "pack": masks.pack,
    "shuffle": lambda m: pruning.shuffle(jax.random.key(0), m),
    "erk": lambda m: pruning.erk(m, 0.5),
    "uniform": lambda m: pruning.uniform(m, 0.5),
    "overall": lambda m: pruning.overall(m, 0.5),
}


@pytest.mark.parametrize("use", USES)
def test_masks_of_another_shape_structure_or_dtype_are_refused(use):
    call = USES[use]
    call(masks.make(W))
    with pytest.raises(ValueError, match=NAMED):
        call(GREY)
    with pytest.raises(ValueError, match=NAMED):
        jax.eval_shape(call, GREY)
    with pytest.raises(ValueError, match="conv/kernel"):
        call({"params": masks.make(W)})
    with pytest.raises(ValueError, match="out/kernel"):
        call({"conv": masks.make(W)["conv"]})


@pytest.mark.parametrize("use", USES | COUNTED)
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
def test_masks_are_boolean(use, dtype):
    with pytest.raises(ValueError, match=f"conv/kernel: a mask must be a bool array, got {np.dtype(dtype)}"):
        (USES | COUNTED)[use](jax.tree.map(lambda m: m.astype(dtype), masks.make(W)))


def test_a_mask_that_only_one_of_two_has_is_missed():
    left = {"a": jnp.ones((2, 2), bool), "c": None}
    both = {"a": jnp.ones((2, 2), bool), "c": jnp.ones((2, 2), bool)}
    for compare in (masks.distance, masks.overlap, masks.is_subset):
        for pair in ((left, both), (both, left)):
            with pytest.raises(ValueError, match=r"^c: "):
                compare(*pair)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (-1, "counts: a count must be 0 or more"),
        (1.5, "counts: a count must be an integer"),
        (jnp.float32(2), "counts: a count must be an integer"),
        (
            {"conv": {"kernel": 1, "bias": None}, "out": {"kernel": -2}},
            "out/kernel: a count must be 0 or more",
        ),
        ({"conv": {"kernel": 1, "bias": None}}, "out/kernel: in the masks"),
    ],
)
def test_counts_are_whole_numbers_for_each_mask(counts, message):
    with pytest.raises(ValueError, match=message):
        pruning.remove_lowest(pruning.magnitude(W), masks.make(W), counts)


def test_more_than_there_are_leaves_nothing():
    after = pruning.remove_lowest(pruning.magnitude(W), masks.make(W), 10**12)
    assert masks.count(after)[0] == 0
    after = jax.jit(pruning.remove_lowest)(pruning.magnitude(W), masks.make(W), jnp.int32(-5))
    assert masks.count(after)[0] == masks.count(masks.make(W))[1]


def test_integers_that_floats_cannot_hold_are_no_scores():
    w = {"w": jnp.ones((2, 2), jnp.int32)}
    with pytest.raises(ValueError, match="w: scores must be floating point"):
        pruning.prune(w, {"w": jnp.ones((2, 2), bool)}, 0.5)


# --- what the default rule takes


def test_the_rule_and_its_reasons():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 1, 8)), "bias": jnp.ones(8)},
        "layers": {"norm": {"weight": jnp.ones((4, 8))}, "LayerNorm_0": {"scale": jnp.ones((4, 8))}},
        "neuron": {"tau": jnp.ones((1, 8)), "v_threshold": jnp.ones((4, 8))},
        "haiku": {"w": jnp.ones((2, 3)), "b": jnp.ones((3, 1, 1))},
        "b": jnp.ones((4, 4)),
        "normal_dense": {"kernel": jnp.ones((2, 2))},
        "spectral_norm": {"kernel": jnp.ones((2, 2))},
        "step": jnp.int32(3),
        "key": jax.random.key(0),
        "complex": jnp.ones((2, 2), jnp.complex64),
        "act": jnp.tanh,
    }
    taken = {leaf.name for leaf in masks.explain(params) if leaf.prunable}
    assert taken == {"b", "complex", "conv/kernel", "haiku/w", "normal_dense/kernel", "spectral_norm/kernel"}
    assert set(masks.by_layer(masks.make(params))) == taken
    rules = {leaf.name: leaf.rule for leaf in masks.explain(params)}
    assert rules["neuron/tau"] == "named tau"
    assert rules["layers/norm/weight"] == "in a norm"
    assert rules["act"] == "no array"
    assert rules["key"] == "not floating point"


def test_leading_axes_that_stack_networks_are_told_apart():
    """An ensemble by `filter_vmap`: weights [N, out, in], and vectors [N, C] that are none."""

    def network(key):
        keys = jax.random.split(key)
        return [eqx.nn.Linear(4, 8, key=keys[0]), eqx.nn.LayerNorm(8), eqx.nn.Linear(8, 2, key=keys[1])]

    ensemble = eqx.filter(eqx.filter_vmap(network)(jax.random.split(jax.random.key(0), 3)), eqx.is_array)
    kept = masks.make(ensemble, batch_axes=1)
    assert [None if m is None else m.shape for m in (kept[0].weight, kept[1].weight, kept[2].weight)] == [
        (3, 8, 4),
        None,
        (3, 2, 8),
    ]
    assert all(leaf.prunable == (len(leaf.shape) == 3) for leaf in masks.explain(ensemble, batch_axes=1))
    assert masks.explain({"w": jnp.ones(3)}, batch_axes=2)[0].rule == "fewer axes than batch_axes"
    # each network of the ensemble by itself
    half = jax.vmap(lambda p: pruning.prune(pruning.magnitude(p), masks.make(p), 0.5))(ensemble)
    assert masks.count(half) == (3 * 24, 3 * 48)


def test_scores_touch_what_can_have_one():
    """Random keys, functions, integers and None are left alone by every criterion."""
    params = {
        "w": jnp.array([[1.0, -3.0]]),
        "key": jax.random.key(0),
        "f": jnp.tanh,
        "n": jnp.int32(2),
        "none": None,
    }

    def loss(p):
        return jnp.sum(p["f"](p["w"]) ** 2) * p["n"] + jax.random.uniform(p["key"])

    for scores in (
        pruning.magnitude(params),
        pruning.snip(loss, params),
        pruning.grasp(loss, params),
        pruning.synflow(loss, params),
        pruning.random(jax.random.key(1), params),
    ):
        assert scores["w"].shape == (1, 2)
        assert masks.count(pruning.prune(scores, masks.make(params), 0.5)) == (1, 2)
    assert pruning.magnitude(params)["f"] is None


def test_nan_goes_first():
    scores = {"w": jnp.array([[jnp.nan, -jnp.inf, 1.0, -jnp.nan]])}
    assert pruning.prune(scores, masks.make(scores), 0.5)["w"].tolist() == [[False, True, True, False]]
    assert pruning.prune(scores, masks.make(scores), 0.75)["w"].tolist() == [[False, False, True, False]]


def test_packed_under_vmap_they_come_back():
    kept = {"w": jax.random.bernoulli(jax.random.key(0), 0.5, (5, 3, 7)), "b": None}
    chex.assert_trees_all_equal(masks.unpack(jax.vmap(masks.pack)(kept)), kept)
    twice = jax.vmap(jax.vmap(masks.pack))({"w": kept["w"][None]})
    chex.assert_trees_all_equal(masks.unpack(twice)["w"][0], kept["w"])
    with pytest.raises(ValueError, match="unpack takes what pack gives"):
        masks.unpack(kept)


@settings(max_examples=8, deadline=None, database=None, derandomize=True)
@given(
    n=st.integers(1, 4), groups=st.sampled_from([1, 5]), columns=st.integers(2, 3), seed=st.integers(0, 99)
)
def test_n_of_m_against_a_sort(n, groups, columns, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (4 * groups, columns)).astype(np.float32)
    keep = jax.jit(pruning.keep_n_of_m, static_argnums=(2, 3))
    kept = np.asarray(keep({"w": scores}, {"w": np.ones(scores.shape, bool)}, n, 4)["w"])
    for column in range(columns):
        for group in range(groups):
            rows = slice(4 * group, 4 * group + 4)
            order = np.argsort(scores[rows, column], kind="stable")
            assert set(np.flatnonzero(kept[rows, column])) == set(order[4 - n :])


@pytest.mark.parametrize("axis", [0, 1, -2, 3])
def test_n_of_m_along_any_axis_of_a_kernel(axis):
    """As of the matrix whose rows are that axis."""
    scores = np.random.default_rng(0).normal(size=(4, 8, 12, 4)).astype(np.float32)
    rows = np.moveaxis(scores, axis, 0)
    matrix = rows.reshape(len(rows), -1)
    keep = jax.jit(pruning.keep_n_of_m, static_argnums=(2, 3), static_argnames="axis")
    kept = keep({"w": scores}, {"w": np.ones(scores.shape, bool)}, 1, 4, axis=axis)["w"]
    expected = keep({"w": matrix}, {"w": np.ones(matrix.shape, bool)}, 1, 4, axis=0)["w"]
    np.testing.assert_array_equal(np.moveaxis(kept, axis, 0).reshape(matrix.shape), expected)


def test_channels_go_whole_and_in_the_order_of_their_means():
    w = {
        "a": jax.random.normal(jax.random.key(0), (3, 3, 2, 8)),
        "c": jax.random.normal(jax.random.key(1), (8, 6)),
    }
    scores = pruning.magnitude(w)
    kept = pruning.prune_channels(scores, masks.make(w), 0.4)
    means = np.concatenate([np.asarray(scores["a"]).mean((0, 1, 2)), np.asarray(scores["c"]).mean(0)])
    channels = np.concatenate([np.asarray(kept["a"]).all((0, 1, 2)), np.asarray(kept["c"]).all(0)])
    assert set(np.flatnonzero(~channels)) == set(np.argsort(means)[: math.floor(0.4 * 14)])
    assert masks.count(kept)[0] == 18 * channels[:8].sum() + 8 * channels[8:].sum()


NUMPY = {"a": np.linspace(-1.0, 2.0, 24).reshape(6, 4), "b": np.linspace(1.0, -3.0, 8).reshape(4, 2)}


def frozen_step(params, kept):
    tx = masks.freeze_pruned(optax.sgd(0.1, momentum=0.9), kept)
    return tx.update(params, tx.init(params), params)[0]


WITH_NUMPY = {
    "apply": masks.apply,
    "prune": lambda params, kept: pruning.prune(params, kept, 0.3),
    "lamp": lambda params, kept: pruning.lamp(params, kept),
    "synflow": lambda params, _: pruning.synflow(lambda p: jnp.sum(p["a"] @ p["b"]), params),
    "channels": lambda params, kept: pruning.prune_channels(params, kept, 0.5),
    "freeze": frozen_step,
}


@pytest.mark.parametrize("use", WITH_NUMPY)
def test_numpys_double_precision_is_taken_as_jax_takes_it(use):
    """In single precision and without a warning, which this suite makes an error."""
    kept = masks.make(NUMPY)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), NUMPY)
    chex.assert_trees_all_close(WITH_NUMPY[use](NUMPY, kept), WITH_NUMPY[use](single, kept), rtol=1e-6)
