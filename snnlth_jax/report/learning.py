"""Learning curves: accuracy and loss over the epochs of training runs."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from snnlth_jax.report.accuracy import CONTROLS
from snnlth_jax.report.plot import End, Plot, label_ends, log_axis, room, whole_numbers
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color
from snnlth_jax.run.events import EpochEvent, select
from snnlth_jax.run.results import Spread

__all__ = ["learning_curves", "losses"]

_DECADE = 10  # losses that span more have a logarithmic axis


class _Curve(NamedTuple):
    """A training run over seeds: each of its epochs with the seed."""

    series: Series
    kind: str
    round: int
    epochs: list[tuple[int, EpochEvent]]

    def means(self, field: str) -> tuple[list[int], list[float]]:
        """Epochs, and means over the seeds of a field of their events after them, where it was measured."""
        by_epoch: dict[int, list[float]] = {}
        for _, event in self.epochs:
            value = getattr(event, field)
            if value is not None and math.isfinite(value):
                by_epoch.setdefault(event.epoch, []).append(value)
        return sorted(by_epoch), [Spread.of(by_epoch[epoch]).mean for epoch in sorted(by_epoch)]


def learning_curves(experiment: Experiment) -> Plot | None:
    """Accuracy over epochs: all training runs where there is one series, else those of the sparsest tickets.

    It is that on the test set, or on the training set where one has the former only at its end.
    """
    curves, alone = _curves(experiment)
    if not curves:
        return None
    tested = all(len(curve.means("test_accuracy")[0]) > 1 for curve in curves)
    what = "test set" if tested else "training set (some curves have the test set only at their end)"
    return _over_epochs(
        curves,
        alone,
        "learning",
        "Learning curves",
        f"Accuracy over epochs on the {what}",
        ("test accuracy" if tested else "training accuracy", "test_accuracy" if tested else "train_accuracy"),
        ("train_accuracy", "test_accuracy", "train_loss"),
    )


def losses(experiment: Experiment) -> Plot | None:
    """Training loss over epochs, of the training runs of `learning_curves`."""
    curves, alone = _curves(experiment)
    curves = [curve for curve in curves if curve.means("train_loss")[0]]
    if not curves:
        return None
    return _over_epochs(
        curves,
        alone,
        "loss",
        "Training loss",
        "Mean loss of the training images in each epoch",
        ("training loss", "train_loss"),
        ("train_loss", "test_loss", "validation_loss"),
    )


def _over_epochs(
    curves: Sequence[_Curve],
    alone: bool,
    name: str,
    title: str,
    caption: str,
    axis: tuple[str, str],
    columns: tuple[str, ...],
) -> Plot:
    """A plot of curves.

    Args:
      curves: the training runs.
      alone: whether there is one series, whose training runs they are.
      name, title: name and title of the plot.
      caption: what is seen of the training runs, without a full stop.
      axis: label of the vertical axis, and the field of the events that it has.
      columns: fields of the events that the table has.
    """
    label, field = axis
    last_round = max(curve.round for curve in curves)
    ends, values = {}, []
    with canvas(**room(_label(curve, alone) for curve in curves)) as drawing:
        axes = drawing.axes
        for curve in curves:
            x, y = curve.means(field)
            look = _look(curve, alone, last_round)
            if len(x) == 1:  # no line to be seen
                look = {"marker": MARKERS[0], "markersize": 5} | look
            text = _label(curve, alone)
            axes.plot(x, y, label=text, **look)
            if not alone or curve.kind != "round" or curve.round in (0, last_round):
                marker, line = look.get("marker", ""), look.get("linestyle", "-")
                ends[text] = End(x[-1], y[-1], text, look["color"], marker, line)
            values += y
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if "loss" in field and min(values) > 0 and max(values) > _DECADE * min(values):
            axes.set_yscale("log")
            log_axis(axes.yaxis, "{:g}".format)
            axes.set_ylabel(f"{label} (log scale)")
        elif "accuracy" in field:
            lowest, top = sorted(values)[len(values) // 25], max(values)  # the first steps are below
            axes.set_ylim(lowest - 0.05 * (top - lowest), top + 0.05 * (top - lowest) + 1e-6)
        whole_numbers(axes.xaxis)
        label_ends(drawing, list(ends.values()))
    which = "the training runs of the search, the sparser the stronger" if alone else "the sparsest tickets"
    numbers = [(f"{end.text}, after the last epoch", f"{end.y:.4f}") for end in ends.values()]
    rows = [
        (
            curve.series.label,
            curve.kind,
            curve.round,
            seed,
            event.epoch,
            *(getattr(event, c) for c in columns),
        )
        for curve in curves
        for seed, event in curve.epochs
    ]
    header = ("series", "kind", "round", "seed", "epoch", *columns)
    return Plot(name, title, f"{caption}, of {which}.", header, rows, drawing.figure, numbers)


def _curves(experiment: Experiment) -> tuple[list[_Curve], bool]:
    """The training runs that are shown, and whether there is one series."""
    shown = [series for series in experiment.series if series.sparsest()]
    alone = len(shown) == 1
    return [curve for series in shown for curve in (_all(series) if alone else _sparsest(series))], alone


def _all(series: Series) -> list[_Curve]:
    runs = [run for run, _ in series.sparsest()]
    first = runs[0].result
    rows = (*first.rounds, *first.tickets, *first.controls)
    keys = dict.fromkeys((row.kind, row.round) for row in rows if row.kind != "dense")
    return [curve for key in keys if (curve := _curve(series, runs, *key)).epochs]


def _sparsest(series: Series) -> list[_Curve]:
    tickets = series.sparsest()
    curve = _curve(series, [run for run, _ in tickets], tickets[0][1].kind, tickets[0][1].round)
    return [curve] if curve.epochs else []


def _curve(series: Series, runs: Sequence[Run], kind: str, number: int) -> _Curve:
    epochs = [
        (run.seed, event)
        for run in runs
        for event in select(run.events, EpochEvent)
        if (event.kind, event.round) == (kind, number)
    ]
    return _Curve(series, kind, number, epochs)


def _label(curve: _Curve, alone: bool) -> str:
    if not alone:
        return curve.series.label
    if curve.kind in CONTROLS:
        return CONTROLS[curve.kind][0]
    if curve.kind == "round":
        return f"round {curve.round}" if curve.round else "dense"
    return curve.kind


def _look(curve: _Curve, alone: bool, last_round: int) -> dict[str, Any]:
    slot = curve.series.slot
    if not alone:
        return {"color": color(slot), "marker": MARKERS[slot % 8], "markevery": [-1]}
    if curve.kind in CONTROLS:
        return {"color": color(6), "linestyle": CONTROLS[curve.kind][1]}
    if curve.round == 0:
        return {"color": LIGHT["ink"]}
    share = curve.round / last_round if curve.kind == "round" else 1.0
    return {"color": color(slot), "alpha": 0.15 + 0.85 * share}
