"""Accuracy against sparsity, and against cost: what every method is judged by."""

from typing import Any

from snnlth_jax.report.plot import (
    ROW,
    End,
    Plot,
    across,
    against_density,
    label_ends,
    log_axis,
    percent,
    reference,
    room,
    row_fields,
    seeds,
    si,
    weights_axis,
)
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import MARKERS, canvas, color
from snnlth_jax.run.results import Row, Spread, TicketRow

__all__ = ["CONTROLS", "accuracy", "accuracy_of", "cost"]

CONTROLS = {"random": ("random masks", "--"), "redrawn": ("redrawn weights", ":")}


_AS_LONG = "dense for as long"  # as search and ticket together


def accuracy(experiment: Experiment) -> Plot | None:
    """Test accuracy against the weights left: the lottery ticket hypothesis in one plot (paper, Fig. 5)."""
    results = {series: series.trainings("result") for series in experiment.series}
    results = {series: rows for series, rows in results.items() if rows}
    if not results:
        return None
    single, few = len(results) == 1, len(results) <= 3
    names = {kind: name if single else kind for kind, (name, _) in CONTROLS.items()}
    lines: list[tuple[Series, str, str, dict[float, Spread]]] = []
    rows: list[tuple[Any, ...]] = []
    for series, trained in results.items():
        lines.append((series, "-", series.label, across(trained, accuracy_of)))
        for kind, (_, style) in CONTROLS.items():
            if control := series.trainings(kind):
                label = names[kind] if single else f"{series.label} {kind}"
                lines.append((series, style, label, across(control, accuracy_of)))
        for kind in ("result", "search", *CONTROLS, "dense"):
            rows += [
                (*row_fields(series.label, run, row), row.final_test_accuracy)
                for run, row in series.trainings(kind)
            ]
    dense = {name: [accuracy_of(row) for _, row in of] for name, of in experiment.references().items()}
    as_long = [pair for series in results for pair in series.trainings("dense")]
    densities = [density for *_, points in lines for density in points]
    references = [*dense, *([_AS_LONG] if as_long else [])]
    with canvas(**room([*(label for _, _, label, _ in lines), *references])) as drawing:
        weights_axis(drawing.axes, [*densities, 0.5])
        for series, style, label, points in lines:
            slot = series.slot if style == "-" or not single else 6
            against_density(drawing, points, slot, style, band=few, label=label)
        for series in results if few else ():
            if searched := across(series.trainings("search"), accuracy_of):
                x, y = list(searched), [point.mean for point in searched.values()]
                drawing.axes.plot(x, y, ":", color=color(series.slot), linewidth=1.2, alpha=0.8)
        drawing.axes.set_ylabel("test accuracy")
        drawing.axes.margins(y=0.08)
        ends = []
        for series, style, label, points in lines:
            slot = series.slot if style == "-" or not single else 6
            last, mean = list(points)[-1], list(points.values())[-1].mean
            ends.append(End(last, mean, label, color(slot), MARKERS[slot % 8], style))
        for name, accuracies in dense.items():
            ends.append(reference(drawing, Spread.of(accuracies).mean, name))
        if as_long:
            mean = Spread.of(accuracy_of(row) for _, row in as_long).mean
            ends.append(reference(drawing, mean, _AS_LONG))
        label_ends(drawing, ends)
    numbers = []
    for _, _, label, points in lines:
        density, point = list(points.items())[-1]
        numbers.append((f"{label} at {percent(1 - density)}", f"{point}"))
    counts = [len(list(points.values())[-1].values) for *_, points in lines]
    for name, accuracies in dense.items():
        what = name.replace("dense", "dense network", 1)
        numbers.append((f"{what} (dashed line)", f"{Spread.of(accuracies)}"))
    if as_long:
        spread = Spread.of(accuracy_of(row) for _, row in as_long)
        numbers.append(("dense network trained for as long as search and ticket", f"{spread}"))
    caption = f"Weights are removed from left to right; {seeds(counts)}."
    dotted = few and any(series.trainings("search") for series in results)
    notes = "Dotted without markers: rounds of the search in the network that is searched." if dotted else ""
    title, header = "Accuracy against sparsity", (*ROW, "final_test_accuracy")
    return Plot("accuracy", title, caption, header, rows, drawing.figure, numbers, notes)


def accuracy_of(row: Row) -> float:
    """Test accuracy of a training run that has one, see `Series.trainings`."""
    return row.final_test_accuracy or 0.0


def _flops(row: TicketRow) -> int:
    return row.train_flops_in_all


def cost(experiment: Experiment) -> Plot | None:
    """Test accuracy against the cost of search and training of a ticket together (paper, Table 1)."""
    tickets = {
        series: [
            (run, row)
            for run in series.runs
            for row in run.result.tickets
            if row.train_flops_in_all and row.final_test_accuracy is not None
        ]
        for series in experiment.series
    }
    tickets = {series: rows for series, rows in tickets.items() if rows}
    if sum(len({row.kept for _, row in rows}) for rows in tickets.values()) < 2:
        return None
    table, ends, sparsest = [], [], []
    with canvas(**room(series.label for series in tickets)) as drawing:
        axes = drawing.axes
        for series, rows in tickets.items():
            flops = across(rows, _flops)
            accuracies = across(rows, accuracy_of)
            x, y = [p.mean for p in flops.values()], [p.mean for p in accuracies.values()]
            paint, errors = color(series.slot), [p.std or 0.0 for p in accuracies.values()]
            drawn, *_ = axes.errorbar(
                x, y, errors, color=paint, linewidth=1.2, elinewidth=1, marker=MARKERS[series.slot % 8]
            )
            drawn.set_label(series.label)
            ends.append(End(x[-1], y[-1], series.label, paint, MARKERS[series.slot % 8]))
            sparsest.append((series.label, f"{accuracies[list(flops)[-1]]} for {si(x[-1])}FLOP"))
            for run, row in rows:
                spent = (cost and cost.train_flops for cost in (row.search, row.training))
                fields = (row.final_test_accuracy, *spent, row.search_relative_to_imp)
                table.append((*row_fields(series.label, run, row), *fields))
        axes.set_xscale("log")
        log_axis(axes.xaxis)
        axes.set_xlabel("training FLOPs, search and ticket (log scale)")
        axes.set_ylabel("test accuracy")
        axes.margins(0.08)
        label_ends(drawing, ends)
    caption = "Up and left is better: each point is a ticket at one sparsity, the sparsest last."
    notes = (
        "The cost is that of the search from its start to the masks and of the training of the ticket; a "
        "pruned weight is counted as if it were there."
    )
    spent_on = ("search_train_flops", "training_train_flops", "search_relative_to_imp")
    header = (*ROW, "final_test_accuracy", *spent_on)
    return Plot("cost", "Accuracy against cost", caption, header, table, drawing.figure, sparsest, notes)
