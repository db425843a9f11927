"""result.json: every record is written and read back; older ones are read, damaged ones refused in a line."""

import ast
import copy
import dataclasses
import io
import json
import random
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from etils import epath
from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.cli import main
from snnlth_jax.errors import InputError
from snnlth_jax.report import analyse, runs
from snnlth_jax.report.series import experiments
from snnlth_jax.run import events, results
from snnlth_jax.run.results import (
    Cost,
    Devices,
    EarlyBirdRecord,
    EarlyTimeEpoch,
    EarlyTimeRecord,
    FlopsPerImage,
    InterpolationRecord,
    LayerRecord,
    Result,
    Row,
    StabilityRecord,
    TicketRow,
)
from snnlth_jax.search import replicates

CONFIG = {
    "dataset": "digits",
    "arch": "vgg5",
    "num_timesteps": 4,
    "activation": "lif",
    "seed": 0,
    "like": None,
}
CONFIG |= {"sparsity": 0.75, "queue": 5, "tau": 0.02, "final_rounds": [1]}
CONFIG |= {"early_time_lambda": 0.6, "early_time_normalisation": "first"}


def layer(name, spiking):
    counts = {"weights": 8, "kept": 6, "channels": 2, "dead_channels": 1}
    neurons = {"neurons": 4, "silent_neurons": 1, "saturated_neurons": 0, "firing_rate": (0.25, 0.5)}
    spikes = (
        {**neurons, "spikes_per_image": 3.0} if spiking else dict.fromkeys([*neurons, "spikes_per_image"])
    )
    return LayerRecord(name=name, **counts, **spikes, synops_per_image=(0.0, 6.5), macs_per_image=(9.0, 0.0))


ROW = {"round": 0, "kept": 12, "total": 16, "network": "lif T=4", "num_timesteps": 4, "epochs": 3}
ROW |= {"images": 30, "forward_flops": 100, "train_flops": 300, "device_seconds": 1.5, "seconds": 2.5}
ACCURACIES = {"final_test_accuracy": 0.0, "best_test_accuracy": 0.75}
ACCURACIES |= {"final_validation_accuracy": 0.5, "best_validation_accuracy": 1.0}
MEASURED = {"layers": (layer("a", True), layer("b", False)), "measured_images": 10, "weights_on_no_path": 2}
COST = Cost(epochs=3, images=30, train_flops=300, forward_flops=100, backward_flops=200, device_seconds=1.5)


def result(seed=0):
    """One of every record."""
    trained = ROW | ACCURACIES | MEASURED
    found = {"search_test_accuracy": 0.5, "imp_epochs": 6, "search_relative_to_imp": 0.5}
    measured = EarlyTimeEpoch(epoch=1, normalised={2: 1.0, 3: 0.25}, by_lambda={0.1: 4, 0.6: 3})
    return Result(
        method="eb+et",
        finished=True,
        config_hash="0123",
        config=CONFIG | {"seed": seed},
        preparations=(
            Row(kind="probe", **ROW, ticket=None),
            Row(kind="scores", **ROW, ticket=None, compile_seconds=1.0),
        ),
        rounds=(Row(kind="search", **trained, ticket="tickets/round_01.safetensors"),),
        tickets=(TicketRow(kind="ticket", **trained, ticket="x", search=COST, training=COST, **found),),
        controls=(Row(kind="random", **trained, ticket=None, collapsed_layers=("a",)),),
        flops_per_image=FlopsPerImage(once=3, per_timestep=5),
        early_time=EarlyTimeRecord(
            num_timesteps=3,
            divergences={1: 2.0, 2: 0.5, 3: 0.1, 4: 0.0},
            normalised={2: 1.0, 3: 0.2},
            over_epochs=(measured,),
        ),
        early_bird=EarlyBirdRecord(
            fired=True, epoch=4, criterion="overlap", largest_hamming=0.01, largest_overlap=0.5
        ),
        stability=StabilityRecord(
            bound=0.02,
            proposed=5,
            interpolations=(
                InterpolationRecord(
                    epoch=5,
                    ticket="x",
                    kept=12,
                    total=16,
                    alphas=(0.0, 0.5, 1.0),
                    test_errors=(0.25, 0.25, 0.5),
                    train_losses=(1.0, 3.0, 2.0),
                    barrier=0.125,
                ),
            ),
        ),
        overrides=("--devices 2 there, 1 now",),
        train_compilations=2,
        compile_seconds=3.5,
        versions={"jax": "1"},
        devices=Devices(platform="cpu", kind="cpu", count=1),
    )


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path / "result.json")


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_is_written_is_read_back(path, seeds):
    """A result, and the summary of two."""
    record = result() if seeds == 1 else replicates.summary([result(), result(1)])
    results.write(path, record)
    assert results.read(path) == record
    assert results.from_json(json.loads(path.read_text())) == record


