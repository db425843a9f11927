"""The report's pictures of tickets and of spikes: that they hold what masks and networks are."""

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small
import stub

from snnlth_jax import configs, masks, report, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.report import kernels, runs
from snnlth_jax.report.series import experiments
from snnlth_jax.run import spikes
from snnlth_jax.run.spikes import LayerSpikes
from snnlth_jax.search import imp, one_shot

SHORT = small.NETWORK | {"epochs": 2, "test_examples": 60}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """IMP and SNIP, whose networks fire at random."""
    root = tmp_path_factory.mktemp("pair")
    programs = stub.StubPrograms()
    config = configs.ImpConfig(**SHORT, num_timesteps=3, rounds=3, rewind_epoch=1)
    small.run(imp, config, root / "imp", programs)
    config = configs.OneShotConfig(**SHORT, num_timesteps=3, sparsity=0.9)
    small.run(one_shot, config, root / "snip", programs)
    for path in root.glob("*/spikes/*.json"):
        layers = [
            LayerSpikes.of(layer.name, RNG.random((3, layer.neurons)) < 0.2)
            for layer in spikes.read(path).layers
        ]
        spikes.write(path, spikes.Spikes(layers=tuple(layers)))
    return root


@pytest.fixture
def copy(pair, tmp_path):
    shutil.copytree(pair, tmp_path / "runs")
    return tmp_path / "runs"


def drawn(root):
    (experiment,) = experiments(runs.collect([str(root)]).runs)
    plots, remarks = report.draw(experiment)
    return {plot.name: plot for plot in plots}, remarks


def images(plot):
    return [np.asarray(axes.images[0].get_array()) for axes in plot.figure.axes if axes.images]


def test_losses_are_those_of_all_rounds(pair, tmp_path):
    report.write([str(pair / "imp")], str(tmp_path))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report" / "loss.csv").read_text())))
    shown = [(int(row["round"]), int(row["epoch"]), float(row["train_loss"])) for row in rows]
    lines = map(json.loads, (pair / "imp" / "metrics.jsonl").read_text().splitlines())
    assert shown == [
        (line["round"], line["epoch"], line["train_loss"]) for line in lines if line["event"] == "epoch"
    ]
    assert {number for number, *_ in shown} == {0, 1, 2}


def test_shades_are_shares_of_kept_weights(pair):
    plots, remarks = drawn(pair)
    assert remarks == []
    for name, path in (("ticket-1", "imp/tickets/round_02"), ("ticket-2", "snip/tickets/round_01")):
        kept = {
            "/".join(key.key for key in place): mask
            for place, mask in jax.tree_util.tree_leaves_with_path(
                tickets.load(pair / f"{path}.safetensors").masks
            )
        }
        rows = [dict(zip(plots[name].header, row, strict=True)) for row in plots[name].rows]
        assert [row["layer"] for row in rows] == [
            "layer01/conv/kernel",
            "layer02/conv/kernel",
            "readout/kernel",
        ]
        for row, shades in zip(rows, images(plots[name]), strict=False):  # the last is the scale
            mask = kept[row["layer"]]
            inputs, outputs = mask.shape[-2:]
            assert shades.shape == (row["in"], row["out"]) == (inputs, outputs)
            dead = full = 0
            for i, o in itertools.product(range(inputs), range(outputs)):
                kernel = mask[..., i, o]
                assert shades[i, o] == kernel.sum() / kernel.size
                dead, full = dead + (not kernel.any()), full + kernel.all()
            assert (row["dead_kernels"], row["full_kernels"]) == (dead, full)
            assert (row["layer_kept"], row["weights"]) == (mask.sum(), mask.size)
            assert row["kernels"] == inputs * outputs
        assert sum(row["layer_kept"] for row in rows) == masks.count(kept)[0]
        assert sum(row["dead_kernels"] for row in rows) > 0


@pytest.mark.parametrize("shape", [(1, 1), (64, 3), (65, 200), (130, 1), (1000, 64)])
def test_blocks_keep_the_sum(shape):
    """The mean of a block, times the number of its values, over all blocks: the sum of the values."""
    values = RNG.random(shape)
    means = kernels.blocks(values)
    assert max(means.shape) <= 64
    steps = [-(-length // 64) for length in shape]
    sizes = [
        [min(step, length - start) for start in range(0, length, step)]
        for step, length in zip(steps, shape, strict=True)
    ]
    assert (means * np.outer(*sizes)).sum() == pytest.approx(values.sum(), rel=1e-12)
    if max(shape) <= 64:
        assert (means == values).all()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "no such"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a ticket file, or cut short"),
        (lambda path: path.write_bytes(b""), "not a ticket file, or cut short"),
        (
            lambda path: path.write_bytes(path.with_name("round_01.safetensors").read_bytes()),
            "masks of another network than that of result.json",
        ),
    ],
    ids=["missing", "cut", "empty", "another"],
)
def test_a_ticket_that_cannot_be_read_is_a_note(copy, harm, reason):
    harm(copy / "imp" / "tickets" / "round_02.safetensors")
    plots, (remark,) = drawn(copy)
    assert "ticket-2" in plots
    assert "ticket-1" not in plots
    assert "spikes-1" in plots
    assert reason in remark
    assert str(copy / "imp" / "tickets" / "round_02.safetensors") in remark
    page = Path(report.write([str(copy)], str(copy / "out"))).read_text()
    assert "no picture of the ticket of IMP" in page


