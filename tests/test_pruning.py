import math
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnlth_jax import masks, pruning

# surviving weights after 0, 1 ... 14 prunings by 25 %, from the authors' code
LADDERS = {
    "vgg16": """14715584 11036688 8277516 6208137 4656103 3492078 2619059 1964295 1473222 1104917
                828688 621516 466137 349603 262203""",
    "resnet19": """12619968 9464976 7098732 5324049 3993037 2994778 2246084 1684563 1263423 947568
                   710676 533007 399756 299817 224863""",
}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (7, 13)), "bias": jnp.ones(13)},
        "b": {"kernel": 10 * jax.random.normal(keys[1], (3, 3, 5, 2))},
        "c": {"kernel": 0.1 * jax.random.normal(keys[2], (41, 1))},
    }


@pytest.mark.parametrize("network", LADDERS)
def test_ladder_of_counts(network):
    """The real number of weights, in two leaves; 14 prunings in one compiled loop."""
    counts = [int(n) for n in LADDERS[network].split()]
    split = counts[0] // 3
    w = {
        "w0": jax.random.normal(jax.random.key(0), (split, 1)),
        "w1": jax.random.normal(jax.random.key(1), (counts[0] - split, 1)),
    }

    def one_round(m, _):
        new = pruning.prune(pruning.magnitude(w), m, 0.25)
        return new, (masks.count(new)[0], masks.is_subset(new, m))

    _, (kept, nested) = jax.lax.scan(one_round, masks.make(w), length=14)
    assert kept.tolist() == counts[1:]
    assert nested.all()


@pytest.mark.parametrize("scope", pruning.SCOPES)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.29, 0.3, 0.5, 0.68359375, 0.999, 1e-7])
def test_exact_count_and_order(scope, fraction):
    w = params()
    scores = pruning.magnitude(w)
    m = pruning.prune(pruning.random(jax.random.key(1), w), masks.make(w), 0.2)  # some are gone already
    new = pruning.prune(scores, m, fraction, scope)
    assert masks.is_subset(new, m)
    groups = [(scores, m, new)] if scope == "global" else [(scores[k], m[k], new[k]) for k in w]
    for group_scores, before, after in groups:
        before, after = flat(before), flat(after)
        values = np.concatenate(
            [np.ravel(x["kernel"]) for x in ([group_scores] if scope == "layer" else group_scores.values())]
        )
        removed = math.floor(Fraction(str(fraction)) * int(before.sum()))
        assert before.sum() - after.sum() == removed
        if removed and after.any():
            assert values[after].min() >= values[before & ~after].max()


def test_exact_count_whatever_the_ties():
    w = {"x": jnp.zeros((5, 7)), "y": jnp.array([[1.0, 0.0, 1.0, -0.0]])}
    for fraction in (0.1, 0.5, 0.9):
        new = pruning.prune(pruning.magnitude(w), masks.make(w), fraction)
        assert masks.count(new)[0] == 39 - math.floor(fraction * 39)
    # of equals the first go first, and never one that is worth more
    new = pruning.prune(pruning.magnitude(w), masks.make(w), 36 / 39)
    assert not new["x"].any()
    assert new["y"].tolist() == [[True, False, True, True]]


def test_negative_zero_is_zero():
    scores = {"w": jnp.array([[0.0, -0.0, 0.0, -0.0]])}
    assert pruning.prune(scores, masks.make(scores), 0.5)["w"].tolist() == [[False, False, True, True]]


