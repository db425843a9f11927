"""Tables of the tickets of a run directory, for people (`snnlth analyse`)."""

from collections.abc import Sequence

from etils import epath
from rich.console import Console
from rich.table import Table

from snnlth_jax.analysis import sparsity
from snnlth_jax.analysis.energy import ENERGY_AC, ENERGY_MAC, energy, traffic
from snnlth_jax.errors import InputError
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.run.results import Result, Row, Summary
from snnlth_jax.run.tables import layer_name, new_table, say

__all__ = ["show"]


def show(
    workdir: epath.PathLike,
    rounds: Sequence[int] = (),
    mac: float = ENERGY_MAC,
    ac: float = ENERGY_AC,
    console: Console | None = None,
) -> None:
    """Print sparsity and health by layer, operations and energy, as a search recorded them.

    Args:
      workdir: directory of a search, finished or under way; only its result.json is read.
      rounds: rounds of the search; by default those of its tickets, or else the last.
      mac: picojoules of a multiply-accumulate.
      ac: picojoules of an addition.
      console: standard output by default.

    Raises:
      InputError: nothing is recorded there, or not of these rounds; energies that are none.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console.width = 200
    result = _read(workdir)
    rows = _recorded(workdir, result)
    chosen = _chosen(result, rows, rounds)
    shown = _with_dense(rows, chosen)
    energy([], mac, ac)  # refused before anything is printed
    say(console, f"{result.title}: {workdir}")
    connected = [row for row in shown if row.connected]
    for table in (_sparsity(shown), *(_health(row) for row in chosen if row.connected)):
        console.print(table)
    if not connected:
        say(console, "its connections are not known: no health, no operations, no energy")
        return
    for table in (_operations(connected), _energy(connected, mac, ac)):
        console.print(table)
    images = max(row.measured_images for row in shown)
    for remark in (
        f"spikes of {images} test images; {mac:g} pJ per MAC, {ac:g} pJ per SynOp",
        "the arithmetic alone flatters spiking networks: the memory accesses below it, here of hardware that",
        "keeps nothing between operations, often cost more",
    ):
        say(console, remark)


def _read(workdir: epath.PathLike) -> Result:
    path = rundir.paths(workdir).result
    if not path.exists():
        raise InputError(
            f"{workdir}: no result.json; allowed: the directory of a search that trained a round"
        )
    result = results.read(path)
    if isinstance(result, Summary):
        several = ", ".join(f"seed{seed}" for seed in result.seeds)
        raise InputError(f"{workdir}: a search with several seeds; allowed: its directories {several}")
    return result


def _recorded(workdir: epath.PathLike, result: Result) -> list[Row]:
    """Training runs that have layers, a ticket's own before that of the round it comes from."""
    trained: tuple[Row, ...] = (*result.tickets, *result.rounds, *result.controls)
    if not trained:
        raise InputError(f"{workdir}: nothing is trained yet; allowed: once a round is done")
    rows = {(row.kind, row.round): row for row in trained if row.layers}
    if not rows:
        raise InputError(
            f"{workdir}: recorded by a version without analysis; allowed: search again to have it"
        )
    return list(rows.values())


def _chosen(result: Result, rows: list[Row], rounds: Sequence[int]) -> list[Row]:
    searched = [row for row in rows if row.kind in ("ticket", "round")]
    if rounds:
        recorded = sorted({row.round for row in searched})
        if missing := [str(r) for r in rounds if r not in recorded]:
            allowed = ", ".join(map(str, recorded)) or "none is recorded"
            raise InputError(f"--rounds {','.join(missing)}: allowed: {allowed}")
        return [row for number in rounds for row in searched if row.round == number]
    tickets = {(row.kind, row.round) for row in result.tickets}
    return [row for row in searched if (row.kind, row.round) in tickets] or rows[-1:]


def _with_dense(rows: list[Row], chosen: list[Row]) -> list[Row]:
    """The chosen rows behind the dense network, if one was trained: the same with spikes, or its twin."""
    if any(row.dense for row in chosen):
        return chosen
    dense = sorted((row for row in rows if row.dense), key=lambda row: row.network != chosen[0].network)
    return [*dense[:1], *chosen]


def _names(rows: Sequence[Row]) -> list[str]:
    """Names of training runs, with the network where these are not all the same."""
    several = len({row.network for row in rows}) > 1
    return [row.name + (f", {row.network}" if several else "") for row in rows]


def _sparsity(rows: Sequence[Row]) -> Table:
    table = new_table("sparsity", "layer", "weights", *_names(rows))
    weights = [layer.weights for layer in rows[0].layers]
    by_layer = sparsity.by_round(row.layers for row in rows).items()
    for (name, values), count in zip(by_layer, [*weights, sum(weights)], strict=True):
        table.add_row(layer_name(name), f"{count:,}", *(f"{100 * value:.2f} %" for value in values))
    return table


def _health(row: Row) -> Table:
    idle = f"{row.weights_on_no_path:,} of {row.kept:,} kept weights on no path"
    columns = ("kept", "channels", "dead", "neurons", "silent", "saturated", "firing rate")
    table = new_table(f"{row.name}, {row.network}: {idle}", "layer", *columns)
    for layer in row.layers:
        counts = [layer.kept, layer.channels, layer.dead_channels]
        neurons = [layer.neurons, layer.silent_neurons, layer.saturated_neurons]
        rates = layer.firing_rate
        table.add_row(
            layer_name(layer.name),
            *("" if count is None else f"{count:,}" for count in [*counts, *neurons]),
            f"{sum(rates) / len(rates):.4f}" if rates else "",
        )
    return table


def _operations(rows: Sequence[Row]) -> Table:
    table = new_table("operations per image, MACs and SynOps", "layer", *_names(rows))
    for layers in zip(*(row.layers for row in rows), strict=True):
        counts = (sum(layer.macs_per_image) + sum(layer.synops_per_image) for layer in layers)
        table.add_row(layer_name(layers[0].name), *(f"{count:,.0f}" for count in counts))
    return table


def _energy(rows: Sequence[Row], mac: float, ac: float) -> Table:
    """Arithmetic above, memory accesses apart from it below."""
    table = new_table("per image", "", *_names(rows))
    arithmetic = [energy(row.layers, mac, ac) for row in rows]
    accesses = [traffic(row.layers)._asdict() for row in rows]
    accuracies = [row.final_test_accuracy for row in rows]
    table.add_row("test accuracy", *("" if a is None else f"{a:.4f}" for a in accuracies))
    table.add_row("MACs", *(f"{e.macs:,.0f}" for e in arithmetic))
    table.add_row("SynOps", *(f"{e.synops:,.0f}" for e in arithmetic))
    table.add_row("arithmetic, nJ", *(f"{e.picojoules / 1e3:,.3g}" for e in arithmetic))
    if first := arithmetic[0].picojoules:
        table.add_row("of the first", *(f"{100 * e.picojoules / first:.1f} %" for e in arithmetic))
    table.add_section()
    for name in accesses[0]:
        table.add_row(name.replace("_", " "), *(f"{a[name]:,.0f}" for a in accesses))
    return table
