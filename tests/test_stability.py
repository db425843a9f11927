"""Stability to the order of images: the rule, and what the search trains, evaluates and refuses."""

import csv
import dataclasses
import functools
import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import stub
from plain import Plain, cosine
from rich.console import Console

from snnlth_jax import configs, data, masks, report, tickets
from snnlth_jax.cli import main
from snnlth_jax.data.augment import normalise
from snnlth_jax.errors import InputError
from snnlth_jax.run import checkpoints, results
from snnlth_jax.search import imp, phases, replicates, stability
from snnlth_jax.search.programs import Variants, full_variant
from snnlth_jax.search.session import Session

EPOCHS = (0, 2)
CONFIG = configs.StabilityConfig(
    **small.EACH_EPOCH, num_timesteps=2, stability_epochs=EPOCHS, stability_points=4, learning_rate=0.05
)
IMP = configs.ImpConfig(**small.EACH_EPOCH, num_timesteps=2, rounds=2, rewind_epoch=2, learning_rate=0.05)


# --- the rule


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.25, 0.25, 0.25], 0.0),
        ([0.25, 0.75, 0.5], 0.375),
        ([0.0, 0.0, 1.0], 0.5),  # the largest is an end
        ([0.5, 0.25, 0.125, 0.5], 0.0),  # lower in between
    ],
)
def test_the_barrier_is_the_largest_error_less_the_mean_of_the_ends(errors, expected):
    assert stability.barrier(errors) == expected
    assert stability.barrier(errors[::-1]) == expected


@pytest.mark.parametrize(
    ("barriers", "expected"),
    [
        ({0: [0.0], 5: [0.0]}, 0),
        ({0: [0.3], 5: [0.02], 10: [0.019]}, 10),  # not below the bound
        ({0: [0.0, 0.3], 5: [0.3, 0.0], 10: [0.01, 0.01]}, 10),  # at all sparsities
        ({10: [0.0], 5: [0.0], 0: [0.5]}, 5),  # whatever their order
        ({0: [0.0], 5: [0.5], 10: [0.0]}, 0),
        ({0: [0.3], 5: [0.02]}, None),
    ],
)
def test_the_first_epoch_that_is_stable_at_all_sparsities_is_proposed(barriers, expected):
    assert stability.propose(barriers, 0.02) == expected


def test_the_ends_of_a_line_and_the_line_between_equals_are_exact():
    a, b = (
        {"kernel": np.float32(scale) * np.random.default_rng(seed).normal(size=(50, 50)).astype(np.float32)}
        for seed, scale in enumerate((1.0, 1e4))
    )
    chex.assert_trees_all_equal(stability.interpolate(a, b, 0.0), a)
    chex.assert_trees_all_equal(stability.interpolate(a, b, 1.0), b)
    chex.assert_trees_all_close(
        stability.interpolate(a, b, 0.25), {"kernel": 0.75 * a["kernel"] + 0.25 * b["kernel"]}, rtol=1e-5
    )
    for alpha in np.linspace(0, 1, 11):
        chex.assert_trees_all_equal(stability.interpolate(a, a, float(alpha)), a)


# --- what is trained


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    """The ticket of a search with the same network and seed, and its directory."""
    _, run, _ = small.run(imp, IMP, tmp_path_factory.mktemp("imp") / "run")
    return run.ticket(1), run


@pytest.fixture(scope="module")
def measured(ticket, tmp_path_factory):
    directory = tmp_path_factory.mktemp("stability") / "run"
    ends = {}
    with pytest.MonkeyPatch.context() as patch:
        finish = Session.finish

        def spy(self, phase, *args):
            ends[str(phase)] = jax.device_get(self.carry.state)
            finish(self, phase, *args)

        patch.setattr(Session, "finish", spy)
        result, run, text = small.run(stability, CONFIG, directory, tickets=(str(ticket[0]),))
    return result, run, text, ends


