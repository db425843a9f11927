"""Series of runs that belong together: the seeds and the sparsities of a method are one line of a plot."""

import collections
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from snnlth_jax import configs
from snnlth_jax.errors import printable
from snnlth_jax.report.runs import Run
from snnlth_jax.run.results import Row

__all__ = ["Experiment", "Series", "experiments"]


def _settings(run: Run) -> dict[str, Any]:
    """The part of its configuration that all runs of a series share."""
    return configs.common(configs.completed(run.result.config))


def _identity(run: Run) -> str:
    return json.dumps(_settings(run), sort_keys=True)


def _twins(a: Run, b: Run) -> bool:
    return (a.seed, a.result.config.get("sparsity")) == (b.seed, b.result.config.get("sparsity"))


def _same(a: Run, b: Run, names: Sequence[str]) -> bool:
    return all(_settings(a).get(name) == _settings(b).get(name) for name in names)


# --- series


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """A method with one configuration, except for the seed and the sparsity.

    Attributes:
      label: name of the method, with what distinguishes it from others of the method.
      slot: number of its colour in the palette, the same for a method in every report.
      runs: runs in order of seed.
    """

    label: str
    slot: int
    runs: tuple[Run, ...]

    @property
    def searched_at_full(self) -> bool:
        """True where the rounds of its search are compared: they are trained as its tickets are."""
        return self.runs[0].result.method == "imp"

    def trainings(self, kind: str) -> list[tuple[Run, Row]]:
        """Training runs of a kind that have an accuracy: "result" for what the method ends with at each
        sparsity, "search" for its rounds where these are of another network, or a control."""
        trained: list[tuple[Run, Row]] = []
        for run in self.runs:
            result = run.result
            rows: Sequence[Row]
            if kind == "result":
                rows = result.rounds if self.searched_at_full else result.tickets
            elif kind == "search":
                rows = () if self.searched_at_full else [r for r in result.rounds if r.kind == "round"]
            else:
                rows = [row for row in result.controls if row.kind == kind]
            trained += [(run, row) for row in rows if row.final_test_accuracy is not None]
        return trained

    def sparsest(self) -> list[tuple[Run, Row]]:
        """The sparsest ticket that all seeds have, of each; seeds that have none yet are left out."""
        rows = self.trainings("result")
        if not rows:
            return []
        seeds = {run.seed for run in self.runs if run.result.tickets}
        by_kept: dict[int, list[tuple[Run, Row]]] = {}
        for run, row in rows:
            by_kept.setdefault(row.kept, []).append((run, row))
        shared = [kept for kept, of in by_kept.items() if {run.seed for run, _ in of} >= seeds]
        return by_kept[min(shared or by_kept)]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Series that are compared: those of one dataset and network."""

    dataset: str
    arch: str
    series: tuple[Series, ...]

    @property
    def runs(self) -> list[Run]:
        """Runs of all series."""
        return [run for series in self.series for run in series.runs]

    def differences(self) -> dict[str, list[Any]]:
        """Settings of networks and training runs that are not the same in all runs, with their values."""
        whole = [configs.completed(run.result.config) for run in self.runs]
        values = {name: [config.get(name) for config in whole] for name in configs.conditions()}
        distinct = {name: list(dict.fromkeys(map(_short, of))) for name, of in values.items()}
        return {name: of for name, of in distinct.items() if len(of) > 1}

    def fingerprints(self) -> dict[str, list[str]]:
        """Directories of the runs on each content of the dataset: more than one must not be compared."""
        places: dict[str, list[str]] = {}
        for run in self.runs:
            places.setdefault(str(run.result.config.get("dataset_fingerprint")), []).append(run.directory)
        return places

    def dense(self, like: Run | None = None) -> list[tuple[Run, Row]]:
        """The dense network, trained like a round of IMP at the full T: once for each seed.

        Args:
          like: run whose conditions count. By default those of the first that trained a dense network.
        """
        by_seed: dict[int, tuple[Run, Row]] = {}
        for run in self.runs:
            if like is not None and not _same(run, like, configs.conditions()):
                continue
            network = f"{run.result.settings.activation} T={run.result.settings.num_timesteps}"
            for row in run.result.rounds:
                dense = row.kind == "round" and row.dense and row.network == network
                if dense and row.final_test_accuracy is not None:
                    by_seed.setdefault(run.seed, (run, row))
                    like = like or run
        return list(by_seed.values())

    def references(self) -> dict[str, list[tuple[Run, Row]]]:
        """The dense networks by name: "dense", and where several were trained, what they differ in."""
        first: list[Run] = []
        for run in self.runs:
            if self.dense(run) and not any(_same(run, other, configs.conditions()) for other in first):
                first.append(run)
        differ = [name for name in configs.conditions() if not all(_same(r, first[0], [name]) for r in first)]
        names = [", ".join(["dense", *(_set(n, _settings(run).get(n)) for n in differ)]) for run in first]
        return {name: self.dense(run) for name, run in zip(names, first, strict=True)}


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """The runs by dataset and network, and in there by method and configuration."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.result.settings.dataset, run.result.settings.arch), []).append(run)
    return [Experiment(*key, series=_series(members)) for key, members in sorted(groups.items())]


