"""Weights left in each layer of a ticket, kernel by kernel: the masks as a picture."""

from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from snnlth_jax import masks, tickets
from snnlth_jax.errors import InputError, printable
from snnlth_jax.masks.trees import name_of
from snnlth_jax.report.plot import Plot, percent
from snnlth_jax.report.runs import Run
from snnlth_jax.report.series import Experiment, Series
from snnlth_jax.report.theme import LIGHT, WIDTH, canvas
from snnlth_jax.report.tiles import image, lines_of, shades
from snnlth_jax.run.results import TicketRow

__all__ = ["MOST_METHODS", "blocks", "pictures", "shares", "sparsest_tickets"]

MOST_METHODS = 4
_MOST_CELLS = 64  # rows and columns of an image
_COLUMNS, _LINE = 4, 0.15  # images beside each other, inches of a line of text


class _Kernels(NamedTuple):
    """A layer of a ticket: numbers of weights, and the share of each kernel's that is kept, `[in, out]`."""

    name: str
    weights: int
    kept: int
    shares: np.ndarray

    @property
    def dead(self) -> int:
        return int((self.shares == 0).sum())

    @property
    def full(self) -> int:
        return int((self.shares == 1).sum())


def sparsest_tickets(experiment: Experiment) -> list[tuple[Series, Run, TicketRow]]:
    """The sparsest ticket of each method with the first of its seeds, of `MOST_METHODS` at most."""
    chosen: dict[str, tuple[Series, Run, TicketRow]] = {}
    for series in experiment.series:
        trained = [(run, row) for run in series.runs for row in run.result.tickets]
        if trained:
            run, row = min(trained, key=lambda pair: (pair[0].seed, -pair[1].sparsity))
            best = chosen.get(run.result.method)
            if best is None or row.sparsity > best[2].sparsity:
                chosen[run.result.method] = series, run, row
    return list(chosen.values())[:MOST_METHODS]


def pictures(experiment: Experiment) -> tuple[list[Plot], list[str]]:
    """A plot of each of `sparsest_tickets`, and a remark for each whose file cannot be read."""
    plots, remarks = [], []
    for number, (series, run, row) in enumerate(sparsest_tickets(experiment), start=1):
        try:
            plots.append(_picture(number, series, run, row, _read(run, row)))
        except InputError as error:
            remarks.append(f"no picture of the ticket of {series.label}: {error}")
    return plots, remarks


def shares(mask: np.ndarray) -> np.ndarray:
    """Share of the weights of each kernel that is kept, `[in, out]`; kernels of linear layers are weights.

    >>> shares(np.array([[[True, False]], [[True, False]]])).tolist()
    [[1.0, 0.0]]
    """
    inputs = mask.shape[-2] if mask.ndim > 1 else 1
    share: np.ndarray = mask.reshape(-1, inputs, mask.shape[-1]).mean(axis=0)
    return share