def test_a_row_has_no_keys_for_what_was_not_measured():
    probe, scores, (search,) = *result().preparations, result().rounds
    unmeasured = {*ACCURACIES, *MEASURED, "compile_seconds"}
    assert unmeasured.isdisjoint(results.to_json(probe))
    assert unmeasured & set(results.to_json(scores)) == {"compile_seconds"}
    assert unmeasured - set(results.to_json(search)) == {"compile_seconds"}


def test_a_divergence_may_be_no_number(path):
    """Logits that overflow make it one; accuracies and counts never are."""
    written = result()
    divergences = {**written.early_time.divergences, 1: float("inf")}
    early_time = EarlyTimeRecord(num_timesteps=4, divergences=divergences)
    value = results.to_json(written) | {"early_time": results.to_json(early_time)}
    path.write_text(json.dumps(value))
    assert results.read(path).early_time == early_time


def test_older_results_are_read(path):
    """The first had no name of the format, no layers, no images."""
    value = results.to_json(result())
    for name in ("format", "overrides", "flops_per_image", "train_compilations", "preparations"):
        del value[name]
    for part in ("rounds", "tickets", "controls"):
        for row in value[part]:
            for name in ("layers", "measured_images", "weights_on_no_path", "collapsed_layers", "images"):
                del row[name]
    path.write_text(json.dumps(value))
    read = results.read(path)
    (row,) = read.rounds
    assert (row.layers, row.images, row.sparsity, row.name) == ((), 0, 0.25, "search")
    assert (read.format, read.preparations) == (results.FORMAT, ())


def test_numbers_as_large_as_they_get():
    """FLOPs of a long search may not fit into 64 bits."""
    row = results.to_json(Row(kind="round", **ROW | {"train_flops": 2**70}, ticket=None))
    assert results.convert(row, Row).train_flops == 2**70


# --- damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "recursion"),
        ('{"a":' * 100_000, "recursion"),
        ("[]", "not an object"),
        ("{", "property name"),
        ("", "Expecting value"),
        (b"\xff", "decode"),
        ('{"method": ' + "9" * 40 + "}", "the number 99999999... has more than 30 digits"),
        ('{"format": ["x"]}', "format ['x'], this version reads 'snnlth-result-1'"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_result_is_refused(path, content, message):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(path, message)


def test_a_file_without_end_is_refused(path, monkeypatch):
    results.write(path, result())
    monkeypatch.setattr(results, "MAX_BYTES", 100)
    refused(path, "more than 100 bytes")


def refused(path, message):
    with pytest.raises(InputError) as error:
        results.read(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: ")
    assert message in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["rounds"][0].update(kept=17), "rounds[0]: 17 of 16 weights kept"),
        (lambda r: r["rounds"][0].update(kept=True), "rounds[0].kept: Expected 'int', got 'bool'"),
        (lambda r: r["rounds"][0].update(seconds=float("nan")), "rounds[0].seconds: Expected 'float' >= 0.0"),
        (lambda r: r["tickets"][0]["search"].pop("epochs"), "tickets[0].search: Object missing"),
        (lambda r: r["rounds"][0]["layers"].pop(), "rows have different layers"),
        (lambda r: r["controls"][0]["layers"][0].update(name="b"), "controls[0]: layers have the same name"),
        (lambda r: r["config"].pop("arch"), "config: Object missing required field 'arch'"),
        (lambda r: r["config"].update(seed="0"), "config: seed is '0', not a number"),
        (lambda r: r["config"].pop("tau"), "config: Object missing required field 'tau'"),
        (
            lambda r: r["stability"]["interpolations"][0].update(train_losses=[1.0]),
            "stability.interpolations[0]: alphas, test_errors and train_losses differ in length",
        ),
        (lambda r: r["stability"].update(proposed=-1), "stability.proposed: Expected 'int' >= 0"),
        (lambda r: r["early_bird"].update(criterion="x"), "early_bird.criterion: Invalid enum value 'x'"),
        (lambda r: r["early_time"]["divergences"].update(x=1.0), "early_time.divergences"),
        (
            lambda r: r["early_time"]["over_epochs"][0].update(by_lambda={}),
            "early_time.over_epochs[0].by_lambda",
        ),
    ],
)
def test_the_damaged_field_is_named(path, change, message):
    value = json.loads(json.dumps(results.to_json(result())))
    change(value)
    path.write_text(json.dumps(value))
    refused(path, message)


