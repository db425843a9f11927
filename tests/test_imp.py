"""The search: the mathematics of tickets, and that going on after a stop changes nothing."""

import dataclasses
import json
import math
import shutil
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from snnlth_jax import configs, data, masks, models, pruning, tickets, train
from snnlth_jax.analysis.flops import macs
from snnlth_jax.errors import InputError
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import imp, rewinding
from snnlth_jax.search.programs import Programs
from snnlth_jax.train import loop, optimizers

SMALL = configs.ImpConfig(**small.NETWORK, num_timesteps=2, rounds=4, rewind_epoch=1, prune_fraction=0.3)


def search(tmp_path, name="run", **changes):
    return small.run(imp, SMALL, tmp_path / name, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One search that several tests look at."""
    return search(tmp_path_factory.mktemp("imp"), controls=("random",), final_rounds=(1, 2, 3))


def test_rounds_have_exact_counts_and_nested_masks(finished):
    result, run, _ = finished
    kept = result["rounds"][0]["total"]
    previous = None
    for row in result["rounds"]:
        ticket = tickets.load(run.ticket(row["round"]))
        assert row["kept"] == kept == masks.count(ticket.masks)[0]
        assert row["sparsity"] == 1 - kept / row["total"]
        if previous is not None:
            assert masks.is_subset(ticket.masks, previous)
        previous = ticket.masks
        kept -= math.floor(3 * kept / 10)


def test_all_tickets_hold_the_weights_of_the_rewind_epoch(finished, tmp_path):
    """They are those of a dense network trained for just that long."""
    _, run, _ = finished
    first = tickets.load(run.ticket(0))
    for number in (1, 2, 3):
        ticket = tickets.load(run.ticket(number))
        chex.assert_trees_all_equal((ticket.params, ticket.batch_stats), (first.params, first.batch_stats))
    config = configs.resolve(dataclasses.replace(SMALL, workdir=str(tmp_path)))
    dataset = data.load("digits", train_examples=96, validation_examples=20)
    model = small.MODEL
    tx = optimizers.create()
    init_key, train_key, _ = jax.random.split(jax.random.key(0), 3)
    state = train.init_state(init_key, model, tx, jnp.zeros((1, 8, 8, 1)))
    chex.assert_trees_all_equal_shapes(state.params, first.params)
    program = train.compile_program(
        model,
        tx,
        state,
        dataset.train,
        dataset.test,
        augmentation=dataset.augmentation,
        batch_size=config.batch_size,
        num_timesteps=2,
    )
    rate = optimizers.learning_rates("cosine", config.learning_rate, 3)
    epochs = train.fit(
        program,
        state,
        jax.device_put(dataset.train),
        key=jax.random.fold_in(jax.random.fold_in(train_key, zlib.crc32(b"round")), 0),
        learning_rate=rate,
        first_epoch=0,
        last_epoch=1,
    )
    chex.assert_trees_all_equal(jax.device_get(next(epochs).state.params), first.params)


def test_metrics_hold_each_epoch_once_and_the_schedule_of_each_round(finished):
    result, run, _ = finished
    epochs = small.lines(run)
    expected = [("round", 0, 1)] + [("round", 0, e) for e in (2, 3)]
    expected += [("round", r, e) for r in (1, 2, 3) for e in (2, 3)]
    expected += [("random", r, e) for r in (1, 2, 3) for e in (2, 3)]
    assert [(line["kind"], line["round"], line["epoch"]) for line in epochs] == expected
    base = 0.1  # a full cosine over the epochs that are left
    np.testing.assert_allclose(
        [line["learning_rate"] for line in epochs[:3]], [base, base * 0.75, base * 0.25]
    )
    np.testing.assert_allclose([line["learning_rate"] for line in epochs[3:5]], [base, base / 2])
    assert [line["round"] for line in small.lines(run, "round")] == [0, 1, 2, 3, 1, 2, 3]
    row = result["rounds"][2]
    curve = [line for line in epochs if (line["kind"], line["round"]) == ("round", 2)]
    assert row["final_test_accuracy"] == curve[-1]["test_accuracy"]
    assert row["best_test_accuracy"] == max(line["test_accuracy"] for line in curve)
    assert row["final_validation_accuracy"] == curve[-1]["validation_accuracy"]
    assert json.loads(run.result.read_text()) == json.loads(json.dumps(result))


def test_one_compilation_for_all_rounds(tmp_path, monkeypatch):
    traced = []
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *a, **k: traced.append(1) or step(*a, **k))
    result, _, _ = search(tmp_path, controls=("random",), batch_size=40, programs=Programs())
    # the step is traced for full batches and for the last, smaller one, once each
    assert len(traced) == 2
    assert result["train_compilations"] == 1


def test_random_controls_have_the_layer_counts_of_their_ticket(finished):
    result, _, _ = finished
    assert [row["kept"] for row in result["controls"]] == [row["kept"] for row in result["rounds"][1:]]
    assert [row["kind"] for row in result["controls"]] == ["random"] * 3


def test_flops_follow_from_the_architecture(finished):
    result, _, _ = finished
    model = small.MODEL
    x = jnp.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, num_timesteps=1))
    counted = macs(lambda v, x: model.apply(v, x, num_timesteps=2), variables, x)
    assert [row["train_flops"] for row in result["rounds"]] == [6 * counted * 96 * e for e in (3, 2, 2, 2)]


@pytest.mark.parametrize(
    ("network", "once", "per_timestep"), [("vgg16", 1.77e6, 311.4e6), ("resnet19", 1.77e6, 553.8e6)]
)
def test_costs_are_the_papers(network, once, per_timestep):
    model, x = models.create(network, 10), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, num_timesteps=1))
    for num_timesteps in (1, 2):
        counted = macs(lambda v, x, t=num_timesteps: model.apply(v, x, num_timesteps=t), variables, x)
        np.testing.assert_allclose(counted, once + num_timesteps * per_timestep, rtol=1e-3)


@pytest.mark.parametrize("bn_on_rewind", ["rewind", "keep", "reset"])
def test_rewind(bn_on_rewind):
    tx = optimizers.create()
    params = {"dense": {"kernel": jnp.array([[1.0, -2.0, 3.0]]), "bias": jnp.zeros(3)}}
    stats = {"norm": {"mean": jnp.array([5.0]), "var": jnp.array([7.0])}}
    point = rewinding.RewindPoint(jnp.int32(9), params, stats)
    later = jax.tree.map(lambda x: x + 1, stats)
    state = train.TrainState(
        jnp.int32(20), jax.tree.map(jnp.zeros_like, params), later, masks.make(params), tx.init(params)
    )
    new = {"dense": {"kernel": jnp.array([[True, False, True]]), "bias": None}}
    got = rewinding.rewind(state, point, new, tx, bn_on_rewind)
    assert got.params["dense"]["kernel"].tolist() == [[1.0, 0.0, 3.0]]
    assert int(got.step) == 9
    expected = {"rewind": stats, "keep": later, "reset": {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}}
    chex.assert_trees_all_equal(got.batch_stats, expected[bn_on_rewind])
    chex.assert_trees_all_equal(got.opt_state, tx.init(params))
    # training consumes the arrays of its state: the point must not share them
    assert got.params["dense"]["bias"] is not params["dense"]["bias"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rewind_epoch": 0, "bn_on_rewind": "reset"},
        {"scope": "layer", "optimizer": "adam", "learning_rate": 0.01, "schedule": "step"},
        {"activation": "relu", "num_timesteps": None, "augment": False},
        {"arch": "resnet7", "dtype": "bfloat16", "bn_on_rewind": "keep"},
    ],
    ids=str,
)
def test_options(tmp_path, changes):
    result, run, _ = search(tmp_path, rounds=2, epochs=2, **changes)
    assert result["finished"]
    ticket = tickets.load(run.ticket(1))
    if changes.get("scope") == "layer":
        for kept, total in masks.by_layer(ticket.masks).values():
            assert kept == total - math.floor(3 * total / 10)
    if changes.get("rewind_epoch") == 0:
        chex.assert_trees_all_equal(ticket.params, small.initial_params())


@pytest.mark.parametrize("rewinding", ["learning-rate", "fine-tune"])
def test_without_weight_rewinding_survivors_keep_what_they_learned(tmp_path, rewinding):
    """A round then starts with the very weights that its masks were drawn from."""
    _, run, _ = search(tmp_path, rounds=3, rewinding=rewinding)
    everything = masks.make(tickets.load(run.ticket(0)).params)
    previous = everything
    for number in (1, 2):
        ticket = tickets.load(run.ticket(number))
        drawn = pruning.prune(pruning.magnitude(ticket.params), previous, 0.3)
        chex.assert_trees_all_equal(jax.device_get(drawn), ticket.masks)
        previous = drawn
    rates = [x["learning_rate"] for x in small.lines(run) if x["round"] == 2]
    np.testing.assert_allclose(rates, {"learning-rate": [0.1, 0.05], "fine-tune": [0.001] * 2}[rewinding])


def test_seeds_matter_and_repeat(tmp_path):
    def curve(name, seed):
        _, run, _ = search(tmp_path, name, rounds=1, epochs=2, seed=seed)
        return [(line["train_loss"], line["test_loss"]) for line in small.lines(run)]

    first = curve("a", 0)
    assert first == curve("b", 0)
    assert first != curve("c", 1)


def test_a_finished_search_does_nothing(finished):
    result, run, _ = finished
    before = {path: path.read_bytes() for path in map(type(run.result), [run.result, run.metrics])}
    again, _, text = search(
        run.config.parent.parent, run.config.parent.name, controls=("random",), final_rounds=(1, 2, 3)
    )
    assert again == json.loads(json.dumps(result))
    assert "finished" in text
    assert {path: path.read_bytes() for path in before} == before


def test_the_table_at_the_end(finished):
    result, _, text = finished
    row = result["rounds"][3]
    table_line = next(line for line in text.splitlines() if line.startswith("│ round 3"))
    for cell in (f"{100 * row['sparsity']:.2f} %", f"{row['kept']:,}", f"{row['final_test_accuracy']:.4f}"):
        assert cell in table_line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{not json", "its config.json is damaged"),
        ("config.json", "[1]", "its config.json is damaged"),
        ("metrics.jsonl", "mine", "holds metrics.jsonl without a config.json"),
        ("result.json", '{"finished": true}', "holds result.json without a config.json"),
    ],
)
def test_a_directory_of_something_else_is_left_alone(tmp_path, name, content, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(InputError, match=message):
        search(tmp_path)
    assert [(p.name, p.read_text()) for p in (tmp_path / "run").iterdir()] == [(name, content)]


SHORT = {"rounds": 3, "epochs": 4, "controls": ("random",), "checkpoint_every": 2, "eval_every": 2}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return search(tmp_path_factory.mktemp("short"), **SHORT)[1]


def test_a_damaged_result_is_made_again(tmp_path, short):
    shutil.copytree(short.config.parent, tmp_path / "run")
    run = rundir.paths(tmp_path / "run")
    run.result.write_text('{"finished": tr')
    search(tmp_path, **SHORT)
    small.same_outcome(run, short)
