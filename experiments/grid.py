"""Parts that all experiments share: scales, cells and their directories, running them, gathering results.

An experiment is a dict of cells: configurations of ordinary searches by their name, "imp" or "eb_0.9578" (the
sparsity after the underscore). Each is run once per seed, in a directory below --workdir that is named after
its configuration: the same command resumes a stopped cell and skips a finished one, and a cell of two
experiments is run once. `findings` takes the results.
"""

import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import figures
import msgspec
import numpy as np
from claims import Claim
from etils import epath
from findings import Missing, Outcomes, Run, Table, method_of
from rich.console import Console

from snnlth_jax import cli, configs, data
from snnlth_jax.configs.fields import SEED
from snnlth_jax.errors import InputError, flag, not_one_of
from snnlth_jax.machine import hosts
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.run.results import Result
from snnlth_jax.search import phases, replicates
from snnlth_jax.train import NonFiniteLoss

Cells = Mapping[str, configs.TrainConfig]
Job = tuple[str, int]  # a cell and its seed
CONTROLS = ("random", "redrawn", "dense")


# --- scales


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of an experiment; makes the configurations of its cells.

    Attributes:
      train: fields of every search.
      rounds: fields of the searches by rounds.
      seeds: seeds of every cell.
      resnet: fields of searches in the residual network.
      twin: factor on the learning rate at which the ReLU twin learns.
    """

    train: Mapping[str, Any]
    rounds: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    resnet: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"arch": "resnet19"})
    twin: float = 1.0

    def imp(self, **changes: Any) -> configs.ImpConfig:
        return configs.ImpConfig(**{**self.train, **self.rounds, **changes})

    def transfer(self, **changes: Any) -> configs.TransferConfig:
        fields = {**self.train, **self.rounds, "search_learning_rate_factor": self.twin, **changes}
        return configs.TransferConfig(**fields)

    def eb(self, sparsity: float, **changes: Any) -> configs.EbConfig:
        return configs.EbConfig(**{**self.train, "sparsity": sparsity, **changes})

    def one_shot(self, sparsity: float, criterion: str, **changes: Any) -> configs.OneShotConfig:
        return configs.OneShotConfig(
            **{**self.train, "sparsity": sparsity, "criterion": criterion, **changes}
        )

    def dynamic(self, sparsity: float, criterion: str) -> configs.DynamicConfig:
        fields = {**self.train, "sparsity": sparsity, "criterion": criterion}
        return configs.DynamicConfig(**fields)

    def probe(self) -> configs.ProbeConfig:
        return configs.ProbeConfig(**self.train)

    def stability(self) -> configs.StabilityConfig:
        return configs.StabilityConfig(**self.train)

    @property
    def resolved(self) -> configs.ResolvedImp:
        """`imp()` with every default filled in."""
        return configs.resolve(self.imp())

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Sparsities of the rounds that are reported, for the searches without rounds."""
        kept = 1 - self.resolved.prune_fraction
        return tuple(round(1 - kept**k, 4) for k in self.resolved.final_rounds)


