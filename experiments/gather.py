"""Gather what tables, verdicts and plots are computed from, without the rest of a run.

    command  python experiments/gather.py RUNS... --output experiments/results/NAME

RUNS are directories of finished searches, or such with them below. The output gets a directory of the same
name for each, with its config.json, result.json, metrics.jsonl and correct/: no weights, no checkpoints, no
line of metrics.jsonl that result.json repeats. `--workdir experiments/results/NAME --show` of the scripts
reads them, and `snnlth report` as any other run.
"""

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from snnlth_jax import cli
from snnlth_jax.errors import InputError
from snnlth_jax.report import runs
from snnlth_jax.report.runs import Run
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import events, results
from snnlth_jax.run.events import RoundEvent


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command line."""

    runs: tyro.conf.Positional[list[str]]
    """Directories of searches, or with them below."""
    output: str
    """Directory of the results. A search that it has already is replaced."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather results as the command line says; return the exit status."""

    def action() -> None:
        options = cli.options(Options, __doc__ or "", arguments)
        collected = runs.collect(options.runs)
        finished = [run for run in collected.runs if run.result.finished]
        place = ", ".join(options.runs)
        if not finished:
            raise InputError(place, problem="no finished search")
        names = [Path(run.directory).name for run in finished]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(place, problem=f"{twice[0]} is there twice")
        for run, name in zip(finished, names, strict=True):
            gather(run, Path(options.output) / name)
        left = len(collected.runs) + len(collected.without_result) - len(finished)
        print(f"{options.output}: {len(finished)} searches; {left} unfinished ones were left out")

    return cli.exit_status(action)


def gather(run: Run, target: Path) -> None:
    """Copy what is read of a finished search; nothing is there before all is."""
    paths, partial = rundir.paths(run.directory), target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(paths.config, partial / paths.config.name)
    (partial / paths.result.name).write_text(_line(results.to_json(run.result)))
    lines = [_line(events.to_json(event)) for event in run.events if not isinstance(event, RoundEvent)]
    (partial / paths.metrics.name).write_text("".join(lines))
    if paths.correct.exists():
        shutil.copytree(paths.correct, partial / paths.correct.name)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    sys.exit(main())
