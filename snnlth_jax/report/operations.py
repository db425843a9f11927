"""Operations of a network and their energy, and its idle parts, against sparsity."""

import functools
from collections.abc import Callable, Mapping, Sequence

from snnlth_jax.analysis import energy as energies
from snnlth_jax.analysis.energy import ENERGY_AC, ENERGY_MAC
from snnlth_jax.errors import listed
from snnlth_jax.report.plot import (
    ROW,
    End,
    Plot,
    across,
    against_density,
    label_ends,
    log_axis,
    percent,
    room,
    row_fields,
    seeds,
    si,
    weights_axis,
)
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import MARKERS, canvas, color
from snnlth_jax.run.results import LayerRecord, Row, Spread

__all__ = ["energy", "silence", "synops"]


def _macs(layers: Sequence[LayerRecord]) -> float:
    return sum(sum(layer.macs_per_image) for layer in layers)


def _synops(layers: Sequence[LayerRecord]) -> float:
    return sum(sum(layer.synops_per_image) for layer in layers)


def synops(experiment: Experiment) -> Plot | None:
    """Additions that spikes cause for an image, against the weights left."""

    caption = (
        "Additions that spikes cause over the weights left, for one test image and all timesteps (SynOps)"
    )
    notes = "The first layer, whose input is no spikes, has none."
    title = "Synaptic operations against sparsity"
    return _against(
        experiment,
        "synops",
        title,
        "SynOps per image (log)",
        {"synops_per_image": _synops},
        caption,
        notes,
        si,
    )


def energy(experiment: Experiment, mac: float = ENERGY_MAC, ac: float = ENERGY_AC) -> Plot | None:
    """The estimated energy of the operations for an image, against the weights left."""

    caption = (
        f"Estimate for one test image, {mac:g} pJ for a multiply-accumulate and {ac:g} pJ for an addition "
        "(32 bits, 45 nm)"
    )
    notes = (
        "Memory traffic, of weights and states, is left out and usually costs more: operations alone flatter "
        "spiking networks."
    )

    def form(picojoules: float) -> str:
        return f"{1e-3 * picojoules:.3g} nJ"

    title = "Energy of the operations against sparsity"
    axis = "nJ per image, operations only (log)"

    def value(layers: Sequence[LayerRecord]) -> float:
        return energies.energy(layers, mac, ac).picojoules

    columns = {"macs_per_image": _macs, "synops_per_image": _synops, "picojoules": value}
    return _against(experiment, "energy", title, axis, columns, caption, notes, form, scale=1e-3)


def _from_to(points: dict[float, Spread], form: Callable[[float], str]) -> str:
    ends = [max(points), min(points)] if len(points) > 1 else list(points)
    return ", ".join(f"{form(points[end].mean)} at {percent(1 - end)}" for end in ends)


def _measured(experiment: Experiment) -> dict[Series, list[tuple[Run, Row]]]:
    trained = {
        series: [(run, row) for run, row in series.trainings("result") if row.connected]
        for series in experiment.series
    }
    return {series: rows for series, rows in trained.items() if rows}


def _against(
    experiment: Experiment,
    name: str,
    title: str,
    axis: str,
    columns: Mapping[str, Callable[[Sequence[LayerRecord]], float]],
    caption: str,
    notes: str,
    form: Callable[[float], str],
    scale: float = 1.0,
) -> Plot | None:
    """Plots the last of the columns, each a function of the layers of a network."""
    measured = _measured(experiment)
    *_, value = columns.values()
    means = {series: across(rows, lambda row: value(row.layers)) for series, rows in measured.items()}
    # a log axis has no 0: the ReLU twin has no spikes, and a network whose layer is gone may have none
    some = {s: {d: p for d, p in points.items() if p.mean > 0} for s, points in means.items()}
    means, before = {series: points for series, points in some.items() if points}, means
    if not means:
        return None
    without = [
        f"{series.label} {percent(1 - density)}"
        for series in means
        for density in before[series].keys() - means[series].keys()
    ]
    rows = [
        (*row_fields(series.label, run, row), *(column(row.layers) for column in columns.values()))
        for series in means
        for run, row in measured[series]
    ]
    with canvas(**room(series.label for series in means)) as drawing:
        axes, ends = drawing.axes, []
        weights_axis(axes, [*(density for points in means.values() for density in points), 0.5])
        for series, points in means.items():
            scaled = {density: point.scaled(scale) for density, point in points.items()}
            against_density(drawing, scaled, series.slot, label=series.label)
            x, y = list(scaled)[-1], list(scaled.values())[-1].mean
            ends.append(End(x, y, series.label, color(series.slot), MARKERS[series.slot % 8]))
        axes.set_yscale("log")
        log_axis(axes.yaxis)
        axes.set_ylabel(axis)
        label_ends(drawing, ends)
    counts = [len(list(points.values())[-1].values) for points in means.values()]
    caption += "." if max(counts) == 1 else f"; {seeds(counts)}."
    notes += f" Not shown, since it is 0: {listed(sorted(without))}." if without else ""
    numbers = [(series.label, _from_to(points, form)) for series, points in means.items()]
    return Plot(name, title, caption, (*ROW, *columns), rows, drawing.figure, numbers, notes)


def silence(experiment: Experiment) -> Plot | None:
    """Neurons without any spike, and channels without influence on the result, against the weights left."""
    measured = _measured(experiment)
    if not measured:
        return None
    measures = {"silent": ("-", _silent), "dead": ("--", _dead)}
    shown = {
        (series, name): [(run, row) for run, row in trainings if value(row) is not None]
        for series, trainings in measured.items()
        for name, (_, value) in measures.items()
    }
    labels = {(series, name): f"{series.label} {name}" for (series, name), rows in shown.items() if rows}
    rows = [
        (*row_fields(series.label, run, row), *(value(row) for _, value in measures.values()))
        for series, trainings in measured.items()
        for run, row in trainings
    ]
    with canvas(**room(labels.values())) as drawing:
        axes, ends, parts = drawing.axes, [], []
        every = [row.density for trainings in measured.values() for _, row in trainings]
        weights_axis(axes, [*every, 0.5])
        for (series, name), label in labels.items():
            style, value = measures[name]
            points = across(shown[series, name], functools.partial(_number, value))
            against_density(drawing, points, series.slot, style, label=label)
            x, y = list(points)[-1], list(points.values())[-1].mean
            ends.append(End(x, y, label, color(series.slot), MARKERS[series.slot % 8], style))
            parts.append((label, _from_to(points, percent)))
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.set_ylabel("share")
        label_ends(drawing, ends)
    caption = (
        "Neurons without a spike on any test image (silent), and channels that cannot influence the result "
        "or are reached by no input (dead, dashed)."
    )
    header = (*ROW, "silent_neurons_share", "dead_channels_share")
    return Plot("silence", "Silent neurons and dead channels", caption, header, rows, drawing.figure, parts)


def _number(value: Callable[[Row], float | None], row: Row) -> float:
    return value(row) or 0.0


def _silent(row: Row) -> float | None:
    return _share([(layer.silent_neurons or 0, layer.neurons or 0) for layer in row.layers])


def _dead(row: Row) -> float | None:
    """Share of dead channels; a sum has the channels of each of its parts."""
    return _share([(layer.dead_channels or 0, layer.channels) for layer in row.layers])


def _share(parts: Sequence[tuple[int, int]]) -> float | None:
    """Share of all parts together; None without any: the ReLU twin has no spiking neurons."""
    whole = sum(total for _, total in parts)
    return sum(part for part, _ in parts) / whole if whole else None
