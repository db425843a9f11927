"""Records of searches about their networks, that nothing disturbs them, and `snnlth analyse` on them."""

import io
import json
import shutil

import numpy as np
import pytest
import small
from rich.console import Console

from snnlth_jax import configs, data, masks, tickets
from snnlth_jax.analysis import activity
from snnlth_jax.analysis.energy import energy
from snnlth_jax.cli import main
from snnlth_jax.errors import InputError
from snnlth_jax.report import analyse
from snnlth_jax.run import results, spikes
from snnlth_jax.search import early_time, imp, measure, programs, replicates, transfer
from snnlth_jax.search.programs import Programs

KEYS = ["name", "weights", "kept", "channels", "dead_channels", "neurons", "silent_neurons"]
KEYS += ["saturated_neurons", "firing_rate", "spikes_per_image", "synops_per_image", "macs_per_image"]
SMALL = configs.ImpConfig(
    **small.NETWORK, num_timesteps=2, rounds=3, rewind_epoch=1, prune_fraction=0.3, controls=("random",)
)
TRANSFER = configs.TransferConfig(**small.NETWORK, num_timesteps=2, rounds=2, rewind_epoch=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    result, run, _ = small.run(imp, SMALL, tmp_path_factory.mktemp("imp") / "run")
    return result, run


@pytest.fixture(scope="module")
def transferred(tmp_path_factory):
    result, run, _ = small.run(transfer, TRANSFER, tmp_path_factory.mktemp("transfer") / "run")
    return result, run


def test_every_training_records_its_layers(finished):
    result, run = finished
    rows = [*result["rounds"], *result["tickets"], *result["controls"]]
    assert len(rows) == 3 + 1 + 1
    for row in rows:
        assert row["measured_images"] == 360
        assert row["weights_on_no_path"] >= 0
        for layer in row["layers"]:
            assert list(layer) == KEYS
            assert len(layer["synops_per_image"]) == len(layer["macs_per_image"]) == 2
        assert sum(layer["kept"] for layer in row["layers"]) == row["kept"]
    for row in result["rounds"]:
        kept = masks.by_layer(tickets.load(run.ticket(row["round"])).masks)
        assert {layer["name"]: (layer["kept"], layer["weights"]) for layer in row["layers"]} == kept
    lines = small.lines(run, "round")
    for line, row in zip(lines, [*result["rounds"], *result["controls"]], strict=True):
        assert (line["layers"], line["measured_images"]) == (row["layers"], row["measured_images"])
    assert json.loads(run.result.read_text())["rounds"] == result["rounds"]


def test_trained_networks_leave_their_spikes_for_one_image(finished, transferred):
    """One small file for each network that is kept, with the layers that spike."""
    result, run = finished
    assert sorted(path.stem for path in run.spikes.iterdir()) == ["random_02", "round_00", "round_02"]
    for path in run.spikes.iterdir():
        layers = spikes.read(path).layers
        spiking = [layer for layer in result["rounds"][0]["layers"] if layer["neurons"]]
        assert [(layer.name, layer.neurons) for layer in layers] == [
            (layer["name"], layer["neurons"]) for layer in spiking
        ]
        assert all(len(layer.firing) == 2 for layer in layers)
        assert any(sum(layer.firing) for layer in layers)
        assert path.stat().length < 20_000
    _, twins = transferred  # whose dense network has none
    assert [path.stem for path in twins.spikes.iterdir()] == ["ticket_01"]


def test_twins_have_no_spikes_and_their_tickets_do(transferred):
    result, _ = transferred
    for row in result["rounds"]:
        assert row["measured_images"] == 0
        assert {layer["firing_rate"] for layer in row["layers"]} == {None}
        assert all(layer["macs_per_image"][0] > 0 == layer["synops_per_image"][0] for layer in row["layers"])
    (row,) = result["tickets"]
    assert row["layers"][0]["spikes_per_image"] > 0
    assert all(len(layer["synops_per_image"]) == 2 for layer in row["layers"])


def test_trainings_that_are_not_kept_are_not_measured(tmp_path):
    config = configs.ProbeConfig(**small.NETWORK, num_timesteps=3, early_time_examples=20)
    result, _, _ = small.run(early_time, config, tmp_path)
    assert "layers" not in result["preparations"][0]


def test_interrupted_while_measuring_it_records_the_same(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        small.cut_off(patch, programs, "measure", 1)
        with pytest.raises(small.Interrupted):
            small.run(imp, SMALL, tmp_path)
    _, run, _ = small.run(imp, SMALL, tmp_path)
    small.same_outcome(finished[1], run)
    assert small.lines(run, "round")[0]["layers"]


def test_one_compilation_counts_the_spikes_of_all_rounds(tmp_path, monkeypatch):
    traced, count = [], activity.count_spikes
    monkeypatch.setattr(activity, "count_spikes", lambda *a, **k: traced.append(1) or count(*a, **k))
    small.run(imp, SMALL, tmp_path, programs=Programs())
    assert len(traced) == 1


def test_several_devices_record_what_one_does(finished, tmp_path):
    """Up to rounding, which can move a spike."""
    for how in ("shard_map", "pmap"):
        changes = {"devices": 2, "parallel": how, "shard_data": "yes" if how == "shard_map" else "no"}
        result, _, _ = small.run(imp, SMALL, tmp_path / how, rounds=1, controls=(), **changes)
        for ours, theirs in zip(
            result["rounds"][0]["layers"], finished[0]["rounds"][0]["layers"], strict=True
        ):
            assert ours["macs_per_image"] == theirs["macs_per_image"]
            np.testing.assert_allclose(ours["synops_per_image"], theirs["synops_per_image"], rtol=0.05)


def test_measured_images_are_bounded_and_the_same_each_time():
    images = data.load("digits").test.images
    assert measure.images_to_count_on(images).shape == images.shape
    many = np.arange(2500)
    chosen = measure.images_to_count_on(many)
    assert len(chosen) == 1000
    assert np.all(np.diff(chosen) >= 2)


# --- the command


def shown(workdir, **options):
    console = Console(file=io.StringIO(), width=200)
    analyse.show(workdir, console=console, **options)
    return console.file.getvalue()


def test_what_is_shown_is_what_was_recorded(finished):
    _, run = finished
    text = shown(run.config.parent, mac=2.0, ac=1.0)
    dense, *_, last = results.read(run.result).rounds
    for row in (dense, last):
        operations = energy(row.layers, 2.0, 1.0)
        assert f"{operations.synops:,.0f}" in text
        assert f"{operations.picojoules / 1e3:,.3g}" in text
        assert f"{100 * row.sparsity:.2f} %" in text
    assert f"{last.weights_on_no_path:,} of {last.kept:,} kept weights on no path" in text
    assert "round 1" not in text
    assert "round 1," in shown(run.config.parent, rounds=(1,))
    assert "spikes of 360 test images; 2 pJ per MAC, 1 pJ per SynOp" in text


def test_tickets_of_the_twin_stand_beside_it(transferred):
    text = shown(transferred[1].config.parent)
    assert "round 0, relu T=1" in text
    assert "ticket 1, lif T=2" in text


def without_layers(result):
    for part in ("rounds", "tickets", "controls"):
        for row in result[part]:
            del row["layers"]
    return json.dumps(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: None, "no result.json; allowed: the directory of a search"),
        (lambda result: '{"rounds"', "damaged"),
        (lambda result: "{}", "damaged (Object missing required field 'method')"),
        (lambda r: json.dumps(r | {"format": "snnlth-result-9"}), "this version reads 'snnlth-result-1'"),
        (without_layers, "recorded by a version without analysis"),
        (lambda r: json.dumps({**r, "rounds": [], "tickets": [], "controls": []}), "nothing is trained yet"),
    ],
    ids=["none", "cut short", "another's", "another format", "older", "empty"],
)
def test_directories_with_nothing_to_show(finished, tmp_path, capsys, change, message):
    _, run = finished
    shutil.copy(run.result, tmp_path / "result.json")
    text = change(json.loads(run.result.read_text()))
    (tmp_path / "result.json").unlink()
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    assert main(["analyse", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert message in error
    assert str(tmp_path) in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rounds 1,7", "--rounds 7: allowed: 0, 1, 2"),
        ("--energy-mac nan", "--energy-mac nan: allowed: picojoules, 0 or more"),
        ("--energy-ac=-1", "--energy-ac -1.0: allowed: picojoules, 0 or more"),
        ("--rounds two", "--rounds"),
    ],
)
def test_what_the_command_refuses(finished, capsys, arguments, message):
    assert main(["analyse", str(finished[1].config.parent), *arguments.split()]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert message in error


def test_several_seeds_are_shown_one_by_one(tmp_path):
    smallest = small.NETWORK | {"epochs": 1, "num_timesteps": 1, "rounds": 1, "rewind_epoch": 0}
    config = configs.resolve(configs.ImpConfig(**smallest, seeds=(0,), workdir=str(tmp_path)))
    replicates.run(imp.search, config, Console(file=io.StringIO()))
    with pytest.raises(InputError, match=r"several seeds; allowed: its directories seed0$"):
        shown(tmp_path)
    assert "sparsity" in shown(tmp_path / "seed0")
