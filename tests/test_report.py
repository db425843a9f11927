"""The report: its page, its plots, and that their numbers are those of the runs."""

import base64
import csv
import datetime
import functools
import html
import html.parser
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import browser
import pytest
import small
import stub
from rich.console import Console

from snnlth_jax import configs, files, report
from snnlth_jax.cli import main
from snnlth_jax.commands import words
from snnlth_jax.errors import InputError
from snnlth_jax.report import kernels, runs, theme
from snnlth_jax.report.plot import End, label_ends, names_axis, percent, room
from snnlth_jax.report.series import experiments
from snnlth_jax.run import events
from snnlth_jax.search import early_bird, early_time, imp, replicates

SHORT = small.NETWORK | {"epochs": 2, "test_examples": 60}
VOID = ("meta", "link", "path", "use", "br")
ACTIVITY = {"layer-density", "firing-rates", "silence", "synops", "energy"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """IMP with two seeds and random masks, Early-Bird with Early-Time, a probe; none with layers recorded."""
    root = tmp_path_factory.mktemp("grid")
    config = configs.ImpConfig(**SHORT, num_timesteps=2, rounds=3, rewind_epoch=1, controls=("random",))
    fields = configs.resolve(config).__dict__ | {"workdir": str(root / "imp"), "seeds": (0, 1)}
    programs = stub.StubPrograms()
    search = functools.partial(imp.search, programs=programs)
    replicates.run(search, configs.ImpConfig(**fields), Console(file=io.StringIO()))
    eb = configs.EbConfig(**SHORT, num_timesteps=4, early_time=True, queue=2, tau=1.0, sparsity=0.75)
    small.run(early_bird, eb, root / "eb", programs)
    small.run(early_time, configs.ProbeConfig(**SHORT, num_timesteps=4), root / "probe", programs)
    for path in root.rglob("result.json"):
        result = json.loads(path.read_text())
        for row in rows_of(result):
            row.pop("layers", None)
        path.write_text(json.dumps(result))
    return root


def rows_of(result):
    parts = ("preparations", "rounds", "tickets", "controls")
    return [row for part in parts for row in result.get(part, [])]


def layers(kept, total):
    """Two layers as they are recorded: a convolution with spikes behind it, and a classifier."""
    first = {"name": "layer01/conv/kernel", "weights": total // 2, "kept": kept // 2, "channels": 8}
    first |= {"dead_channels": 2, "neurons": 128, "silent_neurons": 32, "saturated_neurons": 0}
    first |= {"firing_rate": [0.25, 0.5], "spikes_per_image": 96.0}
    first |= {"synops_per_image": [0.0, 0.0], "macs_per_image": [10.0 * kept, 0.0]}
    last = first | {"name": "layer02/linear/kernel", "neurons": None, "silent_neurons": None}
    last |= {"saturated_neurons": None, "firing_rate": None, "spikes_per_image": None, "dead_channels": 0}
    last |= {"synops_per_image": [3.0 * kept, 5.0 * kept], "macs_per_image": [0.0, 0.0]}
    return [first, last]


@pytest.fixture
def active(grid, tmp_path):
    """A copy of the IMP runs in which layers were recorded."""
    shutil.copytree(grid / "imp", tmp_path / "active")
    for path in (tmp_path / "active").glob("seed*/result.json"):
        result = json.loads(path.read_text())
        for row in rows_of(result):
            row |= {"layers": layers(row["kept"], row["total"]), "weights_on_no_path": 0}
        path.write_text(json.dumps(result))
    return tmp_path / "active"


class Page(html.parser.HTMLParser):
    """The elements of a page; every tag must be closed, in order."""

    def __init__(self, path):
        super().__init__()
        self.text, self.open, self.elements = path.read_text(), [], []
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [name for name, _ in self.open]))
        if tag not in VOID or not (tag in ("path", "use") and self.get_starttag_text().endswith("/>")):
            self.open.append((tag, attributes))
        if tag in ("meta", "link", "br"):
            self.open.pop()

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [name for name, _ in self.open]))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def attribute(self, name):
        return [attributes[name] for _, attributes, _ in self.elements if name in attributes]


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def everything(directory):
    return {path: path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def test_a_report_needs_nothing_that_trains():
    program = "import sys, snnlth_jax.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"flax", "orbax", "tensorstore", "matplotlib"}.isdisjoint(loaded.stdout.split())


def test_the_page_stands_alone(grid, active, tmp_path):
    path = report.write([str(grid), str(active)], str(tmp_path / "out"))
    page = Page(Path(path))
    assert "http" not in page.text
    assert "<script" not in page.text
    assert "@import" not in page.text
    for reference in page.attribute("src") + page.attribute("href"):
        assert reference.startswith(("#", "data:")), reference
    assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", page.text))
    ids = page.attribute("id")
    assert len(ids) == len(set(ids))
    referred = [href[1:] for href in page.attribute("href") if href.startswith("#")]
    referred += re.findall(r"url\(#([^)]*)\)", page.text)
    assert referred
    assert set(referred) <= set(ids)


@pytest.mark.skipif(not browser.CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_laptop(grid, active, tmp_path, width):
    report.write([str(grid), str(active)], str(tmp_path / "out"))
    found = browser.look(tmp_path / "out" / "report.html", width, tmp_path)
    assert found["elements"] > 200
    assert found["width"] <= width
    assert found["wide"] == []
    assert found["messages"] == []


def test_every_plot_has_words_and_files(grid, active, tmp_path):
    path = Path(report.write([str(grid), str(active)], str(tmp_path / "out")))
    page = path.read_text()
    figures = re.findall(r"<figure.*?</figure>", page, re.S)
    names = {each.stem for each in (tmp_path / "out" / "report").iterdir()}
    assert len(figures) == len(names) == 17
    assert names > ACTIVITY | {
        "loss",
        "ticket-2",
        "spikes-2",
        "accuracy",
        "learning",
        "cost",
        "early-bird-rule",
        "early-bird-1",
        "early-time",
    }
    for figure in figures:
        caption = re.search(r"<figcaption>(.+?) <a ", figure, re.S).group(1)
        assert len(re.findall(r"\.(?!\d)", caption)) == 1  # a sentence
        assert caption.endswith(".")
        assert len(caption) < 180
        told = re.search("<summary>In numbers</summary>(.+?)</details>", figure, re.S).group(1)
        assert re.search(r"\d", told)
        assert caption in re.search(r'role="img" aria-label="([^"]+)"', figure).group(1)
        assert "<text" in figure
        # its colours follow the theme
        drawn = set(re.findall(r"(?:fill|stroke): (#\w+)", figure))
        assert not drawn, drawn
        (name, numbers) = re.search(
            r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', figure
        ).groups()
        assert base64.b64decode(numbers) == (tmp_path / "out" / "report" / name).read_bytes()
    for name in names:
        assert (tmp_path / "out" / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "out" / "report" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_numbers_are_those_of_result_json(grid, tmp_path):
    report.write([str(grid / "imp")], str(tmp_path))
    shown = table(tmp_path / "report" / "accuracy.csv")
    expected = []
    for seed in (0, 1):
        result = json.loads((grid / "imp" / f"seed{seed}" / "result.json").read_text())
        for row in result["rounds"] + result["controls"]:
            expected.append((row["kind"], seed, row["round"], row["kept"], row["final_test_accuracy"]))
    fields = ("kind", "seed", "round", "kept", "final_test_accuracy")
    got = [(r["kind"], *map(int, (r["seed"], r["round"], r["kept"])), float(r[fields[-1]])) for r in shown]
    assert sorted(got) == sorted(expected)

    learnt = table(tmp_path / "report" / "learning.csv")
    expected = []
    for seed in (0, 1):
        lines = map(json.loads, (grid / "imp" / f"seed{seed}" / "metrics.jsonl").read_text().splitlines())
        expected += [
            (line["kind"], line["round"], seed, line["epoch"], line["train_loss"], line["test_accuracy"])
            for line in lines
            if line["event"] == "epoch"
        ]
    whole, real = ("round", "seed", "epoch"), ("train_loss", "test_accuracy")
    got = [(r["kind"], *(int(r[k]) for k in whole), *(float(r[k]) for k in real)) for r in learnt]
    assert sorted(got) == sorted(expected)


def test_numbers_of_the_searches(grid, tmp_path):
    report.write([str(grid / "eb")], str(tmp_path))
    result = json.loads((grid / "eb" / "result.json").read_text())
    lines = [json.loads(line) for line in (grid / "eb" / "metrics.jsonl").read_text().splitlines()]
    masks = [line for line in lines if line["event"] == "mask"]
    expected = {(m["epoch"], e): d for m in masks for e, d in enumerate(m["hamming"])}
    shown = table(tmp_path / "report" / "early-bird-1.csv")
    assert expected
    assert {(int(r["epoch"]), int(r["earlier_epoch"])): float(r["hamming"]) for r in shown} == expected
    shown = table(tmp_path / "report" / "early-time.csv")
    assert {r["t"]: float(r["divergence"]) for r in shown} == result["early_time"]["divergences"]
    chosen = [int(r["t"]) for r in shown if r["chosen"] == "True"]
    assert chosen == [result["early_time"]["num_timesteps"]]


def test_energy_is_that_of_the_operations(active, tmp_path):
    for mac, ac in ((4.6, 0.9), (2.0, 0.5)):
        flags = [] if mac == 4.6 else ["--energy-mac", "2", "--energy-ac", "0.5"]
        assert main(["report", str(active), "--output", str(tmp_path), *flags]) == 0
        rows = table(tmp_path / "report" / "energy.csv")
        assert len(rows) == 6
        for row in rows:  # see `layers`
            kept = int(row["kept"])
            assert float(row["synops_per_image"]) == 8 * kept
            assert float(row["macs_per_image"]) == 10 * kept
            assert float(row["picojoules"]) == pytest.approx(kept * (10 * mac + 8 * ac), rel=1e-12)
        page = (tmp_path / "report.html").read_text()
        assert f"{mac:g} pJ" in page
        assert "Memory traffic" in page
    rows = table(tmp_path / "report" / "silence.csv")
    assert {(float(r["silent_neurons_share"]), float(r["dead_channels_share"])) for r in rows} == {
        (0.25, 0.125)
    }


def test_runs_without_recorded_layers_have_the_other_plots(grid, tmp_path):
    report.write([str(grid)], str(tmp_path))
    names = {path.stem for path in (tmp_path / "report").iterdir()}
    assert not names & ACTIVITY
    assert "accuracy" in names


def test_by_default_beside_the_runs(grid, tmp_path, monkeypatch, capsys):
    shutil.copytree(grid / "eb", tmp_path / "eb")
    assert main(["report", str(tmp_path / "eb")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "eb" / "report.html")
    assert (tmp_path / "eb" / "report" / "accuracy.pdf").exists()
    monkeypatch.chdir(tmp_path)
    assert main(["report", "eb", str(grid / "probe")]) == 0
    assert (tmp_path / "report.html").exists()
    # and the report is not a run
    assert main(["report", "eb"]) == 0


def test_cells_without_a_result_are_listed(grid, tmp_path):
    shutil.copytree(grid, tmp_path / "grid")
    unfinished = tmp_path / "grid" / "sub" / "cell"
    unfinished.mkdir(parents=True)
    shutil.copy(grid / "eb" / "config.json", unfinished)
    result = json.loads((grid / "eb" / "result.json").read_text())
    (tmp_path / "grid" / "eb" / "result.json").write_text(json.dumps(result | {"finished": False}))
    found = runs.collect([str(tmp_path / "grid"), str(tmp_path / "grid" / "eb")])
    assert found.without_result == (str(unfinished),)
    # each once, and not what only sums up seeds
    assert sorted(run.result.method for run in found.runs) == ["eb+et", "imp", "imp", "probe-timesteps"]
    page = Path(report.write([str(tmp_path / "grid")])).read_text()
    assert f"{unfinished}</code>: no result" in page
    assert "eb</code>: not finished" in page
    # what makes the comparison unfair is said
    assert "runs differ in num timesteps: 2, 4" in page


def copied(source, target, change=lambda result: None, **config):
    """A run with another configuration, and its result changed in place."""
    shutil.copytree(source, target)
    for name in ("config.json", "result.json"):
        content = json.loads((target / name).read_text())
        (content["config"] if name == "result.json" else content).update(config)
        if name == "result.json":
            change(content)
        (target / name).write_text(json.dumps(content))
    return str(target)


def test_names_say_what_is_not_usual(grid, tmp_path):
    """Two of a method show both values; more of them those that are not the most common one."""
    seed0 = grid / "imp" / "seed0"
    usual = copied(seed0, tmp_path / "usual")
    rewound = copied(seed0, tmp_path / "rewound", rewind_epoch=0)
    layer = copied(seed0, tmp_path / "layer", scope="layer")

    def names(*directories):
        return [series.label for series in experiments(runs.collect(directories).runs)[0].series]

    assert names(layer, rewound, usual) == ["IMP", "IMP, scope layer", "IMP, rewind epoch 0"]
    assert sorted(names(usual, layer)) == ["IMP, scope global", "IMP, scope layer"]


def test_masks_like_a_ticket_are_another_method(grid, tmp_path):
    """Whatever ticket that is for each seed."""
    seed0, seed1 = (grid / "imp" / f"seed{seed}" for seed in (0, 1))
    of = [copied(run, tmp_path / f"plain{i}", like=None) for i, run in enumerate((seed0, seed1))]
    of += [copied(run, tmp_path / f"like{i}", like=f"hash{i}") for i, run in enumerate((seed0, seed1))]
    (compared,) = experiments(runs.collect(of).runs)
    found = {series.label: [run.seed for run in series.runs] for series in compared.series}
    assert found == {"IMP": [0, 1], "IMP, like a ticket": [0, 1]}


def sparsest(run):
    ticket = json.loads((run / "result.json").read_text())["tickets"][-1]
    return percent(1 - ticket["kept"] / ticket["total"])


def test_an_unfinished_seed_is_not_the_headline(grid, tmp_path):
    def begun(result):
        result.update(finished=False, tickets=[], controls=[], rounds=result["rounds"][:1])

    seed0, seed1 = (grid / "imp" / f"seed{seed}" for seed in (0, 1))
    of = [copied(seed0, tmp_path / "a"), copied(seed1, tmp_path / "b", begun)]
    page = Path(report.write(of, str(tmp_path / "out"))).read_text()
    assert f"With {sparsest(seed0)} of the weights gone" in page
    assert "one seed." in page[page.index("Weights are removed from left to right") :][:400]


def test_points_from_dense_are_those_of_each_seed(grid, tmp_path):
    """A seed whose dense network is not there does not count."""

    def without_dense(result):
        result["rounds"] = result["rounds"][1:]

    seed0 = grid / "imp" / "seed0"
    of = [str(copied(seed0, tmp_path / "a")), copied(grid / "imp" / "seed1", tmp_path / "b", without_dense)]
    page = Path(report.write(of, str(tmp_path / "out"))).read_text()
    result = json.loads((seed0 / "result.json").read_text())
    lost = result["tickets"][-1]["final_test_accuracy"] - result["rounds"][0]["final_test_accuracy"]
    assert f"<td>{100 * lost:+.2f}</td>" in page


def test_what_does_not_spike_is_not_silent(active, tmp_path):
    def artificial(result):
        for row in rows_of(result):
            for layer in row["layers"]:
                layer |= dict.fromkeys(("neurons", "silent_neurons", "saturated_neurons", "firing_rate"))

    report.write([copied(active / "seed0", tmp_path / "relu", artificial)], str(tmp_path / "out"))
    rows = table(tmp_path / "out" / "report" / "silence.csv")
    assert {row["silent_neurons_share"] for row in rows} == {""}
    assert all(row["dead_channels_share"] for row in rows)


def test_a_dead_ticket_does_not_take_the_others_with_it(active, tmp_path):
    def dead(result):
        for row in rows_of(result):
            if row["kept"] < min(each["kept"] for each in result["rounds"][:2]):
                for layer in row["layers"]:
                    layer |= {"synops_per_image": [0.0, 0.0]}

    path = report.write([copied(active / "seed0", tmp_path / "dead", dead)], str(tmp_path / "out"))
    synops = [float(row["synops_per_image"]) for row in table(tmp_path / "out" / "report" / "synops.csv")]
    assert min(synops) == 0 < max(synops)
    assert f"Not shown, since it is 0: IMP {sparsest(active / 'seed0')}." in Path(path).read_text()


def test_fonts_of_a_pdf_are_truetype(monkeypatch):
    """Which publishers ask for; the other tests of the suite take matplotlib's own, for their time."""
    for kind, subtype in ((42, b"/CIDFontType2"), (3, b"/Type3")):
        monkeypatch.setitem(theme.STYLE, "pdf.fonttype", kind)
        with theme.canvas() as (figure, axes):
            axes.set_title("T = 4")
        assert subtype in theme.paper(figure)["pdf"]


def test_settings_that_differ_are_both_said(grid, tmp_path):
    other = {"tau": 0.5, "queue": 3, "early_time_lambda": 0.25, "early_time_normalisation": "max"}
    of = [copied(grid / "eb", tmp_path / "a"), copied(grid / "eb", tmp_path / "b", **other)]
    page = Path(report.write(of, str(tmp_path / "out"))).read_text()
    assert "newest of 2 or 3 masks" in page
    assert "below its τ, 0.5 or 1" in page
    assert "below its λ, 0.25 or 0.6" in page
    assert "over that of t = 2 or the largest" in page


def test_a_directory_may_be_called_anything(grid, tmp_path):
    for name in ("a$_$", "b<i>&"):
        copied(grid / "eb", tmp_path / name)
    page = Path(report.write([str(tmp_path)], str(tmp_path / "out"))).read_text()
    assert "a$_$" in page
    assert "<i>" not in page


def test_links_are_followed_once(grid, tmp_path):
    root = tmp_path / "runs"
    copied(grid / "eb", root / "run")
    (root / "latest").symlink_to("run")
    (root / "loop").symlink_to(".")
    assert len(runs.collect([str(root), str(root / "latest")]).runs) == 1


def test_a_failed_cell_is_listed_whether_named_or_found(grid, tmp_path):
    good = copied(grid / "eb", tmp_path / "good")
    for name, content in (("failed", "{}"), ("damaged", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content if name == "damaged" else '{"seed": 0}')
    for of in ([str(tmp_path)], [good, str(tmp_path / "failed"), str(tmp_path / "damaged")]):
        page = Path(report.write(of, str(tmp_path / "out"))).read_text()
        for name in ("failed", "damaged"):
            assert f"{tmp_path / name}</code>: no result" in page


def test_the_same_search_elsewhere_is_another_line(grid, tmp_path):
    shutil.copytree(grid / "imp", tmp_path / "other")
    report.write([str(grid / "imp"), str(tmp_path / "other")], str(tmp_path / "out"))
    twins = (grid / "imp", tmp_path / "other")
    common = os.path.commonpath(twins)
    labels = {row["series"] for row in table(tmp_path / "out" / "report" / "accuracy.csv")}
    assert labels == {f"IMP, {os.path.relpath(each / 'seed0', common)}" for each in twins}


def break_(run, what):
    """A damaged run, and the part of the message that names the damage."""
    result = run / "result.json"
    content = json.loads(result.read_text())
    if what == "cut short":
        result.write_text(result.read_text()[:100])
    elif what == "no object":
        result.write_text("[]")
    elif what == "another format":
        result.write_text(json.dumps(content | {"format": "snnlth-result-9"}))
    elif what == "no rounds":
        content.pop("rounds")
        result.write_text(json.dumps(content))
    elif what == "more kept than there are":
        content["rounds"][0]["kept"] = 10**9
        result.write_text(json.dumps(content))
    elif what == "no number":
        content["tickets"][0]["final_test_accuracy"] = "high"
        result.write_text(json.dumps(content))
    elif what == "half a layer":
        content["tickets"][0]["layers"] = [{"name": "conv"}]
        result.write_text(json.dumps(content))
    elif what == "a layer without weights":
        content["rounds"][0]["layers"] = [layers(0, 0)[0]]
        result.write_text(json.dumps(content))
    elif what == "no divergences":
        content["early_time"].pop("divergences")
        result.write_text(json.dumps(content))
    elif what == "no fields":
        (run / "metrics.jsonl").write_text('{"event": "epoch"}\n')
    elif what == "no text":
        (run / "metrics.jsonl").write_bytes(b"\xff\n")
    elif what == "no file":
        (run / "metrics.jsonl").unlink()
        (run / "metrics.jsonl").mkdir()
    elif what == "a line of metrics":
        lines = (run / "metrics.jsonl").read_text().splitlines()
        (run / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    elif what == "no result":
        result.unlink()
    elif what == "not there":
        shutil.rmtree(run)
    else:
        shutil.rmtree(run)
        run.mkdir()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut short", "result.json: damaged"),
        ("no object", "result.json: damaged (not an object)"),
        ("another format", "result.json: format 'snnlth-result-9', this version reads 'snnlth-result-1'"),
        ("no rounds", "result.json: damaged (Object missing required field 'rounds')"),
        ("more kept than there are", "result.json: damaged (rounds[0]: 1000000000 of"),
        (
            "no number",
            "result.json: damaged (tickets[0].final_test_accuracy: Expected 'float | null', got 'str'",
        ),
        ("half a layer", "damaged (tickets[0].layers[0]: Object missing required field 'weights')"),
        ("a layer without weights", "damaged (rounds[0].layers[0].weights: Expected 'int' >= 1)"),
        ("no divergences", "damaged (early_time: Object missing required field 'divergences')"),
        ("no fields", "metrics.jsonl: line 1 is damaged"),
        ("no text", "metrics.jsonl: damaged ("),
        ("no file", "metrics.jsonl: damaged ("),
        ("a line of metrics", "metrics.jsonl: line 2 is damaged"),
        ("no result", "no result (1 begun)"),
        ("not there", "no such directory"),
        ("empty", "no search in it"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(grid, tmp_path, capsys, what, message):
    shutil.copytree(grid / "eb", tmp_path / "run")
    break_(tmp_path / "run", what)
    before = everything(tmp_path)
    assert main(["report", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert str(tmp_path / "run") in line
    assert everything(tmp_path) == before


def test_a_file_in_place_of_its_directory(grid, capsys):
    assert main(["report", str(grid / "eb" / "result.json")]) == 2
    assert "result.json: a file; allowed: directories of searches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no directory given"),
        (["--output", " "], "--output ' ': allowed: the name of a directory"),
        (["--energy-mac", "-1"], "--energy-mac -1.0: allowed: picojoules, 0 or more"),
        (["--energy-ac", "nan"], "--energy-ac nan: allowed: picojoules, 0 or more"),
        (["--output", "/dev/null/x"], "--output /dev/null/x"),
    ],
)
def test_bad_arguments_are_refused_before_a_plot_is_drawn(grid, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(report, "draw", None)
    assert main(["report", *([str(grid / "eb")] if arguments else []), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_matplotlib(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'snnlth_jax\[plots\]'"):
        report.write([str(grid / "eb")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_old_page_stays_until_the_new_one_is_whole(grid, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        report.write([str(grid / "eb")], str(tmp_path))
    assert (tmp_path / "report.html").read_text() == "old"


def luminance(color):
    """Relative, of WCAG 2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colors", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_colours_stand_out(colors):
    surface = luminance(colors["surface"])
    assert len(set(colors.values())) == len(colors)
    for role, color in colors.items():
        light, dark = sorted((luminance(color), surface), reverse=True)
        contrast = (light + 0.05) / (dark + 0.05)
        least = {"surface": 1, "faint": 1.1, "ink": 7, "muted": 4.5}.get(role, 3)  # WCAG: 3 for graphics
        assert contrast >= least, (role, contrast)


def test_dense_networks_of_other_conditions_are_kept_apart(grid, tmp_path):
    shutil.copytree(grid / "imp" / "seed1", tmp_path / "longer")
    path = tmp_path / "longer" / "result.json"
    result = json.loads(path.read_text())
    result["config"]["epochs"] = 9
    result["rounds"][0]["final_test_accuracy"] = 1.0
    path.write_text(json.dumps(result))
    (experiment,) = experiments(runs.collect([str(grid / "imp"), str(tmp_path / "longer")]).runs)
    assert [row.final_test_accuracy for _, row in experiment.dense(runs.read(tmp_path / "longer"))] == [1.0]
    assert [run.result.config["epochs"] for run, _ in experiment.dense()] == [2, 2]
    assert experiment.differences() == {"epochs": ["2", "9"]}


def test_the_page_repeats_its_searches(grid, tmp_path):
    """The command of each search, read by the command line, has the identity that the search had."""
    page = Path(report.write([str(grid)], str(tmp_path))).read_text()
    lines = [html.unescape(line) for line in re.findall(r"<pre>(snnlth .+?)</pre>", page)]
    assert len(lines) == 3
    assert any("--seeds 0,1" in line for line in lines)
    for run in runs.collect([str(grid)]).runs:
        there = run.result.config
        line = next(line for line in lines if line.split()[1] == there["method"].split("+")[0])
        command = shlex.join([*shlex.split(line), *(["--seed", str(run.seed)] if run.seed else [])])
        command = re.sub(" --seeds \\S+", "", command)
        _, config = words.parse(shlex.split(command)[1:])
        images = configs.Images(there["dataset"], there["dataset_fingerprint"])
        now = configs.identity(configs.resolve(config), images)
        assert json.loads(json.dumps(configs.completed(now))) == configs.completed(there)


@pytest.mark.parametrize(
    "config",
    [
        configs.ImpConfig(dataset="cifar10", epochs=30, final_rounds=(2, 5), augment=("flip",), v_reset=-0.5),
        configs.ImpConfig(sparsity=0.97, rounds=6, early_time=True, seed=3, controls=("random", "dense")),
        configs.ImpConfig(sparsity=0.9, arch_option=("a=1", "b=(2,3)"), arch="tests:model"),
        configs.OneShotConfig(augment=False, surrogate="sigmoid", neuron_tau=1.25, sparsity=0.5),
        configs.StabilityConfig(epochs=9, stability_epochs=(0, 3)),
        configs.TransferConfig(optimizer="adam", learning_rate=1e-3, validation_examples=10),
    ],
    ids=lambda config: config.method + str(config.sparsity if hasattr(config, "sparsity") else ""),
)
def test_a_command_line_repeats_any_configuration(config):
    images = configs.Images(config.dataset, "it")
    there = json.loads(json.dumps(configs.identity(configs.resolve(config), images)))
    line = configs.command_line(there)
    _, read = words.parse(shlex.split(line)[1:])
    assert json.loads(json.dumps(configs.identity(configs.resolve(read), images))) == there
    assert len(line) < 250
    assert "momentum" not in line


def test_files_that_no_result_names_are_words_in_capitals(grid):
    config = runs.read(grid / "imp" / "seed0").result.config
    own = configs.command_line(config | {"dataset": "photos"})
    assert own.startswith("snnlth imp --dataset DATASET ")
    retrained = configs.command_line(config | {"method": "retrain random", "ticket": "0a1b", "shuffle": True})
    assert retrained.startswith("snnlth train TICKET ")
    assert "--shuffle" in retrained


def test_each_search_says_its_settings_date_and_versions(grid, tmp_path):
    page = Path(report.write([str(grid / "imp")], str(tmp_path))).read_text()
    run = runs.read(grid / "imp" / "seed0")
    differs = re.search("<dt>differs from the defaults</dt><dd>(.+?)</dd>", page)[1]
    assert "width 0.1, num timesteps 2, epochs 2" in differs
    assert "momentum" not in differs  # at its default
    (started,) = {event.time for event in run.events if isinstance(event, events.StartEvent)}
    assert datetime.datetime.fromtimestamp(started, datetime.UTC).strftime("%Y-%m-%d") in page
    for name in ("jax", "snnlth_jax"):
        assert f"{name} {run.result.versions[name]}" in page
    whole = re.search("<summary>Whole configuration</summary><pre>(.+?)</pre>", page, re.S)[1]
    read = tomllib.loads(html.unescape(whole))
    assert read == {name: v for name, v in configs.completed(run.result.config).items() if v is not None}


def test_each_dense_network_is_named_and_the_sparsest_ticket_is_drawn(grid, tmp_path):
    """In any order of the runs: two that differ in width and in sparsity."""
    seed0 = grid / "imp" / "seed0"

    def denser(result):
        for row in result["tickets"]:
            row["kept"] = row["total"] - 1

    narrow = copied(seed0, tmp_path / "narrow", denser, width=0.05, train_examples=None)
    for of in ([narrow, str(seed0)], [str(seed0), narrow]):
        (compared,) = experiments(runs.collect(of).runs)
        assert {*compared.references()} == {
            f"dense, width {width}, train examples {examples}"
            for width, examples in ((0.05, "not set"), (0.1, "96"))
        }
        ((_, run, _),) = kernels.sparsest_tickets(compared)
        assert run.directory == str(seed0)
        page = Path(report.write(of, str(tmp_path / "out"))).read_text()
        assert "train examples: not set, 96" in page or "train examples: 96, not set" in page


def test_each_search_has_a_table_of_its_rounds(grid, tmp_path):
    page = Path(report.write([str(grid / "imp" / "seed0")], str(tmp_path))).read_text()
    part = page[page.index("<summary>All rounds</summary>") :].split("</details>")[0]
    lines = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", part)[1:]]
    result = runs.read(grid / "imp" / "seed0").result
    dense = result.rounds[0].final_test_accuracy
    assert lines == [
        [
            row.name,
            percent(row.sparsity),
            f"{row.kept:,}",
            "2",
            f"{row.final_test_accuracy:.4f}",
            f"{100 * (row.final_test_accuracy - dense):+.2f}",
            f"{row.seconds:.1f}",
        ]
        for row in result.trainings
    ]
    assert len(lines) > 3


def drawn_texts(page, name):
    """Texts of a figure of a page."""
    figure = re.search(f'<figure id="[^"]*{name}">.*?</figure>', page, re.S)[0]
    return [html.unescape(text) for text in re.findall("<text[^>]*>(.*?)</text>", figure, re.S)]


def test_names_are_never_cut(active, tmp_path):
    seed0 = active / "seed0"
    long = {"dtype": "bfloat16", "scope": "layer", "label_smoothing": 0.125, "learning_rate": 0.03}
    of = [copied(seed0, tmp_path / "a"), copied(seed0, tmp_path / "b", **long, momentum=0.5)]
    page = Path(report.write(of, str(tmp_path / "out"))).read_text()
    assert "…" not in page
    (compared,) = experiments(runs.collect(of).runs)
    assert max(len(series.label) for series in compared.series) > 80
    for plot in ("accuracy", "cost", "synops", "firing-rates", "silence", "learning"):
        texts = " ".join(drawn_texts(page, plot))
        for series in compared.series:
            assert series.label in texts, plot


def test_layers_have_their_names_and_a_collapsed_one_is_shown(active, tmp_path):
    def collapsed(result):
        for row in rows_of(result):
            if row["round"]:
                row["layers"][1]["kept"] = 0

    run = copied(active / "seed0", tmp_path / "run", collapsed)
    page = Path(report.write([run], str(tmp_path / "out"))).read_text()
    for plot in ("layer-density", "firing-rates"):
        assert {"layer01/conv", "layer02/linear"} <= {*drawn_texts(page, plot)}
    (experiment,) = experiments(runs.collect([run]).runs)
    figure = next(plot.figure for plot in report.draw(experiment)[0] if plot.name == "layer-density")
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_transform() == axes.transData]
    lowest = min(y for line in lines for y in line.get_ydata())
    assert axes.get_ylim()[0] < lowest
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert dict(zip(axes.get_yticks(), names, strict=True))[lowest] == "none"


@pytest.mark.parametrize(("count", "length"), [(2, 4), (5, 12), (17, 12), (60, 20)])
def test_names_of_layers_do_not_collide(count, length):
    with theme.canvas() as drawing:
        drawing.axes.set_xlim(0.7, count + 0.3)
        names_axis(drawing, [f"{i:0{length}}" for i in range(count)])
        drawing.axes.set_xlabel("layer")
        drawing.figure.draw_without_rendering()
        boxes = [tick.get_window_extent() for tick in drawing.axes.get_xticklabels()]
        label = drawing.axes.xaxis.label.get_window_extent()
    assert len(boxes) >= min(count, 15)
    assert all(a.x1 <= b.x0 + 1 for a, b in itertools.pairwise(boxes))
    assert label.y0 >= 0


@pytest.mark.skipif(not browser.CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_no_column_of_a_table_is_out_of_reach(grid, active, tmp_path, width):
    """On a phone a row is a block of several lines, in which cells have the names of their columns."""
    page = Path(report.write([str(grid), str(active)], str(tmp_path / "out")))
    opened = page.read_text().replace("<details>", "<details open>")
    page.write_text(opened)
    found = browser.look(page, width, tmp_path)
    assert found["scrolled"] == []
    assert "--c2: &quot;sparsity&quot;" in opened
    assert "linear-gradient(to left, var(--edge)" in opened  # of a table wider than the page
    assert found["wide"] == []
    assert found["width"] <= width


def test_points_have_their_values_under_the_pointer(active, tmp_path):
    page = Path(report.write([str(active / "seed0")], str(tmp_path))).read_text()
    result = runs.read(active / "seed0").result

    def titles(plot):
        figure = re.search(f'<figure id="[^"]*{plot}">.*?</figure>', page, re.S)[0]
        return re.findall('<circle class="point"[^>]*><title>(.*?)</title>', figure)

    for row in result.rounds:
        share = f"weights left {100 * row.density:.3g} %"
        accuracy = f"test accuracy {row.final_test_accuracy:.4f}"
        assert any(title == f"IMP: {share}, {accuracy}" for title in titles("accuracy"))
    assert any(re.match(r"dense: epoch \d, \w+ accuracy 0\.", title) for title in titles("learning"))
    first_layer = r"IMP .*: layer layer01/conv, weights left"
    assert any(re.match(first_layer, title) for title in titles("layer-density"))
    for plot in ("firing-rates", "silence", "synops", "energy"):
        assert titles(plot), plot
    # and they are where the markers are
    figure = re.search('<figure id="[^"]*accuracy">.*?</figure>', page, re.S)[0]
    markers = [(float(x), float(y)) for x, y in re.findall('<use href="[^"]*" x="(.*?)" y="(.*?)"', figure)]
    points = [(float(x), float(y)) for x, y in re.findall('<circle[^>]* cx="(.*?)" cy="(.*?)"', figure)]
    assert len(points) > 3
    assert all(any(math.dist(point, marker) < 0.2 for marker in markers) for point in points)


@pytest.mark.parametrize(
    "label", ["Random 90 %", "IMP, num timesteps 3", "IMP, momentum 0.95", "SNIP 99.96 %", "IMP"]
)
def test_labels_end_within_the_figure(label):
    """Beside the axes or, if too long, below."""
    for text in (label, f"{label}, " + "learning rate 0.05, " * 4):
        with theme.canvas(**room([text, "dense"])) as drawing:
            drawing.axes.plot([0, 1], [0, 1])
            label_ends(drawing, [End(1, 1, text, "#000000"), End(1, 0.5, "dense", "#000000")])
            drawing.figure.draw_without_rendering()
            texts = [*drawing.axes.texts, *drawing.figure.texts]
            box = drawing.figure.bbox
            extents = [each.get_window_extent() for each in texts]
        assert len(extents) > 1
        assert all(e.x1 <= box.x1 and e.y0 >= 0 and e.y1 <= box.y1 for e in extents)


def test_a_curve_of_one_epoch_is_seen(grid):
    """Rounds that are rewound to the last epoch but one."""
    run = runs.read(grid / "imp" / "seed0")
    (experiment,) = experiments([run])
    figure = next(plot.figure for plot in report.draw(experiment)[0] if plot.name == "learning")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines if line.get_transform() == axes.transData}
    single = [line for line in lines.values() if len(line.get_xdata()) == 1]
    assert single
    assert all(line.get_marker() == "o" for line in single)
