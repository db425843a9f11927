"""Methods beside the paper's: LAMP, balanced masks, a budget of SynOps, RigL and SET; against brute force."""

import dataclasses
import math
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from plain import Plain, cosine

from snnlth_jax import configs, masks, pruning, tickets
from snnlth_jax.analysis import activity, wiring
from snnlth_jax.errors import InputError
from snnlth_jax.run import checkpoints
from snnlth_jax.search import dynamic, imp, programs

RNG = np.random.default_rng(0)
SHAPES = {"a": (3, 3, 2, 4), "b": (6, 5), "c": (1, 1, 4, 2)}


def weights(scale=1.0):
    return {
        name: jnp.asarray(scale * RNG.normal(size=shape).astype(np.float32)) for name, shape in SHAPES.items()
    }


def some_masks(density=0.7):
    return {name: jnp.asarray(RNG.uniform(size=shape) < density) for name, shape in SHAPES.items()}


# --- LAMP


def test_lamp_is_the_share_in_the_weights_that_are_no_smaller(x64):
    params = {name: w.astype(jnp.float64) for name, w in weights().items()}
    params["b"] = params["b"].at[0, :3].set(0.5).at[1, 1].set(-0.5)  # of equal ones the last is the larger
    kept = some_masks()
    for name, scores in pruning.lamp(params, kept).items():
        w, mask = np.asarray(params[name]).ravel(), np.asarray(kept[name]).ravel()
        for u, score in enumerate(np.asarray(scores).ravel()):
            no_smaller = [v for v in range(len(w)) if mask[v] and (abs(w[v]), v) >= (abs(w[u]), u)]
            expected = w[u] ** 2 / sum(w[v] ** 2 for v in no_smaller) if mask[u] else 0.0
            assert score == pytest.approx(expected, rel=1e-12)


def test_lamp_leaves_no_layer_empty_where_magnitude_does():
    params = weights()
    params["c"] = params["c"] * 1e-3
    everything = masks.make(params, lambda name, leaf: True)
    by_magnitude = pruning.prune(pruning.magnitude(params), everything, 0.9)
    by_lamp = pruning.prune(pruning.lamp(params, everything), everything, 0.9)
    assert not by_magnitude["c"].any()
    assert all(bool(mask.any()) for mask in by_lamp.values())
    assert masks.count(by_lamp) == masks.count(by_magnitude)


@pytest.mark.parametrize(
    "layer",
    [
        [2.0, 2.0, 2.0, 2.0],
        [1e-25, 2e-25, 3e-25, 1e-25],  # squares vanish in float32
        [1e20, 2e20, 1.0, 3.0],  # and overflow
        [1.0, np.inf, 2.0, 3.0],
    ],
)
def test_the_largest_weight_scores_1_at_any_scale(layer):
    (scores,) = pruning.lamp({"w": jnp.array([layer])}, {"w": jnp.ones((1, 4), bool)})["w"]
    assert float(scores.max()) == 1.0
    assert np.isfinite(scores).all()
    assert list(np.argsort(scores, kind="stable")) == list(np.argsort(layer, kind="stable"))


@pytest.mark.parametrize("scale", [1.0, 1e-22, 1e18])
def test_lamp_keeps_the_order_of_magnitudes(scale):
    """Many weights, also where squares round to the same number, or vanish."""
    w = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * np.float32(scale)
    w[:3] = 1.0
    everything = {"w": jnp.ones(len(w), bool)}
    order = np.argsort(np.abs(w), kind="stable")
    for lamp in (pruning.lamp, jax.jit(pruning.lamp)):
        scores = np.asarray(lamp({"w": jnp.asarray(w)}, everything)["w"])[order]
        assert (np.diff(scores.view(np.int32)) > 0).all()
    squares = np.square(w[order].astype(np.float64))
    np.testing.assert_allclose(scores, squares / np.cumsum(squares[::-1])[::-1], rtol=2e-6, atol=1e-37)


def test_lamp_of_nan_is_nan_and_of_nothing_nothing():
    (scores,) = pruning.lamp({"w": jnp.array([[1.0, np.nan, 2.0]])}, {"w": jnp.ones((1, 3), bool)})["w"]
    np.testing.assert_allclose(scores, [0.2, np.nan, 1.0], rtol=1e-6)
    empty = {"w": jnp.zeros((3, 0))}
    assert pruning.lamp(empty, {"w": jnp.ones((3, 0), bool)})["w"].shape == (3, 0)


