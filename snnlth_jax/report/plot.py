"""A plot and its numbers; the words, axes and lines that several plots have in common."""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from snnlth_jax.report.runs import Run
from snnlth_jax.report.theme import HEIGHT, LIGHT, MARKERS, WIDTH, Drawing, color
from snnlth_jax.run.results import Row, Spread
from snnlth_jax.run.tables import si

__all__ = [
    "ROW",
    "End",
    "Plot",
    "across",
    "against_density",
    "label_ends",
    "log_axis",
    "names_axis",
    "percent",
    "reference",
    "room",
    "row_fields",
    "seeds",
    "si",
    "weights_axis",
    "whole_numbers",
    "zero_below",
]


R = TypeVar("R", bound=Row)

LABEL = 13.5  # points from one label to the next
CHARACTER, LONGEST = 0.079, 40  # width of a character of a tick in inches, characters of the longest tick
BESIDE, BELOW = 145, 42  # points of the longest label beside the axes, characters of a line below them


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with the numbers in it.

    Attributes:
      name: name of its files, unique among those of an experiment.
      title: the two quantities.
      caption: description in a sentence; with `numbers` the figure's alternative text too.
      header, rows: the numbers in it, one measurement a row, as result.json and metrics.jsonl have them.
      figure: matplotlib's, in colours of `theme.LIGHT`.
      numbers: the numbers that sum it up, with the names of what they are of.
      notes: what else there is to know.
    """

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    figure: Any
    numbers: Sequence[tuple[str, str]] = ()
    notes: str = ""


# --- words and axes


def percent(sparsity: float) -> str:
    """Percentage as people write it, with as many digits as it takes to tell it from 0 and 100 %.

    >>> percent(0.75), percent(0.9578), percent(0.98216), percent(0.99964), percent(0.0004)
    ('75 %', '95.8 %', '98.2 %', '99.96 %', '0.04 %')
    """
    nearest = min(sparsity, 1 - sparsity)
    digits = max(1, -math.floor(math.log10(100 * nearest))) if nearest > 0 else 1
    return f"{round(100 * sparsity, digits):g} %"


def seeds(counts: Sequence[int]) -> str:
    """Number of seeds behind means, in words.

    >>> seeds([3, 3]), seeds([1]), seeds([1, 3])
    ('mean and standard deviation of 3 seeds', 'one seed', 'mean and standard deviation of 1 to 3 seeds')
    """
    fewest, *_, most = sorted((*counts, *counts))
    several = f"{fewest} to {most}" if fewest < most else str(most)
    return "one seed" if most == 1 else f"mean and standard deviation of {several} seeds"


def weights_axis(axes: Any, densities: Iterable[float]) -> None:
    """A logarithmic axis of the weights left, from all of them at its left."""
    from matplotlib.ticker import FixedLocator, NullLocator

    least = min(densities)
    axes.set_xscale("log")
    axes.set_xlim(1.08, least / 1.12)
    ticks = [m * 10.0**-e for e in range(1, 8) for m in (10, 5, 2) if m * 10.0**-e >= least / 1.1]
    most = round(10 * axes.get_position().width)  # that fit beside each other
    for digits in ("15", "1"):
        if len(ticks) > most:
            ticks = [tick for tick in ticks if f"{tick:e}"[0] in digits]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.set_xlabel("weights left (log scale)")


def across(rows: Iterable[tuple[Run, R]], value: Callable[[R], float]) -> dict[float, Spread]:
    """Mean and deviation over the seeds, by density, the densest first."""
    values: dict[float, list[float]] = {}
    for _, row in rows:
        values.setdefault(row.density, []).append(value(row))
    return {density: Spread.of(values[density]) for density in sorted(values, reverse=True)}


def against_density(
    drawing: Drawing,
    points: dict[float, Spread],
    slot: int,
    line: str = "-",
    band: bool = True,
    label: str = "",
) -> None:
    """A named line of means, and a standard deviation around them: as bars, and as a band if wanted."""
    axes, paint = drawing.axes, color(slot)
    x, means = list(points), [point.mean for point in points.values()]
    low = [point.mean - (point.std or 0.0) for point in points.values()]
    high = [point.mean + (point.std or 0.0) for point in points.values()]
    if any(point.std for point in points.values()):
        if band and len(x) > 1:
            axes.fill_between(x, low, high, color=paint, alpha=0.14, linewidth=0)
        axes.vlines(x, low, high, color=paint, alpha=0.45, linewidth=1.0)
    hollow = line != "-"
    axes.plot(
        x,
        means,
        line,
        color=paint,
        marker=MARKERS[slot % 8],
        markersize=5.5,
        markeredgewidth=1.2 if hollow else 0.8,
        markerfacecolor=LIGHT["surface"] if hollow else paint,
        markeredgecolor=paint if hollow else LIGHT["surface"],
        label=label,
    )


def reference(drawing: Drawing, value: float, text: str) -> "End":
    """A dashed line across, and its label."""
    drawing.axes.axhline(value, color=LIGHT["ink"], linewidth=1.0, linestyle=(0, (5, 3)), zorder=1)
    return End(drawing.axes.get_xlim()[1], value, text, LIGHT["ink"], line="--")


def room(labels: Iterable[str]) -> dict[str, float]:
    """End of the axes and height of a figure that leave room for labels at their right, see `canvas`.

    Labels that are too long for that stand below the axes, which then are as wide as the figure.
    """
    points = [_points(label) for label in labels]
    if max(points, default=0) > BESIDE:
        return {}
    height = 0.6 + LABEL * (len(points) + 2) / 72 / 0.9
    return {"right": 1 - (18 + max([50, *points])) / (72 * WIDTH), "height": max(HEIGHT, height)}


def _points(label: str) -> float:
    """Width of a label in bold, at most.

    >>> round(_points("IMP")), round(_points("Random 90 %"))
    (23, 81)
    """
    wide, narrow = "mwMWQ%@", " .,:;'|ijlI"
    return sum(
        10.6 if c in wide else 4.2 if c in narrow else 8.5 if c.isupper() or not c.isascii() else 7.2
        for c in label
    )


def log_axis(axis: Any, form: Callable[[float], str] = si) -> None:
    """Few ticks in 1, 2, 5 on a logarithmic axis, written by `form`."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = sorted(axis.get_view_interval())
    few = axis.axis_name == "x" and axis.axes.get_position().width < 0.6
    steps = ((1, 2, 3, 5), (1, 2, 5), (1,)) if not few else ((1, 2, 5), (1,), (1,))
    axis.set_major_locator(LogLocator(subs=steps[int(high > 12 * low) + int(high > 300 * low)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: form(value))


def zero_below(axes: Any, zero: float, text: str) -> None:
    """A tick for 0 on a logarithmic vertical axis, at the place below all others where it is drawn."""
    from matplotlib.ticker import FixedLocator

    form, (_, top) = axes.yaxis.get_major_formatter(), axes.get_ylim()
    ticks = [tick for tick in axes.yaxis.get_major_locator()() if 1.8 * zero < tick <= top]
    axes.yaxis.set_major_locator(FixedLocator([zero, *ticks]))
    axes.yaxis.set_major_formatter(lambda value, at: text if value == zero else form(value, at))
    axes.set_ylim(zero / 1.4, top)


ROW = ("series", "kind", "workdir", "seed", "round", "kept", "total", "num_timesteps")


def row_fields(series: str, run: Run, row: Row) -> tuple[Any, ...]:
    """Fields that identify a training run in a table, see `ROW`."""
    kind, number = row.kind, row.round
    return (series, kind, run.directory, run.seed, number, row.kept, row.total, row.num_timesteps)


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only."""
    axis.get_major_locator().set_params(integer=True, min_n_ticks=1)


class End(NamedTuple):
    """End of a line that is to be named, and its look there."""

    x: float
    y: float
    text: str
    color: str
    marker: str = ""
    line: Any = "-"


def label_ends(drawing: Drawing, ends: Sequence[End]) -> None:
    """Name lines right of the axes, at the height where they end, pushed apart where names would overlap.

    A thin line leads to each name; where that would be long, the marker stands before the name instead. Where
    `room` left none, the names stand below. To be called last, when the limits of the axes are what they will
    be.
    """
    axes = drawing.axes
    if axes.get_position().x1 > 0.9:
        _legend(drawing, ends)
        return
    axes.get_xlim(), axes.get_ylim()  # has matplotlib find them
    gap = LABEL / (axes.get_window_extent().height * 72 / drawing.figure.dpi)
    to_axes = axes.transData + axes.transAxes.inverted()
    by_height = sorted(((*to_axes.transform(end[:2]), end) for end in ends), key=lambda place: place[1])
    for (x, y, end), at in zip(by_height, _apart([y for _, y, _ in by_height], gap), strict=True):
        fixed = {"transform": axes.transAxes, "clip_on": False}
        if x > 0.85:
            axes.plot([x, 1.03], [y, at], color=end.color, linewidth=0.7, alpha=0.6, **fixed)
        else:
            axes.plot([1.012], [at], end.marker or "_", color=end.color, markersize=5, **fixed)
        look = {"color": end.color, "va": "center", "fontweight": "bold", "parse_math": False}
        axes.text(1.046, at, end.text, **look, **fixed)


def _legend(drawing: Drawing, ends: Sequence[End]) -> None:
    """Name lines below the axes, on a figure that is higher by as much."""
    from matplotlib.lines import Line2D

    figure = drawing.figure
    names = [(end, textwrap.wrap(end.text, BELOW) or [""]) for end in ends]
    inches = LABEL * (sum(len(lines) for _, lines in names) + 0.5) / 72
    whole = _grow(drawing, inches)
    at = inches / whole
    for end, lines in names:
        middle = at - LABEL / 72 / 2 / whole
        look = {"color": end.color, "linestyle": end.line, "marker": end.marker, "markersize": 5}
        look |= {"markerfacecolor": end.color if end.line == "-" else LIGHT["surface"]}
        xs = (0.03, 0.06, 0.09)
        figure.add_artist(Line2D(xs, [middle] * 3, markevery=[1], linewidth=1.5, **look))
        for line in lines:
            figure.text(0.11, middle, line, color=end.color, va="center", fontweight="bold", parse_math=False)
            middle -= LABEL / 72 / whole
        at -= LABEL * len(lines) / 72 / whole


def _grow(drawing: Drawing, inches: float) -> float:
    """Make the figure higher below its axes, which keep their size: the new height."""
    place, (width, height) = drawing.axes.get_position(), drawing.figure.get_size_inches()
    whole = float(height + inches)
    drawing.figure.set_size_inches(width, whole)
    top, bottom = 1 - (1 - place.y1) * height / whole, (place.y0 * height + inches) / whole
    drawing.figure.subplots_adjust(top=top, bottom=bottom)
    return whole


def names_axis(drawing: Drawing, names: Sequence[str]) -> None:
    """Names at 1, 2, 3 ... of the horizontal axis: upright where they do not fit, and as many as fit."""
    axes = drawing.axes
    inches = axes.get_position().width * drawing.figure.get_size_inches()[0]
    longest = max(map(len, names))
    if longest > LONGEST:  # the table has them
        whole_numbers(axes.xaxis)
        return
    upright = longest * CHARACTER * len(names) > 0.9 * inches
    step = math.ceil(len(names) * LABEL / 72 / inches) if upright else 1
    places = range(1, len(names) + 1)[::step]
    axes.set_xticks(places)
    axes.xaxis.set_major_formatter(lambda value, _: names[round(value) - 1])
    axes.tick_params("x", rotation=90 if upright else 0)
    if upright:
        _grow(drawing, (longest - 1) * CHARACTER)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, moved as little as it takes for neighbours to be so far apart.

    >>> _apart([0.5, 0.5, 0.9], gap=0.1)
    [0.45, 0.55, 0.9]
    """
    # clusters that push each other stand around the mean of where they would be
    clusters: list[list[float]] = []
    for height in heights:
        clusters.append([height])
        while len(clusters) > 1 and _bottom(clusters[-1], gap) - _top(clusters[-2], gap) < gap - 1e-9:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [round(_bottom(cluster, gap) + i * gap, 6) for cluster in clusters for i in range(len(cluster))]


def _bottom(cluster: Sequence[float], gap: float) -> float:
    height = gap * (len(cluster) - 1)
    return max(min(sum(cluster) / len(cluster) - height / 2, 1 + gap / 4 - height), -gap / 2)


def _top(cluster: Sequence[float], gap: float) -> float:
    return _bottom(cluster, gap) + gap * (len(cluster) - 1)
