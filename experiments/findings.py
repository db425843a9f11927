"""Findings of an experiment: results of its cells, tables, and claims compared with the numbers."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.table import Table

from snnlth_jax.run.results import Result, Spread, Summary, SummaryRow
from snnlth_jax.run.tables import plus_minus

__all__ = [
    "BEATS_RANDOM",
    "Claim",
    "Found",
    "Missing",
    "Table",
    "accuracies",
    "costs",
    "decisions",
    "mean",
    "mean_of",
    "plus_minus",
    "table",
]

# --- results


class Missing(LookupError):
    """A result or a number that a claim needs is missing."""


class Found(dict[str, Summary]):
    """Results by cell, summed up over the seeds that have one.

    Attributes:
      results: results of each seed, by cell.
      absent: cells and seeds without a result.
      lacking: cells without a result, or with results of some seeds only.
    """

    def __init__(
        self,
        summaries: Mapping[str, Summary] | None = None,
        results: Mapping[str, Sequence[Result]] | None = None,
        absent: Sequence[tuple[str, int]] = (),
    ):
        super().__init__(summaries or {})
        self.results = results or {}
        self.absent = tuple(absent)
        self.lacking = tuple(dict.fromkeys(name for name, _ in absent))

    def __missing__(self, name: str) -> Summary:
        raise Missing(f"{name} is not there, or not with all seeds")

    def complete(self) -> "Found":
        """The cells without those that lack a seed."""
        whole = {name: cell for name, cell in self.items() if name not in self.lacking}
        return Found(whole, self.results, self.absent)

    def seeds(self, name: str) -> Sequence[Result]:
        """Results of a cell, one a seed."""
        _ = self[name]  # raises where it is missing
        return self.results[name]

    def tickets(self, method: str) -> list[SummaryRow]:
        """Tickets of all cells of a method, by sparsity."""
        for name in self.lacking:
            if name.split("_")[0] == method and name not in self:
                raise Missing(f"{name} is not there, or not with all seeds")
        rows = [row for name, cell in self.items() if name.split("_")[0] == method for row in cell.tickets]
        if not rows:
            raise Missing(f"{method} is not there")
        return sorted(rows, key=lambda row: row.sparsity)

    def methods(self) -> list[str]:
        """Names of cells that have tickets, without the sparsity, in their order."""
        return list(dict.fromkeys(name.split("_")[0] for name, cell in self.items() if cell.tickets))

    def accuracy(self, method: str, index: int = -1) -> float:
        """Accuracy of the ticket at one of the sparsities, by default the highest; mean over seeds."""
        return mean_of(self.tickets(method)[index].final_test_accuracy)

    def flops(self, method: str, index: int = -1) -> float:
        """FLOPs of the search of that ticket."""
        return mean_of(self.tickets(method)[index].search_train_flops)

    def dense(self, name: str = "imp") -> float:
        """Accuracy of the first round of a search by rounds."""
        return mean_of(self[name].rounds[0].final_test_accuracy)

    def below(self, method: str, sparsity: float) -> int:
        """Index of the sparsest ticket below a sparsity."""
        rows = [row for row in self.tickets(method) if row.sparsity < sparsity]
        if not rows:
            raise Missing(f"no ticket of {method} below {100 * sparsity:.0f} %")
        return len(rows) - 1


def mean(values: Iterable[float]) -> float:
    """Mean over seeds.

    >>> mean([1, 2])
    1.5
    """
    return statistics.fmean(values)


def mean_of(spread: Spread | None) -> float:
    """Mean of what every seed measured.

    Raises:
      Missing: a seed did not measure it.
    """
    if spread is None:
        raise Missing("a seed has no such number")
    return spread.mean


# --- tables


def table(title: str, *columns: str) -> Table:
    """An empty table."""
    empty = Table(title=title, title_justify="left", min_width=len(title))
    for i, column in enumerate(columns):
        empty.add_column(column, justify="right" if i else "left", no_wrap=True)
    return empty


def accuracies(found: Found) -> Table:
    """Accuracy of tickets: a line per method, a column per sparsity (equal up to the rounding of a count)."""
    tickets = [
        (name.split("_")[0], row.sparsity, row.final_test_accuracy)
        for name, cell in found.items()
        for row in cell.tickets
    ]
    if not tickets:
        raise Missing("no ticket is there")
    columns: list[float] = []
    for sparsity in sorted(sparsity for _, sparsity, _ in tickets):
        if not columns or sparsity - columns[-1] > 0.002:
            columns.append(sparsity)
    lines = table(
        "test accuracy of the tickets, by sparsity", "", *(f"{100 * sparsity:.2f} %" for sparsity in columns)
    )
    for method in found.methods():
        by_column = {
            min(columns, key=lambda c: abs(c - sparsity)): plus_minus(accuracy, ".4f")
            for name, sparsity, accuracy in tickets
            if name == method
        }
        lines.add_row(method, *(by_column.get(column, "") for column in columns))
    return lines


def costs(found: Found) -> Table:
    """Cost of each search, a line per method and sparsity, also relative to IMP as measured here."""
    columns = ("", "sparsity", "accuracy", "search GFLOP", "of IMP", "search s", "of IMP", "epochs")
    lines = table("tickets and what their search cost", *columns)
    methods = found.methods()
    rows = [(name.split("_")[0], row) for name, cell in found.items() for row in cell.tickets]
    rows.sort(key=lambda pair: (round(pair[1].sparsity, 2), methods.index(pair[0])))
    imp = {round(row.sparsity, 2): row for row in (found["imp"].tickets if "imp" in found else ())}

    def of_imp(row: SummaryRow, cost: Callable[[SummaryRow], Spread | None]) -> str:
        reference = imp.get(round(row.sparsity, 2))
        return f"{mean_of(cost(row)) / mean_of(cost(reference)):.3f}" if reference else ""

    for name, row in rows:
        lines.add_row(
            name,
            f"{100 * row.sparsity:.2f} %",
            plus_minus(row.final_test_accuracy, ".4f"),
            f"{mean_of(row.search_train_flops) / 1e9:,.0f}",
            of_imp(row, lambda row: row.search_train_flops),
            f"{mean_of(row.search_device_seconds):,.0f}",
            of_imp(row, lambda row: row.search_device_seconds),
            plus_minus(row.search_epochs, ".0f"),
        )
    return lines


def decisions(found: Found) -> Table:
    """T' of Early-Time and the epoch in which Early-Bird fired, by seed."""
    lines = table("what the searches decided, by seed", "", "T'", "Early-Bird fired after epochs")
    for name, cell in found.items():
        chosen = [str(record.num_timesteps) for record in cell.early_time if record]
        fired = [str(record.epoch) if record.fired else "never" for record in cell.early_bird if record]
        if chosen or fired:
            lines.add_row(name, ", ".join(chosen), ", ".join(fired))
    return lines