def test_lamp_of_rounds_counts_what_is_left():
    """A second pruning sees sums over survivors: equal to LAMP of the masked weights."""
    params, kept = weights(), some_masks()
    chex.assert_trees_all_equal(
        pruning.lamp(params, kept),
        pruning.lamp(masks.apply(params, kept), masks.make(params, lambda *_: True)),
    )


# --- balanced masks


def by_element(mask, elements):
    used = min(elements, mask.shape[-1])
    return [np.asarray(mask)[..., e::used] for e in range(used)]


@pytest.mark.parametrize("elements", [1, 2, 3, 16])
def test_balanced_masks_have_even_loads_and_the_highest_scores(elements):
    scores, candidates = pruning.magnitude(weights()), some_masks(0.9)
    kept = pruning.prune(scores, candidates, 0.5)
    even = pruning.balance(scores, kept, candidates, elements)
    for name in SHAPES:
        assert even[name].sum() == kept[name].sum()
        assert not (even[name] & ~candidates[name]).any()
        loads = [int(part.sum()) for part in by_element(even[name], elements)]
        room = [int(part.sum()) for part in by_element(candidates[name], elements)]
        # whoever has less than another by more than one has nothing more to give
        assert all(load == r for load, r in zip(loads, room, strict=True) if load < max(loads) - 1)
        assert pruning.loads(even, elements)[name].tolist() == loads
        for part, mask, candidate in zip(
            *(by_element(x, elements) for x in (scores[name], even[name], candidates[name])), strict=True
        ):
            assert part[mask].min(initial=np.inf) >= part[candidate & ~mask].max(initial=-np.inf)
    total, time = (
        masks.count(even)[0],
        sum(len(n) * int(n.max()) for n in pruning.loads(even, elements).values()),
    )
    assert float(pruning.utilisation(even, elements)) == pytest.approx(total / time)
    assert pruning.utilisation(even, elements) >= pruning.utilisation(kept, elements)


@pytest.mark.parametrize(("kept", "elements", "share"), [([True, False], 1, 1.0), ([False, False], 1, 0.0)])
def test_utilisation_of_one_weight_and_of_none(kept, elements, share):
    assert pruning.utilisation({"w": jnp.array([kept])}, elements) == share


def test_a_layer_without_channels_has_no_load():
    empty = {"w": jnp.ones((3, 0), bool)}
    assert pruning.loads(empty, 4)["w"].tolist() == [0]
    assert pruning.balance({"w": jnp.ones((3, 0))}, empty, empty, 4)["w"].shape == (3, 0)


def test_an_element_with_few_candidates_gives_all_of_them():
    candidates = {"w": jnp.array([[True, True]] + [[True, False]] * 5)}
    scores = {"w": jnp.arange(12.0).reshape(6, 2)}
    kept = {"w": jnp.array([[False, False]] * 2 + [[True, False]] * 4)}
    even = pruning.balance(scores, kept, candidates, 2)["w"]
    assert even[:, 1].tolist() == [True] + [False] * 5
    assert even[:, 0].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("elements", [0, -1, True, 2.0])
def test_the_number_of_elements_is_checked(elements):
    with pytest.raises(ValueError, match="elements must be a whole number of at least 1"):
        pruning.utilisation(some_masks(), elements)


