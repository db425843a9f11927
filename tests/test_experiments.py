"""The scripts of experiments/: their settings are the paper's, cells are run once, claims can fail."""

import dataclasses
import importlib
import itertools
import json
import signal
from pathlib import Path

import findings
import grid
import pytest
import small

from snnlth_jax import configs
from snnlth_jax.errors import InputError
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.results import (
    EarlyBirdRecord,
    EarlyTimeEpoch,
    EarlyTimeRecord,
    LayerRecord,
    Result,
    Row,
    Spread,
    Summary,
    SummaryRow,
)

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
        "eb_criteria",
        "rewinding",
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
        assert config.arch == ("resnet19" if script.__name__ == "table2_imp" else "vgg16")
        if isinstance(config, configs.Rounds):
            assert (config.rounds, config.prune_fraction, config.final_rounds) == (15, 0.25, (4, 8, 11, 14))
        if isinstance(config, configs.EbConfig):
            assert (config.queue, config.tau, config.rewind_epoch) == (5, 0.02, 0)
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
    assert [config.early_time_timesteps for config in searches.values()] == [None, 2, 3, 4]
    table1 = SCRIPTS["table1_early_time"].cells("paper")
    assert sum(config.early_time for config in table1.values()) == len(table1) / 2 == 5


def test_equal_cells_share_a_directory():
    """IMP with the paper's settings is in most figures, and is searched once."""
    imp = {
        script.__name__: config.workdir
        for script in SCRIPTS.values()
        for (_, seed), config in planned(script, "paper").items()
        if seed == 0 and config.workdir == planned(SCRIPTS["fig10_spikes"], "paper")["imp", 0].workdir
    }
    others = {"table2_imp", "fig4_kl_over_epochs", "fig9_snip", "eb_criteria"}
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
        return grid.main(cells, script.TABLES, script.CLAIMS, options)

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
    assert again == text[text.index("all rounds of imp") :]
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


def test_claims_are_of_all_seeds_or_open(monkeypatch):
    planned = grid.jobs(SCRIPTS["fig5_accuracy_vs_sparsity"].cells("smoke"), (0, 1), "runs", None)
    results = {"imp": cell([0.98, 0.98, 0.98, 0.97]), "random": one(0.8, 0.98), "eb": one(0.9, 0.98)}

    def result(config):
        return (
            None
            if (config.method, config.seed) == ("one-shot", 1)
            else results.get(config.method, results["random"])
        )

    monkeypatch.setattr(grid, "result", result)
    monkeypatch.setattr(grid.replicates, "summary", lambda results: results[0])
    found = grid.gather(planned)
    assert found.accuracy("random") == 0.8  # in tables
    verdict = findings.BEATS_RANDOM.verdict(found.complete())
    assert verdict == "open, random_0.75 is not there, or not with all seeds"


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
        ("--cells x", "--cells x: allowed: i/n with 1 <= i <= n"),
        ("--dataset mnist", "--dataset mnist: allowed: digits"),
        ("--dataset cifar10 --data-dir nowhere", "--data-dir nowhere: no such directory"),
        ("--arch vgg16", "--arch vgg16: the 8x8 images of digits are too small"),
        ("--epochs 3", "Unrecognized options: --epochs"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tiny, tmp_path, capsys, arguments, expected):
    assert tiny(*arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "runs").exists()


def test_an_unknown_scale_is_refused_by_every_script():
    for script in SCRIPTS.values():
        with pytest.raises(InputError, match="--scale huge"):
            script.cells("huge")


# --- claims


CONFIG = {"num_timesteps": 4, "dataset": "digits", "arch": "vgg5"}


def spread(value):
    return Spread(mean=value, std=None, values=(value,))


def summary(rounds=(), tickets=(), **more):
    parts = {"rounds": tuple(rounds), "tickets": tuple(tickets), "controls": ()}
    return Summary(method="imp", finished=True, seeds=(0,), config=CONFIG, **parts, **more)


def cell(accuracies, *, flops=1.0, epochs=1.0, **more):
    """A made-up result: its accuracies, of the dense network and of tickets at 50 %, 90 % and 98 %."""
    sparsities = (0.0, 0.5, 0.9, 0.98)
    rows = [
        row(i, sparsities[i], accuracy, flops=flops * i, epochs=epochs)
        for i, accuracy in enumerate(accuracies)
    ]
    return summary(rows, rows[1:], **more)


def row(number, sparsity, accuracy, flops, epochs):
    return SummaryRow(
        kind="round",
        round=number,
        kept=1,
        total=1,
        num_timesteps=(4,),
        sparsity=sparsity,
        final_test_accuracy=spread(accuracy),
        search_train_flops=spread(flops),
        search_epochs=spread(epochs),
    )


def one(accuracy, sparsity, epochs=1.0, flops=1.0):
    """A made-up result of a search without rounds."""
    return summary(tickets=[row(1, sparsity, accuracy, flops, epochs)])


def early_time(num_timesteps, over_epochs=()):
    return EarlyTimeRecord(num_timesteps=num_timesteps, divergences={}, over_epochs=tuple(over_epochs))