def test_four_methods_at_most_have_pictures(pair, tmp_path):
    for number in range(6):
        shutil.copytree(pair / "imp", tmp_path / f"{number}")
        path = tmp_path / f"{number}" / "result.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"method": f"method{number}"}))
        config = json.loads((tmp_path / f"{number}" / "config.json").read_text())
        assert config["method"] == "imp"
    plots, _ = drawn(tmp_path)
    assert [name for name in plots if name.startswith("ticket-")] == [f"ticket-{n}" for n in range(1, 5)]


def test_the_sparsest_ticket_of_the_first_seed_is_shown(copy):
    """Searches that differ in sparsity alone have pictures too."""
    programs, config = stub.StubPrograms(), configs.OneShotConfig(**SHORT, num_timesteps=3, sparsity=0.9)
    small.run(one_shot, config, copy / "sparser", programs, sparsity=0.96)
    small.run(one_shot, config, copy / "other", programs, sparsity=0.98, seed=1)
    (experiment,) = experiments(runs.collect([str(copy)]).runs)
    shown = [(Path(run.directory).name, row.round) for _, run, row in kernels.sparsest_tickets(experiment)]
    assert shown == [("imp", 2), ("sparser", 1)]


def test_spikes_are_those_that_the_search_left(pair):
    plots, _ = drawn(pair)
    for name, run, ticket in (("spikes-1", "imp", "round_02"), ("spikes-2", "snip", "ticket_01")):
        networks = [pair / "imp" / "spikes" / "round_00.json", pair / run / "spikes" / f"{ticket}.json"]
        records = [spikes.read(path) for path in networks]
        patterns = [layer.pattern() for record in records for layer in record.layers]
        for image, pattern in zip(images(plots[name]), patterns, strict=True):
            assert (image == pattern).all()
        assert any(pattern.any() for pattern in patterns)
        rows = [dict(zip(plots[name].header, row, strict=True)) for row in plots[name].rows]
        firing = [n for record in records for layer in record.layers for n in layer.firing]
        assert [row["firing_neurons"] for row in rows] == firing
        assert [row["t"] for row in rows] == [1, 2, 3] * len(patterns)


def test_runs_of_before_have_no_spikes_and_damaged_ones_a_note(copy):
    (copy / "imp" / "spikes" / "round_02.json").unlink()
    (copy / "snip" / "spikes" / "ticket_01.json").write_text('{"layers": [')
    plots, (remark,) = drawn(copy)
    assert not any(name.startswith("spikes-") for name in plots)
    assert "ticket_01.json: damaged" in remark


@pytest.mark.parametrize("neurons", [1, 7, 8, 63, 64, 65, 4096, 65536])
def test_a_pattern_is_that_of_evenly_chosen_neurons(neurons, tmp_path):
    fires = RNG.random((5, neurons)) < 0.3
    layer = LayerSpikes.of("conv/kernel", fires.reshape(5, neurons, 1, 1))
    assert layer.firing == tuple(fires.sum(axis=1))
    assert layer.pattern().shape == (min(64, neurons), 5)
    if neurons <= 64:
        assert (layer.pattern() == fires.T).all()
    # each of 64 different neurons, from all channels
    own = np.arange(neurons)[None] % 64 + 1
    chosen = [int(LayerSpikes.of("c", own == channel).pattern().sum()) for channel in range(1, 65)]
    assert sum(chosen) == min(64, neurons)
    assert max(chosen) <= 2
    spikes.write(tmp_path / "a.json", spikes.Spikes(layers=(layer,)))
    assert spikes.read(tmp_path / "a.json") == spikes.Spikes(layers=(layer,))


LAYER = {"name": "conv/kernel", "neurons": 9, "firing": [3, 9], "some": ["ffff", "0000"]}


@pytest.mark.parametrize(
    "change",
    [
        {"firing": [3, 10]},
        {"firing": []},
        {"firing": [3]},
        {"some": ["ff", "00"]},
        {"some": ["ffff", "zzzz"]},
        {"some": ["ffff", "00000000" * 10]},
        {"neurons": 0},
        {"neurons": "many"},
        {"name": "a\x1bb"},
    ],
)
def test_damaged_spikes_are_refused(tmp_path, change):
    path = rundir_file(tmp_path, LAYER)
    assert spikes.read(path).layers[0].pattern()[:, 0].all()
    with pytest.raises(InputError, match=r"spikes\.json: damaged"):
        spikes.read(rundir_file(tmp_path, LAYER | change))


def rundir_file(directory, layer):
    path = directory / "spikes.json"
    path.write_text(json.dumps({"layers": [layer]}))
    return path


def test_the_pictures_say_what_they_show_under_the_pointer(pair, tmp_path):
    page = Path(report.write([str(pair)], str(tmp_path))).read_text()
    figure = re.search('<figure id="[^"]*ticket-1">.*?</figure>', page, re.S)[0]
    titles = re.findall('<rect class="point"[^>]*><title>(.*?)</title>', figure)
    assert len(titles) == 3
    assert re.match(r"layer01/conv/kernel: \d+ of 27 weights left", titles[0])
    places = re.findall('<rect class="point" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)">', figure)
    drawn_at = re.findall(r'transform="matrix\(\S+ 0 0 \S+ (\S+) (\S+)\)"', figure)
    assert len(places) == 3
    for (x, y, *_), image in zip(places, drawn_at, strict=True):
        assert (float(x), float(y)) == pytest.approx(tuple(map(float, image)), abs=0.2)


@pytest.mark.subprocess
def test_a_report_with_pictures_starts_no_device(pair, tmp_path):
    program = f"""
import sys
from snnlth_jax import report
page = report.write([{str(pair)!r}], {str(tmp_path)!r}).read_text()
assert "Spikes over time" in page and "layer by layer" in page
from jax._src import xla_bridge
assert not xla_bridge._backends and "orbax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
