"""Several seeds: each a run of its own, summed up."""

import dataclasses
import functools
import io
import json
import statistics

import pytest
import small
from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.errors import InputError
from snnlth_jax.run.results import Spread, from_json, to_json
from snnlth_jax.search import one_shot, replicates

CONFIG = configs.OneShotConfig(
    **small.NETWORK | {"epochs": 1}, num_timesteps=2, criterion="random", seeds=(0, 2)
)


SEARCH = functools.partial(one_shot.search, model=small.MODEL)


def run(directory, search=SEARCH, **changes):
    config = dataclasses.replace(CONFIG, workdir=str(directory), **changes)
    console = Console(file=io.StringIO(), width=120)
    return replicates.run(search, configs.resolve(config), console), console.file.getvalue()


def test_mean_and_standard_deviation_over_seeds_and_going_on_by_seed(tmp_path):
    result, _ = run(tmp_path)
    assert result.seeds == (0, 2)
    each = [json.loads((tmp_path / f"seed{seed}" / "result.json").read_text()) for seed in (0, 2)]
    values = [one["tickets"][0]["final_test_accuracy"] for one in each]
    (row,) = result.tickets
    assert row.final_test_accuracy == Spread(
        mean=statistics.fmean(values), std=statistics.stdev(values), values=tuple(values)
    )
    written = json.loads((tmp_path / "result.json").read_text())
    assert (
        written
        == json.loads(json.dumps(to_json(result)))
        == json.loads(json.dumps(to_json(from_json(written))))
    )
    # what one seed gives does not depend on the others
    alone, _, _ = small.run(one_shot, CONFIG, tmp_path / "alone", seed=2, seeds=())
    assert alone["tickets"][0]["final_test_accuracy"] == values[1]

    # one more seed: those that are finished are not run again
    searched = []

    def search(config, **rest):
        searched.append(config.seed)
        return SEARCH(config, **rest)

    more, text = run(tmp_path, search, seeds=(0, 1, 2))
    assert searched == [0, 1, 2]
    assert text.count("this search is finished") == 2
    assert [more.tickets[0].final_test_accuracy.values[i] for i in (0, 2)] == values
    assert "mean ± std of 3 seeds" in text


def test_another_configuration_is_refused_before_a_seed_runs(tmp_path):
    run(tmp_path, seeds=(0,))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"sparsity 0\.9 there, 0\.8 now"):
        run(tmp_path, seeds=(1,), sparsity=0.8)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_directory_of_one_seed_is_refused(tmp_path):
    small.run(one_shot, CONFIG, tmp_path / "run", seeds=(), seed=0)
    with pytest.raises(InputError, match=r"seed 0 there, one of --seeds now"):
        run(tmp_path / "run")