# --- a budget


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_the_highest_scores_within_the_budget_are_kept(share):
    scores, left = pruning.magnitude(weights()), some_masks()
    costs = {
        name: jnp.asarray(RNG.integers(0, 50, size=(*shape[:-1], 1)), jnp.float32)
        for name, shape in SHAPES.items()
    }
    budget = share * float(pruning.cost(left, costs))
    kept = pruning.keep_within(scores, left, costs, budget)
    ranked = sorted(
        (float(score), float(price))
        for name in SHAPES
        for score, price, mask in zip(
            np.ravel(scores[name]),
            np.ravel(np.broadcast_to(costs[name], SHAPES[name])),
            np.ravel(left[name]),
            strict=True,
        )
        if mask
    )
    expected, spent = 0, 0.0
    for _, price in reversed(ranked):
        if spent + price > budget:
            break
        expected, spent = expected + 1, spent + price
    assert masks.count(kept)[0] == expected
    assert float(pruning.cost(kept, costs)) == spent
    dropped = [scores[n][left[n] & ~kept[n]].max(initial=-1.0) for n in SHAPES]
    assert min(scores[n][kept[n]].min(initial=np.inf) for n in SHAPES) > max(dropped)


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 3), (3,)])
def test_costs_that_do_not_fit_the_masks_are_refused(shape):
    scores, left = {"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2), bool)}
    with pytest.raises(ValueError, match=r"w: costs of shape .* for a mask of \(2, 2\)"):
        pruning.keep_within(scores, left, {"w": jnp.ones(shape)}, 3.0)


@pytest.mark.parametrize("budget", [-1.0, math.nan])
def test_a_budget_is_a_number(budget):
    scores, left = {"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2), bool)}
    with pytest.raises(ValueError, match="budget must be a number of at least 0"):
        pruning.keep_within(scores, left, {"w": jnp.ones((2, 2))}, budget)


def test_strict_promotion_and_jit():
    scores, left = pruning.magnitude(weights()), some_masks()
    costs = {name: jnp.ones((1,) * len(shape)) for name, shape in SHAPES.items()}
    with jax.numpy_dtype_promotion("strict"):
        kept = jax.jit(pruning.keep_within)(scores, left, costs, jnp.int32(20))
        assert sum(int(mask.sum()) for mask in kept.values()) == 20
        even = jax.jit(pruning.balance, static_argnums=3)(scores, kept, left, 2)
        assert masks.count(even) == masks.count(kept)
        assert masks.count(jax.jit(pruning.rewire)(scores, kept, scores, 0.5)) == masks.count(kept)
        jax.jit(pruning.lamp)(scores, kept)
    assert masks.count(jax.jit(pruning.rewire)(scores, kept, scores, 2.0)) == masks.count(kept)  # clipped


IMP = configs.ImpConfig(**small.NETWORK, num_timesteps=2, rounds=3, rewind_epoch=1, prune_fraction=0.3)


def test_costs_of_weights_add_up_to_the_synops_of_the_layer():
    config = configs.resolve(IMP)
    script = Plain(config)
    variants = programs.Variants(config, script.dataset, small.MODEL)
    state, variant = script.begin(), programs.Variant("lif", 2)
    costs = variants.synops_by_weight(variant, state)
    counts = variants.count_spikes(variant, state, script.dataset.train.images).counts
    connections = wiring.connections(small.MODEL)
    kernels = wiring.by_name(state.masks)
    neurons = wiring.shapes(connections, kernels, (8, 8, 1))
    some = {name: RNG.uniform(size=mask.shape) < 0.5 for name, mask in kernels.items()}
    by_name = wiring.by_name(costs)
    for c in connections:
        synops = activity.synops(c, some[c.name], neurons[c.source], counts, 2)
        assert np.sum(by_name[c.name] * some[c.name]) == sum(synops)
    assert sum(by_name["layer02/conv/kernel"].ravel()) > 0


def test_a_round_removes_its_share_of_the_synops(tmp_path, monkeypatch):
    asked = []
    within = pruning.keep_within

    def watched(scores, left, costs, budget):
        kept = within(scores, left, costs, budget)
        asked.append((budget, float(pruning.cost(kept, costs)), float(pruning.cost(left, costs))))
        return kept

    monkeypatch.setattr(pruning, "keep_within", watched)
    result, run, _ = small.run(imp, IMP, tmp_path, budget="synops", arch="vgg5", width=0.5)
    for budget, kept, before in asked:
        assert budget == pytest.approx(0.7 * before)
        assert 0.99 * budget < kept <= budget
    assert len(asked) == 2
    counts = [row["kept"] for row in result["rounds"]]
    assert counts == sorted(counts, reverse=True)
    assert masks.is_subset(tickets.load(run.ticket(2)).masks, tickets.load(run.ticket(1)).masks)


def test_imp_by_lamp_and_on_even_elements(tmp_path):
    flags = {"score": "lamp", "processing_elements": 3}
    result, run, text = small.run(imp, IMP, tmp_path, **flags)
    plain, _, _ = small.run(imp, IMP, tmp_path / "plain")
    assert [row["kept"] for row in result["rounds"]] == [row["kept"] for row in plain["rounds"]]
    for number in (1, 2):
        kept = tickets.load(run.ticket(number)).masks
        assert f"round {number}: utilisation of 3 processing elements" in text
        assert f"balanced {float(pruning.utilisation(kept, 3)):.4f}" in text
        assert pruning.utilisation(kept, 3) > 0.9
    assert masks.is_subset(tickets.load(run.ticket(2)).masks, tickets.load(run.ticket(1)).masks)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"budget": "synops", "activation": "relu"}, "activation relu: allowed: lif with budget synops"),
        ({"budget": "synops", "scope": "layer"}, "scope layer: allowed: global with budget synops"),
        ({"processing_elements": 0}, "processing_elements 0: allowed: 1 or more"),
        (
            {"budget": "synops", "processing_elements": 4},
            "processing_elements 4: allowed: not with budget synops",
        ),
        ({"early_time_start": "restart"}, "early_time_start restart: allowed: continue, unless early_time"),
        ({"early_time_loss": "over-t"}, "early_time_loss over-t: allowed: mean, without early_time"),
        (
            {"biases_on_rewind": "keep", "rewinding": "learning-rate"},
            "biases_on_rewind keep: allowed: rewind, with rewinding learning-rate",
        ),
        (
            {"schedule_on_rewind": "resume", "rewinding": "fine-tune"},
            "schedule_on_rewind resume: allowed: restart, with rewinding fine-tune",
        ),
        (
            {"early_time": True, "num_timesteps": 4, "early_time_epochs": 3},
            "early_time_epochs 3: allowed: 1 to 2, before the last epoch",
        ),
        (
            {"early_time": True, "num_timesteps": 4, "epochs": 1, "rewind_epoch": 0},
            "epochs 1: allowed: 2 or more, for the search to continue",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes, refused):
    with pytest.raises(InputError, match=refused):
        configs.resolve(dataclasses.replace(IMP, **{"num_timesteps": None, **changes}))


