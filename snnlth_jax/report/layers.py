"""What is in a network: weights, spikes and operations, layer by layer and all together.

The energy of an image is estimated as e_MAC times the multiply-accumulates plus e_AC times the additions that
spikes cause (SynOps), with 4.6 pJ and 0.9 pJ for 32-bit arithmetic at 45 nm (Horowitz 2014).
"""

from collections.abc import Callable, Sequence
from typing import Any

from snnlth_jax.report.plots import (
    _ROW,
    Plot,
    _si_axis,
    across,
    against_density,
    percent,
    room,
    row_fields,
    seeds,
    si,
    weights_axis,
)
from snnlth_jax.report.runs import Layer, Run, Training
from snnlth_jax.report.series import Experiment, Series, Spread, spread
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color, label_ends

__all__ = ["ENERGY_AC", "ENERGY_MAC", "densities", "energy", "firing_rates", "picojoules", "silence", "synops"]

ENERGY_MAC = 4.6  # pJ
ENERGY_AC = 0.9  # pJ


def picojoules(layers: Sequence[Layer], mac: float = ENERGY_MAC, ac: float = ENERGY_AC) -> float:
    """Of the operations for an image.

    >>> layer = Layer("conv", 9, 9, 1, 0, None, None, None, None, None, [0.0, 10.0], [10.0, 0.0])
    >>> picojoules([layer])
    55.0
    """
    return mac * _macs(layers) + ac * _synops(layers)


def _macs(layers: Sequence[Layer]) -> float:
    return sum(sum(layer.macs_per_image) for layer in layers)


def _synops(layers: Sequence[Layer]) -> float:
    return sum(sum(layer.synops_per_image) for layer in layers)


# --- by layer


def densities(experiment: Experiment) -> Plot | None:
    """The share of each layer's weights that the sparsest tickets keep (paper, Fig. 6)."""

    def kept(layer: Layer) -> float:
        return layer.kept / layer.weights

    def caption(means: dict[str, list[Spread]], names: Sequence[str]) -> str:
        said = []
        for label, values in means.items():
            least = min(range(len(values)), key=lambda i: values[i].mean)
            said.append(f"{label} least in layer {least + 1} ({percent(values[least].mean)})")
        return f"Share of the weights left in each layer of the sparsest tickets: {'; '.join(said)}."

    return _by_layer(
        experiment, "layer-density", "Weights left, by layer", "weights left (log scale)", kept, caption, log=True
    )


def firing_rates(experiment: Experiment) -> Plot | None:
    """Spikes per neuron and timestep, by layer, of the sparsest tickets and of the dense network (Fig. 10)."""

    def rate(layer: Layer) -> float | None:
        return None if not layer.firing_rate else sum(layer.firing_rate) / len(layer.firing_rate)

    def caption(means: dict[str, list[Spread]], names: Sequence[str]) -> str:
        said = [f"{label} {spread(v.mean for v in values).mean:.3f}" for label, values in means.items()]
        return (
            "Mean spikes per neuron and timestep on test images, by layer; mean over the layers: "
            f"{', '.join(said)}. The classifier does not spike."
        )

    title = "Firing rates, by layer"
    return _by_layer(experiment, "firing-rates", title, "spikes per neuron and timestep", rate, caption)


