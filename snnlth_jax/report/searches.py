"""Decisions of searches: Early-Bird's masks that stop changing, Early-Time's timesteps."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from snnlth_jax.report.plot import (
    End,
    Plot,
    label_ends,
    log_axis,
    percent,
    reference,
    room,
    whole_numbers,
)
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color
from snnlth_jax.report.tiles import shades
from snnlth_jax.run.events import MaskEvent, select
from snnlth_jax.run.results import EarlyBirdRecord, Spread

__all__ = ["early_bird_matrices", "early_bird_rule", "early_time", "early_time_over_epochs"]


def early_bird_matrices(experiment: Experiment) -> list[Plot]:
    """Distances of the masks of every two epochs, of each Early-Bird search with the first of its seeds."""
    shown: dict[tuple[Series, float], tuple[Run, EarlyBirdRecord]] = {}
    for series in experiment.series:
        for run in series.runs:
            if (record := run.result.early_bird) and select(run.events, MaskEvent):
                shown.setdefault((series, run.result.early_bird_settings.sparsity), (run, record))
    return [
        _matrix(series, run, record, i)
        for i, ((series, _), (run, record)) in enumerate(shown.items(), start=1)
    ]


def _matrix(series: Series, run: Run, record: EarlyBirdRecord, number: int) -> Plot:
    from matplotlib.patches import Rectangle

    events, settings = select(run.events, MaskEvent), run.result.early_bird_settings
    criterion, queue, sparsity = record.criterion, settings.queue, percent(settings.sparsity)
    epochs = [event.epoch for event in events]
    distances = np.full((len(events), len(events)), np.nan)
    rows: list[tuple[Any, ...]] = []
    for i, event in enumerate(events):
        distances[i, i] = 0.0
        for j, value in enumerate(event.distances(criterion)):
            if value is not None and j < i:
                distances[i, j] = distances[j, i] = value
                rows.append((series.label, run.directory, run.seed, event.epoch, epochs[j], value))
    largest = float(np.nanmax(distances)) or 1.0
    edge = (epochs[0] - 0.5, epochs[-1] + 0.5)
    with canvas(right=0.86, height=3.9) as drawing:
        axes = drawing.axes
        image = axes.imshow(
            distances,
            shades("distance", least=0.04),
            vmin=0,
            vmax=largest,
            extent=(*edge, *edge),
            origin="lower",
            interpolation="none",
        )
        axes.grid(False)
        for axis in (axes.xaxis, axes.yaxis):
            whole_numbers(axis)
        axes.set_xlabel("mask drawn after epoch")
        axes.set_ylabel("mask drawn after epoch")
        axes.add_patch(
            Rectangle(
                (epochs[-min(queue, len(epochs))] - 0.5, edge[1] - 1),
                min(queue, len(epochs)),
                1,
                fill=False,
                edgecolor=color(2),
                linewidth=2.0,
                clip_on=False,
            )
        )
        bar = drawing.figure.colorbar(image, ax=axes, shrink=0.8)
        bar.outline.set_visible(False)
        bar.set_label(f"{criterion} distance", color=LIGHT["muted"])
        if len(events) <= 9:
            for (i, j), value in np.ndenumerate(distances):
                if i != j and np.isfinite(value):
                    text = f"{value:.3f}".removeprefix("0")
                    axes.text(epochs[j], epochs[i], text, ha="center", va="center", fontsize=8)
    ended = (
        f"The search stopped after epoch {record.epoch}"
        if record.fired
        else f"The rule never fired in {record.epoch} epochs, and the last mask was taken"
    )
    caption = f"{series.label} at {sparsity}, seed {run.seed}: how far the masks of two epochs are apart."
    notes = (
        f"{ended}: the newest of {queue} masks (outlined) was at most {record.largest:.4f} from the others, "
        f"τ = {settings.tau:g}."
    )
    return Plot(
        f"early-bird-{number}",
        f"Early-Bird's masks: {series.label}, {sparsity}",
        caption,
        ("series", "workdir", "seed", "epoch", "earlier_epoch", criterion),
        rows,
        drawing.figure,
        notes=notes,
    )


def early_bird_rule(experiment: Experiment) -> Plot | None:
    """The largest distance within the queue, over epochs, and the bound below which a search stops."""
    runs = [
        (series, run, record)
        for series in experiment.series
        for run in series.runs
        if (record := run.result.early_bird) and len(select(run.events, MaskEvent)) > 1
    ]
    if not runs:
        return None
    settings = [run.result.early_bird_settings for _, run, _ in runs]
    taus, queues = {s.tau for s in settings}, {s.queue for s in settings}
    sparsities: dict[Series, set[float]] = {}
    for (series, _, _), s in zip(runs, settings, strict=True):
        sparsities.setdefault(series, set()).add(s.sparsity)
    rows: list[tuple[Any, ...]] = []
    ends: dict[str, End] = {}
    fired_after: dict[str, list[str]] = {}
    labels = [
        f"{series.label} {percent(s.sparsity)}" for (series, _, _), s in zip(runs, settings, strict=True)
    ]
    with canvas(**room(dict.fromkeys(labels))) as drawing:
        axes = drawing.axes
        for (series, run, record), label, s in zip(runs, labels, settings, strict=True):
            events, curve = select(run.events, MaskEvent), {}
            for event in events[1:]:
                distances = event.distances(record.criterion)
                recent = [d for d in distances[-(s.queue - 1) :] if d is not None]
                if not recent or None in distances[-(s.queue - 1) :]:
                    continue
                full = len(distances) >= s.queue - 1
                rows.append((label, run.directory, run.seed, event.epoch, max(recent), full, event.fired))
                if full:
                    curve[event.epoch] = max(recent)
            if not curve:
                continue
            style = ("-", "--", ":", "-.")[sorted(sparsities[series]).index(s.sparsity) % 4]
            x, y = list(curve), list(curve.values())
            axes.plot(x, y, style, color=color(series.slot), alpha=0.85, linewidth=1.4, label=label)
            if events[-1].fired:
                axes.plot(x[-1], y[-1], MARKERS[series.slot % 8], color=color(series.slot), markersize=7)
            ends.setdefault(
                label, End(x[-1], y[-1], label, color(series.slot), MARKERS[series.slot % 8], style)
            )
            fired_after.setdefault(label, []).append(f"{record.epoch}" if record.fired else "never")
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel("largest distance in the queue (log)")
        whole_numbers(axes.xaxis)
        axes.margins(y=0.12)
        bounds = [reference(drawing, tau, f"τ = {tau:g}") for tau in sorted(taus)]
        log_axis(axes.yaxis, "{:g}".format)
        label_ends(drawing, [*ends.values(), *bounds])
    fired = [
        (f"{label}, epochs after which it stopped", ", ".join(dict.fromkeys(epochs)))
        for label, epochs in fired_after.items()
    ]
    caption = (
        f"The newest of {_either(queues)} masks against the others: a search stops, marked, once the largest "
        f"distance is below its τ, {_either(taus)}."
    )
    header = ("series", "workdir", "seed", "epoch", "largest_distance", "queue_full", "fired")
    return Plot("early-bird-rule", "Early-Bird's firing rule", caption, header, rows, drawing.figure, fired)


def _either(values: Iterable[float]) -> str:
    """Settings as words.

    >>> _either({0.6}), _either({0.9, 0.3})
    ('0.6', '0.3 or 0.9')
    """
    return " or ".join(f"{value:g}" for value in sorted(values))


def early_time(experiment: Experiment) -> Plot | None:
    """D_t against t, normalised, and the number of timesteps that lambda chooses (paper, Fig. 4)."""
    probed = {
        series: [
            (run, record) for run in series.runs if (record := run.result.early_time) and record.normalised
        ]
        for series in experiment.series
    }
    probed = {series: runs for series, runs in probed.items() if runs}
    if not probed:
        return None
    rows, ends, choices = [], [], []
    with canvas(**room(series.label for series in probed)) as drawing:
        axes = drawing.axes
        for series, runs in probed.items():
            curves: dict[int, list[float]] = {}
            for run, record in runs:
                for t, value in record.normalised.items():
                    curves.setdefault(t, []).append(value)
                for t, value in record.divergences.items():
                    fields = (t, value, record.normalised.get(t), t == record.num_timesteps)
                    rows.append((series.label, run.directory, run.seed, *fields))
                if len(runs) > 1:
                    x, y = list(record.normalised), list(record.normalised.values())
                    axes.plot(x, y, color=color(series.slot), alpha=0.3, linewidth=1)
            x, y = list(curves), [Spread.of(values).mean for values in curves.values()]
            look = {"color": color(series.slot), "marker": MARKERS[series.slot % 8]}
            axes.plot(x, y, label=series.label, **look)
            ends.append(End(x[-1], y[-1], series.label, color(series.slot), MARKERS[series.slot % 8]))
            chosen = sorted({record.num_timesteps for _, record in runs})
            full = runs[0][0].result.settings.num_timesteps
            choices.append((series.label, f"T' = {', '.join(map(str, chosen))} of {full}"))
        settings = [run.result.early_time_settings for runs in probed.values() for run, _ in runs]
        bounds = sorted({s.early_time_lambda for s in settings})
        axes.set_ylim(0, max(1.05, axes.get_ylim()[1]))
        whole_numbers(axes.xaxis)
        axes.set_xlabel("timesteps t")
        axes.set_ylabel("normalised divergence")
        label_ends(drawing, [*ends, *(reference(drawing, bound, f"λ = {bound:g}") for bound in bounds)])
    scales = {"max": "the largest", "first": "that of t = 2"}
    scale = " or ".join(sorted({scales[s.early_time_normalisation] for s in settings}))
    caption = (
        "How far the prediction after t timesteps is from that after all T: Kullback-Leibler divergence, "
        f"over {scale}."
    )
    notes = f"The search runs with the first t below its λ, {_either(bounds)}, or all where none is."
    header = ("series", "workdir", "seed", "t", "divergence", "normalised", "chosen")
    return Plot(
        "early-time",
        "Early-Time's choice of timesteps",
        caption,
        header,
        rows,
        drawing.figure,
        choices,
        notes,
    )


def early_time_over_epochs(experiment: Experiment) -> Plot | None:
    """T' that each lambda would choose, over the epochs of a probe (paper, Fig. 7b)."""
    probes = [
        (run, record.over_epochs)
        for run in experiment.runs
        if (record := run.result.early_time) and record.over_epochs
    ]
    if not probes:
        return None
    run, measurements = probes[0]
    rows = [
        (probe.directory, probe.seed, m.epoch, bound, t)
        for probe, over_epochs in probes
        for m in over_epochs
        for bound, t in m.by_lambda.items()
    ]
    with canvas(**room(["epoch 10"])) as drawing:
        axes, ends = drawing.axes, []
        for i, m in enumerate(measurements):
            x, y = list(m.by_lambda), list(m.by_lambda.values())
            share = (i + 1) / len(measurements)
            axes.plot(
                x,
                y,
                color=color(0),
                alpha=0.15 + 0.85 * share,
                marker="o",
                markersize=4,
                label=f"epoch {m.epoch}",
            )
            if i in (0, len(measurements) - 1):
                ends.append(End(x[-1], y[-1], f"epoch {m.epoch}", color(0)))
        axes.set_xlabel("λ")
        axes.set_ylabel("timesteps T' of the search")
        whole_numbers(axes.yaxis)
        label_ends(drawing, ends)
    last = measurements[-1]
    chosen = [
        (f"λ = {bound}, after epoch {last.epoch}", f"{t}")
        for bound, t in last.by_lambda.items()
        if bound in (0.3, 0.6, 0.9)
    ]
    caption = (
        "Timesteps that a search would have, by λ and by the epoch of the dense network (the later the "
        f"stronger), of {run.result.settings.num_timesteps}, with seed {run.seed}."
    )
    header = ("workdir", "seed", "epoch", "lambda", "num_timesteps")
    return Plot("early-time-lambda", "Timesteps chosen, by λ", caption, header, rows, drawing.figure, chosen)