_DIGITS = {"dataset": "digits"}
_CIFAR10 = {"dataset": "cifar10"}
# the paper's prunings two at a time, and three of its four sparsities
_TWO_IN_ONE = {"rounds": 8, "prune_fraction": 0.4375, "final_rounds": (2, 4, 7), "rewind_epoch": 1}
# nine layers, of which all but the first see at most 16x16 pixels
_EARLY_POOLING = {"arch": "vgg11", "num_timesteps": 4, "eval_every": 50, "checkpoint_every": 50}
_RESNET7 = {"arch": "resnet7", "epochs": 15, "learning_rate": 0.3}  # with less of either it stays at chance
SCALES = {
    "paper": Scale(_CIFAR10, {"final_rounds": (4, 8, 11, 14)}, seeds=(0, 1, 2, 3, 4)),
    "fast": Scale(_CIFAR10 | {"epochs": 15, "eval_every": 5}, _TWO_IN_ONE),
    "smoke": Scale(
        _DIGITS
        | {"arch": "vgg5", "num_timesteps": 4, "epochs": 8, "batch_size": 64, "learning_rate": 0.1}
        | {"train_examples": 1024, "test_examples": 360, "eval_every": 8, "checkpoint_every": 8},
        {"rounds": 6, "prune_fraction": 0.5, "final_rounds": (2, 5), "rewind_epoch": 1},
        resnet=_RESNET7,
    ),
    # those of the tables in docs/results.md
    "digits": Scale(_DIGITS, {"rounds": 12, "final_rounds": (5, 11)}, seeds=(0, 1, 2, 3, 4), resnet=_RESNET7),
    "small": Scale(
        _CIFAR10
        | {"arch": "vgg9", "width": 0.25, "num_timesteps": 4, "train_examples": 2048, "test_examples": 2000}
        | {"batch_size": 64, "epochs": 8, "learning_rate": 0.1, "eval_every": 8},
        {"rounds": 5, "prune_fraction": 0.5, "final_rounds": (2, 4), "rewind_epoch": 1},
        resnet=_RESNET7,
        twin=0.1,
    ),
    # all images
    "fmnist": Scale(
        {"dataset": "fashion_mnist", "arch": "convnet5", "width": 0.5, "num_timesteps": 4, "epochs": 6}
        | {"batch_size": 128, "learning_rate": 0.1, "augment": ("flip",)}
        | {"eval_every": 50, "checkpoint_every": 50},
        _TWO_IN_ONE,
        seeds=(0, 1, 2, 3, 4),
        resnet=_RESNET7,
    ),
    "fmnist-vgg11": Scale(
        _EARLY_POOLING
        | {"dataset": "fashion_mnist", "width": 0.25, "augment": ("flip",)}
        | {"epochs": 7, "batch_size": 256, "learning_rate": 0.3},
        _TWO_IN_ONE,
        seeds=(0, 1, 2, 3, 4),
        resnet=_RESNET7,
    ),
    "cifar": Scale(
        _EARLY_POOLING
        | _CIFAR10
        | {"width": 0.5, "augment": ("crop", "flip")}
        | {"epochs": 10, "batch_size": 256, "learning_rate": 0.1},
        _TWO_IN_ONE,
        seeds=(0, 1, 2),
        resnet=_RESNET7,
    ),
}


def scale(name: str, dataset: str | None = None, arch: str | None = None) -> Scale:
    """A scale by its name, optionally with another dataset or network."""
    if name not in SCALES:
        raise not_one_of("--scale", name, SCALES)
    changes = {"dataset": dataset, "arch": arch}
    train = {**SCALES[name].train, **{k: v for k, v in changes.items() if v is not None}}
    return dataclasses.replace(SCALES[name], train=train)


# --- cells


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command line."""

    scale: str = "paper"
    """Size: paper, fast, smoke, digits, small, fmnist, fmnist-vgg11 or cifar; paper has the paper's settings,
    fast a short schedule, smoke takes minutes on two cores, the others are those of the tables of
    docs/results.md."""
    dataset: str | None = None
    """Dataset. Default: that of the scale."""
    arch: str | None = None
    """Network. Default: that of the scale."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets."""
    workdir: str = "runs/experiments"
    """Directory of the cells of all experiments."""
    cells: str = "1/1"
    """Share of the cells to run: i/n is the i-th of n, for example one on each machine; tables show all
    results so far."""
    only: str | None = None
    """Methods or cells, such as imp,eb_0.9822: run and report these. Default: all of the script."""
    seeds: tuple[int, ...] = ()
    """Seeds, such as 0,1,2 or 0-4. Default: those of the scale."""
    show: bool = False
    """Print tables and claims of the results that are there, such as those of experiments/results: nothing is
    run."""
    figure: str | None = None
    """Directory for the script's figure, or several with letters, as PNG and PDF. Needs matplotlib. Default:
    none is drawn."""
    dry_run: bool = False
    """List the cells, their directories, and which of them are finished: nothing is run."""
    distributed: bool = False
    """Connect the processes that run this command, one on each of several hosts, as `snnlth imp` does."""


def chosen(cells: Cells, only: str | None) -> Cells:
    """The cells of some methods, or with some names.

    Raises:
      InputError: a name that is neither.

    >>> imp, eb = configs.ImpConfig(), configs.EbConfig()
    >>> list(chosen({"imp": imp, "eb_0.5": eb, "eb_0.9": eb}, "imp,eb_0.9"))
    ['imp', 'eb_0.9']
    """
    if only is None:
        return cells
    names = set(only.split(","))
    if unknown := sorted(names - {name for cell in cells for name in (cell, method_of(cell))}):
        methods = ", ".join(dict.fromkeys(map(method_of, cells)))
        raise InputError(
            f"--only {unknown[0]}: allowed: {methods}; or one with a sparsity: {', '.join(cells)}"
        )
    return {cell: config for cell, config in cells.items() if names & {cell, method_of(cell)}}


