"""The tables at the end of a search, for people; programs read result.json."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from snnlth_jax.errors import printable
from snnlth_jax.run.results import Cost, Result, Spread, StabilityRecord, Summary

__all__ = [
    "duration",
    "gigabytes",
    "layer_name",
    "mean_table",
    "new_table",
    "operations",
    "plus_minus",
    "print_result",
    "say",
    "si",
]

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_result(result: Result, console: Console) -> None:
    """Print the tables at the end of a search: a line per training run, and the cost of each ticket."""
    dense = {
        row.network: row.final_test_accuracy
        for row in reversed(result.trainings)
        if row.dense and row.kind != "search"
    }
    table = new_table(result.title, "", "T", "sparsity", "kept", "accuracy", "from dense", "seconds")
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
    if measurements := result.early_time.over_epochs if result.early_time else ():
        candidates, lambdas = measurements[0].normalised, measurements[0].by_lambda
        curves = new_table(
            "divergences D_t, normalised, over epochs", "epoch", *(f"D_{t}" for t in candidates)
        )
        chosen = new_table("T' by lambda, over epochs", "epoch", *map(str, lambdas))
        for measurement in measurements:
            epoch = str(measurement.epoch)
            curves.add_row(epoch, *(f"{d:.3f}" for d in measurement.normalised.values()))
            chosen.add_row(epoch, *(str(t) for t in measurement.by_lambda.values()))
        console.print(curves)
        console.print(chosen)
    if result.stability:
        _print_stability(result.stability, console)
    for ticket in result.tickets:
        say(
            console,
            f"{ticket.name}: search {_cost(ticket.search)}, "
            f"{100 * (ticket.search_relative_to_imp or 0.0):.1f} % of the FLOPs of IMP at "
            f"T = {result.settings.num_timesteps}; then training {_cost(ticket.training)}",
        )


def _print_stability(stability: StabilityRecord, console: Console) -> None:
    by_masks = {one.ticket: f"{100 * one.sparsity:.2f} %" for one in stability.interpolations}
    barriers: dict[int, dict[str | None, str]] = {}
    for one in stability.interpolations:
        barriers.setdefault(one.epoch, {})[one.ticket] = f"{one.barrier:.4f}"
    table = new_table("error barriers", "epoch", *by_masks.values())
    for epoch, of_epoch in barriers.items():
        table.add_row(f"{epoch}", *(of_epoch.get(ticket, "") for ticket in by_masks))
    console.print(table)
    below = f"error barriers below {stability.bound:g} at all sparsities"
    proposed = stability.proposed
    line = f"no epoch has {below}" if proposed is None else f"rewind epoch {proposed}, the first with {below}"
    say(console, line)


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return "of unknown cost"
    return (
        f"{cost.epochs} epoch{'s' * (cost.epochs != 1)}, {operations(cost.train_flops)}, "
        f"{cost.device_seconds:.0f} s and {cost.compile_seconds:.0f} s compiling"
    )


def si(value: float) -> str:
    """Three digits and a prefix.

    >>> si(7.154e11), si(48719.3), si(12.0), si(0.0)
    ('715 G', '48.7 k', '12', '0')
    """
    factor, prefix = _prefix(value)
    return f"{value / factor:.3g} {prefix}".rstrip()


def _prefix(value: float) -> tuple[float, str]:
    """The factor and the prefix for a number, so that three digits of it are enough."""
    fitting = ((factor, prefix) for factor, prefix in _PREFIXES if abs(value) >= 0.9995 * factor)
    return next(fitting, (1.0, ""))


def _with_unit(value: float, unit: str) -> str:
    factor, prefix = _prefix(value)
    return f"{value / factor:.3g} {prefix}{unit}"


def operations(count: float) -> str:
    """A number of FLOPs as a text for people.

    >>> operations(3.41e8), operations(7.92e12), operations(0)
    ('341 MFLOP', '7.92 TFLOP', '0 FLOP')
    """
    return _with_unit(count, "FLOP")


def gigabytes(size: int | None) -> str:
    """Number of bytes as a text for people.

    >>> gigabytes(1_500_000_000), gigabytes(886_000), gigabytes(None)
    ('1.5 GB', '886 kB', 'an unknown size')
    """
    return "an unknown size" if size is None else _with_unit(size, "B")


def mean_table(summary: Summary) -> Table:
    """Mean and standard deviation over seeds: a line per training run."""
    title = f"{summary.title}: mean ± std of {len(summary.seeds)} seeds"
    most = max(
        (row.search_train_flops.mean for row in summary.trainings if row.search_train_flops), default=0
    )
    factor, unit = _prefix(most)
    table = new_table(title, "", "sparsity", "accuracy", f"search\n{unit}FLOP", "of IMP", "device\ns")
    for row in summary.trainings:
        table.add_row(
            row.name,
            f"{100 * row.sparsity:.2f} %",
            plus_minus(row.final_test_accuracy, ".4f"),
            plus_minus(row.search_train_flops, ".4g", 1 / factor),
            plus_minus(row.search_relative_to_imp, ".3f"),
            plus_minus(row.search_device_seconds, ".0f"),
        )
    return table


def plus_minus(estimate: Spread | None, form: str, scale: float = 1.0) -> str:
    """Mean ± standard deviation over seeds, each times `scale`; an empty text without a value.

    >>> plus_minus(Spread(mean=0.5, std=0.125, values=()), ".2f")
    '0.50 ± 0.12'
    >>> plus_minus(Spread(mean=0.5, std=None, values=()), ".2f")
    '0.50'
    """
    if estimate is None:
        return ""
    scaled = estimate.scaled(scale)
    std = f" ± {scaled.std:{form}}" if scaled.std is not None else ""
    return f"{scaled.mean:{form}}{std}"


def say(console: Console, line: str) -> None:
    """Print a line of any origin as it is: no markup, and control characters as escapes."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True, emoji=False)


class _Table(Table):
    def add_row(self, *cells: Any, **style: Any) -> None:
        """Add a row of texts of any origin, as `say` prints them."""
        super().add_row(*(Text(printable(cell)) for cell in cells), **style)


def new_table(title: str, first: str, *columns: str) -> Table:
    """An empty table: names to the left, numbers to the right; texts are taken as they are."""
    table = _Table(title=Text(printable(title), style="table.title"), title_justify="left")
    table.add_column(Text(printable(first)), no_wrap=True)
    for name in columns:
        table.add_column(Text(printable(name)), justify="right", no_wrap=True)
    return table


def layer_name(name: str) -> str:
    """The name of a layer without what all layers of a kind have.

    >>> layer_name("block1_1/first/conv/kernel")
    'block1_1/first'
    """
    return name.removesuffix("/kernel").removesuffix("/conv").removesuffix("/linear")


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds, for people.

    >>> duration(7384.2), duration(84.2)
    ('2 h 03 min', '1 min 24 s')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
