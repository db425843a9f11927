"""Each search of a page: its settings, the command that repeats it, its date, its versions, its rounds."""

import datetime
from collections.abc import Iterable, Sequence

from snnlth_jax import configs
from snnlth_jax.report import markup
from snnlth_jax.report.accuracy import accuracy_of
from snnlth_jax.report.plot import percent
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.run.events import StartEvent, select
from snnlth_jax.run.results import Row, Spread

__all__ = ["searches"]

_FEW = 3  # searches whose rounds are not folded


def searches(experiment: Experiment) -> str:
    """A card for each search, with its seeds and sparsities."""
    unfolded = " open" * (len(experiment.series) <= _FEW)
    return "".join(_search(experiment, series, unfolded) for series in experiment.series)


def _search(experiment: Experiment, series: Series, unfolded: str) -> str:
    runs = series.runs
    results = [run.result for run in runs]
    versions = {f"{name} {of[name]}" for r in results for of in (r.versions,) for name in of}
    shown = sorted(v for v in versions if v.split()[0] in ("jax", "snnlth_jax"))
    devices = {f"{d.count} x {d.kind}" for r in results if (d := r.devices)}
    differs = {
        name: configs.toml_value(value)
        for name, value in configs.changed(results[0].config).items()
        if name != "seed" and (name != "sparsity" or len(_by_sparsity(runs)) == 1)
    }
    facts = {
        "differs from the defaults": ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in differs.items())
        or "nothing",
        "date": _dates(runs),
        "versions": ", ".join(shown),
        "devices": ", ".join(sorted(devices)),
    }
    items = "".join(f"<dt>{name}</dt><dd>{markup.text(v)}</dd>" for name, v in facts.items() if v)
    commands = "".join(f"<pre>{markup.text(line)}</pre>" for line in _commands(runs))
    key = f'<span class="key" style="background: var(--s{series.slot % 8})"></span>'
    return (
        f'<div class="card"><h3>{key}{markup.text(series.label)}</h3><dl>{items}</dl>{commands}'
        f"<details><summary>Whole configuration</summary><pre>{markup.text_lines(_whole(runs[0]))}</pre>"
        f"</details><details{unfolded}><summary>All rounds</summary>{_rounds(experiment, series)}"
        "</details></div>"
    )


def _by_sparsity(runs: Sequence[Run]) -> dict[object, list[Run]]:
    groups: dict[object, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.result.config.get("sparsity"), []).append(run)
    return groups


def _commands(runs: Sequence[Run]) -> Iterable[str]:
    """A command line for each sparsity, for all seeds that have it."""
    for group in _by_sparsity(runs).values():
        seeds = tuple(run.seed for run in group)
        yield configs.command_line(group[0].result.config, seeds if len(seeds) > 1 else ())


def _dates(runs: Sequence[Run]) -> str:
    """Days on which the searches began, of the first and the last; empty if no run says."""
    starts = [start.time for run in runs for start in select(run.events, StartEvent)[:1] if start.time]
    days = [_day(seconds) for seconds in sorted(starts)]
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _day(seconds: float) -> str:
    """A day in UTC.

    >>> _day(1795762456.7)
    '2026-11-27'
    """
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):
        return "unknown"


def _whole(run: Run) -> list[str]:
    """Lines of TOML: the configuration as the result has it, with what is newer than it."""
    config = configs.completed(run.result.config)
    return [f"{name} = {configs.toml_value(value)}" for name, value in config.items() if value is not None]


# --- rounds


def _rounds(experiment: Experiment, series: Series) -> str:
    """A row for each training run, mean and deviation over the seeds."""
    dense_of = {run.seed: accuracy_of(row) for run, row in experiment.dense(series.runs[0])}
    trained: dict[tuple[str, int, int], list[tuple[Run, Row]]] = {}
    for run in series.runs:
        for row in run.result.trainings:
            trained.setdefault((row.name, row.kept, row.num_timesteps), []).append((run, row))
    rows = []
    for (name, kept, timesteps), of in trained.items():
        measured = [(run, row) for run, row in of if row.final_test_accuracy is not None]
        lost = [accuracy_of(row) - dense_of[run.seed] for run, row in measured if run.seed in dense_of]
        rows.append(
            [
                markup.text(name),
                percent(of[0][1].sparsity),
                f"{kept:,}",
                f"{timesteps}",
                str(Spread.of(accuracy_of(row) for _, row in measured)) if measured else "",
                f"{100 * Spread.of(lost).mean:+.2f}" if lost else "",
                f"{Spread.of(row.seconds for _, row in of).mean:.1f}",
            ]
        )
    heads = ("round", "sparsity", "weights left", "T", "accuracy", "points from dense", "seconds")
    return markup.table(heads, rows)