def jobs(
    cells: Cells, seeds: Sequence[int], workdir: str, data_dir: str | None
) -> dict[Job, configs.ResolvedTrain]:
    """The searches, resolved, each with a directory named after its configuration.

    Raises:
      InputError: for the first that cannot be run.
    """
    planned = {}
    for (name, config), seed in itertools.product(cells.items(), seeds):
        resolved = configs.resolve(dataclasses.replace(config, seed=seed, workdir=None))
        fields = configs.chosen(resolved)
        fields.pop("controls", None)  # a search gets them added
        if isinstance(resolved, configs.EarlyTime) and resolved.measures_timesteps:
            fields["early_time_start"] = resolved.early_time_start  # the default has changed
        name_of_all = configs.digest(fields)[:8]
        dataset = configs.dataset_name(resolved)
        directory = epath.Path(workdir) / f"{configs.short_name(resolved, dataset)}_{name_of_all}"
        planned[name, seed] = dataclasses.replace(resolved, workdir=str(directory), data_dir=data_dir)
    return planned


def share(items: Iterable[Job], cells: str) -> list[Job]:
    """The i-th of n shares, for cells = "i/n".

    >>> share([("a", 0), ("b", 0), ("c", 0)], "1/2")
    [('a', 0), ('c', 0)]
    """
    match = re.fullmatch(r"(\d+)/(\d+)", cells)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise InputError(f"--cells {cells}: allowed: i/n with 1 <= i <= n, such as 1/3")
    return list(items)[i - 1 :: n]


def result(config: configs.ResolvedTrain) -> Result | None:
    """Result of a search, if it is finished, can be read and has this configuration, and its controls."""
    try:
        read = results.read(rundir.paths(config.workdir).result)
    except InputError:
        return None
    if not isinstance(read, Result) or not _same_but_controls(config, read.config):
        return None
    wanted = _controls(dataclasses.asdict(config))
    own = tuple(row for row in read.controls if row.kind in wanted)  # another script may have had more
    if not read.finished:  # or may be adding some
        trained = {(row.kind, row.round) for row in (*read.rounds, *read.tickets, *own)}
        needed = {(phase.kind, phase.round) for phase in _phases(config)}
        if not needed or not needed <= trained:
            return None
    enough = set(wanted) <= set(_controls(read.config))
    return msgspec.structs.replace(read, controls=own) if enough else None


def _phases(config: configs.ResolvedTrain) -> list[phases.Phase]:
    """Phases of a search that may have controls added, except for its preparations."""
    if not isinstance(config, configs.ResolvedImp):
        return []
    return [phase for phase in phases.of(config) if phase.part != "preparations"]


def _controls(fields: Mapping[str, Any]) -> list[str]:
    return list(fields.get("controls") or ())


def _same_but_controls(config: configs.ResolvedTrain, theirs: Mapping[str, Any]) -> bool:
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    whole = configs.completed(theirs)
    return all(mine.get(name, value) == value for name, value in whole.items() if name != "controls")


def with_controls_there(config: configs.ResolvedTrain) -> configs.ResolvedTrain:
    """The configuration with the controls of the search in its directory, and its own added to them."""
    recorded = rundir.read_json(rundir.paths(config.workdir).config)
    if recorded is None or not isinstance(config, configs.Controls):
        return config
    if not _same_but_controls(config, recorded):
        return config  # refused, with the difference, where it is run
    together = tuple(dict.fromkeys([*_controls(recorded), *config.controls]))
    override = len(together) > len(_controls(recorded))
    changes: dict[str, Any] = {"controls": together, "override": override}
    return dataclasses.replace(config, **changes)


def listed(planned: Mapping[Job, configs.ResolvedTrain], mine: Sequence[Job]) -> list[str]:
    """A line for each cell that would be run, and one for all of them."""
    lines = []
    todo: list[int] = []
    for name, seed in mine:
        config = planned[name, seed]
        state = "finished"
        if result(config) is None:
            todo.append(sum(phases.all_epochs(phases.of(config))))
            state = f"at most {todo[-1]:,} epochs"
        lines.append(f"{name}, seed {seed}: {state}, {config.workdir}")
    return [*lines, f"{len(todo)} of {len(mine)} cells to run, at most {sum(todo):,} epochs; nothing was run"]