def blocks(values: np.ndarray, most: int = _MOST_CELLS) -> np.ndarray:
    """Means of blocks of equal size (smaller at the end), so that there are `most` rows and columns at most.

    >>> blocks(np.array([[0.0, 1.0, 1.0]]), most=2).tolist()
    [[0.5, 1.0]]
    """
    for axis, length in enumerate(values.shape):
        starts = np.arange(0, length, -(-length // most))
        sizes = np.diff([*starts, length]).reshape((-1, 1) if axis == 0 else (1, -1))
        values = np.add.reduceat(values, starts, axis=axis) / sizes
    return values


def _read(run: Run, row: TicketRow) -> list[_Kernels]:
    """The layers of a ticket in the order of the forward pass.

    Raises:
      InputError: no such file, a damaged one, or one of other masks than those of the row.
    """
    path = epath.Path(run.directory) / str(row.ticket)
    ticket = tickets.load(path)
    named = {
        name_of(place): np.asarray(mask) for place, mask in jax.tree_util.tree_leaves_with_path(ticket.masks)
    }
    names = [layer.name for layer in row.layers] or list(named)
    if masks.count(ticket.masks) != (row.kept, row.total) or {*names} != {*named}:
        raise InputError(path, problem="masks of another network than that of result.json")
    return [
        _Kernels(printable(name), mask.size, int(np.count_nonzero(mask)), shares(mask))
        for name in names
        for mask in [named[name]]
    ]


def _picture(number: int, series: Series, run: Run, row: TicketRow, layers: list[_Kernels]) -> Plot:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    cells = [blocks(layer.shares) for layer in layers]
    names = [lines_of(layer.name, 15) for layer in layers]
    lines, gap = max(map(len, names)), 0.14
    side = (WIDTH - 0.3 - gap * (_COLUMNS - 1)) / _COLUMNS
    above, below = _LINE * lines + 0.05, 2 * _LINE + 0.12
    rows_of_images = -(-len(layers) // _COLUMNS)
    height = 0.1 + rows_of_images * (above + side + below) + 0.6
    largest = max(float(cell.max()) for cell in cells) or 1.0
    look = {"cmap": shades("kept"), "norm": PowerNorm(0.5, 0, largest)}  # or few weights would be none
    table: list[tuple[Any, ...]] = []
    with canvas(height=height) as drawing:
        drawing.axes.remove()
        for i, (layer, cell, name) in enumerate(zip(layers, cells, names, strict=True)):
            inputs, outputs = layer.shares.shape
            size, kept = f"{inputs} x {outputs}", percent(layer.kept / layer.weights)
            legend = (
                f"{layer.name}: {layer.kept:,} of {layer.weights:,} weights left ({kept}); of {size} kernels "
                f"{layer.dead:,} are dead and {layer.full:,} whole"
            )
            left = 0.15 + (i % _COLUMNS) * (side + gap)
            top = 0.1 + (i // _COLUMNS) * (above + side + below) + above
            axes = image(drawing, (left, top, side, side), cell, legend, **look)
            text = {"transform": axes.transAxes, "fontsize": 9, "parse_math": False}
            axes.text(0, 1.03, "\n".join(name), va="bottom", color=LIGHT["ink"], linespacing=1.15, **text)
            axes.text(0, -0.05, f"{size}\n{kept}", va="top", color=LIGHT["muted"], linespacing=1.15, **text)
            of = (series.label, run.directory, run.seed, row.round, layer.name, layer.weights, layer.kept)
            table.append((*of, inputs, outputs, layer.shares.size, layer.dead, layer.full))
        bar = drawing.figure.colorbar(
            ScalarMappable(**look),
            cax=drawing.figure.add_axes((0.3, 0.36 / height, 0.4, 0.1 / height)),
            orientation="horizontal",
            ticks=[0, largest / 4, largest],
            format=lambda share, _: f"{100 * share:.3g} %",
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=9, length=0)
    dead, all_kernels = sum(layer.dead for layer in layers), sum(layer.shares.size for layer in layers)
    numbers = [
        ("weights left", f"{row.kept:,} of {row.total:,} ({percent(row.density)})"),
        ("kernels of which none is left", f"{dead:,} of {all_kernels:,}"),
        ("kernels of which all are left", f"{sum(layer.full for layer in layers):,}"),
    ]
    caption = "Weights left in each kernel, in channels from top to bottom, out channels from left to right."
    notes = (
        f"The sparsest ticket, with seed {run.seed}. The kernels of linear layers are single weights. Layers "
        f"with more than {_MOST_CELLS} rows or columns are drawn as means of blocks."
    )
    header = ("series", "workdir", "seed", "round", "layer", "weights", "layer_kept", "in", "out")
    return Plot(
        f"ticket-{number}",
        f"The ticket, layer by layer: {series.label}, {percent(row.sparsity)}",
        caption,
        (*header, "kernels", "dead_kernels", "full_kernels"),
        table,
        drawing.figure,
        numbers,
        notes,
    )