def test_every_epoch_is_measured_without_and_with_the_masks(measured, ticket):
    result, run, text, _ = measured
    record = results.read(run.result).stability
    kept = int(masks.count(tickets.load(ticket[0]).masks)[0])
    measurements = [(one.epoch, one.kept, one.ticket) for one in record.interpolations]
    whole = small.WEIGHTS
    assert measurements == [
        *((epoch, whole, None) for epoch in EPOCHS),
        *((epoch, kept, str(ticket[0])) for epoch in EPOCHS),
    ]
    for one in record.interpolations:
        assert one.alphas == (0.0, 1 / 3, 2 / 3, 1.0)
        assert one.barrier == stability.barrier(one.test_errors)
    names = [(row["kind"], row["round"], row["epochs"]) for row in result["rounds"]]
    assert names == [
        (kind, 1 + pair, 3 - EPOCHS[pair % 2]) for pair in range(4) for kind in ("copy-a", "copy-b")
    ]
    assert [(row["kind"], row["epochs"]) for row in result["preparations"]] == [("trunk", 2)]
    assert [row["kept"] for row in result["rounds"]] == [whole] * 4 + [kept] * 4
    assert result["tickets"] == result["controls"] == []
    barriers = {e: [one.barrier for one in record.interpolations if one.epoch == e] for e in EPOCHS}
    assert record.proposed == stability.propose(barriers, record.bound)
    assert "error barriers" in text
    assert "epoch 2, sparsity 24.94 %: error barrier 0.0042, below 0.02: stable" in text
    lines = small.lines(run, "stability")
    assert [line["barrier"] for line in lines] == [one.barrier for one in record.interpolations]


def test_the_trunk_is_the_beginning_of_round_0_of_imp(measured, ticket):
    """So that the weights of epoch 2 are those that a search with this rewind epoch rewinds to."""
    _, run, _, _ = measured
    weights, point = tickets.load(run.weights_of(2)), tickets.load(ticket[0])
    chex.assert_trees_all_equal(weights.params, point.params)
    chex.assert_trees_all_equal(weights.batch_stats, point.batch_stats)
    chex.assert_trees_all_equal(tickets.load(run.weights_of(0)).params, small.initial_params())
    curves = [
        [x["train_loss"] for x in small.lines(of) if x["kind"] == kind and x["round"] == 0]
        for of, kind in ((run, "trunk"), (ticket[1], "round"))
    ]
    assert curves[0] == curves[1][:2]


@pytest.mark.parametrize("schedule", ["restart", "resume"])
def test_a_plain_script_trains_the_same_copies(schedule, measured, ticket, tmp_path):
    """Bit for bit: the trunk, the masks, two orders of images."""
    _, run, _, ends = measured
    if schedule == "resume":
        _, run, _ = small.run(
            stability, CONFIG, tmp_path, tickets=(str(ticket[0]),), schedule_on_rewind=schedule
        )
    config = configs.resolve(CONFIG)
    script = Plain(config)
    initial, rate = script.begin(), config.learning_rate
    trunk, _ = script.train(initial, 2, ("round", 0), cosine(rate, 0, 3), 0, 2)
    pruned = masks.tree_map(jnp.asarray, tickets.load(ticket[0]).masks)
    starts = {0: initial, 2: trunk[1]}
    pairs = [(kept, epoch) for kept in (initial.masks, pruned) for epoch in EPOCHS]
    for number, (kept, epoch) in enumerate(pairs, start=1):
        losses = []
        for kind in ("copy-a", "copy-b"):
            start = script.rewound(starts[epoch], kept)
            schedule_of = cosine(rate, epoch if schedule == "restart" else 0, 3)
            states, expected = script.train(start, 2, (kind, number), schedule_of, epoch, 3)
            got = [x["train_loss"] for x in small.lines(run) if (x["kind"], x["round"]) == (kind, number)]
            assert got == expected
            losses.append(got)
            if schedule == "restart":
                chex.assert_trees_all_equal(ends[f"{kind} {number}"].params, states[-1].params)
        assert losses[0] != losses[1]


# --- what is evaluated


@pytest.mark.parametrize("num_timesteps", [1, 3])
def test_statistics_are_the_mean_over_batches_of_the_training_images(num_timesteps):
    """Against a plain loop: one step of training from statistics of 0; 0.9 is batch norm's momentum."""
    script = Plain(configs.resolve(CONFIG))
    state, key, images = script.begin(), jax.random.key(1), script.dataset.train.images
    zeros = jax.tree.map(jnp.zeros_like, state.batch_stats)

    @jax.jit
    def step(images):
        variables = {"params": state.params, "batch_stats": zeros}
        images = normalise(images, script.dataset.augmentation)
        return small.MODEL.apply(
            variables, images, num_timesteps=num_timesteps, train=True, mutable=["batch_stats"]
        )[1]["batch_stats"]

    each = [step(images[chosen]) for chosen in jax.random.permutation(key, 96).reshape(2, 48)]
    # the first batch norm runs once for all timesteps, the other once for each
    decays = {"layer01": 0.9, "layer02": 0.9**num_timesteps}
    expected = {
        name: jax.tree.map(lambda a, b, d=decay: (a + b) / 2 / (1 - d), each[0][name], each[1][name])
        for name, decay in decays.items()
    }
    got = script.program(state, num_timesteps).statistics(state, script.split, key)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-6)


