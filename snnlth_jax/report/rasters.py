"""Spikes over time for one image: neurons of each layer against timesteps, dense and in the ticket."""

from typing import Any

from snnlth_jax.errors import InputError
from snnlth_jax.report.kernels import sparsest_tickets
from snnlth_jax.report.plot import Plot, percent
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment
from snnlth_jax.report.theme import LIGHT, WIDTH, canvas
from snnlth_jax.report.tiles import image, lines_of, shades
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import spikes
from snnlth_jax.run.results import Row
from snnlth_jax.run.spikes import MOST_NEURONS, Spikes

__all__ = ["pictures"]

_LEFT = 1.25  # inches for the names of layers


def pictures(experiment: Experiment) -> tuple[list[Plot], list[str]]:
    """A plot of each of `sparsest_tickets` that left its spikes, and a remark for each damaged file."""
    plots, remarks = [], []
    for number, (series, run, row) in enumerate(sparsest_tickets(experiment), start=1):
        label = f"{series.label}, {percent(row.sparsity)}"
        dense = [pair for pair in experiment.dense(run) if pair[0].seed == run.seed]
        shown: list[tuple[str, Run, Row]] = [("dense", *pair) for pair in dense]
        shown.append((f"ticket {percent(row.sparsity)}", run, row))
        try:
            records = [(name, of, left) for name, of, trained in shown if (left := _read(of, trained))]
        except InputError as error:
            remarks.append(f"no spikes of {label}: {error}")
            continue
        if records and records[-1][0] != "dense":
            plots.append(_picture(number, label, records))
    return plots, remarks


def _read(run: Run, row: Row) -> Spikes | None:
    return spikes.read(rundir.paths(run.directory).spikes_of(row.kind, row.round))


def _picture(number: int, label: str, records: list[tuple[str, Run, Spikes]]) -> Plot:
    layers = [layer.name for layer in records[-1][2].layers]
    row_height, gap, head = min(max(4.4 / len(layers), 0.34), 0.8), 0.07, 0.34
    width = (WIDTH - _LEFT - 0.12 - 0.2 * (len(records) - 1)) / len(records)
    height = head + len(layers) * (row_height + gap) + 0.5
    rows: list[tuple[Any, ...]] = []
    with canvas(height=height) as drawing:
        drawing.axes.remove()
        for column, (name, run, record) in enumerate(records):
            left = _LEFT + column * (width + 0.2)
            for i, layer in enumerate(record.layers):
                pattern, timesteps = layer.pattern(), range(1, len(layer.firing) + 1)
                rates = ", ".join(percent(n / layer.neurons) for n in layer.firing)
                caption = f"{name}, {layer.name}: of {layer.neurons:,} neurons fire, by timestep: {rates}"
                axes = image(
                    drawing,
                    (left, head + i * (row_height + gap), width, row_height),
                    pattern,
                    caption,
                    cmap=shades("spikes"),
                    vmin=0,
                    vmax=1,
                    extent=(0.5, timesteps[-1] + 0.5, len(pattern), 0),
                )
                rows += [
                    (label, name, run.directory, run.seed, layer.name, layer.neurons, t, count)
                    for t, count in zip(timesteps, layer.firing, strict=True)
                ]
                if column == 0:
                    text = "\n".join(lines_of(layer.name, 16)[-2:])
                    look = {"transform": axes.transAxes, "fontsize": 9, "parse_math": False}
                    axes.text(-0.04, 0.5, text, ha="right", va="center", color=LIGHT["ink"], **look)
                if i == 0:
                    axes.set_title(name, fontsize=10, color=LIGHT["ink"], fontweight="bold", parse_math=False)
            axes.set_xticks([t for t in timesteps if len(timesteps) <= 10 or t % 5 == 0])
            axes.tick_params(axis="x", labelsize=8.5, length=0)
            axes.set_xlabel("timestep")
    numbers = [
        (f"{name}, spikes for this image", f"{sum(sum(layer.firing) for layer in record.layers):,}")
        for name, _, record in records
    ]
    notes = f"Of a layer, {MOST_NEURONS} neurons are drawn at most, spread over its positions and channels; "
    notes += "the table has how many of all fire at each timestep."
    header = ("series", "network", "workdir", "seed", "layer", "neurons", "t", "firing_neurons")
    return Plot(
        f"spikes-{number}",
        f"Spikes over time: {label}",
        "Spikes for the first test image: a row is a neuron, a column a timestep, by layer.",
        header,
        rows,
        drawing.figure,
        numbers,
        notes,
    )