def _by_layer(
    experiment: Experiment,
    name: str,
    title: str,
    axis: str,
    value: Callable[[Layer], float | None],
    caption: Callable[[dict[str, list[Spread]], Sequence[str]], str],
    log: bool = False,
) -> Plot | None:
    shown: list[tuple[str, int | None, list[tuple[Run, Training]]]] = []
    for series in experiment.series:
        if tickets := [(run, row) for run, row in series.sparsest() if row.layers]:
            shown.append((f"{series.label} {percent(tickets[0][1].sparsity)}", series.slot, tickets))
    if not shown:
        return None
    if dense := [(run, row) for run, row in experiment.dense() if row.layers]:
        shown.insert(0, ("dense", None, dense))
    rows: list[tuple[Any, ...]] = []
    ends, means = [], {}
    names = [layer.name for layer in shown[0][2][0][1].layers]
    with canvas(room(label for label, _, _ in shown)) as drawing:
        axes = drawing.axes
        for label, slot, trainings in shown:
            of: dict[int, list[float]] = {}
            for run, row in trainings:
                for i, layer in enumerate(row.layers):
                    if (measured := value(layer)) is not None:
                        of.setdefault(i, []).append(measured)
                    rates = layer.firing_rate or []
                    fields = (layer.name, layer.weights, layer.kept, measured, *rates)
                    rows.append((*row_fields(label, run, row), i + 1, *fields))
            if not of:
                continue
            points = [spread(values) for values in of.values()]
            x, y = [i + 1 for i in of], [point.mean for point in points]
            paint = LIGHT["ink"] if slot is None else color(slot)
            line = (0, (5, 3)) if slot is None else "-"
            marker = None if slot is None else MARKERS[slot % 8]
            axes.plot(x, y, color=paint, linestyle=line, marker=marker, markersize=5, linewidth=1.5)
            ends.append((x[-1], y[-1], label, paint))
            means[label] = points
        if not means:
            return None
        if log:
            axes.set_yscale("log")
            _percent_axis(axes.yaxis)
        else:
            axes.set_ylim(0, None)
        axes.set_xlim(0.7, len(names) + 0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layer, in the order of the forward pass")
        axes.set_ylabel(axis)
        label_ends(drawing, ends)
    timesteps = max(len(layer.firing_rate or ()) for _, _, found in shown for _, r in found for layer in r.layers)
    spikes = [f"firing_rate_t{t}" for t in range(1, timesteps + 1)]
    header = (*_ROW, "layer", "name", "weights", "layer_kept", name.replace("-", "_"), *spikes)
    return Plot(name, title, caption(means, names), header, rows, drawing.figure)


def _percent_axis(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


# --- against sparsity


def synops(experiment: Experiment) -> Plot | None:
    """Additions that spikes cause for an image, against the weights left."""

    def caption(means: dict[Series, dict[float, Spread]]) -> str:
        said = [_from_to(series.label, points, lambda v: si(v)) for series, points in means.items()]
        return (
            "Additions that spikes cause over the weights left, for one test image and all timesteps (SynOps): "
            f"{'; '.join(said)}. The first layer, whose input is no spikes, has none."
        )

    title = "Synaptic operations against sparsity"
    return _against(experiment, "synops", title, "SynOps per image (log)", _synops, caption)


def energy(experiment: Experiment, mac: float = ENERGY_MAC, ac: float = ENERGY_AC) -> Plot | None:
    """The estimated energy of the operations for an image, against the weights left."""

    def caption(means: dict[Series, dict[float, Spread]]) -> str:
        said = [_from_to(s.label, points, lambda v: f"{1e-3 * v:.3g} nJ") for s, points in means.items()]
        return (
            f"Estimate for one test image, {mac:g} pJ for a multiply-accumulate and {ac:g} pJ for an addition "
            f"(32 bits, 45 nm): {'; '.join(said)}. Reading weights and states from memory is left out, which "
            "usually costs more: operations alone flatter spiking networks."
        )

    title = "Energy of the operations against sparsity"
    axis = "nJ per image, operations only (log)"

    def value(layers: Sequence[Layer]) -> float:
        return picojoules(layers, mac, ac)

    return _against(experiment, "energy", title, axis, value, caption, scale=1e-3)


def _from_to(label: str, points: dict[float, Spread], form: Callable[[float], str]) -> str:
    (first, most), (last, least) = list(points.items())[0], list(points.items())[-1]
    if first == last:
        return f"{label} {form(most.mean)} at {percent(1 - first)}"
    return f"{label} {form(most.mean)} at {percent(1 - first)}, {form(least.mean)} at {percent(1 - last)}"


def _measured(experiment: Experiment) -> dict[Series, list[tuple[Run, Training]]]:
    found = {
        series: [(run, row) for run, row in series.trainings("result") if row.layers]
        for series in experiment.series
    }
    return {series: rows for series, rows in found.items() if rows}


def _against(
    experiment: Experiment,
    name: str,
    title: str,
    axis: str,
    value: Callable[[Sequence[Layer]], float],
    caption: Callable[[dict[Series, dict[float, Spread]]], str],
    scale: float = 1.0,
) -> Plot | None:
    found = _measured(experiment)
    means = {series: across(rows, lambda row: value(row.layers)) for series, rows in found.items()}
    means = {
        s: points for s, points in means.items() if all(point.mean > 0 for point in points.values())
    }  # a log axis has no 0: of the ReLU twin there are no spikes
    if not means:
        return None
    rows = [
        (*row_fields(series.label, run, row), _synops(row.layers), _macs(row.layers), value(row.layers))
        for series in means
        for run, row in found[series]
    ]
    with canvas(room(series.label for series in means)) as drawing:
        axes, ends = drawing.axes, []
        weights_axis(axes, [*(density for points in means.values() for density in points), 0.5])
        for series, points in means.items():
            scaled = {d: Spread(scale * p.mean, scale * p.std, p.count) for d, p in points.items()}
            against_density(drawing, scaled, series.slot)
            ends.append((list(scaled)[-1], list(scaled.values())[-1].mean, series.label, color(series.slot)))
        axes.set_yscale("log")
        _si_axis(axes.yaxis)
        axes.set_ylabel(axis)
        label_ends(drawing, ends)
    count = max(point.count for points in means.values() for point in points.values())
    header = (*_ROW, "synops_per_image", "macs_per_image", "picojoules" if name == "energy" else name)
    if name == "synops":
        header, rows = header[:-1], [row[:-1] for row in rows]
    text = caption(means) + ("" if count == 1 else f" {seeds(count).capitalize()}.")
    return Plot(name, title, text, header, rows, drawing.figure)


def silence(experiment: Experiment) -> Plot | None:
    """Neurons without any spike, and channels that have no part in the result, against the weights left."""
    found = _measured(experiment)
    if not found:
        return None
    measures: dict[str, tuple[str, Callable[[Training], float]]] = {
        "silent": ("-", _silent),
        "dead": ("--", lambda row: _share([(layer.dead_channels, layer.channels) for layer in row.layers])),
    }
    labels = {(series, name): f"{series.label} {name}" for series in found for name in measures}
    rows = [
        (*row_fields(series.label, run, row), *(value(row) for _, value in measures.values()))
        for series, trainings in found.items()
        for run, row in trainings
    ]
    with canvas(room(labels.values())) as drawing:
        axes, ends, said = drawing.axes, [], []
        every = [row.density for trainings in found.values() for _, row in trainings]
        weights_axis(axes, [*every, 0.5])
        for series, trainings in found.items():
            for name, (style, value) in measures.items():
                points = across(trainings, value)
                against_density(drawing, points, series.slot, style)
                label = labels[series, name]
                ends.append((list(points)[-1], list(points.values())[-1].mean, label, color(series.slot)))
                said.append(_from_to(label, points, percent))
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.set_ylabel("share")
        label_ends(drawing, ends)
    caption = (
        "Neurons without a spike on any test image (silent), and channels that cannot influence the result or "
        f"are reached by no input (dead, dashed): {'; '.join(said)}."
    )
    header = (*_ROW, "silent_neurons_share", "dead_channels_share")
    return Plot("silence", "Silent neurons and dead channels", caption, header, rows, drawing.figure)


def _silent(row: Training) -> float:
    return _share([(layer.silent_neurons or 0, layer.neurons or 0) for layer in row.layers])


def _share(parts: Sequence[tuple[int, int]]) -> float:
    whole = sum(total for _, total in parts)
    return sum(part for part, _ in parts) / whole if whole else 0.0
