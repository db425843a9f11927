"""What every method is judged by: accuracy against sparsity and against cost, and how the tickets learn."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from snnlth_jax.report.runs import Run, Training
from snnlth_jax.report.series import Experiment, Series, Spread, spread
from snnlth_jax.report.theme import LIGHT, MARKERS, Drawing, canvas, color, label_ends

__all__ = [
    "Plot",
    "accuracy",
    "against_density",
    "cost",
    "learning_curves",
    "percent",
    "seeds",
    "si",
    "weights_axis",
]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with the numbers in it.

    Attributes:
      name: of its files, unique among those of an experiment.
      title: what is plotted against what.
      caption: what is seen, with the numbers behind it; the figure's alternative text too.
      header, rows: the table that it shows, one measurement a row, as result.json and metrics.jsonl have them.
      figure: matplotlib's, in colours of `theme.LIGHT`.
    """

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    figure: Any


# --- words and axes


def percent(sparsity: float) -> str:
    """As people write it, with as many digits as it takes to tell it from 100 %.

    >>> percent(0.75), percent(0.9578), percent(0.98216), percent(0.99964)
    ('75 %', '95.8 %', '98.2 %', '99.96 %')
    """
    digits = 1 if sparsity < 0.995 else 2
    return f"{round(100 * sparsity, digits):g} %"


def seeds(count: int) -> str:
    """How many seeds a mean is of; of one it need not be said.

    >>> seeds(3), seeds(1)
    ('mean and standard deviation of 3 seeds', 'one seed')
    """
    return "one seed" if count == 1 else f"mean and standard deviation of {count} seeds"


def si(value: float) -> str:
    """Three digits and a prefix.

    >>> si(7.154e11), si(48719.3), si(12.0), si(0.0)
    ('715 G', '48.7 k', '12', '0')
    """
    for factor, prefix in ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def weights_axis(axes: Any, densities: Iterable[float]) -> None:
    """A logarithmic axis of the weights left, from all of them at its left."""
    from matplotlib.ticker import FixedLocator, NullLocator

    least = min(densities)
    axes.set_xscale("log")
    axes.set_xlim(1.08, least / 1.12)
    ticks = [m * 10.0**-e for e in range(1, 7) for m in (10, 5, 2.5, 2)]
    ticks = [tick for tick in ticks if tick >= least * 0.98]
    if len(ticks) > 7:
        ticks = [t for t in ticks if f"{t:e}"[0] in "15"]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.set_xlabel("weights left (log scale)")


def across(rows: Iterable[tuple[Run, Training]], value: Callable[[Training], float]) -> dict[float, Spread]:
    """Mean and deviation over the seeds, by density, the densest first."""
    of: dict[float, list[float]] = {}
    for _, row in rows:
        of.setdefault(row.density, []).append(value(row))
    return {density: spread(of[density]) for density in sorted(of, reverse=True)}


def against_density(
    drawing: Drawing, points: dict[float, Spread], slot: int, line: str = "-", marker: str | None = None
) -> None:
    """A line of means and the band of a standard deviation around it."""
    axes, paint = drawing.axes, color(slot)
    x, means = list(points), [point.mean for point in points.values()]
    low = [point.mean - point.std for point in points.values()]
    high = [point.mean + point.std for point in points.values()]
    if any(point.std for point in points.values()):
        if len(x) > 1:
            axes.fill_between(x, low, high, color=paint, alpha=0.14, linewidth=0)
        axes.vlines(x, low, high, color=paint, alpha=0.45, linewidth=1.0)
    hollow = line != "-"
    axes.plot(
        x,
        means,
        line,
        color=paint,
        marker=marker or MARKERS[slot % 8],
        markersize=5.5,
        markeredgewidth=1.2 if hollow else 0.8,
        markerfacecolor=LIGHT["surface"] if hollow else paint,
        markeredgecolor=paint if hollow else LIGHT["surface"],
    )