# --- moving masks


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 1.0])
def test_a_layer_keeps_its_number_of_weights(fraction):
    kept = some_masks(0.3)
    params = masks.apply(weights(), kept)
    growth = pruning.magnitude(weights())
    new = jax.jit(pruning.rewire)(params, kept, growth, fraction)
    for name in SHAPES:
        n = math.floor(Fraction(str(fraction)) * int(kept[name].sum()))
        w, g = np.abs(params[name])[kept[name]], np.asarray(growth[name])
        threshold = np.sort(w)[n] if n < len(w) else np.inf
        survivors = np.asarray(kept[name]) & (np.abs(params[name]) >= threshold)
        assert survivors.sum() == len(w) - n
        order = np.argsort(-np.where(survivors, -1.0, g), axis=None)[:n]
        expected = survivors.copy()
        expected.ravel()[order] = True
        np.testing.assert_array_equal(new[name], expected)
        assert new[name].sum() == kept[name].sum()


def test_the_schedule_of_drops_is_a_cosine_to_zero():
    fractions = [pruning.drop_fraction(epoch, 6, 0.3) for epoch in range(8)]
    np.testing.assert_allclose(fractions[:6], 0.15 * (1 + np.cos(np.pi * np.arange(6) / 6)))
    assert fractions[6:] == [0.0, 0.0]


@pytest.mark.parametrize(("fraction", "n"), [(0.13, 900), (0.21, 300), (0.26, 450), (1.0, 7), (0.29, 100)])
def test_the_number_of_drops_is_that_of_decimal_numbers(fraction, n):
    """As for `prune`; products in float32 fall below some of them."""
    params = {"w": jnp.arange(1.0, 2001)}
    kept = {"w": jnp.arange(2000) < n}
    growth = {"w": jnp.where(kept["w"], 0.0, params["w"])}
    for rewire in (pruning.rewire, jax.jit(pruning.rewire)):
        new = rewire(params, kept, growth, fraction)
        assert int((kept["w"] & ~new["w"]).sum()) == math.floor(Fraction(str(fraction)) * n)
    beyond = jax.jit(pruning.rewire)(params, kept, growth, 1.7)  # a traced one cannot be refused
    np.testing.assert_array_equal(beyond["w"], pruning.rewire(params, kept, growth, 1)["w"])
    if fraction < 1:
        pruned = pruning.prune(pruning.magnitude(params), kept, fraction)
        np.testing.assert_array_equal(pruned["w"], new["w"] & kept["w"])


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, None, "a", True, 1j, jnp.array([0.1, 0.2])])
def test_a_fraction_is_checked(fraction):
    params = weights()
    with pytest.raises(ValueError, match=r"fraction must (lie in \[0, 1\]|be a number), got"):
        pruning.rewire(params, some_masks(), params, fraction)


