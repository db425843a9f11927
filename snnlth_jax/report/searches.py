"""How searches came to their end: Early-Bird's masks that stand still, Early-Time's timesteps."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from snnlth_jax.report.plot import (
    End,
    Plot,
    label_ends,
    listed,
    log_axis,
    percent,
    reference,
    room,
    whole_numbers,
)
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series, spread
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color

__all__ = ["early_bird_matrices", "early_bird_rule", "early_time", "early_time_over_epochs"]


def early_bird_matrices(experiment: Experiment) -> list[Plot]:
    """Distances of the masks of every two epochs, of each Early-Bird search with the first of its seeds."""
    shown: dict[tuple[Series, Any], Run] = {}
    for series in experiment.series:
        for run in series.runs:
            if run.early_bird and run.told("mask"):
                shown.setdefault((series, run.config["sparsity"]), run)
    return [_matrix(series, run, i) for i, ((series, _), run) in enumerate(shown.items(), start=1)]


def _matrix(series: Series, run: Run, number: int) -> Plot:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.patches import Rectangle

    config, found = run.config, run.early_bird or {}
    lines, criterion, queue = run.told("mask"), config["criterion"], config["queue"]
    epochs = [line["epoch"] for line in lines]
    distances = np.full((len(lines), len(lines)), np.nan)
    rows: list[tuple[Any, ...]] = []
    for i, line in enumerate(lines):
        distances[i, i] = 0.0
        for j, value in enumerate(line[criterion]):
            if value is not None and j < i:
                distances[i, j] = distances[j, i] = value
                rows.append((series.label, run.directory, run.seed, line["epoch"], epochs[j], value))
    largest = float(np.nanmax(distances)) or 1.0
    paint = to_rgb("#3b8fd0")  # stands out by day and by night; the distance is its opacity
    colors = LinearSegmentedColormap.from_list("distance", [(*paint, 0.04), (*paint, 1.0)])
    edge = (epochs[0] - 0.5, epochs[-1] + 0.5)
    with canvas(right=0.86, height=3.9) as drawing:
        axes = drawing.axes
        image = axes.imshow(
            distances,
            colors,
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
        if len(lines) <= 9:
            for (i, j), value in np.ndenumerate(distances):
                if i != j and np.isfinite(value):
                    text = f"{value:.3f}".removeprefix("0")
                    axes.text(epochs[j], epochs[i], text, ha="center", va="center", fontsize=8)
    largest_now = found[f"largest_{criterion}"]
    ended = (
        f"The search stopped after epoch {found['epoch']}"
        if found["fired"]
        else f"The rule never fired in {found['epoch']} epochs, and the last mask was taken"
    )
    caption = (
        f"{series.label} at {percent(config['sparsity'])}, seed {run.seed}: how far the masks of two epochs "
        f"are apart. {ended}: the newest of {queue} masks (outlined) was at most {largest_now:.4f} from the "
        f"others, τ = {config['tau']:g}."
    )
    return Plot(
        f"early-bird-{number}",
        f"Early-Bird's masks: {series.label}, {percent(config['sparsity'])}",
        caption,
        ("series", "workdir", "seed", "epoch", "earlier_epoch", criterion),
        rows,
        drawing.figure,
    )


def early_bird_rule(experiment: Experiment) -> Plot | None:
    """The largest distance within the queue, over epochs, and the bound below which a search stops."""
    runs = [
        (series, run)
        for series in experiment.series
        for run in series.runs
        if run.early_bird and len(run.told("mask")) > 1
    ]
    if not runs:
        return None
    taus, queues = ({run.config[name] for _, run in runs} for name in ("tau", "queue"))
    rows: list[tuple[Any, ...]] = []
    ends: dict[str, End] = {}
    said: dict[str, list[str]] = {}
    names = {
        (series.label, run.config["sparsity"]): f"{series.label} {percent(run.config['sparsity'])}"
        for series, run in runs
    }
    with canvas(**room(names.values())) as drawing:
        axes = drawing.axes
        for series, run in runs:
            config = run.config
            label = names[series.label, config["sparsity"]]
            curve = {}
            for line in run.told("mask")[1:]:
                recent = line[config["criterion"]][-(config["queue"] - 1) :]
                if None in recent:
                    continue
                full = len(line[config["criterion"]]) >= config["queue"] - 1
                rows.append((label, run.directory, run.seed, line["epoch"], max(recent), full, line["fired"]))
                if full:
                    curve[line["epoch"]] = max(recent)
            if not curve:
                continue
            nth = sorted({run.config["sparsity"] for s, run in runs if s is series}).index(config["sparsity"])
            style = ("-", "--", ":", "-.")[nth % 4]
            x, y = list(curve), list(curve.values())
            axes.plot(x, y, style, color=color(series.slot), alpha=0.85, linewidth=1.4)
            if run.told("mask")[-1]["fired"]:
                axes.plot(x[-1], y[-1], MARKERS[series.slot % 8], color=color(series.slot), markersize=7)
            ends.setdefault(label, End(x[-1], y[-1], label, color(series.slot), MARKERS[series.slot % 8]))
            said.setdefault(label, []).append(
                f"{run.early_bird['epoch']}" if run.early_bird and run.early_bird["fired"] else "never"
            )
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel("largest distance in the queue (log)")
        whole_numbers(axes.xaxis)
        axes.margins(y=0.12)
        bounds = [reference(drawing, tau, f"τ = {tau:g}") for tau in sorted(taus)]
        log_axis(axes.yaxis, "{:g}".format)
        label_ends(drawing, [*ends.values(), *bounds])
    fired = listed([f"{label}: {', '.join(dict.fromkeys(epochs))}" for label, epochs in said.items()], "; ")
    caption = (
        f"The newest of {_either(queues)} masks against the others: a search stops, marked, once the largest "
        f"distance is below its τ, {_either(taus)}. Epochs after which they stopped: {fired}."
    )
    header = ("series", "workdir", "seed", "epoch", "largest_distance", "queue_full", "fired")
    return Plot("early-bird-rule", "Early-Bird's firing rule", caption, header, rows, drawing.figure)


def _either(values: Iterable[float]) -> str:
    """The settings that there are.

    >>> _either({0.6}), _either({0.9, 0.3})
    ('0.6', '0.3 or 0.9')
    """
    return " or ".join(f"{value:g}" for value in sorted(values))


def early_time(experiment: Experiment) -> Plot | None:
    """D_t against t, normalised, and the number of timesteps that lambda chooses (paper, Fig. 4)."""
    found = {
        series: [run for run in series.runs if (run.early_time or {}).get("normalised")]
        for series in experiment.series
    }
    found = {series: runs for series, runs in found.items() if runs}
    if not found:
        return None
    rows, ends, said = [], [], []
    with canvas(**room(series.label for series in found)) as drawing:
        axes = drawing.axes
        for series, runs in found.items():
            curves: dict[int, list[float]] = {}
            for run in runs:
                outcome: Any = run.early_time
                for t, value in outcome["normalised"].items():
                    curves.setdefault(int(t), []).append(value)
                for t, value in outcome["divergences"].items():
                    chosen = int(t) == outcome["num_timesteps"]
                    normalised = outcome["normalised"].get(t)
                    rows.append((series.label, run.directory, run.seed, int(t), value, normalised, chosen))
                if len(runs) > 1:
                    x, y = [int(t) for t in outcome["normalised"]], list(outcome["normalised"].values())
                    axes.plot(x, y, color=color(series.slot), alpha=0.3, linewidth=1)
            x, y = list(curves), [spread(values).mean for values in curves.values()]
            axes.plot(x, y, color=color(series.slot), marker=MARKERS[series.slot % 8])
            ends.append(End(x[-1], y[-1], series.label, color(series.slot)))
            chosen = [(run.early_time or {})["num_timesteps"] for run in runs]
            full = runs[0].config["num_timesteps"]
            said.append(f"{series.label} T' = {', '.join(map(str, sorted(set(chosen))))} of {full}")
        configs = [run.config for runs in found.values() for run in runs]
        bounds = sorted({config["early_time_lambda"] for config in configs})
        axes.set_ylim(0, max(1.05, axes.get_ylim()[1]))
        whole_numbers(axes.xaxis)
        axes.set_xlabel("timesteps t")
        axes.set_ylabel("normalised divergence")
        label_ends(drawing, [*ends, *(reference(drawing, bound, f"λ = {bound:g}") for bound in bounds)])
    scales = {"max": "the largest", "first": "that of t = 2"}
    scale = " or ".join(sorted({scales[config["early_time_normalisation"]] for config in configs}))
    caption = (
        "How far the prediction after t timesteps is from that after all T: Kullback-Leibler divergence, "
        f"over {scale}. "
        f"The search runs with the first t below its λ, {_either(bounds)}, or all where none is: "
        f"{listed(said, '; ')}."
    )
    header = ("series", "workdir", "seed", "t", "divergence", "normalised", "chosen")
    return Plot("early-time", "Early-Time's choice of timesteps", caption, header, rows, drawing.figure)


def early_time_over_epochs(experiment: Experiment) -> Plot | None:
    """T' that each lambda would choose, over the epochs of a probe (paper, Fig. 7b)."""
    probes = [run for run in experiment.runs if (run.early_time or {}).get("over_epochs")]
    if not probes:
        return None
    run = probes[0]
    measured: list[dict[str, Any]] = (run.early_time or {})["over_epochs"]
    rows = [
        (each.directory, each.seed, m["epoch"], float(bound), t)
        for each in probes
        for m in (each.early_time or {})["over_epochs"]
        for bound, t in m["by_lambda"].items()
    ]
    with canvas(**room(["epoch 10"])) as drawing:
        axes, ends = drawing.axes, []
        for i, m in enumerate(measured):
            x, y = [float(bound) for bound in m["by_lambda"]], list(m["by_lambda"].values())
            share = (i + 1) / len(measured)
            axes.plot(x, y, color=color(0), alpha=0.15 + 0.85 * share, marker="o", markersize=4)
            if i in (0, len(measured) - 1):
                ends.append(End(x[-1], y[-1], f"epoch {m['epoch']}", color(0)))
        axes.set_xlabel("λ")
        axes.set_ylabel("timesteps T' of the search")
        whole_numbers(axes.yaxis)
        label_ends(drawing, ends)
    last = measured[-1]
    chosen = ", ".join(
        f"{t} at λ = {bound}" for bound, t in last["by_lambda"].items() if bound in ("0.3", "0.6", "0.9")
    )
    caption = (
        "Timesteps that a search would have, by λ and by the epoch of the dense network (the later the "
        f"stronger), of {run.config['num_timesteps']}, with seed {run.seed}; after epoch {last['epoch']}: "
        f"{chosen}."
    )
    header = ("workdir", "seed", "epoch", "lambda", "num_timesteps")
    return Plot("early-time-lambda", "Timesteps chosen, by λ", caption, header, rows, drawing.figure)
