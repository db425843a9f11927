"""What tables, verdicts and plots are computed from, without the rest of a run.

    command  python experiments/gather.py RUNS... --output experiments/results/NAME

RUNS are directories of finished searches, or such with them below. The output gets a directory of the same
name for each, with its config.json, result.json, metrics.jsonl and correct/, byte for byte: no weights, no
checkpoints. The scripts of this folder read them with `--workdir experiments/results/NAME --show`, and
`snnlth report` as any other run.
"""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from snnlth_jax import cli
from snnlth_jax.errors import InputError
from snnlth_jax.report import runs
from snnlth_jax.run import directory as rundir


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command line."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Directories of searches, or with them below."""
    output: str
    """Directory of the results. A search that it has already is replaced."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather results as the command line says; return the exit status."""

    def action() -> None:
        options = cli.parsed(lambda: tyro.cli(Options, description=__doc__, args=arguments), "--help")
        found = runs.collect(options.runs)
        finished = [Path(run.directory) for run in found.runs if run.result.finished]
        if not finished:
            raise InputError(", ".join(options.runs), problem="no finished search", allowed="at least one")
        names = [path.name for path in finished]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(", ".join(options.runs), problem=f"{twice[0]} is there twice", allowed="once")
        for path in finished:
            gather(path, Path(options.output) / path.name)
        left = len(found.runs) + len(found.without_result) - len(finished)
        print(f"{options.output}: {len(finished)} searches; {left} unfinished ones were left out")

    return cli.exit_status(action)


def gather(run: Path, target: Path) -> None:
    """Copy what is read of a finished search; nothing is there before all is."""
    paths, partial = rundir.paths(run), target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in (paths.config, paths.result, paths.metrics):
        shutil.copyfile(path, partial / path.name)
    if paths.correct.exists():
        shutil.copytree(paths.correct, partial / paths.correct.name)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


if __name__ == "__main__":
    sys.exit(main())