def test_random_ties_against_a_stable_sort():
    scores = {"x": jax.random.randint(jax.random.key(0), (30, 11), 0, 4).astype(jnp.float32)}
    m = pruning.prune(pruning.random(jax.random.key(1), scores), masks.make(scores), 0.3)
    new = pruning.prune(scores, m, 0.37)
    alive = np.flatnonzero(flat(m))
    order = alive[np.argsort(flat(scores)[alive], kind="stable")]
    expected = flat(m).copy()
    expected[order[: math.floor(0.37 * len(alive))]] = False
    np.testing.assert_array_equal(flat(new), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_any_float_and_any_sign(dtype, x64):
    values = jnp.array([[-3.0, 5e-3, -0.0, 2.0, 1e4, -1e-3, jnp.inf, 0.5]], dtype)
    new = pruning.prune({"w": values}, masks.make({"w": values}), 0.5)
    assert new["w"].tolist() == [[False, False, False, True, True, False, True, True]]


def test_double_precision_scores_are_not_rounded(x64):
    values = 1 + jnp.arange(8.0).reshape(2, 4) * 1e-12
    new = pruning.prune({"w": -values}, masks.make({"w": values}), 0.5)
    assert new["w"].tolist() == [[True] * 4, [False] * 4]


def test_decimal_fractions_are_taken_at_their_word():
    """29 % of 100 are 29, though 0.29 * 100 is 28.999999999999996 in floating point."""
    w = {"w": jnp.arange(100.0).reshape(10, 10)}
    assert masks.count(pruning.prune(w, masks.make(w), 0.29))[0] == 71


def test_counts_near_the_limit_of_32_bits():
    digits = pruning._digits(pruning.Decimal("0.123456789"))
    for n in (0, 1, 9, 10**9 + 7, 2**32 - 1):
        got = jax.jit(lambda n: pruning._floor_of(digits, n))(jnp.uint32(n))
        assert int(got) == n * 123456789 // 10**9


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1, 0.75**8, 0.001])
@pytest.mark.parametrize("scope", pruning.SCOPES)
def test_keep_top(density, scope):
    w = params()
    new = pruning.keep_top(pruning.magnitude(w), masks.make(w), density, scope)
    removed = lambda n: math.floor((1 - Fraction(str(density))) * n)  # noqa: E731
    total = masks.count(masks.make(w))[1]
    if scope == "global":
        assert masks.count(new)[0] == total - removed(total)
    else:
        assert all(kept == n - removed(n) for kept, n in masks.by_layer(new).values())


def test_keep_top_after_pruning_goes_on_from_there():
    w = params()
    quarter = pruning.keep_top(pruning.magnitude(w), masks.make(w), 0.25)
    again = pruning.keep_top(pruning.random(jax.random.key(0), w), quarter, 0.5)
    chex.assert_trees_all_equal(again, quarter)
    tenth = pruning.keep_top(pruning.magnitude(w), quarter, 0.1)
    chex.assert_trees_all_equal(tenth, pruning.keep_top(pruning.magnitude(w), masks.make(w), 0.1))


def test_jit_and_sharded_weights_give_the_same_masks():
    w = {"w": jax.random.normal(jax.random.key(0), (64, 33))}
    expected = pruning.prune(pruning.magnitude(w), masks.make(w), 0.3)
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("batch",)), jax.sharding.PartitionSpec("batch")
    )
    pruned = jax.jit(lambda w: pruning.prune(pruning.magnitude(w), masks.make(w), 0.3))
    chex.assert_trees_all_equal(pruned(w), expected)
    chex.assert_trees_all_equal(pruned(jax.device_put(w, sharding)), expected)


def test_shuffle_keeps_layer_counts_and_nothing_else():
    w = params()
    m = pruning.keep_top(pruning.magnitude(w), masks.make(w), 0.4)
    control = pruning.shuffle(jax.random.key(3), m)
    assert masks.by_layer(control) == masks.by_layer(m)
    # kept weights overlap as often as chance has it: by their density
    big = {"w": jnp.arange(20_000).reshape(200, 100) < 2_000}
    assert abs(masks.overlap(pruning.shuffle(jax.random.key(0), big), big) - 0.1) < 0.03
    assert (
        masks.distance(pruning.shuffle(jax.random.key(0), big), pruning.shuffle(jax.random.key(1), big)) > 0.1
    )


def test_random_scores_are_uniform():
    scores = pruning.random(jax.random.key(0), {"w": jnp.zeros((100, 100)), "v": jnp.zeros((100, 100))})
    assert not np.array_equal(scores["w"], scores["v"])
    np.testing.assert_allclose(np.histogram(scores["w"], 10, (0, 1))[0], 1000, atol=150)


def test_nothing_prunable():
    w = {"bias": jnp.ones(3)}
    assert pruning.prune(pruning.magnitude(w), masks.make(w), 0.5) == {"bias": None}


@pytest.mark.parametrize("fraction", [1.0, -0.1, 1.5, float("nan")])
def test_impossible_fractions(fraction):
    w = params()
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\)"):
        pruning.prune(pruning.magnitude(w), masks.make(w), fraction)
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\]"):
        pruning.keep_top(pruning.magnitude(w), masks.make(w), fraction if fraction != 1.0 else 0.0)


def test_unknown_scope_and_traced_fraction():
    w = params()
    with pytest.raises(ValueError, match="scope must be one of global, layer; got 'rows'"):
        pruning.prune(pruning.magnitude(w), masks.make(w), 0.5, "rows")
    with pytest.raises(TypeError, match="must be a Python number"):
        jax.jit(lambda f: pruning.prune(pruning.magnitude(w), masks.make(w), f))(0.5)
