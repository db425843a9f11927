"""Early-Time: the divergences against plain NumPy, and what a search with fewer timesteps promises."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from plain import Plain, cosine

from snnlth_jax import configs, losses, models, pruning, tickets
from snnlth_jax.analysis.flops import macs
from snnlth_jax.errors import InputError
from snnlth_jax.search import early_time, imp
from snnlth_jax.search.programs import Programs
from snnlth_jax.search.session import run as run_session
from snnlth_jax.train import loop

IMP = configs.ImpConfig(**small.NETWORK, num_timesteps=4, rounds=3, rewind_epoch=1, prune_fraction=0.3)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_divergence_is_plain_kl(direction, reduction, scale, x64):
    logits = scale * np.random.default_rng(0).normal(size=(5, 7, 10))
    expected = []
    for t in range(1, 6):
        reduce = {"sum": np.sum, "mean": np.mean}[reduction]
        p, q = softmax(reduce(logits[:t], axis=0)), softmax(reduce(logits, axis=0))
        if direction == "reverse":
            p, q = q, p
        expected.append(np.mean(np.sum(p * np.log(p / q), axis=-1)))
    got = losses.timestep_divergence(jnp.asarray(logits), direction, reduction)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    assert got[-1] == 0


def test_all_prefixes_come_from_one_forward_pass():
    """P_t of a network that runs t timesteps is P_t of one that runs T."""
    model, key = models.create("vgg5", 10, width=0.2), jax.random.key(0)
    images = jax.random.normal(key, (6, 8, 8, 1))
    variables = jax.jit(functools.partial(model.init, num_timesteps=1))(key, images)

    @functools.partial(jax.jit, static_argnums=0)
    def accumulated(num_timesteps):
        logits, _ = model.apply(
            variables, images, num_timesteps=num_timesteps, train=True, mutable=["batch_stats"]
        )
        return jnp.cumsum(logits, axis=0)

    whole = accumulated(5)
    for t in (1, 3):
        np.testing.assert_allclose(accumulated(t), whole[:t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("divergences", "threshold", "normalisation", "expected"),
    [
        ([9.0, 1.0, 0.59, 0.3, 0.0], 0.6, "first", 3),
        ([9.0, 1.0, 0.6, 0.3, 0.0], 0.6, "first", 4),  # not below lambda
        ([9.0, 1.0, 0.9, 0.8, 0.0], 0.6, "first", 5),  # none: all timesteps
        ([9.0, 1.0, 0.9, 0.8, 0.0], 1.0, "first", 3),  # t = 2 is 1 and never below lambda
        ([9.0, 0.5, 1.0, 0.3, 0.0], 0.6, "max", 2),  # over the largest t = 2 can be
        ([9.0, 0.0, 0.0, 0.0, 0.0], 0.6, "first", 2),  # nothing left to say after 2 timesteps
        ([9.0, 0.0, 0.1, 0.0, 0.0], 0.6, "first", 2),
        ([9.0, 1.0, 0.0], 0.6, "first", 3),  # T = 3: the one candidate is D_2 itself
    ],
)
def test_select_timesteps(divergences, threshold, normalisation, expected):
    by_t = dict(enumerate(divergences, start=1))
    assert early_time.select_timesteps(by_t, threshold, normalisation) == expected


def test_a_larger_lambda_never_asks_for_more_timesteps():
    rng = np.random.default_rng(1)
    for _ in range(50):
        by_t = dict(enumerate([*rng.uniform(size=6), 0.0], start=1))
        chosen = [early_time.select_timesteps(by_t, each) for each in early_time.LAMBDAS]
        assert chosen == sorted(chosen, reverse=True)


def test_measuring_changes_nothing(tmp_path):
    config = configs.resolve(
        configs.ProbeConfig(**small.NETWORK, num_timesteps=4, early_time_epochs=1, workdir=str(tmp_path))
    )
    seen = []

    def train_and_measure(session):
        for phase in session.remaining("probe"):
            for _ in session.train(phase, lambda phase, last: last):
                before = jax.device_get(session.carry.state)
                seen.append((early_time.measure(session), early_time.measure(session)))
                chex.assert_trees_all_equal(jax.device_get(session.carry.state), before)
            session.finish(phase)

    run_session(config, train_and_measure)
    ((first, second),) = seen
    assert first == second
    assert list(first) == [1, 2, 3, 4]
    assert first[4] == 0 < first[1]


# --- in a search


FLAGS = {"early_time": True, "early_time_lambda": 1.0, "final_rounds": (1, 2), "controls": ("dense",)}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imp_et") / "run"
    return small.run(imp, IMP, directory, programs=small.AsIfNew(), **FLAGS)


@pytest.fixture(scope="module")
def restarted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imp_et_restarted") / "run"
    return small.run(imp, IMP, directory, programs=small.AsIfNew(), early_time_start="restart", **FLAGS)


@pytest.mark.parametrize("rewind_epoch", [1, 2])
def test_imp_goes_on_at_fewer_timesteps_as_a_plain_script_does(rewind_epoch, tmp_path):
    """Bit for bit: two epochs at T, the choice of T', then the same network, optimiser, schedule and order
    of images at T'; the weights of the rewind epoch are those of T, or the first of T'."""
    changes = {"early_time": True, "early_time_lambda": 1.0, "early_time_epochs": 2 * rewind_epoch - 1}
    config = dataclasses.replace(IMP, rewind_epoch=rewind_epoch, epochs=4, rounds=2, **changes)
    result, run, _ = small.run(imp, config, tmp_path)
    probed, script = config.early_time_epochs, Plain(configs.resolve(config))
    rate, base = cosine(0.1, 0, 4), 0.1
    states, losses = script.train(script.begin(), 4, ("round", 0), rate, 0, probed)
    divergences = script.divergences(states[-1], 4, probed)
    chosen = early_time.select_timesteps(divergences, 1.0)
    assert chosen == result["early_time"]["num_timesteps"] == 3
    rest = script.train(jax.tree.map(jnp.asarray, states[-1]), 3, ("round", 0), rate, probed, 4)
    states, losses = states + rest[0], losses + rest[1]
    dense, point = states[-1], states[rewind_epoch - 1]
    kept = pruning.prune(pruning.magnitude(dense.params), dense.masks, 0.3)
    again = cosine(base, rewind_epoch, 4)
    _, second = script.train(script.rewound(point, kept), 3, ("round", 1), again, rewind_epoch, 4)

    ticket = tickets.load(run.ticket(1))
    chex.assert_trees_all_equal(ticket.masks, jax.device_get(kept))
    chex.assert_trees_all_equal((ticket.params, ticket.batch_stats), (point.params, point.batch_stats))
    found = {
        (kind, number): [
            x["train_loss"] for x in small.lines(run) if (x["kind"], x["round"]) == (kind, number)
        ]
        for kind, number in (("probe", 0), ("round", 0), ("round", 1))
    }
    assert found["probe", 0] + found["round", 0] == losses
    assert found["round", 1] == second
    assert len(found["round", 0]) == result["rounds"][0]["epochs"] == 4 - probed


def test_a_search_that_restarts_is_that_with_fewer_timesteps(restarted, tmp_path):
    """Bit for bit: the rounds of IMP with T' from the beginning."""
    result, run, _ = restarted
    chosen = result["early_time"]["num_timesteps"]
    assert chosen == 3
    _, there, _ = small.run(imp, IMP, tmp_path, num_timesteps=chosen)
    for number in range(3):
        ours, theirs = tickets.load(run.ticket(number)), tickets.load(there.ticket(number))
        chex.assert_trees_all_equal(
            (ours.masks, ours.params, ours.batch_stats), (theirs.masks, theirs.params, theirs.batch_stats)
        )
    curves = [
        [small.timeless(line) for line in small.lines(paths) if line["kind"] == "round"]
        for paths in (run, there)
    ]
    assert curves[0] == curves[1]


