"""The tables at the end of a search, for people; programs read result.json."""

from typing import Any

from rich.console import Console
from rich.table import Table

from snnlth_jax.run.results import Cost, Result, phase_name

__all__ = ["duration", "gigabytes", "mean_table", "new_table", "plus_minus", "print_result"]


def print_result(result: Result, console: Console) -> None:
    """The tables at the end: a line per training run, and what each ticket cost."""
    title = f"{result.method} on {result.config['dataset']}, {result.config['arch']}"
    dense = {
        row.network: row.final_test_accuracy
        for row in reversed(result.trainings)
        if row.dense and row.kind != "search"
    }
    table = new_table(title, "", "T", "sparsity", "kept", "accuracy", "from dense", "seconds")
    for row in result.trainings:
        accuracy, reference = row.final_test_accuracy, dense.get(row.network)
        difference = None if accuracy is None or reference is None else accuracy - reference
        table.add_row(
            row.name,
            f"{row.num_timesteps}",
            f"{100 * row.sparsity:.2f} %",
            f"{row.kept:,}",
            "" if accuracy is None else f"{accuracy:.4f}",
            "" if difference is None else f"{100 * difference:+.2f}",
            f"{row.seconds:.0f}",
        )
    if result.trainings:
        console.print(table)
    if result.early_time and result.early_time.over_epochs:
        measured = result.early_time.over_epochs
        candidates, lambdas = measured[0].normalised, map(str, measured[0].by_lambda)
        curves = new_table(
            "divergences D_t, normalised, over epochs", "epoch", *(f"D_{t}" for t in candidates)
        )
        chosen = new_table("T' by lambda, over epochs", "epoch", *lambdas)
        for after in measured:
            curves.add_row(str(after.epoch), *(f"{d:.3f}" for d in after.normalised.values()))
            chosen.add_row(str(after.epoch), *(str(t) for t in after.by_lambda.values()))
        console.print(curves)
        console.print(chosen)
    for ticket in result.tickets:
        if ticket.search and ticket.training and ticket.search_relative_to_imp is not None:
            console.print(
                f"{ticket.name}: search {_cost(ticket.search)}, "
                f"{100 * ticket.search_relative_to_imp:.1f} % of the FLOPs of IMP at "
                f"T = {result.config['num_timesteps']}; then training {_cost(ticket.training)}",
                highlight=False,
                soft_wrap=True,
            )


def _cost(cost: Cost) -> str:
    return (
        f"{cost.epochs} epochs, {cost.train_flops / 1e12:.3g} TFLOP, "
        f"{cost.device_seconds:.0f} s and {cost.compile_seconds:.0f} s compiling"
    )


def duration(seconds: float) -> str:
    """For people.

    >>> duration(7384.2), duration(84.2)
    ('2 h 03 min', '1 min 24 s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def gigabytes(size: int | None) -> str:
    """A number of bytes for people.

    >>> gigabytes(1_500_000_000), gigabytes(None)
    ('1.5 GB', 'an unknown size')
    """
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
