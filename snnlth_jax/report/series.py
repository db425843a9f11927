"""Runs that belong together: the seeds and the sparsities of a method are one line of a plot."""

import collections
import dataclasses
import json
import os
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from snnlth_jax.report.runs import Run, Training

__all__ = ["Experiment", "Series", "Spread", "experiments", "spread"]

# short, as the paper has them
_NAMES = {"imp": "IMP", "eb": "EB", "transfer": "Transfer", "probe-timesteps": "Probe"}
_CRITERIA = {
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "random": "Random",
    "magnitude": "Magnitude",
}


# what a fair comparison has in common
_CONDITIONS = (
    *(
        "width",
        "activation",
        "num_timesteps",
        "epochs",
        "batch_size",
        "learning_rate",
        "schedule",
        "optimizer",
    ),
    *(
        "momentum",
        "weight_decay",
        "augment",
        "dtype",
        "train_examples",
        "test_examples",
        "validation_examples",
    ),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """A method with one configuration, but for the seed and the sparsity.

    Attributes:
      label: what it is called, with what distinguishes it from others of the method.
      slot: of the palette, the same for a method in every report.
      runs: in order of seed.
    """

    label: str
    slot: int
    runs: tuple[Run, ...]

    @property
    def searched_at_full(self) -> bool:
        """Whether the rounds of its search are what is compared: trained as its tickets are."""
        return self.runs[0].method == "imp"

    def trainings(self, kind: str) -> list[tuple[Run, Training]]:
        """Those of a kind that have an accuracy: "result" for what the method ends with at each sparsity,
        "search" for its rounds where these are of another network, or a control."""
        found = []
        for run in self.runs:
            if kind == "result":
                rows = run.rounds if self.searched_at_full else run.tickets
            elif kind == "search":
                rows = () if self.searched_at_full else tuple(r for r in run.rounds if r.kind == "round")
            else:
                rows = tuple(row for row in run.controls if row.kind == kind)
            found += [(run, row) for row in rows if row.accuracy is not None]
        return found

    def sparsest(self) -> list[tuple[Run, Training]]:
        """Of each seed the sparsest ticket that all seeds have, but for those that have none yet."""
        rows = self.trainings("result")
        if not rows:
            return []
        seeds = {run.seed for run in self.runs if run.tickets}
        by_kept: dict[int, list[tuple[Run, Training]]] = {}
        for run, row in rows:
            by_kept.setdefault(row.kept, []).append((run, row))
        shared = [kept for kept, of in by_kept.items() if {run.seed for run, _ in of} >= seeds]
        return by_kept[min(shared or by_kept)]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is compared: the series of one dataset and network."""

    dataset: str
    arch: str
    series: tuple[Series, ...]

    @property
    def runs(self) -> list[Run]:
        """Of all series."""
        return [run for series in self.series for run in series.runs]

    def differences(self) -> dict[str, list[Any]]:
        """Settings of networks and trainings that are not the same in all runs, with their values."""
        shared = [name for name in self.runs[0].config if name in _CONDITIONS]
        values = {name: [run.config.get(name) for run in self.runs] for name in shared}
        distinct = {name: list(dict.fromkeys(map(str, of))) for name, of in values.items()}
        return {name: of for name, of in distinct.items() if len(of) > 1}

    def dense(self, like: Run | None = None) -> list[tuple[Run, Training]]:
        """The dense network, trained like a round of IMP at the full T: once for each seed.

        Args:
          like: a run; trained under its conditions. By default those of the first that trained one.
        """
        found: dict[int, tuple[Run, Training]] = {}
        for run in self.runs:
            if like is not None and not _same(run, like, _CONDITIONS):
                continue
            network = f"{run.config['activation']} T={run.config['num_timesteps']}"
            for row in run.rounds:
                dense = row.kind == "round" and row.kept == row.total and row.network == network
                if dense and row.accuracy is not None:
                    found.setdefault(run.seed, (run, row))
                    like = like or run
        return list(found.values())


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; 0 for one value."""

    mean: float
    std: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.std:.4f}" if self.count > 1 else "")


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value.

    >>> str(spread([0.96, 0.98])), str(spread([0.97]))
    ('0.9700 ± 0.0141', '0.9700')
    """
    values = list(values)
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """The runs by dataset and network, and in there by method and configuration."""
    of: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        of.setdefault((run.config["dataset"], run.config["arch"]), []).append(run)
    return [Experiment(*key, series=_series(members)) for key, members in sorted(of.items())]


def _series(runs: Sequence[Run]) -> tuple[Series, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        copy = 0  # the same search in another directory is another series
        while any(_twins(run, other) for other in groups.get(f"{_identity(run)} {copy}", [])):
            copy += 1
        groups.setdefault(f"{_identity(run)} {copy}", []).append(run)
    members = [sorted(group, key=lambda run: (run.seed, run.directory)) for group in groups.values()]
    named = list(zip(_labels([group[0] for group in members]), members, strict=True))
    named.sort(key=lambda each: (_rank(each[1][0].method), "," in each[0]))  # what is usual first
    own = {method: _ORDER.index(method) for method in {run.method for run in runs} & {*_ORDER}}
    free = iter([slot for slot in range(len(runs) + len(own)) if slot not in own.values()])
    # the first of a method has its colour, further ones what no method here has
    return tuple(
        Series(label, own.pop(of[0].method) if of[0].method in own else next(free), tuple(of))
        for label, of in named
    )


def _settings(run: Run) -> dict[str, Any]:
    """Its configuration; which ticket it is like differs from seed to seed, that it is like one does not."""
    return run.config | ({"like": "a ticket"} if run.config.get("like") else {})


def _identity(run: Run) -> str:
    ignored = ("seed", "sparsity", "dataset_fingerprint")
    return json.dumps({k: v for k, v in _settings(run).items() if k not in ignored}, sort_keys=True)


def _twins(a: Run, b: Run) -> bool:
    return (a.seed, a.config.get("sparsity")) == (b.seed, b.config.get("sparsity"))


def _name(method: str) -> str:
    base, _, time = method.partition("+")
    kind, _, criterion = base.partition(" ")
    name = _CRITERIA.get(criterion, criterion) if criterion else _NAMES.get(kind, kind)
    return name + (f"+{time.upper()}" if time else "")


_ORDER = ["imp", "imp+et", "eb", "eb+et", "transfer", "one-shot snip", "one-shot random", "one-shot grasp"]


def _rank(method: str) -> int:
    return _ORDER.index(method) if method in _ORDER else len(_ORDER)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Of the method, with what is not as in most runs of it; where all is the same, with the directory."""
    labels = []
    for run in runs:
        others = [other for other in runs if other.method == run.method and other is not run]
        differs = [
            name
            for name, value in _settings(run).items()
            if name not in ("seed", "dataset_fingerprint", "sparsity", "final_rounds", "controls")
            and any(_settings(other).get(name, value) != value for other in others)
        ]
        unusual = [name for name in differs if not _usual(name, run, others)]
        parts = [f"{name.replace('_', ' ')} {_short(_settings(run)[name])}" for name in unusual]
        if any(_same(run, other, differs) for other in others):
            common = os.path.commonpath([os.path.dirname(each.directory) for each in (run, *others)])
            parts.append(os.path.relpath(run.directory, common))
        labels.append(", ".join([_name(run.method), *parts]))
    return labels


def _same(a: Run, b: Run, names: Sequence[str]) -> bool:
    return all(_settings(a).get(name) == _settings(b).get(name) for name in names)


def _usual(name: str, run: Run, others: Sequence[Run]) -> bool:
    """Whether more runs have its value than any other, or it is not set."""
    mine = _settings(run)[name]
    counts = collections.Counter(_short(_settings(each).get(name)) for each in (run, *others))
    (value, most), *rest = counts.most_common(2)
    return mine is None or (_short(mine) == value and all(count < most for _, count in rest))


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