def test_points_are_networks_between_the_trained_copies(measured):
    """Evaluated as a search evaluates, with statistics of their own; the ends are the copies."""
    _, run, _, ends = measured
    script = Plain(configs.resolve(CONFIG))
    a, b = ends["copy-a 2"], ends["copy-b 2"]
    record = results.read(run.result).stability.interpolations[1]
    program, test = script.program(a, 2), jax.device_put(script.dataset.test)
    for alpha, error, loss in zip(record.alphas, record.test_errors, record.train_losses, strict=True):
        params = {0.0: a.params, 1.0: b.params}.get(alpha) or stability.interpolate(a.params, b.params, alpha)
        state = a._replace(params=params)
        state = state._replace(batch_stats=program.statistics(state, script.split, script.score_key))
        assert error == 1 - int(program.evaluate(state, test).metrics.correct) / 360
        assert loss == float(program.evaluate(state, script.split).metrics.loss) / 96


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("divided", ["yes", "no"])
def test_statistics_on_several_devices_are_those_of_one(devices, divided):
    dataset = data.load("digits", train_examples=100, validation_examples=20)
    found = []
    for count in (1, devices):
        shard = divided if count > 1 else "no"
        config = configs.resolve(dataclasses.replace(CONFIG, devices=count, shard_data=shard))
        variants = Variants(config, dataset, small.MODEL)
        state = variants.init_state(jax.random.key(3))
        split, test = map(variants.on_devices, (dataset.train, dataset.test))
        program, _ = variants.program(full_variant(config), state, split, test)
        found.append(jax.device_get(program.statistics(state, split, jax.random.key(1))))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_two_devices_measure_as_one(parallel, measured, ticket, tmp_path):
    """Up to rounding, which can move a potential over the threshold."""
    _, alone, _, _ = measured
    flags = {"devices": 2, "parallel": parallel, "tickets": (str(ticket[0]),)}
    _, run, _ = small.run(stability, CONFIG, tmp_path, **flags)
    pairs = [results.read(paths.result).stability.interpolations for paths in (alone, run)]
    for one, two in zip(*pairs, strict=True):
        np.testing.assert_allclose(two.train_losses, one.train_losses, rtol=0.01)


def test_copies_in_the_same_order_have_no_barrier(tmp_path, monkeypatch):
    planned = phases.stability

    def same_order(config):
        trunk, *copies = planned(config)
        return [trunk, *(dataclasses.replace(copy, order="copy-a") for copy in copies)]

    monkeypatch.setattr(phases, "stability", same_order)
    result, run, _ = small.run(stability, CONFIG, tmp_path)
    for one in results.read(run.result).stability.interpolations:
        assert one.barrier == 0
        assert len(set(one.train_losses)) == 1
    assert result["stability"]["proposed"] == 0


# --- as a search


