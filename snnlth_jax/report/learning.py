"""Learning curves: accuracy over the epochs of training runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from snnlth_jax.report.accuracy import CONTROLS
from snnlth_jax.report.plot import End, Plot, label_ends, room, whole_numbers
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color
from snnlth_jax.run.events import EpochEvent, select
from snnlth_jax.run.results import spread

__all__ = ["learning_curves"]


class _Curve(NamedTuple):
    """A training run over seeds; points are (seed, epoch, training and test accuracy, training loss)."""

    series: Series
    kind: str
    round: int
    points: list[tuple[int, int, float, float | None, float]]

    def means(self, tested: bool) -> tuple[list[int], list[float]]:
        """Epochs, and mean accuracies after them on the test or the training set."""
        by_epoch: dict[int, list[float]] = {}
        for _, epoch, training, test, _ in self.points:
            value = test if tested else training
            if value is not None:
                by_epoch.setdefault(epoch, []).append(value)
        return sorted(by_epoch), [spread(by_epoch[epoch]).mean for epoch in sorted(by_epoch)]


def learning_curves(experiment: Experiment) -> Plot | None:
    """Accuracy over epochs: all training runs where there is one series, else those of the sparsest tickets.

    It is that on the test set, or on the training set where one has the former only at its end.
    """
    shown = [series for series in experiment.series if series.sparsest()]
    alone = len(shown) == 1
    curves = [curve for series in shown for curve in (_all(series) if alone else _sparsest(series))]
    if not curves:
        return None
    tested = all(len(curve.means(True)[0]) > 1 for curve in curves)
    last_round = max(curve.round for curve in curves)
    ends, values = {}, []
    with canvas(**room(_label(curve, alone) for curve in curves)) as drawing:
        for curve in curves:
            x, y = curve.means(tested)
            look = _look(curve, alone, last_round)
            if len(x) == 1:  # no line to be seen
                look = {"marker": MARKERS[0], "markersize": 5} | look
            label = _label(curve, alone)
            drawing.axes.plot(x, y, label=label, **look)
            if not alone or curve.kind != "round" or curve.round in (0, last_round):
                ends[label] = End(
                    x[-1], y[-1], label, look["color"], look.get("marker", ""), look.get("linestyle", "-")
                )
            values += y
        drawing.axes.set_xlabel("epoch")
        drawing.axes.set_ylabel("test accuracy" if tested else "training accuracy")
        lowest, top = sorted(values)[len(values) // 25], max(values)  # the first steps are below
        drawing.axes.set_ylim(lowest - 0.05 * (top - lowest), top + 0.05 * (top - lowest) + 1e-6)
        whole_numbers(drawing.axes.xaxis)
        label_ends(drawing, list(ends.values()))
    what = "test set" if tested else "training set (some curves have the test set only at their end)"
    which = "the trainings of the search, the sparser the stronger" if alone else "the sparsest tickets"
    caption = f"Accuracy over epochs on the {what}, of {which}."
    numbers = [(f"{end.text}, after the last epoch", f"{end.y:.4f}") for end in ends.values()]
    header = ("series", "kind", "round", "seed", "epoch", "train_accuracy", "test_accuracy", "train_loss")
    rows = [(c.series.label, c.kind, c.round, *point) for c in curves for point in c.points]
    return Plot("learning", "Learning curves", caption, header, rows, drawing.figure, numbers)


def _all(series: Series) -> list[_Curve]:
    runs = [run for run, _ in series.sparsest()]
    first = runs[0].result
    rows = (*first.rounds, *first.tickets, *first.controls)
    keys = dict.fromkeys((row.kind, row.round) for row in rows if row.kind != "dense")
    return [curve for key in keys if (curve := _curve(series, runs, *key)).points]


def _sparsest(series: Series) -> list[_Curve]:
    tickets = series.sparsest()
    curve = _curve(series, [run for run, _ in tickets], tickets[0][1].kind, tickets[0][1].round)
    return [curve] if curve.points else []


def _curve(series: Series, runs: Sequence[Run], kind: str, number: int) -> _Curve:
    points = [
        (run.seed, event.epoch, event.train_accuracy, event.test_accuracy, event.train_loss)
        for run in runs
        for event in select(run.events, EpochEvent)
        if (event.kind, event.round) == (kind, number)
    ]
    return _Curve(series, kind, number, points)


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