def imp_result(*layers_of_rounds):
    """A result of IMP that recorded these layers."""
    rounds = tuple(
        Row(
            kind="round",
            round=i,
            kept=10 - i,
            total=10,
            network="lif T=2",
            num_timesteps=2,
            epochs=1,
            ticket=None,
            layers=tuple(layers),
            weights_on_no_path=0,
        )
        for i, layers in enumerate(layers_of_rounds)
    )
    config = CONFIG | {"seed": 0}
    return Result(method="imp", finished=True, config=config, rounds=rounds, tickets=(), controls=())


def layer(name, kept=8, spikes=None, synops=0.0, macs=0.0):
    neurons = dict.fromkeys(("neurons", "silent_neurons", "saturated_neurons", "firing_rate"))
    operations = {"synops_per_image": (synops, synops), "macs_per_image": (macs, 0.0)}
    counts = {"weights": 8, "kept": kept, "channels": 1, "dead_channels": 0}
    return LayerRecord(name=name, **counts, **neurons, spikes_per_image=spikes, **operations)


def verdicts(script, results):
    found = findings.Found(results)
    return {claim.text: claim.verdict(found) for claim in SCRIPTS[script].CLAIMS}


def verdict(script, text, results):
    (claim,) = (claim for claim in SCRIPTS[script].CLAIMS if claim.text.startswith(text))
    return claim.verdict(findings.Found(results))


@scripts
def test_claims_are_open_without_results(script):
    assert script.CLAIMS
    for claim in script.CLAIMS:
        assert claim.verdict(findings.Found()).startswith("open, ")


def test_one_number_is_no_comparison():
    claim = findings.Claim("", lambda found: [1.0])
    assert claim.verdict(findings.Found()) == "open, there is one number only"


@pytest.mark.parametrize(
    ("relation", "values", "expected"),
    [
        (">", [0.97, 0.82], "holds, 0.97 > 0.82"),
        (">", [0.82, 0.97], "does not hold, 0.82 < 0.97"),
        (">", [0.5, 0.5], "does not hold, 0.5 = 0.5"),
        (">", [1.0, 0.4, 0.45], "does not hold, 1 > 0.4 < 0.45"),
        (">=", [3, 2, 2], "holds, 3 > 2 = 2"),
        ("≈", [0.8, 0.75], "holds, 0.8 ≈ 0.75"),
        ("≈", [0.9, 0.75], "does not hold, 0.9 > 0.75"),
    ],
)
def test_a_verdict_shows_its_numbers(relation, values, expected):
    assert (
        findings.Claim("", lambda found: values, relation, within=0.1).verdict(findings.Found()) == expected
    )


def test_imp_against_random():
    for_random = {"random_0.5": one(0.95, 0.5), "random_0.98": one(0.8, 0.98)}
    good = {"imp": cell([0.98, 0.98, 0.98, 0.97])} | for_random
    claim = "imp beats random at the highest sparsity"
    assert verdict("fig5_accuracy_vs_sparsity", claim, good) == "holds, 0.97 > 0.8"
    bad = {"imp": cell([0.98, 0.98, 0.98, 0.7])} | for_random
    assert verdict("fig1_methods", claim, bad) == "does not hold, 0.7 < 0.8"
    found = findings.Found(good, absent=[("random_0.99", 0)])
    assert findings.BEATS_RANDOM.verdict(found) == "open, random_0.99 is not there, or not with all seeds"


def test_early_time_costs_its_share():
    claim = "the search of imp+et costs T'/T"
    results = {"imp": cell([1, 1, 1, 1], flops=10.0)}
    results["imp+et"] = cell([1, 1, 1, 1], flops=7.6, early_time=(early_time(3),))
    assert verdict("table1_early_time", claim, results) == "holds, 0.76 ≈ 0.75"
    results["imp+et"] = cell([1, 1, 1, 1], flops=7.6, early_time=(early_time(2),))
    assert verdict("table1_early_time", claim, results) == "does not hold, 0.76 > 0.5"


def test_early_time_loses_a_point_at_most():
    results = {"imp": cell([0.9, 0.9, 0.9, 0.9]), "imp+et": cell([0.9, 0.9, 0.895, 0.5])}
    claim = "imp+et loses at most a point below 95 %"
    assert verdict("table1_early_time", claim, results) == "holds, 0.905 > 0.9"
    results["imp+et"] = cell([0.9, 0.9, 0.85, 0.9])
    assert verdict("table1_early_time", claim, results) == "does not hold, 0.86 < 0.9"


def test_early_bird_is_shorter_the_sparser():
    claim = "eb fires earlier at higher sparsity"
    results = {"eb_0.98": one(0.9, 0.98, epochs=4), "eb_0.5": one(0.9, 0.5, epochs=9)}
    assert verdict("fig7_eb_et", claim, results) == "holds, 9 > 4"
    results["eb_0.9"] = one(0.9, 0.9, epochs=12)
    assert verdict("fig7_eb_et", claim, results) == "does not hold, 9 < 12 > 4"