def test_tickets_are_trained_at_the_full_t_and_accuracies_kept_apart(searched):
    result, run, text = searched
    assert [row["num_timesteps"] for row in result["rounds"]] == [3, 3, 3]
    assert [row["num_timesteps"] for row in result["tickets"]] == [4, 4]
    for ticket in result["tickets"]:
        same = result["rounds"][ticket["round"]]
        assert ticket["kept"] == same["kept"]
        assert ticket["search_test_accuracy"] == same["final_test_accuracy"]
        curve = [x for x in small.lines(run) if (x["kind"], x["round"]) == ("ticket", ticket["round"])]
        assert ticket["final_test_accuracy"] == curve[-1]["test_accuracy"]
    assert result["train_compilations"] == 2
    (line,) = small.lines(run, "early_time")
    assert line["divergences"] == result["early_time"]["divergences"]
    assert "T' = 3 of 4 timesteps" in text


def test_given_timesteps_are_not_measured(restarted, tmp_path):
    """Except for the probe it is the search in which they were chosen, which began anew."""
    given, run, _ = small.run(
        imp, IMP, tmp_path, early_time=True, early_time_timesteps=3, final_rounds=(1, 2), controls=("dense",)
    )
    chosen, there, _ = restarted
    assert given["preparations"] == []
    assert given["early_time"] is None
    assert [small.timeless(row) for row in given["rounds"]] == [
        small.timeless(row) for row in chosen["rounds"]
    ]
    for a, b in zip(given["tickets"], chosen["tickets"], strict=True):
        assert a["final_test_accuracy"] == b["final_test_accuracy"]
        assert a["num_timesteps"] == 4
        assert b["search"]["epochs"] - a["search"]["epochs"] == 2
    assert run.ticket(2).exists()
    assert there.ticket(2).exists()


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"early_time_timesteps": 2}, "early_time_timesteps 2: allowed: with early_time"),
        (
            {"early_time": True, "early_time_timesteps": 4},
            "early_time_timesteps 4: allowed: 1 to 3, below T",
        ),
        (
            {"early_time": True, "early_time_timesteps": 0},
            "early_time_timesteps 0: allowed: 1 to 3, below T",
        ),
    ],
)
def test_given_timesteps_are_fewer_and_of_early_time(changes, allowed):
    with pytest.raises(InputError, match=allowed):
        configs.resolve(dataclasses.replace(IMP, **changes))