OTHERS = [
    None,
    True,
    -1,
    0,
    1,
    2**62,
    1.5,
    -0.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    [1],
    {},
    {"x": 1},
]


def mutated(value, rng):
    """A copy in which something was changed, lost, doubled or added, at any depth."""
    value = copy.deepcopy(value)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)) and node[key]:
                walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    how = rng.choice(["change", "change", "change", "lose", "double"])
    if how == "change":
        node[key] = rng.choice(OTHERS)
    elif how == "lose":
        del node[key]
    elif isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        node[f"{key} too"] = node[key]
    return value


def line_of(action):
    """The line with which an action refuses its input; empty where it does not."""
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


def compared(directory):
    for experiment in experiments(runs.collect([directory]).runs):
        experiment.differences()
        experiment.dense()
        for series in experiment.series:
            series.sparsest()


def test_a_mutated_result_is_read_or_refused_in_a_line(path):
    """By the reader, by `snnlth analyse` and by what the report does before it draws: no traceback."""
    rng, refused = random.Random(0), []
    whole, directory = json.loads(json.dumps(results.to_json(result()))), str(path.parent)
    for _ in range(300):
        path.write_text(json.dumps(mutated(whole, rng)))
        line = line_of(lambda: results.read(path))
        output = io.StringIO()
        console = Console(file=output, width=200)
        shown = line_of(partial(analyse.show, directory, console=console))
        assert line_of(lambda: compared(directory)) == line, path.read_text()
        if line:
            assert line.startswith(f"{path}: "), line
            assert "\n" not in line
            assert shown == line
            assert output.getvalue() == ""
        refused.append(bool(line))
    assert 150 < sum(refused) < 300


def test_the_command_refuses_a_damaged_result(path, capsys):
    path.write_text("[" * 100_000)
    for command in ("analyse", "report"):
        assert main([command, str(path.parent)]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert f"{path}: damaged (" in error


# --- one place for the keys

ROOT = Path(__file__).parent.parent
# the rest of search/ and the plan of run/tables.py are not typed yet
READERS = [*ROOT.glob("snnlth_jax/report/*.py"), *ROOT.glob("experiments/*.py")]
READERS += [ROOT / "snnlth_jax" / "search" / f"{name}.py" for name in ("ledger", "replicates", "measure")]
READERS += [ROOT / "snnlth_jax" / "run" / "tensorboard.py"]


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.stem)
def test_no_other_file_spells_a_key(path):
    """Keys of result.json and metrics.jsonl; settings of a configuration have the names of its flags."""
    records = [getattr(results, name) for name in results.__all__] + list(get_args(events.Event))
    fields = {name for kind in records for name in getattr(kind, "__struct_encode_fields__", ())} - {"config"}
    settings = {field.name for name in configs.__all__ for field in fields_of(getattr(configs, name))}
    keys = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript):
            keys.append(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            keys += node.args[:1]
    spelled = {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    assert spelled & (fields - settings) == set()


def fields_of(kind):
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
