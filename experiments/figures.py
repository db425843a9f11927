"""Figures of an experiment: lines with mean and standard deviation over seeds, written as PNG and PDF."""

import contextlib
import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence

from findings import Measured, Missing, Outcomes, method_of

from snnlth_jax.commands import output
from snnlth_jax.errors import InputError
from snnlth_jax.report import plot, theme
from snnlth_jax.report.theme import Drawing
from snnlth_jax.run.results import Spread, Summary, SummaryRow
from snnlth_jax.run.tables import layer_name

__all__ = [
    "Drawing",
    "Figure",
    "accuracies",
    "changes",
    "check",
    "costs",
    "difference",
    "epochs",
    "from_dense",
    "layers",
    "lines",
    "logarithmic",
    "measured",
    "numbers",
    "of",
    "over",
    "over_timesteps",
    "percents",
    "sparsities",
    "write",
]

Figure = Callable[[Outcomes], Drawing]  # it raises `Missing` where nothing can be drawn
Points = Sequence[tuple[float, Spread]]  # places on the horizontal axis, and what is measured there
Axis = Callable[[Drawing, Sequence[float]], None]  # prepares the horizontal axis for these places

# colours of methods, the same in all figures; others get those that are free
_SLOTS = {"imp": 0, "imp+et": 1, "eb": 2, "eb+et": 3, "transfer": 4, "snip": 5, "random": 6}


# --- files


def check(directory: str, name: str) -> None:
    """Refuse a directory that cannot be written, and an installation that cannot draw.

    Raises:
      InputError: with the reason.
    """
    with theme.canvas(), _named(directory):
        output.check(os.path.join(directory, f"{name}.png"), overwrite=True)


def write(directory: str, name: str, figures: Sequence[Figure], outcomes: Outcomes) -> Iterator[str]:
    """Write the figures of a script, several with letters as the paper's; a line for each and one for all."""
    absent = [cell for cell in outcomes.lacking if cell not in outcomes]
    without = f"; without {', '.join(absent)}" if absent else ""
    for letter, figure in zip(string.ascii_lowercase, figures, strict=False):
        file = f"{name}_{letter}" if len(figures) > 1 else name
        try:
            drawing = figure(outcomes)
        except Missing as missing:
            yield f"figure {file}: open, {missing}"
            continue
        path = os.path.join(directory, file)
        for suffix, content in theme.paper(drawing.figure).items():
            with _named(directory):
                output.write(f"{path}.{suffix}", content)
        yield f"figure: {path}.png and .pdf"
    if outcomes:
        yield f"figures: {plot.seeds([len(cell.seeds) for cell in outcomes.values()])}{without}"