def test_what_does_not_fit_is_named():
    """Arguments and leaves, in one line."""
    params = weights()
    other = {name: leaf[:1] for name, leaf in params.items()}
    with pytest.raises(ValueError, match=r"the mask has shape .*, params \("):
        pruning.rewire(other, some_masks(), params, 0.5)
    with pytest.raises(ValueError, match=r"the mask has shape .*, growth \("):
        pruning.rewire(params, some_masks(), other, 0.5)


MOVING = configs.DynamicConfig(
    **small.NETWORK | {"epochs": 4}, num_timesteps=2, sparsity=0.5, drop_fraction=0.4, learning_rate=0.1
)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    return small.run(dynamic, MOVING, tmp_path_factory.mktemp("rigl") / "run", controls=("random", "dense"))


def test_rigl_is_a_plain_script(moved):
    """Bit for bit: random masks; after epochs 1 and 2 of 4 the dense gradient of one batch grows weights."""
    result, run, _ = moved
    config = configs.resolve(MOVING)
    script = Plain(config)
    mask_key = jax.random.split(jax.random.key(0), 4)[2]
    first = script.begin()
    kept = pruning.prune(pruning.random(mask_key, first.params), first.masks, 0.5, "erk")
    state, losses, rate = (
        first._replace(params=masks.apply(first.params, kept), masks=kept),
        [],
        cosine(0.1, 0, 4),
    )
    test, right = jax.device_put(script.dataset.test), []
    counts = {name: kept for name, (kept, _) in masks.by_layer(kept).items()}
    for epoch in range(4):
        (state,), (loss,) = script.train(state, 2, ("dynamic", 1), rate, epoch, epoch + 1)
        losses.append(loss)
        state = jax.tree.map(jnp.asarray, state)
        right.append(int(script.program(state, 2).evaluate(state, test).metrics.correct))
        if epoch + 1 < 3:
            key = jax.random.fold_in(script.score_key, epoch + 1)
            order = jax.random.permutation(key, 96)[:48]
            images, labels = script.split.images[order], script.split.labels[order]
            gradient = jax.jit(jax.grad(script.loss))(state.params, state.batch_stats, images, labels)
            fraction = 0.2 * (1 + math.cos(math.pi * (epoch + 1) / 3))
            before, kept = kept, pruning.rewire(state.params, kept, pruning.magnitude(gradient), fraction)
            assert masks.distance(before, kept) > 0
            assert {name: n for name, (n, _) in masks.by_layer(kept).items()} == counts
            state = state._replace(params=masks.apply(state.params, kept), masks=kept)
    ticket = tickets.load(run.ticket(1))
    chex.assert_trees_all_equal(ticket.masks, jax.device_get(kept))
    chex.assert_trees_all_equal(ticket.params, small.initial_params())
    epochs = [x for x in small.lines(run) if x["kind"] == "dynamic"]
    assert [x["train_loss"] for x in epochs] == losses
    # evaluated before the masks change
    assert [x["test_accuracy"] for x in epochs] == [n / len(test.labels) for n in right]
    (row,) = result["tickets"]
    assert row["search"]["train_flops"] == 0
    assert row["images"] == 4 * 96 + 2 * 48
    assert row["train_flops"] == 3 * row["images"] * sum(
        n * result["flops_per_image"][part] for part, n in (("once", 1), ("per_timestep", 2))
    )
    assert [(x["kind"], x["epochs"]) for x in result["controls"]] == [("random", 4), ("dense", 4)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_killed_and_resumed_it_ends_the_same(moved, tmp_path, monkeypatch, n):
    with monkeypatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", n)
        with pytest.raises(small.Interrupted):
            small.run(dynamic, MOVING, tmp_path, controls=("random", "dense"))
    _, run, _ = small.run(dynamic, MOVING, tmp_path, controls=("random", "dense"))
    small.same_outcome(run, moved[1])


def test_masks_that_would_never_move_are_refused():
    with pytest.raises(InputError, match=r"update_until 0\.1: allowed: enough of 4 epochs"):
        configs.resolve(dataclasses.replace(MOVING, update_until=0.1))


def test_set_grows_at_random(tmp_path, moved):
    result, run, _ = small.run(dynamic, MOVING, tmp_path, criterion="set")
    assert result["method"] == "dynamic set"
    ours, theirs = tickets.load(run.ticket(1)).masks, tickets.load(moved[1].ticket(1)).masks
    assert masks.distance(ours, theirs) > 0
    assert masks.by_layer(ours) == masks.by_layer(theirs)
    assert result["tickets"][0]["images"] == 4 * 96