def test_changes_from_the_dense_network():
    learned, *lost = verdicts("table2_imp", {"imp": cell([0.90, 0.93, 0.89, 0.85])}).values()
    assert learned == "holds, 0.9 > 0.2"
    assert all(each.startswith("does not hold") for each in lost)
    assert lost[2] == "does not hold, -5 < -2.1"
    kept = verdicts("table2_imp", {"imp": cell([0.90, 0.93, 0.90, 0.897])}).values()
    assert all(each.startswith("holds") for each in kept)
    at_chance = verdicts("table2_imp", {"imp": cell([0.1, 0.1, 0.1, 0.1])}).values()
    assert next(iter(at_chance)) == "does not hold, 0.1 < 0.2"


def test_divergences_fall_and_stand_still():
    def probe(*curves):
        over_epochs = [
            EarlyTimeEpoch(epoch=i, normalised={2: 1.0, 3: b, 4: c}, by_lambda={0.6: 3})
            for i, (b, c) in enumerate(curves, 1)
        ]
        return {"probe": summary(early_time=(early_time(3, over_epochs),))}

    falls, stable = verdicts("fig4_kl_over_epochs", probe((0.9, 0.8), (0.4, 0.3), (0.41, 0.2))).values()
    assert falls == "holds, 1 > 0.41 > 0.2"
    assert stable == "holds, 0.41 ≈ 0.4"
    falls, stable = verdicts("fig4_kl_over_epochs", probe((0.9, 0.8), (0.4, 0.3), (0.6, 0.7))).values()
    assert falls == "does not hold, 1 > 0.6 < 0.7"
    assert stable == "does not hold, 0.6 > 0.4"


def test_deep_layers_are_counted_in_the_sparsest_network():
    def verdict(first, last):
        kept = {"layer1/conv/kernel": first, "layer2/conv/kernel": last, "readout/kernel": 8}
        result = imp_result((), [layer(name, kept=n) for name, n in kept.items()])
        found = findings.Found({"imp": cell([1, 1, 1, 1])}, {"imp": [result]})
        (claim,) = (c for c in SCRIPTS["fig6_imp_ablations"].CLAIMS if c.text.startswith("deep layers end"))
        return claim.verdict(found)

    assert verdict(4, 1) == "holds, 0.875 > 0.5"
    assert verdict(1, 4) == "does not hold, 0.5 < 0.875"


def test_rewind_epochs_are_compared_below_96_percent():
    names = ("imp", "epoch 0", "half", "late")
    results = {name: cell([0.9, 0.9, 0.9 + 0.002 * i, 0.5 + i]) for i, name in enumerate(names)}
    claim = "the rewind epoch hardly matters below 96 %"
    assert verdict("fig6_imp_ablations", claim, results) == "holds, 0.01 > 0.006"
    results["late"] = cell([0.9, 0.9, 0.8, 0.9])
    assert verdict("fig6_imp_ablations", claim, results).startswith("does not hold, 0.01 < 0.1")


def test_spikes_and_operations_are_sums_over_layers_and_time():
    def found(*rounds):
        result = imp_result(
            *(
                [layer("a", spikes=spikes, macs=1000.0), layer("b", synops=synops)]
                for spikes, synops in rounds
            )
        )
        return findings.Found({"imp": summary()}, {"imp": [result]})

    def verdicts(found):
        return [claim.verdict(found) for claim in SCRIPTS["fig10_spikes"].CLAIMS]

    assert verdicts(found((100.0, 50.0), (90.0, 5.0))) == ["holds, 100 ≈ 90", "holds, 100 > 10"]
    constant = found((100.0, 50.0), (50.0, 50.0))
    assert verdicts(constant) == ["does not hold, 100 > 50", "does not hold, 100 = 100"]
    (_, _, _, macs, energy) = (
        next(iter(column.cells)) for column in SCRIPTS["fig10_spikes"].operations(constant).columns
    )
    assert macs == "1,000"
    assert energy == "4.7"  # nJ: 1000 x 4.6 pJ and 100 x 0.9 pJ


def test_runs_before_spikes_were_recorded_are_told():
    found = findings.Found({"imp": summary()}, {"imp": [imp_result(())]})
    with pytest.raises(findings.Missing, match="predates the recording of spikes"):
        SCRIPTS["fig10_spikes"].operations(found)


def test_where_hamming_goes_blind():
    def results(epoch, overlap, other):
        def stopped(epoch):
            distances = {"largest_hamming": 0.005, "largest_overlap": overlap}
            record = EarlyBirdRecord(epoch=epoch, fired=True, criterion="hamming", **distances)
            return summary(early_bird=(record,))

        return {"hamming_0.995": stopped(epoch), "overlap_0.995": stopped(other)}

    def outcomes(*numbers):
        return [text.split(",")[0] for text in verdicts("eb_criteria", results(*numbers)).values()]

    assert outcomes(4, 0.5, 8) == ["holds"] * 3
    assert outcomes(5, 0.01, 5) == ["does not hold"] * 3