@contextlib.contextmanager
def _named(directory: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        allowed = "a directory that can be written"
        raise InputError("`figure`", directory, problem=error.problem, allowed=allowed) from error


# --- lines


def lines(
    curves: Mapping[str, Points],
    axis: Axis,
    label: str,
    references: Mapping[str, float] | None = None,
    form: Callable[[float], str] | None = None,
    zero: bool = False,
    whole: bool = False,
) -> Drawing:
    """A named line for each curve that has points.

    Args:
      curves: means and deviations, by the name of the line.
      axis: prepares the horizontal axis.
      label: text beside the vertical axis.
      references: values of dashed lines across, by name.
      form: writes the numbers of the vertical axis.
      zero: begin the vertical axis at 0.
      whole: number the vertical axis by whole numbers.

    Raises:
      Missing: no curve has points.
    """
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        raise Missing("no line is there")
    across, ends = references or {}, []
    with theme.canvas(left=0.17, **plot.room([*drawn, *across])) as drawing:
        axes = drawing.axes
        axis(drawing, [x for points in drawn.values() for x, _ in points])
        for slot, (name, points) in zip(_slots(list(curves)), curves.items(), strict=True):
            if name in drawn:
                ends.append(_line(drawing, name, points, slot))
        axes.set_ylabel(label)
        axes.margins(y=0.08)
        if zero:
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        if whole:
            plot.whole_numbers(axes.yaxis)
        if form:
            axes.yaxis.set_major_formatter(lambda value, _: form(value))
        ends += [plot.reference(drawing, value, name) for name, value in across.items()]
        plot.label_ends(drawing, ends)
    return drawing


def _line(drawing: Drawing, name: str, points: Points, slot: int) -> plot.End:
    paint, marker = theme.color(slot), theme.MARKERS[slot % 8]
    x, y = [place for place, _ in points], [point.mean for _, point in points]
    deviations, style = [point.std or 0.0 for _, point in points], "-" if slot < 8 else "--"
    drawn, *_ = drawing.axes.errorbar(
        x, y, deviations, color=paint, marker=marker, markersize=5.5, linestyle=style, elinewidth=1, capsize=2
    )
    drawn.set_label(name)
    return plot.End(x[-1], y[-1], name, paint, marker, style)


def _slots(names: Sequence[str]) -> list[int]:
    """Colours of lines.

    >>> _slots(["imp", "lamp", "eb"])
    [0, 1, 2]
    """
    own = {name: _SLOTS[name] for name in names if name in _SLOTS}
    free = iter([slot for slot in range(len(names) + len(own)) if slot not in own.values()])
    return [own[name] if name in own else next(free) for name in names]


def percents(value: float) -> str:
    """A share as a percentage.

    >>> percents(0.8926), percents(0.9)
    ('89.26 %', '90 %')
    """
    return f"{100 * value:.4g} %"


# --- horizontal axes


def sparsities(drawing: Drawing, densities: Sequence[float]) -> None:
    """Sparsity, spread by the logarithm of the weights left."""
    axes, most = drawing.axes, max(densities)
    plot.weights_axis(axes, [*densities, 0.5])
    if most < 0.6:
        axes.set_xlim(max(1.15 * most, 0.55), axes.get_xlim()[1])
    axes.xaxis.set_major_formatter(lambda density, _: plot.percent(1 - density))
    axes.set_xlabel("sparsity")


def numbers(label: str) -> Axis:
    """Whole numbers."""

    def axis(drawing: Drawing, places: Sequence[float]) -> None:
        plot.whole_numbers(drawing.axes.xaxis)
        drawing.axes.set_xlabel(label)

    return axis


def measured(label: str, log: bool = False) -> Axis:
    """The places that were measured; on a logarithmic axis with 0 where that is wanted."""

    def axis(drawing: Drawing, places: Sequence[float]) -> None:
        axes = drawing.axes
        if log:
            axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xticks(sorted(set(places)), [f"{place:g}" for place in sorted(set(places))])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(label)

    return axis


def logarithmic(label: str) -> Axis:
    """Counts on a logarithmic axis, which begins with 0 where one is 0."""

    def axis(drawing: Drawing, places: Sequence[float]) -> None:
        axes = drawing.axes
        least = min((place for place in places if place), default=1.0)
        if min(places) > 0:
            axes.set_xscale("log")
            axes.set_xlim(least / 1.3, 1.3 * max(places))
            plot.log_axis(axes.xaxis)
        else:
            axes.set_xscale("symlog", linthresh=least, linscale=0.4)
            powers = [10.0**n for n in range(24) if least <= 10.0**n <= 2 * max(places)]
            axes.set_xticks([0.0, *powers[:: 1 + len(powers) // 5]])
            axes.set_xticks([], minor=True)
            axes.xaxis.set_major_formatter(lambda value, _: plot.si(value))
        axes.set_xlabel(label)

    return axis


# --- figures of several scripts


def _methods(outcomes: Outcomes) -> list[str]:
    """Methods of all cells with tickets, also of those that are not there yet."""
    return list(dict.fromkeys([*outcomes.methods(), *map(method_of, outcomes.lacking)]))


def accuracies(
    outcomes: Outcomes, only: Sequence[str] = (), references: Mapping[str, float] | None = None
) -> Drawing:
    """Test accuracy over sparsity: a line for each method, and across the dense network if all share one."""
    curves: dict[str, list[tuple[float, Spread]]] = {name: [] for name in only or _methods(outcomes)}
    dense: set[float] = set()
    for cell, summary in outcomes.items():
        for row in _trained(summary) if method_of(cell) in curves else ():
            if row.final_test_accuracy:
                curves[method_of(cell)].append((row.kept / row.total, row.final_test_accuracy))
                if row.kept == row.total:
                    dense.add(row.final_test_accuracy.mean)
    for points in curves.values():
        points.sort(key=lambda point: -point[0])
    own = {"dense": dense.pop()} if len(dense) == 1 else {}
    return lines(curves, sparsities, "test accuracy", references or own, percents)


def of(*only: str) -> Figure:
    """Test accuracy over sparsity, of these methods."""
    return lambda outcomes: accuracies(outcomes, only)


def _trained(cell: Summary) -> Sequence[SummaryRow]:
    """Tickets of a search; or all its rounds, where the tickets are some of them."""
    rounds = {row.name for row in cell.rounds}
    among = cell.tickets and all(row.name in rounds for row in cell.tickets)
    return cell.rounds if among else cell.tickets


def costs(outcomes: Outcomes) -> Drawing:
    """Test accuracy over the FLOPs of the search: a point for each ticket, the sparsest last."""
    curves: dict[str, list[tuple[float, Spread]]] = {}
    for method in _methods(outcomes):
        rows = [row for cell in outcomes if method_of(cell) == method for row in outcomes[cell].tickets]
        curves[method] = [
            (row.search_train_flops.mean, row.final_test_accuracy)
            for row in sorted(rows, key=lambda row: row.sparsity)
            if row.search_train_flops and row.final_test_accuracy
        ]
    return lines(curves, logarithmic("FLOPs of the search (log scale)"), "test accuracy", form=percents)


def difference(first: Measured, second: Measured) -> Spread:
    """Differences of accuracies in points, over the seeds that both have.

    Raises:
      Missing: no seed in common.
    """
    seeds = [seed for seed in first.values if seed in second.values]
    if not seeds:
        raise Missing("no seed has both numbers")
    return Spread.of(100 * (first.values[seed] - second.values[seed]) for seed in seeds)


def changes(outcomes: Outcomes, beside: Mapping[str, str]) -> Drawing:
    """Points from another method at each sparsity: a line for each method that has one beside it."""
    curves: dict[str, Points] = {}
    for name, other in beside.items():
        curves[name] = []
        with contextlib.suppress(Missing):
            curves[name] = [
                (1 - row.sparsity, difference(outcomes.accuracy(name, i), outcomes.accuracy(other, i)))
                for i, row in enumerate(outcomes.tickets(name))
            ]
    return lines(curves, sparsities, "points from the default", {"no difference": 0.0})


def from_dense(
    outcomes: Outcomes, places: Sequence[float], others: Mapping[str, Mapping[str, Sequence[float]]]
) -> Drawing:
    """Points of imp's rounds from dense, beside those of others at some sparsities, by dataset."""
    dense, rounds = outcomes.dense(), outcomes["imp"].rounds
    curves: dict[str, Points] = {
        "imp": [(r.kept / r.total, difference(outcomes.round("imp", i), dense)) for i, r in enumerate(rounds)]
    }
    for name, by_dataset in others.items():
        points = by_dataset.get(outcomes.dataset, ())
        curves[name] = [(1 - place, Spread.of([value])) for place, value in zip(places, points, strict=False)]
    return lines(curves, sparsities, "points from dense", {"dense": 0.0})


def epochs(outcomes: Outcomes) -> Drawing:
    """Epochs of the search of Early-Bird over the sparsity: a line for each method."""
    curves: dict[str, list[tuple[float, Spread]]] = {}
    for name, cell in outcomes.items():
        if stopped := [record.epoch for record in cell.early_bird if record]:
            points = curves.setdefault(method_of(name), [])
            points += [(row.kept / row.total, Spread.of(stopped)) for row in cell.tickets]
    return lines(curves, sparsities, "epochs of the search", zero=True, whole=True)


def over(values: Callable[[Outcomes], Mapping[float, Measured]], place: str, label: str) -> Figure:
    """A quantity that is measured at several places."""

    def figure(outcomes: Outcomes) -> Drawing:
        points = [(at, one.spread) for at, one in values(outcomes).items()]
        return lines({label: points}, measured(place), label, whole=True)

    return figure


def over_timesteps(outcomes: Outcomes) -> Drawing:
    """Test accuracy over T', from cells named by it and one named T: a line for each sparsity."""
    curves: dict[str, list[tuple[float, Spread]]] = {}
    for name, cell in outcomes.items():
        if name.startswith("T"):
            timesteps = float(name.removeprefix("T'=")) if "=" in name else cell.settings.num_timesteps
            for row in cell.tickets:
                if row.final_test_accuracy:
                    points = curves.setdefault(plot.percent(row.sparsity), [])
                    points.append((timesteps, row.final_test_accuracy))
    for points in curves.values():
        points.sort(key=lambda point: point[0])
    return lines(curves, numbers("T' of the search"), "test accuracy", form=percents)


def layers(outcomes: Outcomes) -> Drawing:
    """Sparsity of each layer of imp's tickets: a line for each ticket."""
    results, curves = outcomes.results("imp"), {}
    for ticket in outcomes["imp"].tickets:
        seeds = [row.layers for result in results for row in result.rounds if row.round == ticket.round]
        by_layer = [
            Spread.of(1 - layer.kept / layer.weights for layer in group) for group in zip(*seeds, strict=True)
        ]
        curves[plot.percent(ticket.sparsity)] = [(float(i), one) for i, one in enumerate(by_layer, start=1)]
    names = [layer_name(layer.name) for layer in results[0].rounds[0].layers]

    def axis(drawing: Drawing, places: Sequence[float]) -> None:
        drawing.axes.set_xlim(0.7, len(names) + 0.3)
        plot.names_axis(drawing, names)
        drawing.axes.set_xlabel("layer, in the order of the forward pass")

    return lines(curves, axis, "sparsity", form=percents)