def _series(runs: Sequence[Run]) -> tuple[Series, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        copy = 0  # the same search in another directory is another series
        while any(_twins(run, other) for other in groups.get(f"{_identity(run)} {copy}", [])):
            copy += 1
        groups.setdefault(f"{_identity(run)} {copy}", []).append(run)
    members = [sorted(group, key=lambda run: (run.seed, run.directory)) for group in groups.values()]
    named = list(zip(_labels([group[0] for group in members]), members, strict=True))
    named.sort(key=lambda pair: (_rank(pair[1][0].result.method), "," in pair[0]))  # the usual first
    own = {method: _ORDER.index(method) for method in {run.result.method for run in runs} & {*_ORDER}}
    free = iter([slot for slot in range(len(runs) + len(own)) if slot not in own.values()])
    # the first of a method has its colour, further ones what no method here has
    return tuple(
        Series(label, own.pop(method) if method in own else next(free), tuple(group))
        for label, group, method in ((*pair, pair[1][0].result.method) for pair in named)
    )


# --- names, short, as the paper has them

_NAMES = {
    "imp": "IMP",
    "eb": "EB",
    "transfer": "Transfer",
    "probe-timesteps": "Probe",
    "stability": "Stability",
    "retrain": "Retrained",
    "retrain redrawn": "Retrained, redrawn",
    "retrain random": "Retrained, random",
}
_CRITERIA = {
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "random": "Random",
    "magnitude": "Magnitude",
    "rigl": "RigL",
    "set": "SET",
}


def _name(method: str) -> str:
    base, _, time = method.partition("+")
    kind, _, criterion = base.partition(" ")
    name = _NAMES.get(base) or (_CRITERIA.get(criterion, criterion) if criterion else kind)
    return name + (f"+{time.upper()}" if time else "")


_ORDER = ["imp", "imp+et", "eb", "eb+et", "transfer", "one-shot snip", "one-shot random", "one-shot grasp"]


def _rank(method: str) -> int:
    return _ORDER.index(method) if method in _ORDER else len(_ORDER)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Names of methods, with what is not as in most runs of it; where all is the same, with the directory."""
    labels = []
    for run in runs:
        method = run.result.method
        others = [other for other in runs if other.result.method == method and other is not run]
        differs = [
            name
            for name, value in _settings(run).items()
            if name not in ("final_rounds", "controls")
            and any(_settings(other).get(name, value) != value for other in others)
        ]
        unusual = [name for name in differs if not _usual(name, run, others)]
        parts = [_set(name, _settings(run)[name]) for name in unusual]
        if any(_same(run, other, differs) for other in others):
            common = os.path.commonpath([os.path.dirname(r.directory) for r in (run, *others)])
            parts.append(os.path.relpath(run.directory, common))
        labels.append(printable(", ".join([_name(method), *parts])))
    return labels


def _usual(name: str, run: Run, others: Sequence[Run]) -> bool:
    """True where more runs have its value than any other, or it is not set."""
    mine = _settings(run)[name]
    counts = collections.Counter(_short(_settings(member).get(name)) for member in (run, *others))
    (value, most), *rest = counts.most_common(2)
    return mine is None or (_short(mine) == value and all(count < most for _, count in rest))


def _set(name: str, value: Any) -> str:
    """A setting and its value, as in "width 0.5"."""
    return f"{name.replace('_', ' ')} {_short(value)}"


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