def run(
    planned: Mapping[Job, configs.ResolvedTrain], mine: Sequence[Job], console: Console
) -> dict[str, list[str]]:
    """Run the searches that are not finished; return the cells that failed, by their line of error."""
    todo = [job for job in mine if not hosts.all_true(result(planned[job]) is not None)]
    if todo:  # what is wrong with the data is so with all
        first = planned[todo[0]]
        hosts.raise_together(lambda: data.load(first.dataset, first.data_dir))
    failed: dict[str, list[str]] = {}
    for i, (name, seed) in enumerate(todo, start=1):
        config = planned[name, seed]
        console.print(f"cell {i} of {len(todo)}: {name}, seed {seed}: {config.workdir}", soft_wrap=True)
        try:
            cli.search(with_controls_there(config))
        except (InputError, NonFiniteLoss) as error:
            if isinstance(error, InputError):
                line = error.text(flag)
            else:
                line = f"{error}: the loss or a weight is not finite"
            console.print(f"{name}, seed {seed}: failed: {line}", soft_wrap=True)
            failed.setdefault(line, []).append(f"{name}, seed {seed}")
    return failed


# --- the program


def gather(planned: Mapping[Job, configs.ResolvedTrain]) -> Outcomes:
    """All results so far, of this process and others."""
    by_cell: dict[str, list[Run]] = {}
    absent = []
    for (name, seed), config in planned.items():
        if read := result(config):
            by_cell.setdefault(name, []).append(Run(read, config.workdir, _correct(config)))
        else:
            absent.append((name, seed))
    order = [name for name in dict.fromkeys(name for name, _ in planned) if name in by_cell]
    summaries = {name: replicates.summary([run.result for run in by_cell[name]]) for name in order}
    return Outcomes(summaries, by_cell, absent)


def _correct(config: configs.ResolvedTrain) -> Callable[[str, int], np.ndarray | None]:
    paths = rundir.paths(config.workdir)
    return lambda kind, number: rundir.read_correct(paths.correct_of(kind, number))


def main(
    cells: Callable[..., Cells],
    tables: Sequence[Callable[[Outcomes], Table]],
    claims: Sequence[Claim],
    pictures: Sequence[figures.Figure],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run an experiment as its command line says.

    Args:
      cells: function that returns the cells of a scale, optionally with another dataset or network.
      tables: functions that return tables of the results; see `findings.Missing`.
      claims: claims to compare with the results.
      pictures: functions that draw the results, see `findings.Missing`.
      arguments: arguments of the command line.

    Returns:
      The exit status: 1 if a cell failed, otherwise that of `snnlth`.
    """
    script = sys.modules[cells.__module__]
    name = Path(script.__file__ or "").stem

    def action() -> int:
        parsed = cli.options(Options, script.__doc__ or "", arguments)
        if parsed.distributed:
            hosts.connect()
        flags = {"dataset": parsed.dataset, "arch": parsed.arch}
        seeds = tuple(dict.fromkeys(parsed.seeds)) or scale(parsed.scale).seeds
        if wrong := [seed for seed in seeds if not SEED.holds(seed)]:
            raise InputError("`seeds`", wrong[0], allowed=SEED.allowed)
        mine = chosen(cells(parsed.scale, **flags), parsed.only)
        planned = jobs(mine, seeds, parsed.workdir, parsed.data_dir)
        if parsed.show and parsed.dry_run:
            raise InputError("`show`", allowed="without `dry_run`: one of the two")
        if parsed.dry_run:
            for line in listed(planned, share(planned, parsed.cells)):
                print(line)
            return 0
        if parsed.figure is not None:
            figures.check(parsed.figure, name)
        console = Console(width=max(Console().width, 110), highlight=False, quiet=not hosts.is_first())
        failed = run(planned, [] if parsed.show else share(planned, parsed.cells), console)
        outcomes = gather(planned)
        report(outcomes, tables, claims, console)
        if parsed.figure is not None and hosts.is_first():
            for line in figures.write(parsed.figure, name, pictures, outcomes):
                console.print(line, soft_wrap=True, markup=False)
        for line, names in failed.items() if hosts.is_first() else ():
            print(f"failed: {'; '.join(names)}: {line}", file=sys.stderr)
        return 1 if failed else 0

    return cli.exit_status(action)


def report(
    outcomes: Outcomes,
    tables: Sequence[Callable[[Outcomes], Table]],
    claims: Sequence[Claim],
    console: Console,
) -> None:
    """Print tables and claims of the results so far, and the cells that have no result yet."""
    if outcomes.absent:
        absent = ", ".join(f"{name} seed {seed}" for name, seed in outcomes.absent)
        console.print(f"not there: {absent}", soft_wrap=True)
    for make in tables:
        try:
            console.print(make(outcomes))
        except Missing as missing:
            console.print(f"table: open, {missing}", soft_wrap=True)
    complete = outcomes.complete()  # claims are of all seeds or none
    for claim in claims:
        console.print(f"claim: {claim.text}: {claim.verdict(complete)}", soft_wrap=True, markup=False)
