"""What a run directory says about its tickets, as tables for people (`snnlth analyse`)."""

from collections.abc import Sequence
from typing import Any

from etils import epath
from rich.console import Console
from rich.table import Table

from snnlth_jax.analysis import activity, sparsity
from snnlth_jax.analysis.activity import ENERGY_AC, ENERGY_MAC
from snnlth_jax.errors import InputError
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.metrics import checked, phase_name
from snnlth_jax.run.tables import new_table

__all__ = ["show"]

Row = dict[str, Any]


def show(
    workdir: epath.PathLike,
    rounds: Sequence[int] = (),
    mac: float = ENERGY_MAC,
    ac: float = ENERGY_AC,
    console: Console | None = None,
) -> None:
    """Print sparsity and health by layer, operations and energy, of what a search recorded.

    Args:
      workdir: of a search, finished or under way; only its result.json is read.
      rounds: of the search; by default those of its tickets, or else the last.
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
    activity.energy([], mac, ac)  # refused before anything is printed
    title = f"{result['method']} on {result['config']['dataset']}, {result['config']['arch']}"
    console.print(f"{title}: {workdir}", markup=False, highlight=False)
    for table in (
        _sparsity(shown),
        *map(_health, chosen),
        _operations(shown),
        _energy(shown, mac, ac),
    ):
        console.print(table)
    images = max(row["measured_images"] for row in shown)
    for line in (
        f"spikes of {images} test images; {mac:g} pJ per MAC, {ac:g} pJ per SynOp",
        "the arithmetic alone flatters spiking networks: the memory accesses below it, here of hardware that",
        "keeps nothing between operations, often cost more",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _read(workdir: epath.PathLike) -> Row:
    path = rundir.paths(workdir).result
    if not path.exists():
        raise InputError(
            f"{workdir}: no result.json; allowed: the directory of a search that trained a round"
        )
    result = rundir.read_json(path)
    if result is None:
        raise InputError(f"{path}: damaged; running the search again mends it")
    checked(path, result)
    if "seeds" in result:
        several = ", ".join(f"{workdir}/seed{seed}" for seed in result["seeds"])
        raise InputError(f"{workdir}: a search with several seeds; allowed: one of {several}")
    return result


def _recorded(workdir: epath.PathLike, result: Row) -> list[Row]:
    """All trainings that have layers, a ticket's own training before that of the round it comes from."""
    trained = [row for part in ("tickets", "rounds", "controls") for row in result[part]]
    rows = [row for row in trained if row.get("layers")]
    if not trained:
        raise InputError(f"{workdir}: nothing is trained yet; allowed: once a round is done")
    if not rows:
        raise InputError(
            f"{workdir}: recorded by a version without analysis; allowed: search again to have it"
        )
    return list({(row["kind"], row["round"]): row for row in rows}.values())


def _chosen(result: Row, rows: list[Row], rounds: Sequence[int]) -> list[Row]:
    searched = [row for row in rows if row["kind"] in ("ticket", "round")]
    if rounds:
        there = sorted({row["round"] for row in searched})
        if missing := [str(r) for r in rounds if r not in there]:
            allowed = ", ".join(map(str, there)) or "none is recorded"
            raise InputError(f"--rounds {','.join(missing)}: allowed: {allowed}")
        return [row for number in rounds for row in searched if row["round"] == number]
    tickets = {(row["kind"], row["round"]) for row in result["tickets"]}
    return [row for row in searched if (row["kind"], row["round"]) in tickets] or rows[-1:]


def _with_dense(rows: list[Row], chosen: list[Row]) -> list[Row]:
    """The chosen ones behind the dense network, if one was trained: the same with spikes, or its twin."""
    dense = [row for row in rows if row["kept"] == row["total"]]
    if any(row in dense for row in chosen):
        return chosen
    dense.sort(key=lambda row: row["network"] != chosen[0]["network"])
    return [*dense[:1], *chosen]


def _names(rows: Sequence[Row]) -> list[str]:
    """What trainings are called, with the network where these are not all the same."""
    several = len({row["network"] for row in rows}) > 1
    return [
        phase_name(row["kind"], row["round"]) + (f", {row['network']}" if several else "") for row in rows
    ]


def _layer(name: str) -> str:
    return name.removesuffix("/kernel").removesuffix("/conv")


def _sparsity(rows: Sequence[Row]) -> Table:
    table = new_table("sparsity", "layer", "weights", *_names(rows))
    weights = [layer["weights"] for layer in rows[0]["layers"]]
    found = sparsity.by_round(rows).items()
    for (name, values), count in zip(found, [*weights, sum(weights)], strict=True):
        table.add_row(_layer(name), f"{count:,}", *(f"{100 * value:.2f} %" for value in values))
    return table


def _health(row: Row) -> Table:
    idle = f"{row['weights_on_no_path']:,} of {row['kept']:,} kept weights on no path"
    title = f"{phase_name(row['kind'], row['round'])}, {row['network']}: {idle}"
    columns = ("kept", "channels", "dead", "neurons", "silent", "saturated", "firing rate")
    table = new_table(title, "layer", *columns)
    for layer in row["layers"]:
        counts = [layer[key] for key in ("kept", "channels", "dead_channels")]
        counts += [layer[key] for key in ("neurons", "silent_neurons", "saturated_neurons")]
        rates = layer["firing_rate"]
        table.add_row(
            _layer(layer["name"]),
            *("" if count is None else f"{count:,}" for count in counts),
            f"{sum(rates) / len(rates):.4f}" if rates else "",
        )
    return table


def _operations(rows: Sequence[Row]) -> Table:
    table = new_table("operations per image, MACs and SynOps", "layer", *_names(rows))
    for layers in zip(*(row["layers"] for row in rows), strict=True):
        counts = (sum(layer["macs_per_image"]) + sum(layer["synops_per_image"]) for layer in layers)
        table.add_row(_layer(layers[0]["name"]), *(f"{count:,.0f}" for count in counts))
    return table


def _energy(rows: Sequence[Row], mac: float, ac: float) -> Table:
    """Arithmetic above, memory accesses apart from it below."""
    table = new_table("per image", "", *_names(rows))
    arithmetic = [activity.energy(row["layers"], mac, ac) for row in rows]
    traffic = [activity.traffic(row["layers"]) for row in rows]
    first = arithmetic[0]["picojoules"]
    accuracies = [row.get("final_test_accuracy") for row in rows]
    table.add_row("test accuracy", *("" if a is None else f"{a:.4f}" for a in accuracies))
    for name in ("macs", "synops"):
        label = {"macs": "MACs", "synops": "SynOps"}[name]
        table.add_row(label, *(f"{each[name]:,.0f}" for each in arithmetic))
    table.add_row("arithmetic, nJ", *(f"{each['picojoules'] / 1e3:,.3g}" for each in arithmetic))
    if first:
        shares = [f"{100 * each['picojoules'] / first:.1f} %" for each in arithmetic]
        table.add_row("of the first", *shares)
    table.add_section()
    for name in traffic[0]:
        table.add_row(name.replace("_", " "), *(f"{each[name]:,.0f}" for each in traffic))
    return table
