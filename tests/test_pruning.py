import math
from decimal import Decimal
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnlth_jax import _selection, masks, pruning

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
    values = np.random.default_rng(0).standard_normal((counts[0], 1), np.float32)
    w = dict(zip(("w0", "w1"), np.split(values, [counts[0] // 3]), strict=True))

    def one_round(m, _):
        new = pruning.prune(pruning.magnitude(w), m, 0.25)
        return new, (masks.count(new)[0], masks.is_subset(new, m))

    _, (kept, nested) = jax.lax.scan(one_round, masks.make(w), length=14)
    assert kept.tolist() == counts[1:]
    assert nested.all()


@pytest.mark.parametrize("scope", ["global", "layer"])
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
    digits = _selection.decimal_digits(Decimal("0.123456789"))
    for n in (0, 1, 9, 10**9 + 7, 2**32 - 1):
        got = jax.jit(lambda n: _selection.floor_of(digits, n))(jnp.uint32(n))
        assert int(got) == n * 123456789 // 10**9


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1, 0.75**8, 0.001])
@pytest.mark.parametrize("scope", ["global", "layer"])
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


W = {"w": jnp.arange(1.0, 9.0).reshape(4, 2)}
KEPT = {"w": jnp.ones((4, 2), bool)}
BAD = {
    "a fraction that is a truth value": (lambda: pruning.prune(W, KEPT, False), "fraction must be a number"),
    "a density that is a truth value": (lambda: pruning.keep_top(W, KEPT, True), "density must be a number"),
    "two fractions": (lambda: pruning.prune(W, KEPT, np.array([0.1, 0.2])), "fraction must be a number"),
    "a fraction in words": (lambda: pruning.prune(W, KEPT, "half"), "fraction must be a number, got 'half'"),
    "no density": (lambda: pruning.overall(KEPT, 0), r"density must lie in \(0, 1\], got 0"),
    "a density too many": (lambda: pruning.uniform(KEPT, np.ones(2)), "density must be one number"),
    "half a weight of four": (
        lambda: pruning.keep_n_of_m(W, KEPT, 1.5, 4),
        "n must be a whole number, got 1.5",
    ),
    "of four and a half": (lambda: pruning.keep_n_of_m(W, KEPT, 2, 4.0), "m must be a whole number, got 4.0"),
    "no axis": (
        lambda: pruning.keep_n_of_m(W, KEPT, 2, 4, axis=None),
        "axis must be a whole number, got None",
    ),
    "no axis of channels": (
        lambda: pruning.prune_channels(W, KEPT, 0.5, axis=0.0),
        "axis must be a whole number",
    ),
    "no budget": (lambda: pruning.keep_within(W, KEPT, W, None), "budget must be a real number"),
    "two budgets": (
        lambda: pruning.keep_within(W, KEPT, W, jnp.ones(2)),
        "budget must be a number of at least 0",
    ),
    "a debt": (lambda: pruning.keep_within(W, KEPT, W, -1), "budget must be a number of at least 0"),
    "costs in words": (lambda: pruning.cost(KEPT, {"w": "a"}), "w: a cost must be a real number or an array"),
    "half an element": (
        lambda: pruning.loads(KEPT, 1.5),
        "elements must be a whole number of at least 1, got 1.5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_an_argument_cannot_be_is_said(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_of_numpy_are_numbers():
    assert (pruning.loads(KEPT, np.int64(2))["w"] == pruning.loads(KEPT, 2)["w"]).all()
    of_numpy = pruning.keep_n_of_m(W, KEPT, np.int32(1), np.int64(2), axis=np.int8(0))
    chex.assert_trees_all_equal(of_numpy, pruning.keep_n_of_m(W, KEPT, 1, 2, axis=0))
    chex.assert_trees_all_equal(pruning.prune(W, KEPT, np.float32(0.29)), pruning.prune(W, KEPT, 0.29))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, bool])
def test_scores_may_be_short_integers(dtype):
    scores = {"w": jnp.array([[3, 0], [1, 2]]).astype(dtype)}
    kept = pruning.prune(scores, masks.make(scores, lambda name, leaf: True), 0.25)
    assert kept["w"].tolist() == [[True, False], [True, True]]


def test_unknown_scope_and_traced_fraction():
    w = params()
    with pytest.raises(ValueError, match="scope must be one of global, layer, erk; got 'rows'"):
        pruning.prune(pruning.magnitude(w), masks.make(w), 0.5, "rows")
    with pytest.raises(TypeError, match="must be a Python number"):
        jax.jit(lambda f: pruning.prune(pruning.magnitude(w), masks.make(w), f))(0.5)


@pytest.mark.parametrize("density", [0.9, 0.5, 0.1, 0.01])
def test_erk_leaves_weights_in_proportion_to_the_sum_of_axes(density):
    w = {
        "w0": jnp.ones((3, 3, 64, 128)),
        "w1": jnp.ones((512, 10)),
        "w2": jnp.ones((1, 1, 64, 128)),
        "bias": jnp.ones(3),
    }
    scores = pruning.random(jax.random.key(0), w)
    new = pruning.keep_top(scores, masks.make(w), density, "erk")
    kept, total = masks.count(new)
    assert kept == total - math.floor((1 - Fraction(str(density))) * total)
    # layers that are not full have the same ratio of kept weights to axes, to rounding
    layers = [(int(m.sum()), m.size, sum(m.shape)) for m in jax.tree.leaves(new)]
    ratios = [kept / axes for kept, size, axes in layers if kept < size]
    assert max(ratios) - min(ratios) < 0.1
    assert all(kept / axes <= min(ratios) + 0.1 for kept, size, axes in layers if kept == size)
    # and the lowest scores of each layer are gone
    for name in ("w0", "w1", "w2"):
        if not new[name].all():
            assert scores[name][new[name]].min() > scores[name][~new[name]].max()


def test_erk_goes_on_from_masks_traced_or_not():
    w = params()
    m = masks.make(w)
    for _ in range(4):
        new = pruning.prune(pruning.magnitude(w), m, 0.3, "erk")
        assert masks.count(new)[0] == masks.count(m)[0] - math.floor(Fraction("0.3") * masks.count(m)[0])
        assert masks.is_subset(new, m)
        traced = jax.jit(lambda m: pruning.prune(pruning.magnitude(w), m, 0.3, "erk"))(m)
        chex.assert_trees_all_equal(traced, new)
        m = new


def small_network():
    keys = jax.random.split(jax.random.key(5), 3)
    w = {
        f"w{i}": jax.random.normal(k, s)
        for i, (k, s) in enumerate(zip(keys, [(4, 6), (6, 5), (5, 3)], strict=True))
    }

    def forward(w, x):
        for i in range(2):
            x = jax.nn.relu(x @ w[f"w{i}"])
        return x @ w["w2"]

    return w, forward


def test_snip_against_finite_differences(x64):
    """|w dL/dw| is the change of the loss per relative change of a weight."""
    w, forward = small_network()
    x = jax.random.normal(jax.random.key(9), (7, 4))
    loss = lambda w: jnp.mean(jnp.tanh(forward(w, x)) ** 2)  # noqa: E731
    scores = pruning.snip(loss, w)
    for name, position in (("w0", (1, 2)), ("w1", (0, 4)), ("w2", (3, 1))):
        change = lambda e, n=name, p=position: loss(w | {n: w[n].at[p].multiply(1 + e)})  # noqa: E731
        slope = (change(1e-6) - change(-1e-6)) / 2e-6
        np.testing.assert_allclose(scores[name][position], abs(slope), rtol=1e-6, atol=1e-9)


def test_grasp_against_finite_differences(x64):
    """2 w (H g) is the change of the squared gradient norm per relative change of a weight."""
    w, forward = small_network()
    x = jax.random.normal(jax.random.key(9), (7, 4))
    loss = lambda w: jnp.mean(jnp.tanh(forward(w, x)) ** 2)  # noqa: E731
    norm = lambda w: sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(w)))  # noqa: E731
    scores = pruning.grasp(loss, w)
    for name, position in (("w0", (1, 2)), ("w1", (0, 4)), ("w2", (3, 1))):
        change = lambda e, n=name, p=position: norm(w | {n: w[n].at[p].multiply(1 + e)})  # noqa: E731
        np.testing.assert_allclose(
            2 * scores[name][position], (change(1e-6) - change(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-8
        )


def test_synflow_conserves_flow(x64):
    """Flow into a layer is flow out of it: the scores of every layer add up to the summed output."""
    w, forward = small_network()
    flow = lambda w: jnp.sum(forward(w, jnp.ones((1, 4))))  # noqa: E731
    scores = pruning.synflow(flow, w)
    total = flow(pruning.magnitude(w))
    for layer in scores.values():
        np.testing.assert_allclose(layer.sum(), total, rtol=1e-12)
    # into each hidden neuron as much as out of it
    np.testing.assert_allclose(scores["w0"].sum(0), scores["w1"].sum(1), rtol=1e-12)


def test_iterated_synflow_empties_no_layer():
    w, forward = small_network()
    m = masks.make(w)
    for i in range(1, 31):
        scores = pruning.synflow(lambda w: jnp.sum(forward(w, jnp.ones((1, 4)))), masks.apply(w, m))
        m = pruning.keep_top(scores, m, 0.08 ** (i / 30))
    total = masks.count(m)[1]
    assert masks.count(m)[0] == total - math.floor((1 - Fraction(str(0.08))) * total)
    assert all(kept for kept, _ in masks.by_layer(m).values())


def test_grasp_in_double_precision_is_exact(x64):
    """The loss w^4 has the gradient 4 w^3 and the Hessian 12 w^2."""
    w = {"w": np.linspace(-1.7, 1.3, 7)}
    scores = pruning.grasp(lambda p: jnp.sum(p["w"] ** 4), w)["w"]
    np.testing.assert_allclose(scores, 48 * w["w"] ** 6, rtol=1e-14)