@pytest.mark.parametrize("start", ["continue", "restart"])
def test_the_ledger_counts_the_probe_and_the_rounds_before_the_ticket(start, searched, restarted):
    result, _, _ = searched if start == "continue" else restarted
    dense = 1 if start == "continue" else 3  # epochs at T' of a round 0 that lasts three
    model, x = small.MODEL, jnp.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, num_timesteps=1))

    def flops(num_timesteps, epochs):
        counted = macs(lambda v, x: model.apply(v, x, num_timesteps=num_timesteps), variables, x)
        return 6 * counted * 96 * epochs

    first, second = result["tickets"]
    probe = flops(4, 2) + flops(4, 1) / 3  # two epochs, and forward once for the divergences
    assert first["search"]["train_flops"] == probe + flops(3, dense)
    assert second["search"]["train_flops"] == probe + flops(3, dense + 2)
    assert second["search"]["epochs"] == 2 + dense + 2
    assert second["search"]["images"] == 96 * (2 + 1 + dense + 2)
    assert second["search"]["forward_flops"] == (probe + flops(4, 1) * 2 / 3 + flops(3, dense + 2)) / 3
    assert second["search"]["backward_flops"] == 2 / 3 * (flops(4, 2) + flops(3, dense + 2))
    by_timestep = result["flops_per_image"]
    assert flops(4, 1) == 3 * 96 * (by_timestep["once"] + 4 * by_timestep["per_timestep"])
    assert second["training"]["train_flops"] == flops(4, 2)
    assert second["search_relative_to_imp"] == second["search"]["train_flops"] / flops(4, 3 + 2)
    # and the dense control has as many epochs as search and ticket together
    assert result["controls"][0]["epochs"] == 2 + dense + 2 + 2


def test_two_compilations(tmp_path, monkeypatch):
    traced = []
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *a, **k: traced.append(1) or step(*a, **k))
    flags = {"early_time": True, "early_time_lambda": 1.0, "controls": ("random", "redrawn")}
    small.run(imp, IMP, tmp_path, programs=Programs(), **flags)
    assert len(traced) == 2


def test_probe_timesteps_measures_over_epochs_and_lambda(tmp_path):
    config = configs.ProbeConfig(**small.NETWORK, num_timesteps=5, early_time_epochs=2)
    result, run, text = small.run(early_time, config, tmp_path)
    measured = result["early_time"]["over_epochs"]
    assert [each["epoch"] for each in measured] == [1, 2]
    for each, line in zip(measured, small.lines(run, "early_time"), strict=True):
        by_t = {int(t): d for t, d in line["divergences"].items()}
        assert each["normalised"] == {str(t): by_t[t] / by_t[2] for t in (2, 3, 4)}
        assert each["by_lambda"] == {str(x): early_time.select_timesteps(by_t, x) for x in early_time.LAMBDAS}
    assert "T' by lambda" in text
    assert json.loads(run.result.read_text())["tickets"] == []