# --- claims


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, as numbers in order.

    Attributes:
      text: the claim in words.
      values: function from the results to the numbers; raises `Missing` where they are not there.
      relation: of each number to the next: ">", ">=", or "≈", no further from it than `within` of it.
    """

    text: str
    values: Callable[[Found], Sequence[float]]
    relation: str = ">"
    within: float = 0.0

    def verdict(self, found: Found) -> str:
        """ "holds", "does not hold" or "open", with the numbers."""
        try:
            values = [float(value) for value in self.values(found)]
            if len(values) < 2:
                raise Missing("there is one number only")
        except Missing as missing:
            return f"open, {missing}"
        pairs = list(itertools.pairwise(values))
        signs = [self._sign(a, b) for a, b in pairs]
        numbers = " ".join(itertools.chain(*zip(signs, (f"{b:.4g}" for _, b in pairs), strict=True)))
        holds = all(sign in self.relation for sign in signs)
        return f"{'holds' if holds else 'does not hold'}, {values[0]:.4g} {numbers}"

    def _sign(self, a: float, b: float) -> str:
        if self.relation == "≈" and abs(a - b) <= self.within * abs(b):
            return "≈"
        return ">" if a > b else "<" if a < b else "="


BEATS_RANDOM = Claim(
    "imp beats random at the highest sparsity",
    lambda found: [found.accuracy("imp"), found.accuracy("random")],
)
