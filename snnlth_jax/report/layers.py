"""Networks layer by layer: weights and spikes."""

from collections.abc import Callable
from typing import Any

from snnlth_jax.report.plot import (
    ROW,
    End,
    Plot,
    label_ends,
    log_axis,
    names_axis,
    percent,
    room,
    row_fields,
    zero_below,
)
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color
from snnlth_jax.run.results import LayerRecord, Row, Spread

__all__ = ["densities", "firing_rates"]


def densities(experiment: Experiment) -> Plot | None:
    """The share of each layer's weights that the sparsest tickets keep (paper, Fig. 6)."""

    def kept(layer: LayerRecord) -> float:
        return layer.kept / layer.weights

    def numbers(means: dict[str, list[Spread]]) -> list[tuple[str, str]]:
        least_layers = []
        for label, values in means.items():
            if label.split(",")[0] == "dense":
                continue
            least = min(range(len(values)), key=lambda i: values[i].mean)
            least_layers.append((label, f"least in layer {least + 1} ({percent(values[least].mean)})"))
        return least_layers

    return _by_layer(
        experiment,
        "layer-density",
        "Weights left, by layer",
        "weights left (log scale)",
        kept,
        "Share of the weights left in each layer of the sparsest tickets.",
        numbers,
        log=True,
    )


def firing_rates(experiment: Experiment) -> Plot | None:
    """Spikes per neuron and timestep, by layer, of the sparsest tickets and the dense network (Fig. 10)."""

    def rate(layer: LayerRecord) -> float | None:
        return None if not layer.firing_rate else sum(layer.firing_rate) / len(layer.firing_rate)

    def numbers(means: dict[str, list[Spread]]) -> list[tuple[str, str]]:
        mean = {label: Spread.of(v.mean for v in values).mean for label, values in means.items()}
        return [(f"{label}, mean over the layers", f"{rate:.3f}") for label, rate in mean.items()]

    caption = "Mean spikes per neuron and timestep on test images, by layer; the classifier does not spike."
    title = "Firing rates, by layer"
    return _by_layer(
        experiment, "firing-rates", title, "spikes per neuron and timestep", rate, caption, numbers
    )


def _by_layer(
    experiment: Experiment,
    name: str,
    title: str,
    axis: str,
    value: Callable[[LayerRecord], float | None],
    caption: str,
    numbers: Callable[[dict[str, list[Spread]]], list[tuple[str, str]]],
    log: bool = False,
) -> Plot | None:
    shown: list[tuple[str, int | None, list[tuple[Run, Row]]]] = []
    for series in experiment.series:
        if tickets := [(run, row) for run, row in series.sparsest() if row.layers]:
            shown.append((f"{series.label} {percent(tickets[0][1].sparsity)}", series.slot, tickets))
    if not shown:
        return None
    for dense, trained in reversed(experiment.references().items()):
        if counted := [(run, row) for run, row in trained if row.layers]:
            shown.insert(0, (dense, None, counted))
    rows: list[tuple[Any, ...]] = []
    means: dict[str, list[Spread]] = {}
    lines: list[tuple[str, int | None, list[int], list[float]]] = []
    names = [layer.name for layer in shown[0][2][0][1].layers]
    for label, slot, trainings in shown:
        by_layer: dict[int, list[float]] = {}
        for run, row in trainings:
            for i, layer in enumerate(row.layers):
                if (measured := value(layer)) is not None:
                    by_layer.setdefault(i, []).append(measured)
                rates = layer.firing_rate or ()
                fields = (layer.name, layer.weights, layer.kept, measured, *rates)
                rows.append((*row_fields(label, run, row), i + 1, *fields))
        if by_layer:
            means[label] = [Spread.of(values) for values in by_layer.values()]
            lines.append((label, slot, [i + 1 for i in by_layer], [point.mean for point in means[label]]))
    if not lines:
        return None
    zero = min((y for *_, ys in lines for y in ys if y > 0), default=1.0) / 3  # where 0 is on a log axis
    collapsed = log and any(y == 0 for *_, ys in lines for y in ys)
    with canvas(**room(label for label, *_ in lines)) as drawing:
        axes, ends = drawing.axes, []
        for label, slot, x, measures in lines:
            y = [zero if log and measure == 0 else measure for measure in measures]
            paint = LIGHT["ink"] if slot is None else color(slot)
            line = (0, (5, 3)) if slot is None else "-"
            marker = None if slot is None else MARKERS[slot % 8]
            axes.plot(
                x, y, color=paint, linestyle=line, marker=marker, markersize=5, linewidth=1.5, label=label
            )
            ends.append(End(x[-1], y[-1], label, paint, marker or "", line))
        if log:
            axes.set_yscale("log")
            log_axis(axes.yaxis, lambda share: f"{100 * share:.3g} %")
            if collapsed:
                zero_below(axes, zero, "none")
        else:
            axes.set_ylim(0, None)
        axes.set_xlim(0.7, len(names) + 0.3)
        names_axis(drawing, [name.removesuffix("/kernel") for name in names])
        axes.set_xlabel("layer, in the order of the forward pass")
        axes.set_ylabel(axis)
        label_ends(drawing, ends)
    timesteps = max(
        len(layer.firing_rate or ()) for _, _, trained in shown for _, r in trained for layer in r.layers
    )
    spikes = [f"firing_rate_t{t}" for t in range(1, timesteps + 1)]
    header = (*ROW, "layer", "name", "weights", "layer_kept", name.replace("-", "_"), *spikes)
    return Plot(name, title, caption, header, rows, drawing.figure, numbers(means))
