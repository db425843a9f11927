"""The tables at the end of a search, for people; programs read result.json."""

from typing import Any

from rich.console import Console
from rich.table import Table

from snnlth_jax.run.metrics import duration, phase_name

__all__ = ["compiled", "mean_table", "new_table", "plus_minus", "print_plan", "print_result"]


def print_result(result: dict[str, Any], console: Console) -> None:
    """The tables at the end: a line per training, and what each ticket cost."""
    title = f"{result['method']} on {result['config']['dataset']}, {result['config']['arch']}"
    trainings = _trainings(result)
    dense = {
        row["network"]: row["final_test_accuracy"]
        for row in reversed(trainings)
        if row["kept"] == row["total"] and row["kind"] != "search"
    }
    table = new_table(title, "", "T", "sparsity", "kept", "accuracy", "from dense", "seconds")
    for row in trainings:
        accuracy, reference = row.get("final_test_accuracy"), dense.get(row["network"])
        difference = None if accuracy is None or reference is None else accuracy - reference
        table.add_row(
            phase_name(row["kind"], row["round"]),
            f"{row['num_timesteps']}",
            f"{100 * row['sparsity']:.2f} %",
            f"{row['kept']:,}",
            "" if accuracy is None else f"{accuracy:.4f}",
            "" if difference is None else f"{100 * difference:+.2f}",
            f"{row['seconds']:.0f}",
        )
    if trainings:
        console.print(table)
    if measured := (result["early_time"] or {}).get("over_epochs"):
        candidates, lambdas = measured[0]["normalised"], measured[0]["by_lambda"]
        curves = new_table(
            "divergences D_t, normalised, over epochs", "epoch", *(f"D_{t}" for t in candidates)
        )
        chosen = new_table("T' by lambda, over epochs", "epoch", *lambdas)
        for each in measured:
            curves.add_row(str(each["epoch"]), *(f"{d:.3f}" for d in each["normalised"].values()))
            chosen.add_row(str(each["epoch"]), *(str(t) for t in each["by_lambda"].values()))
        console.print(curves)
        console.print(chosen)
    for ticket in result["tickets"]:
        search, training = ticket["search"], ticket["training"]
        console.print(
            f"{phase_name(ticket['kind'], ticket['round'])}: search {_cost(search)}, "
            f"{100 * ticket['search_relative_to_imp']:.1f} % of the FLOPs of IMP at "
            f"T = {result['config']['num_timesteps']}; then training {_cost(training)}",
            highlight=False,
            soft_wrap=True,
        )


def _cost(part: dict[str, Any]) -> str:
    return (
        f"{part['epochs']} epochs, {part['train_flops'] / 1e12:.3g} TFLOP, "
        f"{part['device_seconds']:.0f} s and {part['compile_seconds']:.0f} s compiling"
    )


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """What a search would do: a line per training, then memory and time."""
    table = new_table("plan", "", "network", "sparsity", "epochs", "PFLOP", "time")
    for row in plan["trainings"]:
        table.add_row(
            phase_name(row["kind"], row["round"]),
            row["network"],
            f"{100 * row['sparsity']:.2f} %",
            f"{row['epochs']}",
            f"{row['flops'] / 1e15:.3g}",
            duration(row["seconds"]),
        )
    console.print(table)
    there = f" of {_gigabytes(plan['device_memory'])}" if plan["device_memory"] else ""
    lines = []
    for network, program in plan["programs"].items():
        rate, memory = program["images_per_second"], _gigabytes(program["memory"])
        compiling = f"compiled in {program['compile_seconds']:.0f} s"
        lines.append(f"{network}: {rate:,.0f} images/s, {memory}{there} on each device, {compiling}")
    whole = f"{plan['flops'] / 1e15:.3g} PFLOP and {duration(plan['seconds'])} on these devices"
    lines.append(f"at most {whole}; compiled: {', '.join(plan['compiled'])}")
    lines.append(f"a checkpoint has {_gigabytes(plan['checkpoint_bytes'])}, three are kept")
    lines.append("nothing was written")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def compiled(result: dict[str, Any]) -> str:
    """What `search.ahead.compile_for` found, a line each."""
    memory, there = _gigabytes(result["memory"]), _gigabytes(result["device_memory"])
    return "\n".join(
        [
            f"{result['topology']}: {result['devices']} x {result['kind']}",
            f"compiled in {result['compile_seconds']:.0f} s, and fits",
            f"memory: at most {memory} of the {there} of each device",
            f"arithmetic: {result['flops_per_step'] / 1e12:.3g} TFLOP per step on each device",
        ]
    )


def _gigabytes(size: int | None) -> str:
    return "an unknown size" if size is None else f"{size / 1e9:.3g} GB"


def mean_table(summary: dict[str, Any]) -> Table:
    """Mean and standard deviation over seeds: a line per training."""
    config, count = summary["config"], len(summary["seeds"])
    title = f"{summary['method']} on {config['dataset']}, {config['arch']}: mean ± std of {count} seeds"
    table = new_table(title, "", "sparsity", "accuracy", "search TFLOP", "of IMP", "device s")
    for row in _trainings(summary):
        table.add_row(
            phase_name(row["kind"], row["round"]),
            f"{100 * row['sparsity']:.2f} %",
            plus_minus(row["final_test_accuracy"], ".4f"),
            plus_minus(row.get("search_train_flops"), ".4g", 1e-12),
            plus_minus(row.get("search_relative_to_imp"), ".3f"),
            plus_minus(row.get("search_device_seconds"), ".0f"),
        )
    return table


def plus_minus(spread: dict[str, Any] | None, form: str, scale: float = 1.0) -> str:
    """Mean ± standard deviation over seeds, each times `scale`; nothing where there is no value.

    >>> plus_minus({"mean": 0.5, "std": 0.125}, ".2f"), plus_minus({"mean": 0.5, "std": None}, ".2f")
    ('0.50 ± 0.12', '0.50')
    """
    if spread is None:
        return ""
    std = f" ± {scale * spread['std']:{form}}" if spread["std"] is not None else ""
    return f"{scale * spread['mean']:{form}}{std}"


def _trainings(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per training; of a round of IMP that is a ticket at the same time the latter's."""
    rows = {(r["kind"], r["round"]): r for part in ("rounds", "tickets", "controls") for r in result[part]}
    return list(rows.values())


def new_table(title: str, first: str, *columns: str) -> Table:
    """An empty one: names to the left, numbers to the right."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