def test_the_report_shows_barriers_and_lines(measured, ticket, tmp_path):
    """With the mean over two seeds, of which the second is the first with other numbers."""
    _, run, _, _ = measured
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        content = small.json_of(run.result)
        content["config"]["seed"] = seed
        (tmp_path / f"seed{seed}" / "result.json").write_text(json.dumps(content))
    report.write([str(tmp_path)], str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Stability to the order of images" in page
    record = results.read(run.result).stability
    for name, numbers in {"stability": 1, "stability-lines": 4}.items():
        files = {suffix: tmp_path / "out" / "report" / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv")}
        assert files["png"].read_bytes().startswith(b"\x89PNG")
        assert files["pdf"].read_bytes().startswith(b"%PDF")
        rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
        assert len(rows) == 2 * numbers * len(record.interpolations)
        assert [int(row["epoch"]) for row in rows[:: 4 if numbers == 4 else 1]] == [0, 2, 0, 2] * 2
    shown = csv.DictReader((tmp_path / "out" / "report" / "stability.csv").read_text().splitlines())
    assert [float(row["barrier"]) for row in shown] == [one.barrier for one in record.interpolations] * 2


def test_interrupted_again_and_again(measured, ticket, tmp_path, monkeypatch):
    """A real search, cut off before the third checkpoint or result of each process, while it has one."""
    _, undisturbed, _, _ = measured
    attempts = 0
    while True:
        attempts += 1
        with monkeypatch.context() as patch:
            small.cut_off_before(patch, [(checkpoints, "save"), (results, "write")], 3)
            try:
                result, run, text = small.run(stability, CONFIG, tmp_path / "run", tickets=(str(ticket[0]),))
                break
            except small.Interrupted:
                continue
    assert attempts >= 5
    assert "resuming after" in text
    small.same_outcome(run, undisturbed)
    assert result["stability"] == small.json_of(undisturbed.result)["stability"]
    for epoch in EPOCHS:
        assert run.weights_of(epoch).read_bytes() == undisturbed.weights_of(epoch).read_bytes()


def test_nothing_is_proposed_before_all_is_measured(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        small.cut_off(patch, results, "write", 5)
        with pytest.raises(small.Interrupted):
            small.run(stability, CONFIG, tmp_path, programs=stub.StubPrograms(), stability_bound=1.0)
    (path,) = tmp_path.glob("result.json")
    record = small.json_of(path)["stability"]
    assert len(record["interpolations"]) == 1
    assert record["proposed"] is None
    result, _, text = small.run(
        stability, CONFIG, tmp_path, programs=stub.StubPrograms(), stability_bound=1.0
    )
    assert result["stability"]["proposed"] == 0
    assert "rewind epoch 0, the first with error barriers below 1" in text


def test_seeds_have_tickets_of_their_own(tmp_path):
    search = functools.partial(imp.search, programs=stub.StubPrograms())
    of_seeds = dataclasses.replace(IMP, workdir=str(tmp_path / "imp"), seeds=(1, 2))
    console = Console(file=io.StringIO())
    replicates.run(search, configs.resolve(of_seeds), console)
    files = (str(tmp_path / "imp" / "seed{seed}" / "tickets" / "round_01.safetensors"),)
    config = configs.resolve(
        dataclasses.replace(
            CONFIG, workdir=str(tmp_path / "run"), seeds=(1, 2), tickets=files, stability_epochs=(1,)
        )
    )
    search = functools.partial(stability.search, programs=stub.StubPrograms())
    summary = replicates.run(search, config, console)
    assert [record.interpolations[-1].ticket for record in summary.stability] == [
        files[0].replace("{seed}", seed) for seed in "12"
    ]
    written = small.json_of(tmp_path / "run" / "result.json")
    assert written["stability"] == results.to_json(summary)["stability"]


def test_defaults_are_spread_over_the_epochs():
    def candidates(epochs):
        return configs.resolve(configs.StabilityConfig(epochs=epochs)).stability_epochs

    assert candidates(1) == (0,)
    assert candidates(15) == (0, 1, 2, 5, 10)
    assert candidates(300) == (0, 1, 2, 5, 10, 20, 50, 100, 200)
    assert configs.resolve(configs.StabilityConfig(stability_epochs=(3, 1))).stability_epochs == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--stability-epochs 0,15", "--stability-epochs 0,15: allowed: one or more of 0 to 14"),
        ("--stability-epochs 0,-1", "--stability-epochs -1,0: allowed: one or more of 0 to 14"),
        ("--stability-epochs 2,2", "--stability-epochs 2,2: allowed: each once"),
        ("--stability-epochs ,", "--stability-epochs : allowed: one or more of 0 to 14"),
        ("--stability-epochs x", "--stability-epochs"),
        ("--stability-points 1", "--stability-points 1: allowed: 3 to 1001"),
        ("--stability-points 2", "--stability-points 2: allowed: 3 to 1001"),
        ("--stability-bound 0", "--stability-bound 0.0: allowed: above 0, at most 1"),
        ("--stability-bound nan", "--stability-bound nan: allowed: above 0, at most 1"),
        ("--schedule-on-rewind again", "--schedule-on-rewind again: allowed: restart, resume"),
        ("--tickets a,a", "--tickets a,a: allowed: each once"),
        ("--tickets nowhere.safetensors", "nowhere.safetensors: no such ticket file"),
        ("--tickets nowhere{seed} --seeds 3,4", "--tickets nowhere3: No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["stability", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"dataset": "cifar10"}, "a ticket of dataset cifar10; allowed: of digits"),
        ({"seed": 7}, "a ticket of seed 7; allowed: of 0"),
    ],
)
def test_a_ticket_of_other_images_or_another_seed_is_refused(provenance, message, ticket, tmp_path):
    other = tickets.load(ticket[0])
    tickets.save(tmp_path / "other", other._replace(provenance=other.provenance | provenance))
    with pytest.raises(InputError, match=message):
        small.run(stability, CONFIG, tmp_path / "run", tickets=(str(tmp_path / "other"),))
    assert not (tmp_path / "run").exists()


def test_a_ticket_of_another_network_is_refused(ticket, tmp_path):
    with pytest.raises(InputError, match="a ticket of another network"):
        small.run(stability, CONFIG, tmp_path / "run", tickets=(str(ticket[0]),), width=0.2)
    assert not (tmp_path / "run").exists()
