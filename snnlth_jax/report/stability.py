"""Stability to the order of images: error barriers by epoch, and the lines between two copies behind them."""

from typing import Any, NamedTuple

from snnlth_jax.report.plot import End, Plot, label_ends, percent, reference, room
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import LIGHT, MARKERS, canvas, color
from snnlth_jax.run.results import InterpolationRecord, Spread, StabilityRecord

__all__ = ["barriers", "interpolations"]


class _Line(NamedTuple):
    """A series with one of its masks: its name, its colour, and measurements by epoch, one for each seed."""

    label: str
    slot: int
    by_epoch: dict[int, list[InterpolationRecord]]

    def means(self) -> dict[int, Spread]:
        """Barrier by epoch."""
        return {
            epoch: Spread.of(one.barrier for one in measured) for epoch, measured in self.by_epoch.items()
        }


def barriers(experiment: Experiment) -> Plot | None:
    """Error barrier over the epoch that was copied, by sparsity, with the bound (Frankle et al. 2020)."""
    records = _records(experiment)
    if not records:
        return None
    lines = _lines(records)
    bounds = {record.bound: f"bound {record.bound:g}" for *_, record in records}
    with canvas(**room([*(line.label for line in lines), *bounds.values()])) as drawing:
        axes, ends = drawing.axes, []
        for line in lines:
            paint, marker = color(line.slot), MARKERS[line.slot % 8]
            points = line.means()
            x, y = list(points), [point.mean for point in points.values()]
            drawn, *_ = axes.errorbar(
                x, y, [p.std or 0.0 for p in points.values()], color=paint, elinewidth=1, marker=marker
            )
            drawn.set_label(line.label)
            ends.append(End(x[-1], y[-1], line.label, paint, marker))
        axes.set_xscale("symlog", linthresh=1)  # as the candidates are spread, with epoch 0
        axes.set_xlabel("epoch that was copied (log scale)")
        axes.set_ylabel("error barrier")
        ticks = sorted({epoch for line in lines for epoch in line.by_epoch})
        axes.set_xticks(ticks, [f"{epoch}" for epoch in ticks])
        axes.set_xticks([], minor=True)
        proposed = sorted({r.proposed for _, _, r in records if r.proposed is not None})
        for epoch in proposed:
            axes.axvline(epoch, color=LIGHT["ink"], linewidth=1.0, linestyle=":", zorder=1)
        axes.margins(y=0.1)
        label_ends(drawing, [*ends, *(reference(drawing, value, text) for value, text in bounds.items())])
    numbers = [
        (f"{line.label}, barrier from epoch {ticks[0]}", f"{next(iter(line.means().values()))}")
        for line in lines
    ]
    numbers += [
        (
            f"first epoch below the bound at all sparsities (dotted), seed {run.seed}",
            f"{record.proposed}".lower(),
        )
        for _, run, record in records
    ]
    caption = (
        "Two copies of the network of an epoch see their images in different orders; barrier: the largest "
        "test error on the line between them, less the mean of both."
    )
    header = ("series", "workdir", "seed", "epoch", "kept", "total", "barrier", "bound", "proposed")
    rows: list[tuple[Any, ...]] = [
        (series.label, run.directory, run.seed, one.epoch, one.kept, one.total, one.barrier, *rule)
        for series, run, record in records
        for rule in [(record.bound, record.proposed)]
        for one in record.interpolations
    ]
    return Plot(
        "stability", "Stability to the order of images", caption, header, rows, drawing.figure, numbers
    )


def interpolations(experiment: Experiment) -> Plot | None:
    """Test error on the line between two copies: of the first and the last epoch, densest and sparsest."""
    records = _records(experiment)
    if not records:
        return None
    lines = _lines(records[:1])
    lines = [lines[0], *lines[1:][-1:]]
    run = records[0][1]
    shown = [
        (f"{line.label}, epoch {epoch}", line.slot, style, line.by_epoch[epoch][0])
        for line in lines
        for epoch, style in {min(line.by_epoch): "-", max(line.by_epoch): "--"}.items()
    ]
    with canvas(**room(label for label, *_ in shown)) as drawing:
        axes, ends = drawing.axes, []
        for label, slot, style, one in shown:
            look = {"color": color(slot), "marker": MARKERS[slot % 8], "label": label}
            axes.plot(one.alphas, one.test_errors, style, **look)
            x, y = one.alphas[-1], one.test_errors[-1]
            ends.append(End(x, y, label, color(slot), MARKERS[slot % 8], style))
        axes.set_xlabel("place on the line, from one copy to the other")
        axes.set_ylabel("test error")
        axes.margins(y=0.1)
        label_ends(drawing, ends)
    peaks = [(f"{label}, largest", f"{max(one.test_errors):.4f}") for label, _, _, one in shown]
    caption = (
        f"Test error of the networks between two copies, with seed {run.seed}; the statistics of batch norm "
        "are those of each network on the training images."
    )
    header = ("series", "workdir", "seed", "epoch", "kept", "total", "alpha", "test_error", "train_loss")
    rows: list[tuple[Any, ...]] = [
        (series.label, of.directory, of.seed, one.epoch, one.kept, one.total, *point)
        for series, of, record in records
        for one in record.interpolations
        for point in zip(one.alphas, one.test_errors, one.train_losses, strict=True)
    ]
    title = "Error between two copies"
    return Plot("stability-lines", title, caption, header, rows, drawing.figure, peaks)


def _records(experiment: Experiment) -> list[tuple[Series, Run, StabilityRecord]]:
    return [
        (series, run, record)
        for series in experiment.series
        for run in series.runs
        if (record := run.result.stability)
    ]


def _lines(records: list[tuple[Series, Run, StabilityRecord]]) -> list[_Line]:
    """A line for each series and masks, as the command names them: those without masks first."""
    several = len({series for series, *_ in records}) > 1
    lines: dict[tuple[Series, int], dict[int, list[InterpolationRecord]]] = {}
    for series, _, record in records:
        of_record = list(dict.fromkeys(one.ticket for one in record.interpolations))
        for one in record.interpolations:
            by_epoch = lines.setdefault((series, of_record.index(one.ticket)), {})
            by_epoch.setdefault(one.epoch, []).append(one)
    return [
        _Line(
            (f"{series.label} " if several else "") + percent(next(iter(by_epoch.values()))[0].sparsity),
            slot,
            by_epoch,
        )
        for slot, ((series, _), by_epoch) in enumerate(lines.items())
    ]
