"""The scripts of experiments/: their settings are the paper's, cells are run once, claims can fail."""

import dataclasses
import importlib
import itertools
import json
import re
import signal
import sys
from pathlib import Path

import claims
import costs
import figures
import findings
import gather
import grid
import numpy as np
import pytest
import small

from snnlth_jax import configs
from snnlth_jax.errors import InputError
from snnlth_jax.report.runs import collect
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.events import RoundEvent
from snnlth_jax.run.results import (
    Cost,
    EarlyBirdRecord,
    EarlyTimeEpoch,
    EarlyTimeRecord,
    InterpolationRecord,
    LayerRecord,
    Result,
    Row,
    StabilityRecord,
    TicketRow,
)
from snnlth_jax.search import replicates

SCRIPTS = {
    name: importlib.import_module(name)
    for name in (
        "table1_early_time",
        "table2_imp",
        "fig1_methods",
        "fig3_search_timesteps",
        "fig4_kl_over_epochs",
        "fig5_accuracy_vs_sparsity",
        "fig6_imp_ablations",
        "fig7_eb_et",
        "fig8_transfer",
        "fig9_snip",
        "fig10_spikes",
        "bn_on_rewind",
        "discrepancies",
        "eb_criteria",
        "evidence",
        "instability",
        "other_methods",
        "rewinding",
        "supplement",
        "variants",
    )
}
scripts = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)


def planned(script, scale, **where):
    """Its searches by cell and seed, resolved; that raises for what cannot be run."""
    return grid.jobs(script.cells(scale, **where), grid.scale(scale).seeds, "runs", None)


ROOT = Path(__file__).parent.parent


@scripts
def test_a_script_says_what_it_is_for_and_is_in_the_document(script):
    lines = {line.split()[0] for line in script.__doc__.splitlines() if line.strip()}
    assert {"paper", "command", "hours", "expected"} <= lines
    assert f"python experiments/{script.__name__}.py" in script.__doc__
    assert f"| [{script.__name__}]" in (ROOT / "docs" / "experiments.md").read_text()
    assert len(Path(script.__file__).read_text().splitlines()) < 80


@scripts
def test_the_document_has_the_costs(script):
    counts = [f"{costs.total(script.cells(scale)):,.0f}" for scale in ("paper", "fast")]
    document = (ROOT / "docs" / "experiments.md").read_text()
    if script.__name__ == costs.TAKEN_APART:
        assert f"| supplement (AlexNet, CIFAR-10) | {counts[0]} |" in document
    else:
        assert re.search(rf"\| {script.__name__} \| {counts[0]} \| [\d.]+ \| {counts[1]} \|", document)


def test_the_costs_are_those_of_the_scripts():
    assert set(costs.scripts()) == set(SCRIPTS)


# --- cells


@scripts
@pytest.mark.parametrize("scale", grid.SCALES)
def test_cells_can_be_run_each_in_a_directory_of_its_own(script, scale):
    jobs = planned(script, scale)
    assert jobs
    assert len({config.workdir for config in jobs.values()}) == len(jobs)


@scripts
@pytest.mark.parametrize("dataset", ["cifar100", "svhn_cropped", "fashion_mnist"])
def test_cells_take_another_dataset_and_network(script, dataset):
    for scale in ("paper", "fast"):
        for config in planned(script, scale, dataset=dataset, arch="vgg11").values():
            assert (config.dataset, config.arch) == (dataset, "vgg11")


@scripts
@pytest.mark.parametrize(("dataset", "epochs"), [("cifar10", 300), ("cifar100", 300), ("svhn_cropped", 150)])
def test_the_papers_settings(script, dataset, epochs):
    jobs = planned(script, "paper", dataset=dataset)
    assert sorted({seed for _, seed in jobs}) == [0, 1, 2, 3, 4]
    for (_, seed), config in jobs.items():
        assert config.seed == seed
        assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)
        assert (config.learning_rate, config.schedule, config.batch_size) == (0.3, "cosine", 128)
        assert (config.epochs, config.width, config.augment) == (epochs, 1.0, True)
        assert (config.train_examples, config.test_examples) == (None, None)
        assert config.num_timesteps == (1 if config.activation == "relu" else 5)
        other = {"table2_imp": "resnet19", "supplement": "alexnet"}
        assert config.arch == other.get(script.__name__, "vgg16")
        if isinstance(config, configs.Rounds):
            assert (config.rounds, config.prune_fraction, config.final_rounds) == (15, 0.25, (4, 8, 11, 14))
        if isinstance(config, configs.EbConfig):
            tau = 0.0 if script.__name__ == "fig3_search_timesteps" else 0.02
            assert (config.queue, config.tau, config.rewind_epoch) == (5, tau, 0)
        if getattr(config, "early_time", False):
            assert (config.early_time_epochs, config.early_time_lambda) == (2, 0.6)


def test_the_papers_sparsities_and_variants():
    one_shot = {config.sparsity for config in planned(SCRIPTS["fig9_snip"], "paper").values()}
    assert one_shot == {0.6836, 0.8999, 0.9578, 0.9822}
    assert {config.activation for config in planned(SCRIPTS["fig9_snip"], "paper").values()} == {
        "lif",
        "relu",
    }
    ablations = SCRIPTS["fig6_imp_ablations"].cells("paper")
    assert {configs.resolve(config).rewind_epoch for config in ablations.values()} == {0, 20, 140, 260}
    assert {config.scope for config in ablations.values()} == {"global", "layer"}
    searches = SCRIPTS["fig3_search_timesteps"].cells("paper")
    assert {name: config.early_time_timesteps for name, config in searches.items()} == {
        f"{name}_{p}": t
        for name, t in {"T'=2": 2, "T'=3": 3, "T'=4": 4, "T": None}.items()
        for p in (0.6836, 0.8999, 0.9578, 0.9822)
    }
    searches = SCRIPTS["fig7_eb_et"].cells("paper")
    assert [config.early_time_timesteps for name, config in searches.items() if name[0] == "T"] == [
        None,
        2,
        3,
        4,
    ]
    transfers = SCRIPTS["fig8_transfer"].cells("paper")
    assert [configs.resolve(config).rewind_epoch for config in transfers.values()] == [20, 0, 20]
    table1 = SCRIPTS["table1_early_time"].cells("paper")
    assert sum(config.early_time for config in table1.values()) == len(table1) / 2 == 5