def reference(drawing: Drawing, value: float, text: str) -> None:
    """A thin line across, named inside the axes."""
    drawing.axes.axhline(value, color=LIGHT["ink"], linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    drawing.axes.annotate(
        text,
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color=LIGHT["ink"],
        va="bottom",
    )


def room(labels: Iterable[str]) -> float:
    """Where axes end that leave room for labels at their right."""
    return 1 - 0.04 - 0.0155 * max((len(label) for label in labels), default=0)


# --- the plots


_CONTROLS = {"random": ("random masks", "--"), "redrawn": ("redrawn weights", ":")}
_ROW = ("series", "kind", "workdir", "seed", "round", "kept", "total", "num_timesteps")


def row_fields(series: str, run: Run, row: Training) -> tuple[Any, ...]:
    """What identifies a training in a table, see `_ROW`."""
    kind, number = row.kind, row.round
    return (series, kind, run.directory, run.seed, number, row.kept, row.total, row.num_timesteps)


def accuracy(experiment: Experiment) -> Plot | None:
    """Test accuracy against the weights left: the lottery ticket hypothesis in one plot (paper, Fig. 5)."""
    results = {series: series.trainings("result") for series in experiment.series}
    results = {series: rows for series, rows in results.items() if rows}
    if not results:
        return None
    single = len(results) == 1
    names = {kind: name if single else kind for kind, (name, _) in _CONTROLS.items()}
    lines: list[tuple[Series, str, str, dict[float, Spread]]] = []
    rows: list[tuple[Any, ...]] = []
    for series, found in results.items():
        lines.append((series, "-", series.label, across(found, _accuracy)))
        for kind, (_, style) in _CONTROLS.items():
            if control := series.trainings(kind):
                label = names[kind] if single else f"{series.label} {kind}"
                lines.append((series, style, label, across(control, _accuracy)))
        for kind in ("result", "search", *_CONTROLS, "dense"):
            rows += [(*row_fields(series.label, *each), each[1].accuracy) for each in series.trainings(kind)]
    dense = experiment.dense()
    densities = [density for *_, points in lines for density in points]
    with canvas(room(label for _, _, label, _ in lines)) as drawing:
        weights_axis(drawing.axes, [*densities, 0.5])
        for series, style, _, points in lines:
            slot = series.slot if style == "-" or not single else 6
            against_density(drawing, points, slot, style)
        for series in results:
            if searched := across(series.trainings("search"), _accuracy):
                x, y = list(searched), [point.mean for point in searched.values()]
                drawing.axes.plot(x, y, ":", color=color(series.slot), linewidth=1.2, alpha=0.8)
        if dense:
            reference(drawing, spread(row.accuracy or 0 for _, row in dense).mean, "dense")
        drawing.axes.set_ylabel("test accuracy")
        drawing.axes.margins(y=0.08)
        ends = [
            (list(points)[-1], list(points.values())[-1].mean, label, series.slot if s == "-" or not single else 6)
            for series, s, label, points in lines
        ]
        label_ends(drawing, [(x, y, label, color(slot)) for x, y, label, slot in ends])
    said = []
    for _, _, label, points in lines:
        density, point = list(points.items())[-1]
        said.append(f"{label} {point} at {percent(1 - density)}")
    most = max(point.count for *_, points in lines for point in points.values())
    caption = f"Weights are removed from left to right. At the sparsest: {', '.join(said)}"
    if dense:
        caption += f"; the dense network {spread(row.accuracy or 0 for _, row in dense)} (dashed line)"
    caption += f"; {seeds(most)}."
    if any(series.trainings("search") for series in results):
        caption += " Dotted without markers: rounds of the search in the network that is searched."
    return Plot("accuracy", "Accuracy against sparsity", caption, (*_ROW, "final_test_accuracy"), rows, drawing.figure)


def _accuracy(row: Training) -> float:
    return row.accuracy or 0.0


def cost(experiment: Experiment) -> Plot | None:
    """Test accuracy against what search and training of a ticket cost together (paper, Table 1)."""
    found = {
        series: [
            (run, row)
            for run in series.runs
            for row in run.tickets
            if row.search and row.training and row.accuracy is not None
        ]
        for series in experiment.series
    }
    found = {series: rows for series, rows in found.items() if rows}
    if sum(len({row.kept for _, row in rows}) for rows in found.values()) < 2:
        return None
    table, ends, said = [], [], []
    with canvas(room(series.label for series in found)) as drawing:
        axes = drawing.axes
        for series, rows in found.items():
            flops = across(rows, lambda row: _flops(row))
            accuracies = across(rows, _accuracy)
            x, y = [p.mean for p in flops.values()], [p.mean for p in accuracies.values()]
            paint, errors = color(series.slot), [p.std for p in accuracies.values()]
            axes.errorbar(x, y, errors, color=paint, linewidth=1.2, elinewidth=1, marker=MARKERS[series.slot % 8])
            ends.append((x[-1], y[-1], series.label, paint))
            said.append(f"{series.label} {accuracies[list(flops)[-1]]} for {si(x[-1])}FLOP")
            for run, row in rows:
                assert row.search and row.training
                spent = (row.search.train_flops, row.training.train_flops, row.search.device_seconds, row.relative)
                table.append((*row_fields(series.label, run, row), row.accuracy, *spent))
        axes.set_xscale("log")
        _si_axis(axes.xaxis)
        axes.set_xlabel("training FLOPs, search and ticket (log scale)")
        axes.set_ylabel("test accuracy")
        axes.margins(0.08)
        label_ends(drawing, ends)
    caption = (
        "Up and left is better. Each point is a ticket at one sparsity, the sparsest last: "
        f"{', '.join(said)}. The cost is that of the search from its start to the masks and of the training "
        "of the ticket; a pruned weight is counted as if it were there."
    )
    header = (*_ROW, "final_test_accuracy", "search_train_flops", "training_train_flops", "search_device_seconds")
    return Plot(
        "cost", "Accuracy against cost", caption, (*header, "search_relative_to_imp"), table, drawing.figure
    )


def _flops(row: Training) -> float:
    assert row.search and row.training
    return row.search.train_flops + row.training.train_flops


def _si_axis(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: si(value))


def learning_curves(experiment: Experiment) -> Plot | None:
    """Accuracy over the epochs: of all rounds where one series is shown, of the sparsest tickets where several.

    Over the test set, or over the training set where that was measured only at the end.
    """
    single = [series for series in experiment.series if series.trainings("result")]
    wanted: list[tuple[Series, str, int]] = []
    if len(single) == 1:
        kinds = ("round", "search", "ticket", *_CONTROLS)
        run = single[0].sparsest()[0][0]
        rows = [(row.kind, row.round) for row in (*run.rounds, *run.tickets, *run.controls)]
        wanted = [(single[0], *key) for key in dict.fromkeys(rows) if key[0] in kinds]
    else:
        for series in single:
            if tickets := series.sparsest():
                wanted.append((series, tickets[0][1].kind, tickets[0][1].round))
    of = {series: [run for run, _ in series.sparsest()] for series in single}
    curves = {key: curve for key in wanted if (curve := _Curve.of(of[key[0]], *key[1:]))}
    if not curves:
        return None
    tested = all(sum(point[2] is not None for point in curve.points) > 1 for curve in curves.values())
    field = 2 if tested else 1
    table = []
    rounds = [number for series, kind, number in curves if kind == "round"]
    labelled: dict[str, tuple[float, float, str, str]] = {}
    with canvas(room(["random masks"] if len(single) == 1 else [s.label for s in single])) as drawing:
        for (series, kind, number), curve in curves.items():
            means = {epoch: spread(v) for epoch, v in curve.by_epoch(field).items()}
            x, y = list(means), [point.mean for point in means.values()]
            if len(single) > 1:
                look = {"color": color(series.slot), "marker": MARKERS[series.slot % 8], "markevery": [-1]}
                label = series.label
            elif kind in _CONTROLS:
                look = {"color": color(6), "linestyle": _CONTROLS[kind][1]}
                label = _CONTROLS[kind][0]
            elif number == 0:
                look, label = {"color": LIGHT["ink"]}, "dense" if kind == "round" else kind
            else:
                share = number / max(rounds, default=number) if kind == "round" else 1.0
                look = {"color": color(series.slot), "alpha": 0.15 + 0.85 * share}
                label = "ticket" if kind == "ticket" else f"round {number}"
            drawing.axes.plot(x, y, **look)
            paint = str(look["color"])
            if kind != "round" or number in (0, max(rounds)) or len(single) > 1:
                labelled[label] = (x[-1], y[-1], label, paint)
            table += [(series.label, kind, number, *point) for point in curve.points]
        drawing.axes.set_xlabel("epoch")
        drawing.axes.set_ylabel("test accuracy" if tested else "training accuracy")
        drawing.axes.xaxis.get_major_locator().set_params(integer=True)
        label_ends(drawing, list(labelled.values()))
    what = "test" if tested else "training (the test set was measured at the end only)"
    last = ", ".join(f"{label} {y:.4f}" for _, y, label, _ in labelled.values())
    which = "the sparsest tickets" if len(single) > 1 else "the trainings of the search, the sparser the darker"
    caption = f"Accuracy over epochs on the {what} set, of {which}. After the last epoch: {last}."
    header = ("series", "kind", "round", "epoch", "train_accuracy", "test_accuracy", "train_loss", "seed")
    return Plot("learning", "Learning curves", caption, header, table, drawing.figure)


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Points `(epoch, train_accuracy, test_accuracy or None, train_loss, seed)` of a training, of all seeds."""

    points: list[tuple[int, float, float | None, float, int]]

    @staticmethod
    def of(runs: Sequence[Run], kind: str, number: int) -> "_Curve | None":
        points = [
            (line["epoch"], line["train_accuracy"], line.get("test_accuracy"), line["train_loss"], run.seed)
            for run in runs
            for line in run.told("epoch")
            if (line["kind"], line["round"]) == (kind, number)
        ]
        return _Curve(points) if points else None

    def by_epoch(self, field: int) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for point in self.points:
            if (value := point[field]) is not None:
                found.setdefault(point[0], []).append(value)
        return dict(sorted(found.items()))