def test_the_networks_of_the_supplement():
    script = SCRIPTS["supplement"]
    for scale in ("paper", "fast"):
        for where, arch in (({}, "alexnet"), ({"dataset": "tiny_imagenet"}, "resnet34")):
            assert {config.arch for config in planned(script, scale, **where).values()} == {arch}
    small = planned(script, "smoke")["imp", 0]  # its search is there already
    assert small.workdir == planned(SCRIPTS["table2_imp"], "smoke")["imp", 0].workdir


def test_equal_cells_share_a_directory():
    """IMP with the paper's settings is in most figures, and is searched once."""
    one = planned(SCRIPTS["fig10_spikes"], "paper")["imp", 0].workdir
    imp = {
        script.__name__: config.workdir
        for script in SCRIPTS.values()
        for (_, seed), config in planned(script, "paper").items()
        if seed == 0 and config.workdir == one
    }
    others = {
        "supplement",
        "table2_imp",
        "fig3_search_timesteps",
        "fig4_kl_over_epochs",
        "fig9_snip",
        "eb_criteria",
        "instability",
    }
    assert set(imp) == set(SCRIPTS) - others


def test_a_directory_is_named_by_what_decides_the_results():
    config = configs.ImpConfig()
    (a,) = grid.jobs({"a": config}, [0], "runs", None).values()
    (b,) = grid.jobs({"b": dataclasses.replace(config, epochs=15)}, [0], "runs", "data").values()
    assert a.workdir == b.workdir  # 15 is the default of digits
    for changes in ({"epochs": 16}, {"scope": "layer"}, {"weight_decay": 0.0}):
        (c,) = grid.jobs({"c": dataclasses.replace(config, **changes)}, [0], "runs", None).values()
        assert c.workdir != a.workdir


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_each_cell_is_in_one_share(n):
    items = [(name, seed) for name in "abcde" for seed in (0, 1)]
    shares = [grid.share(items, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(itertools.chain(*shares)) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- running

TINY = grid.Scale(
    small.NETWORK
    | {"dataset": "digits", "epochs": 4, "num_timesteps": 3, "validation_examples": 0, "test_examples": 60},
    {"rounds": 3, "prune_fraction": 0.5, "rewind_epoch": 1, "final_rounds": (2,)},
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Runs a script at a scale of seconds: its status."""
    monkeypatch.setitem(grid.SCALES, "tiny", TINY)

    def run(*arguments, cells=SCRIPTS["fig5_accuracy_vs_sparsity"].cells):
        script = SCRIPTS["fig5_accuracy_vs_sparsity"]
        options = ["--scale", "tiny", "--workdir", str(tmp_path / "runs"), *arguments]
        return grid.main(cells, script.TABLES, script.CLAIMS, script.FIGURES, options)

    return run


def test_a_script_from_its_cells_to_its_claims(tiny, tmp_path, capsys):
    assert tiny("--cells", "1/2") == 0
    text = capsys.readouterr().out
    assert "cell 1 of 2: imp, seed 0" in text
    assert "not there: eb_0.75 seed 0" in text
    assert "claim: imp beats random at the highest sparsity: " in text
    assert (
        "eb falls behind imp at the highest sparsity: open, eb_0.75 is not there, or not with all seeds"
        in text
    )
    assert tiny("--cells", "2/2") == 0
    text = capsys.readouterr().out
    assert "cell 1 of 1: eb_0.75, seed 0" in text
    assert "not there" not in text
    assert ": open, " not in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert tiny() == 0
    again = capsys.readouterr().out
    assert "cell 1" not in again
    assert again == text[text.index("winning tickets of imp") :]
    assert "claim: imp beats random at the highest sparsity: no verdict from one seed, " in again
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_cell_that_fails_leaves_the_others(tiny, capsys):
    def cells(scale, dataset=None, arch=None):
        s = grid.scale(scale)
        return {
            "bad": s.one_shot(0.5, "random", train_examples=5000),
            "diverged": s.one_shot(0.5, "random", learning_rate=1e30),
            "random_0.5": s.one_shot(0.5, "random"),
        }

    assert tiny(cells=cells) == 1
    captured = capsys.readouterr()
    failures = captured.err.splitlines()
    assert len(failures) == 2
    assert failures[0].startswith("failed: bad, seed 0: --train-examples 5000: allowed: 1 to")
    assert failures[1].startswith("failed: diverged, seed 0: ticket 1, epoch 1, step ")
    assert failures[1].endswith(": the loss or a weight is not finite")
    assert "not there: bad seed 0, diverged seed 0" in captured.out
    assert "random" in captured.out[captured.out.index("test accuracy of the tickets") :]


def test_only_a_finished_result_of_that_search_counts(tmp_path):
    (config,) = grid.jobs({"imp": TINY.imp()}, [0], str(tmp_path), None).values()
    paths = rundir.paths(config.workdir)
    paths.config.parent.mkdir()
    good = {"method": "imp", "finished": True, "rounds": [], "tickets": [], "controls": []}
    good |= {"format": "snnlth-result-1", "config": {"epochs": 4, "final_rounds": [2], "more": "known"}}
    good["config"] |= {"dataset": "digits", "arch": "vgg5", "num_timesteps": 3, "seed": 0}
    for changes, counts in (
        ({}, True),
        ({"finished": False}, False),
        ({"format": "snnlth-result-9"}, False),
        ({"config": good["config"] | {"epochs": 5}}, False),
    ):
        paths.result.write_text(json.dumps(good | changes))
        assert (grid.result(config) is not None) == counts
    paths.result.write_text("{")
    assert grid.result(config) is None


def test_controls_are_added_to_a_search_that_is_finished(tiny, tmp_path, capsys):
    """Scripts without and with controls share a directory, in any order; the search is not run again."""
    imp = {"imp": TINY.imp()}
    assert tiny(cells=lambda *_, **__: imp) == 0
    (run,) = (tmp_path / "runs").iterdir()
    *tickets, _ = [(path, path.read_bytes()) for path in sorted((run / "tickets").iterdir())]
    epochs = small.lines(rundir.paths(run))
    controls = {"imp": TINY.imp(controls=("redrawn", "random"))}
    assert tiny(cells=lambda *_, **__: controls) == 0
    assert "redrawn" in capsys.readouterr().out
    assert [(path, path.read_bytes()) for path, _ in tickets] == tickets  # the last names the controls too
    assert small.lines(rundir.paths(run))[: len(epochs)] == epochs
    recorded = (run / "result.json").read_bytes()
    for cells in (imp, {"imp": TINY.imp(controls=("random",))}, controls):
        assert tiny(cells=lambda *_, cells=cells, **__: cells) == 0
        assert "cell 1" not in capsys.readouterr().out
    assert (run / "result.json").read_bytes() == recorded
    ((name, _),) = grid.jobs(imp, [0], str(tmp_path / "runs"), None)
    found = grid.gather(grid.jobs(imp, [0], str(tmp_path / "runs"), None))
    assert found[name].controls == ()


def test_methods_cells_and_seeds_are_chosen(tiny, tmp_path, capsys):
    assert tiny("--only", "imp", "--seeds", "0,1") == 0
    text = capsys.readouterr().out
    assert "cell 2 of 2: imp, seed 1" in text
    assert "not there: " not in text
    assert "2 seeds" in text  # a verdict, where the scale has one seed
    assert tiny("--only", "imp,eb_0.75", "--show") == 0
    text = capsys.readouterr().out
    assert "cell 1" not in text
    assert "not there: eb_0.75 seed 0" in text
    assert len([*(tmp_path / "runs").iterdir()]) == 2


def test_gathered_results_give_the_same_tables_and_reports(tiny, tmp_path, capsys):
    assert tiny("--seeds", "0,1") == 0
    shown = capsys.readouterr().out
    runs, gathered = tmp_path / "runs", tmp_path / "gathered"
    (runs / "begun").mkdir()
    (runs / "begun" / "config.json").write_text('{"seed": 0}')
    parts = [str(path) for path in sorted(runs.iterdir())]
    assert gather.main([*parts, "--output", str(gathered)]) == 0
    assert capsys.readouterr().out == f"{gathered}: 6 searches; 1 unfinished ones were left out\n"
    kinds = {path.relative_to(gathered).parts[1] for path in gathered.rglob("*") if path.is_file()}
    assert kinds == {"config.json", "result.json", "metrics.jsonl", "correct"}
    assert sum(path.stat().st_size for path in gathered.rglob("*") if path.is_file()) < 100_000
    (runs / "begun" / "config.json").unlink()
    assert tiny("--seeds", "0,1", "--show", "--workdir", str(gathered)) == 0
    again = capsys.readouterr().out
    assert again == shown[shown.index("winning tickets of imp") :]
    for run, copy in zip(collect([str(runs)]).runs, collect([str(gathered)]).runs, strict=True):
        lines = tuple(event for event in run.events if not isinstance(event, RoundEvent))
        assert (copy.result, copy.events) == (run.result, lines)  # all that a report reads
    before = {path: path.read_bytes() for path in gathered.rglob("*") if path.is_file()}
    pictures = tmp_path / "new" / "pictures"
    assert tiny("--show", "--workdir", str(gathered), "--seeds", "0,1", "--figure", str(pictures)) == 0
    name = "fig5_accuracy_vs_sparsity"
    out = capsys.readouterr().out
    assert f"figure: {pictures}/{name}.png and .pdf\nfigures: mean and standard deviation of 2 seeds" in out
    assert sorted(path.name for path in pictures.iterdir()) == [f"{name}.pdf", f"{name}.png"]
    assert gather.main([str(runs), "--output", str(gathered)]) == 0
    assert before == {path: path.read_bytes() for path in gathered.rglob("*") if path.is_file()}


def test_what_cannot_be_gathered_is_one_line(tmp_path, capsys):
    assert gather.main([str(tmp_path), "--output", str(tmp_path / "to")]) == 2
    assert "no search in it or below" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_stopped_it_goes_on(tiny, monkeypatch, capsys):
    load, calls = configs.load_dataset, itertools.count(1)

    def interrupted(config):
        if next(calls) == 2:  # of the second cell
            signal.raise_signal(signal.SIGTERM)
        return load(config)

    with monkeypatch.context() as patch:
        patch.setattr(configs, "load_dataset", interrupted)
        assert tiny() == 75
    assert "stopped by SIGTERM; the same command resumes" in capsys.readouterr().err
    assert tiny() == 0
    assert "cell 1 of 2: eb_0.75" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--scale huge", "--scale huge: allowed: paper, fast, smoke, digits, small"),
        ("--cells 0/3", "--cells 0/3: allowed: i/n with 1 <= i <= n"),
        ("--cells 4/3", "--cells 4/3: allowed: i/n with 1 <= i <= n"),
        ("--seeds 0,x", "Error parsing --seeds: 'x' is no whole number, and no range such as 0-4"),
        ("--seeds -1", "--seeds -1: allowed: 0 to 2^32 - 1"),
        ("--Seeds 0 1", "--seeds 0 1: allowed: with commas, as 0,1"),
        ("--only imp,lamp", "--only lamp: allowed: imp, eb, random; or one with a sparsity: imp, eb_0.75"),
        ("--cells x", "--cells x: allowed: i/n with 1 <= i <= n"),
        ("--dataset imagenet", "--dataset imagenet: allowed: digits"),
        ("--dataset cifar10 --data-dir nowhere", "--data-dir nowhere: no such directory"),
        ("--figure /dev/null/here", "--figure /dev/null/here: /dev/null is not a directory; allowed: a dir"),
        ("--arch vgg16", "--arch vgg16: the 8x8 images of digits are too small"),
        ("--epochs 3", "Unrecognized options: --epochs"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tiny, tmp_path, capsys, arguments, expected):
    assert tiny(*arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "runs").exists()


def test_without_matplotlib_nothing_is_run_for_a_figure(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert tiny("--figure", str(tmp_path / "figures")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'snnlth_jax[plots]'" in line
    assert list(tmp_path.iterdir()) == []


def test_help_has_the_scripts_own_text_and_the_options(tiny, capsys):
    with pytest.raises(SystemExit) as stop:
        tiny("--help")
    assert not stop.value.code
    text = capsys.readouterr().out
    assert SCRIPTS["fig5_accuracy_vs_sparsity"].__doc__.strip() in text
    assert "  --figure DIR " in text


def test_an_unknown_scale_is_refused_by_every_script():
    for script in SCRIPTS.values():
        with pytest.raises(InputError, match="--scale huge"):
            script.cells("huge")


# --- claims

SPARSITIES = (0.0, 0.5, 0.9, 0.98)
IMAGES = 2000


def row(number, accuracy, kind="round", sparsity=None, layers=(), **more):
    sparsity = SPARSITIES[number] if sparsity is None else sparsity
    fields = {"kind": kind, "round": number, "network": "lif T=4", "num_timesteps": 4, "epochs": 1}
    fields |= {"kept": round(10_000 * (1 - sparsity)), "total": 10_000, "ticket": None}
    fields |= {"final_test_accuracy": accuracy, "layers": tuple(layers), "weights_on_no_path": 0}
    return (TicketRow if "search" in more else Row)(**fields, **more)


def made(
    accuracies,
    *,
    seeds=5,
    sparsity=None,
    flops=1.0,
    epochs=1,
    controls=(),
    layers=None,
    dataset="digits",
    **more,
):
    """Made-up searches, one a seed: accuracies of the dense network and of tickets at 50 %, 90 % and 98 %.

    With a sparsity it is a search of one ticket. The second seed is a tenth of a point better than the first,
    and so on; a network is right on the first images.
    """
    runs = []
    for seed in range(seeds):
        own = [round(a + 0.001 * seed, 4) for a in accuracies]
        cost = [
            Cost(epochs=epochs, train_flops=int(1e6 * flops * max(i, 1)), device_seconds=1.0)
            for i in range(4)
        ]
        if sparsity is None:
            measured = layers or [()] * len(own)
            rounds = [row(i, a, layers=measured[i]) for i, a in enumerate(own)]
            tickets = [row(i, own[i], layers=measured[i], search=cost[i]) for i in range(1, len(own))]
        else:
            rounds = [row(0, own[0])]
            measured = layers[-1] if layers else ()
            ticket = row(1, own[-1], kind="ticket", sparsity=sparsity, layers=measured, search=cost[1])
            tickets = [ticket]
        config = {"num_timesteps": 4, "dataset": dataset, "arch": "vgg5", "seed": seed, "sparsity": 0.9}
        config |= {"early_time_lambda": 0.6, "early_time_normalisation": "first", "queue": 5, "tau": 0.02}
        extra = [row(t.round, a, kind=kind) for kind, a in controls for t in tickets]
        parts = {"rounds": tuple(rounds), "tickets": tuple(tickets), "controls": tuple(extra)}
        result = Result(method="imp", finished=True, config=config, **parts, **more)
        rows = {(r.kind, r.round): r.final_test_accuracy for r in (*rounds, *tickets, *extra)}
        runs.append(
            findings.Run(
                result,
                f"runs/{seed}",
                lambda kind, number, rows=rows: np.arange(IMAGES) < IMAGES * rows[kind, number],
            )
        )
    return runs


def found_in(cells, absent=()):
    summaries = {name: replicates.summary([run.result for run in runs]) for name, runs in cells.items()}
    return findings.Outcomes(summaries, cells, absent)


def verdict(script, text, cells, **more):
    """The verdict on the claim of a script that begins with the text."""
    (claim,) = (claim for claim in SCRIPTS[script].CLAIMS if claim.text.startswith(text))
    return claim.verdict(found_in(cells, **more)).split(",")[0]


@scripts
def test_claims_are_open_without_results(script):
    assert script.CLAIMS
    for claim in script.CLAIMS:
        assert claim.verdict(findings.Outcomes()).startswith("open, ")


@pytest.mark.parametrize(
    ("imp", "random", "expected"),
    [
        (0.97, 0.8, "holds"),
        (0.7, 0.8, "contradicted"),
        (0.8, 0.8, "undecided"),
        (0.801, 0.8, "undecided"),  # two images of 2,000
    ],
)
def test_imp_against_random(imp, random, expected):
    cells = {
        "imp": made([0.98, 0.98, 0.98, imp]),
        "random_0.5": made([0.9, 0.95], sparsity=0.5),
        "random_0.98": made([0.9, random], sparsity=0.98),
    }
    assert claims.BEATS_RANDOM.verdict(found_in(cells)).split(",")[0] == expected


def test_a_verdict_shows_its_numbers_and_one_seed_gives_none():
    cells = {"imp": made([0.98, 0.98, 0.98, 0.9]), "random_0.98": made([0.9, 0.8], sparsity=0.98)}
    said = claims.BEATS_RANDOM.verdict(found_in(cells))
    assert said.startswith("holds, +0.1 [+0.0")
    assert said.endswith("], 5 seeds")
    single = {name: runs[:1] for name, runs in cells.items()}
    assert claims.BEATS_RANDOM.verdict(found_in(single)) == "no verdict from one seed, +0.1"


def test_seeds_that_both_have_are_compared():
    cells = {"imp": made([0.98] * 4, seeds=5), "random_0.98": made([0.9, 0.8], sparsity=0.98)[1:]}
    assert claims.BEATS_RANDOM.verdict(found_in(cells)).endswith("4 seeds")
    cells["random_0.98"] = made([0.9, 0.8], seeds=7, sparsity=0.98)[5:]
    assert claims.BEATS_RANDOM.verdict(found_in(cells)) == "open, no seed has both numbers"


def test_a_cell_that_lacks_seeds_leaves_its_claims_open():
    cells = {"imp": made([0.98] * 4), "random_0.98": made([0.9, 0.8], sparsity=0.98)}
    found = found_in(cells, absent=[("random_0.98", 3), ("random_0.99", 0)]).complete()
    assert claims.BEATS_RANDOM.verdict(found) == "open, random_0.98 is not there, or not with all seeds"


@scripts
def test_claims_of_a_sparsity_that_is_not_there_are_open(script):
    """As after --only, which may take a single sparsity of each method."""
    one = made([0.9, 0.8], sparsity=0.98)
    cells = {name: one for name in script.cells("smoke") if name.endswith("_0.9688")}
    for claim in script.CLAIMS:
        claim.verdict(found_in(cells))  # raises nothing


def test_results_of_before_single_images_were_recorded_are_told():
    runs = [run._replace(correct=lambda kind, number: None) for run in made([0.98] * 4)]
    cells = {"imp": runs, "random_0.98": made([0.9, 0.8], sparsity=0.98)}
    said = claims.BEATS_RANDOM.verdict(found_in(cells))
    remedy = "remove runs/0 to run it again"
    assert said == f"open, imp seed 0 predates the recording of single test images: {remedy}"
    other = [run._replace(correct=lambda kind, number: np.ones(7, bool)) for run in made([0.98] * 4)]
    said = claims.BEATS_RANDOM.verdict(found_in(cells | {"imp": other}))
    assert said == "open, the accuracies are of different test sets"


def test_early_time_costs_its_share():
    claim = "the search of imp+et costs T'/T"
    for t, expected in ((3, "holds"), (2, "contradicted")):
        chosen = EarlyTimeRecord(num_timesteps=t, divergences={})
        cells = {"imp": made([1.0] * 4, flops=10.0), "imp+et": made([1.0] * 4, flops=7.6, early_time=chosen)}
        assert verdict("table1_early_time", claim, cells) == expected


def test_early_time_loses_a_point_at_most():
    claim = "imp+et loses less than a point below 95 %"
    for accuracy, expected in ((0.9, "holds"), (0.898, "holds"), (0.89, "undecided"), (0.85, "contradicted")):
        cells = {"imp": made([0.9] * 4), "imp+et": made([0.9, 0.9, accuracy, 0.5])}
        assert verdict("table1_early_time", claim, cells) == expected


def test_early_bird_is_shorter_the_sparser():
    claim = "eb fires earlier at higher sparsity"
    cells = {
        "eb_0.98": made([0.9, 0.9], sparsity=0.98, epochs=2),
        "eb_0.5": made([0.9, 0.9], sparsity=0.5, epochs=9),
    }
    assert verdict("fig7_eb_et", claim, cells) == "holds"
    cells["eb_0.9"] = made([0.9, 0.9], sparsity=0.9, epochs=12)
    assert verdict("fig7_eb_et", claim, cells) == "contradicted"
    cells["eb_0.9"] = made([0.9, 0.9], sparsity=0.9, epochs=9)
    assert verdict("fig7_eb_et", claim, cells) == "undecided"


def test_changes_from_the_dense_network_have_the_reference_of_their_dataset():
    half, rewiring = (
        "the ticket at 76 % loses less than half a point",
        "the ticket at 97.5 % loses less than Grad",
    )
    for dataset, last, said in (
        ("cifar10", 0.89, "holds"),
        ("cifar10", 0.87, "contradicted"),
        ("cifar100", 0.87, "holds"),
        ("cifar100", 0.85, "contradicted"),
    ):
        cells = {"imp": made([0.9, 0.9, 0.9, last], dataset=dataset)}
        assert verdict("table2_imp", half, cells) == "holds"
        assert verdict("table2_imp", f"{rewiring}ient Rewiring on {dataset} ", cells) == said
        other = {"cifar10": "cifar100", "cifar100": "cifar10"}[dataset]
        assert verdict("table2_imp", f"{rewiring}ient Rewiring on {other} ", cells) == f"not of {dataset}"
    assert verdict("table2_imp", "the dense network has learned", {"imp": made([0.1] * 4)}) == "contradicted"


def test_what_transfer_is_expected_to_lose_depends_on_the_dataset():
    for dataset, claim in (
        ("fashion_mnist", "transfer loses less than 2"),
        ("cifar10", "transfer loses more than 2"),
    ):
        cells = {
            "imp": made([0.9] * 4, dataset=dataset),
            "transfer": made([0.9] * 3 + [0.8], dataset=dataset),
        }
        expected = "contradicted" if dataset == "fashion_mnist" else "holds"
        assert verdict("fig8_transfer", claim, cells) == expected
    cells = {name: made([0.9] * 4) for name in ("imp", "transfer")}
    assert verdict("fig8_transfer", "transfer loses more than 2", cells) == "not of digits"


def test_one_pruning_is_compared_with_the_unpruned_network():
    cells = {
        "T'=3_0.9": made([0.9, 0.898], sparsity=0.9),
        "T'=2_0.9": made([0.8, 0.8], sparsity=0.9),
        "T_0.9": made([0.9, 0.9], sparsity=0.9),
    }
    assert verdict("fig3_search_timesteps", "masks found with T_pre = 3", cells) == "holds"
    assert verdict("fig3_search_timesteps", "masks found with T_pre = 2", cells) == "holds"
    lines = SCRIPTS["fig3_search_timesteps"].against_unpruned(found_in(cells))
    points = [cell.split(" ")[0] for cell in lines.columns[-1].cells]
    assert points == ["-0.20", "-10.00", "+0.00"]


def test_controls_are_compared_ticket_by_ticket():
    controls = (("random", 0.5), ("redrawn", 0.9), ("dense", 0.95))
    cells = {"imp": made([0.9] * 4, controls=controls)}
    assert verdict("fig1_methods", "imp's sparsest ticket beats its control random", cells) == "holds"
    assert verdict("fig1_methods", "imp's sparsest ticket beats its control redrawn", cells) == "undecided"
    assert verdict("fig1_methods", "imp's sparsest ticket is not a point worse", cells) == "contradicted"
    kinds, _, _, _, better = (
        list(column.cells) for column in claims.against_controls(found_in(cells)).columns
    )
    assert kinds == ["random"] * 3 + ["redrawn"] * 3 + ["dense"]
    assert better == ["yes"] * 3 + ["undecided"] * 3 + ["no"]


def test_a_winning_ticket_is_not_worse_than_dense_by_the_margin():
    cells = {"imp": made([0.9, 0.9, 0.893, 0.8])}
    *_, said = (list(column.cells) for column in claims.winning_tickets(found_in(cells)).columns)
    assert said == ["yes", "undecided", "no"]
    text = "imp's sparsest ticket below 97 % is a winning ticket"
    assert verdict("fig5_accuracy_vs_sparsity", text, cells) == "undecided"
    assert verdict("fig5_accuracy_vs_sparsity", text, {"imp": made([0.9, 0.5, 0.9, 0.5])}) == "holds"


def test_divergences_fall_and_stop_changing():
    def verdicts(*curves):
        over_epochs = tuple(
            EarlyTimeEpoch(epoch=i, normalised={2: 1.0, 3: b, 4: c}, by_lambda={0.6: 3})
            for i, (b, c) in enumerate(curves, 1)
        )
        record = EarlyTimeRecord(num_timesteps=3, divergences={}, over_epochs=over_epochs)
        cells = {"probe": made([0.9] * 4, early_time=record)}
        return [verdict("fig4_kl_over_epochs", text, cells) for text in ("D_t falls", "D_3 is stable")]

    assert verdicts((0.9, 0.8), (0.4, 0.3), (0.41, 0.2)) == ["holds", "holds"]
    assert verdicts((0.9, 0.8), (0.4, 0.3), (0.6, 0.7)) == ["contradicted", "contradicted"]


def layer(name, kept=8, spikes=None, synops=0.0, macs=0.0):
    neurons = dict.fromkeys(("neurons", "silent_neurons", "saturated_neurons", "firing_rate"))
    operations = {"synops_per_image": (synops, synops), "macs_per_image": (macs, 0.0)}
    counts = {"weights": 8, "kept": kept, "channels": 1, "dead_channels": 0}
    return LayerRecord(name=name, **counts, **neurons, spikes_per_image=spikes, **operations)


def test_deep_layers_are_counted_in_the_sparsest_network():
    for first, last, expected in ((4, 1, "holds"), (1, 4, "contradicted"), (2, 2, "undecided")):
        kept = {"layer1/conv/kernel": first, "layer2/conv/kernel": last, "readout/kernel": 8}
        layers = [layer(name, kept=n) for name, n in kept.items()]
        cells = {"imp": made([0.9] * 4, layers=[layers] * 4)}
        assert verdict("fig6_imp_ablations", "deep layers end sparser", cells) == expected


def test_rewind_epochs_are_compared_below_96_percent():
    claim, names = "the rewind epoch hardly matters below 96 %", ("imp", "epoch 0", "half", "late")
    cells = {name: made([0.9, 0.9, 0.9 + 0.0005 * i, 0.5]) for i, name in enumerate(names)}
    assert verdict("fig6_imp_ablations", claim, cells) == "holds"
    cells["late"] = made([0.9, 0.9, 0.8, 0.9])
    assert verdict("fig6_imp_ablations", claim, cells) == "contradicted"


def test_spikes_and_operations_are_sums_over_layers_and_time():
    def cells(*rounds):
        layers = [[layer("a", spikes=n, macs=1000.0), layer("b", synops=synops)] for n, synops in rounds]
        return {"imp": made([0.9, 0.9], layers=layers)}

    constant = cells((100.0, 50.0), (90.0, 5.0))
    assert verdict("fig10_spikes", "spikes per image are about constant", constant) == "holds"
    assert verdict("fig10_spikes", "synaptic operations fall", constant) == "holds"
    falling = cells((100.0, 50.0), (50.0, 50.0))
    assert verdict("fig10_spikes", "spikes per image are about constant", falling) == "contradicted"
    assert verdict("fig10_spikes", "synaptic operations fall", falling) == "undecided"
    table = SCRIPTS["fig10_spikes"].operations(found_in(falling))
    (_, _, _, macs, energy) = (next(iter(column.cells)) for column in table.columns)
    assert macs == "1,000"
    assert energy == "4.7"  # nJ: 1000 x 4.6 pJ and 100 x 0.9 pJ


def test_runs_before_spikes_were_recorded_are_told():
    with pytest.raises(findings.Missing, match="predates the recording of spikes"):
        SCRIPTS["fig10_spikes"].operations(found_in({"imp": made([0.9] * 4)}))


def test_where_hamming_goes_blind():
    def outcomes(epoch, overlap, other):
        def stopped(epoch):
            distances = {"largest_hamming": 0.005, "largest_overlap": overlap}
            record = EarlyBirdRecord(epoch=epoch, fired=True, criterion="hamming", **distances)
            return made([0.9, 0.9], sparsity=0.995, early_bird=record)

        cells = {"hamming_0.995": stopped(epoch), "overlap_0.995": stopped(other)}
        found = found_in(cells)
        return [claim.verdict(found).split(",")[0] for claim in SCRIPTS["eb_criteria"].CLAIMS]

    assert outcomes(4, 0.5, 8) == ["holds"] * 3
    assert outcomes(9, 0.01, 9) == ["contradicted", "contradicted", "undecided"]


# --- figures


def synthetic(script, dataset="cifar10"):
    """Made-up results of all cells of a script, no two with the same numbers."""
    distances = {"largest_hamming": 0.01, "largest_overlap": 0.1}
    over_epochs = tuple(
        EarlyTimeEpoch(epoch=i, normalised={2: 1.0, 3: 0.4 / i}, by_lambda={0.5: 3 + i, 0.6: 3})
        for i in (1, 2, 3)
    )
    lines = [
        InterpolationRecord(
            epoch=epoch,
            total=9,
            kept=9,
            alphas=(0, 1),
            test_errors=(0, 0),
            train_losses=(0, 0),
            barrier=barrier,
        )
        for epoch, barrier in ((0, 0.3), (2, 0.1), (5, 0.01))
    ]
    cells = {}
    for i, (name, config) in enumerate(script.cells("smoke").items()):
        accuracies, more = [0.9 - 0.003 * i - 0.1 * loss for loss in (0, 0.01, 0.3, 1.2)], {}
        more["layers"] = [
            [
                layer("layer1/conv/kernel", kept, spikes=90.0 + i, synops=7.0 * kept),
                layer("b/kernel", kept + 1),
            ]
            for kept in (7, 5, 3, 1)
        ]
        if isinstance(config, configs.EbConfig):
            fired = EarlyBirdRecord(epoch=2 + i, fired=True, criterion="hamming", **distances)
            more |= {"early_bird": fired}
        if getattr(config, "early_time", False) or name == "probe":
            more["early_time"] = EarlyTimeRecord(num_timesteps=3, divergences={}, over_epochs=over_epochs)
        if name == "instability":
            more["stability"] = StabilityRecord(bound=0.02, proposed=5, interpolations=tuple(lines))
        more["sparsity"] = getattr(config, "sparsity", None)
        cells[name] = made(accuracies, flops=1.0 + i, dataset=dataset, **more)
    return found_in(cells)


def drawn(drawing):
    """The numbers of the named lines: places and values."""
    lines = {str(line.get_label()): line for line in drawing.axes.lines}
    return {
        name: list(zip(*map(list, line.get_data()), strict=True))
        for name, line in lines.items()
        if name[0] != "_"
    }


def in_columns(table, *headers):
    """First words of the cells below some headers, or below all but the first; of rows that have one."""
    columns = [column for column in table.columns[1:] if not headers or column.header in headers]
    return {cell.split()[0].strip(",") for column in columns for cell in column.cells if cell}


S = SCRIPTS
NUMBERS = [
    ("table1_early_time", findings.accuracies, [], ".4f"),
    ("table2_imp", S["table2_imp"].changes, ["points from dense (95 %)", "paper"], "+.2f"),
    ("table2_imp", S["table2_imp"].changes, ["Gradient Rewiring"], "+.2f"),
    ("fig1_methods", findings.costs, ["accuracy"], ".4f"),
    ("fig3_search_timesteps", S["fig3_search_timesteps"].against_unpruned, ["accuracy"], ".4f"),
    ("fig4_kl_over_epochs", S["fig4_kl_over_epochs"].curves, [], ".3f"),
    ("fig5_accuracy_vs_sparsity", findings.accuracies, [], ".4f"),
    ("fig6_imp_ablations", findings.accuracies, [], ".4f"),
    ("fig7_eb_et", S["fig7_eb_et"].timesteps, [], "g"),
    ("fig7_eb_et", findings.decisions, ["Early-Bird fired after epochs"], "g"),
    ("fig8_transfer", findings.costs, ["accuracy"], ".4f"),
    ("fig9_snip", findings.accuracies, [], ".4f"),
    ("fig10_spikes", S["fig10_spikes"].operations, ["spikes"], ",.0f"),
    ("bn_on_rewind", findings.accuracies, [], ".4f"),
    ("discrepancies", S["discrepancies"].differences, ["points from it (95 %)"], "+.2f"),
    ("eb_criteria", S["eb_criteria"].distances, ["epoch"], "g"),
    ("evidence", findings.costs, ["accuracy"], ".4f"),
    ("instability", S["instability"].barriers, ["by seed"], ".4f"),
    ("other_methods", S["other_methods"].operations, ["accuracy"], ".4f"),
    ("rewinding", findings.accuracies, [], ".4f"),
    ("supplement", findings.accuracies, [], ".4f"),
    ("variants", findings.accuracies, [], ".4f"),
]


@pytest.mark.parametrize(("name", "table", "headers", "form"), NUMBERS)
def test_figures_have_the_numbers_of_the_tables(name, table, headers, form):
    found = synthetic(SCRIPTS[name])
    pictures = [drawn(figure(found)) for figure in SCRIPTS[name].FIGURES]
    shown = {f"{y:{form}}" for picture in pictures for points in picture.values() for _, y in points}
    expected = in_columns(table(found), *headers)
    assert expected
    assert expected <= shown


def test_every_script_is_compared_with_a_table():
    assert {name for name, *_ in NUMBERS} == set(SCRIPTS)


@scripts
def test_the_figures_of_a_script_are_written(script, tmp_path):
    found = synthetic(script)
    lines = list(figures.write(str(tmp_path), script.__name__, script.FIGURES, found))
    letters = ["_a", "_b", "_c"][: len(script.FIGURES)] if len(script.FIGURES) > 1 else [""]
    names = [f"{script.__name__}{letter}" for letter in letters]
    last = "figures: mean and standard deviation of 5 seeds"
    assert lines == [*(f"figure: {tmp_path}/{name}.png and .pdf" for name in names), last]
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "pdf")}
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@scripts
def test_figures_of_what_is_not_there_are_open(script, tmp_path):
    lines = list(figures.write(str(tmp_path / "new"), script.__name__, script.FIGURES, findings.Outcomes()))
    assert len(lines) == len(script.FIGURES)
    for line in lines:
        assert re.match(rf"figure {script.__name__}\w*: open, ", line)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_says_which_cells_it_is_without(tmp_path):
    cells = {"imp": made([0.9] * 4), "eb_0.9": made([0.9, 0.8], sparsity=0.9)}
    found = found_in(cells, absent=[("eb_0.98", 0), ("random_0.98", 0), ("imp", 5)])
    (_, line) = figures.write(str(tmp_path), "fig5", [figures.accuracies], found)
    assert line == "figures: mean and standard deviation of 5 seeds; without eb_0.98, random_0.98"
    assert {name: len(points) for name, points in drawn(figures.accuracies(found)).items()} == {
        "imp": 4,
        "eb": 1,
    }


SEVERAL = set(SCRIPTS) - {"table2_imp", "fig4_kl_over_epochs", "fig7_eb_et", "fig10_spikes", "instability"}


@pytest.mark.parametrize("name", sorted(SEVERAL))
def test_a_cell_that_lacks_leaves_the_lines_of_other_methods(name):
    script = SCRIPTS[name]
    whole = synthetic(script)
    lines = drawn(script.FIGURES[0](whole))
    beside = SCRIPTS["discrepancies"].VARIANTS if name == "discrepancies" else {}
    for method, lacking in {findings.method_of(cell): cell for cell in whole}.items():
        others = {cell: runs for cell, runs in whole.runs.items() if cell != lacking}
        left = drawn(script.FIGURES[0](found_in(others, absent=[(lacking, 0)])))
        kept = [line for line in lines if method not in (line, *beside.get(line, ()))]
        assert {line: left[line] for line in kept} == {line: lines[line] for line in kept}


def test_a_line_has_its_places_means_and_deviations():
    found = found_in({"imp": made([0.9, 0.8, 0.7, 0.6]), "eb_0.9": made([0.9, 0.5], sparsity=0.9)})
    drawing = figures.accuracies(found)
    lines = drawn(drawing)
    assert lines["imp"] == [pytest.approx(p) for p in ((1, 0.902), (0.5, 0.802), (0.1, 0.702), (0.02, 0.602))]
    assert lines["eb"] == [pytest.approx((0.1, 0.502))]
    bars = drawing.axes.collections[0].get_segments()  # of imp
    for (x, y), bar in zip(lines["imp"], bars, strict=True):
        std = np.std([0.001 * seed for seed in range(5)], ddof=1)
        np.testing.assert_allclose(bar, [(x, y - std), (x, y + std)])
    texts = {text.get_text() for text in drawing.axes.texts}
    assert {"imp", "eb", "dense"} <= texts
    other = figures.accuracies(found_in({"imp": made([0.9] * 4), "tet": made([0.8] * 4)}))
    assert "dense" not in {text.get_text() for text in other.axes.texts}  # there are two


def test_a_cost_of_0_has_a_place_on_the_logarithmic_axis():
    cells = {"random_0.9": made([0.9, 0.8], sparsity=0.9, flops=0), "imp": made([0.9] * 4, flops=1e3)}
    axes = figures.costs(found_in(cells)).axes
    places = axes.transAxes.inverted().transform(axes.transData.transform([(0, 0.8), (1e9, 0.9), (3e9, 0.9)]))
    assert (places[:, 0] > 0).all()
    assert (places[:, 0] < 1).all()
    assert (np.diff(places[:, 0]) > 0.02).all()


def test_layers_and_timesteps_of_the_tickets_are_drawn():
    found = synthetic(SCRIPTS["fig6_imp_ablations"])
    *_, sparsest = drawn(figures.layers(found)).values()
    assert {f"{100 * y:.2f}" for _, y in sparsest} == in_columns(
        SCRIPTS["fig6_imp_ablations"].layers(found), "sparsity"
    )
    found = synthetic(SCRIPTS["fig7_eb_et"])
    lines = drawn(figures.over_timesteps(found))
    for i, points in enumerate(lines.values()):
        own = [found.accuracy(f"T'={t}" if t < 4 else "T", i).mean for t in (2, 3, 4)]
        assert points == [pytest.approx(point) for point in zip((2, 3, 4), own, strict=True)]
    assert list(lines) == ["50 %", "90 %", "98 %"]
