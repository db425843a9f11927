"""Findings of an experiment: results of its cells, and tables of them."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from snnlth_jax.run.results import Result, Row, Spread, Summary, SummaryRow, TicketRow
from snnlth_jax.run.tables import plus_minus

__all__ = [
    "Measured",
    "Missing",
    "Outcomes",
    "Run",
    "Table",
    "accuracies",
    "costs",
    "decisions",
    "mean",
    "mean_of",
    "method_of",
    "plus_minus",
    "table",
]

# --- results


class Missing(LookupError):
    """A result or a number that a claim needs is missing."""


class Run(NamedTuple):
    """A finished search.

    Attributes:
      result: its result.
      directory: its directory.
      correct: function from the kind and the round of a training run to whether each test image is classified
        correctly; None where that was not recorded.
    """

    result: Result
    directory: str
    correct: Callable[[str, int], np.ndarray | None]


class Measured(NamedTuple):
    """A number of each seed.

    Attributes:
      values: the numbers, by seed.
      correct: for an accuracy, function from the seed to whether each test image is classified correctly; it
        raises `Missing`.
      resolution: for counts, 1: the smallest difference of two; 0 for other numbers.
    """

    values: Mapping[int, float]
    correct: Callable[[int], np.ndarray] | None = None
    resolution: float = 0.0

    @property
    def mean(self) -> float:
        return mean(self.values.values())

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values.values())


class Outcomes(dict[str, Summary]):
    """Results by cell, summed up over the seeds that have one.

    Attributes:
      runs: the searches of each cell, one a seed.
      absent: cells and seeds without a result.
      lacking: cells without a result, or with results of some seeds only.
    """

    def __init__(
        self,
        summaries: Mapping[str, Summary] | None = None,
        runs: Mapping[str, Sequence[Run]] | None = None,
        absent: Sequence[tuple[str, int]] = (),
    ):
        super().__init__(summaries or {})
        self.runs = runs or {}
        self.absent = tuple(absent)
        self.lacking = tuple(dict.fromkeys(name for name, _ in absent))

    def __missing__(self, name: str) -> Summary:
        raise Missing(f"{name} is not there, or not with all seeds")

    def complete(self) -> "Outcomes":
        """The cells without those that lack a seed."""
        whole = {name: cell for name, cell in self.items() if name not in self.lacking}
        return Outcomes(whole, self.runs, self.absent)

    @property
    def dataset(self) -> str:
        """Dataset of the cells."""
        for cell in self.values():
            return cell.settings.dataset
        raise Missing("no result is there")

    def results(self, name: str) -> list[Result]:
        """Results of a cell, one a seed."""
        _ = self[name]  # raises where it is missing
        return [run.result for run in self.runs[name]]

    def methods(self) -> list[str]:
        """Names of cells that have tickets, without the sparsity, in their order."""
        return list(dict.fromkeys(method_of(name) for name, cell in self.items() if cell.tickets))

    def tickets(self, method: str) -> list[SummaryRow]:
        """Tickets of all cells of a method, by sparsity."""
        return [self[name].tickets[i] for name, i in self._tickets(method)]

    def _tickets(self, method: str) -> list[tuple[str, int]]:
        """Cell and index of each ticket of a method, by sparsity."""
        for name in self.lacking:
            if method_of(name) == method and name not in self:
                raise Missing(f"{name} is not there, or not with all seeds")
        tickets = [
            (name, i)
            for name, cell in self.items()
            if method_of(name) == method
            for i in range(len(cell.tickets))
        ]
        if not tickets:
            raise Missing(f"{method} is not there")
        return sorted(tickets, key=lambda ticket: self[ticket[0]].tickets[ticket[1]].sparsity)

    def _ticket(self, method: str, index: int) -> tuple[str, int]:
        """Cell and index of the ticket of a method at one of the sparsities."""
        tickets = self._tickets(method)
        if index >= len(tickets):
            raise Missing(f"{method} has no ticket at a sparsity {index + 1}")
        return tickets[index]

    def below(self, method: str, sparsity: float) -> int:
        """Index of the sparsest ticket below a sparsity."""
        rows = [row for row in self.tickets(method) if row.sparsity < sparsity]
        if not rows:
            raise Missing(f"no ticket of {method} below {100 * sparsity:.0f} %")
        return len(rows) - 1

    # --- numbers by seed

    def accuracy(self, method: str, index: int = -1) -> Measured:
        """Accuracy of the ticket at one of the sparsities, by default the highest."""
        name, i = self._ticket(method, index)
        return self.measured(name, lambda result: result.tickets[i])

    def control(self, kind: str, method: str = "imp", index: int = -1) -> Measured:
        """Accuracy of a control of that ticket; of dense, which has one control, that one."""
        name, i = self._ticket(method, index)

        def row(result: Result) -> Row:
            for row in result.controls:
                if row.kind == kind and (kind == "dense" or row.round == result.tickets[i].round):
                    return row
            raise Missing(f"{name} has no control {kind}")

        return self.measured(name, row)

    def dense(self, name: str = "imp") -> Measured:
        """Accuracy of the dense network of a search."""
        return self.round(name, 0)

    def round(self, name: str, index: int) -> Measured:
        """Accuracy of a round of a search."""
        return self.measured(name, lambda result: result.rounds[index])

    def nearest_round(self, name: str, sparsity: float) -> int:
        """Index of the round nearest to a sparsity."""
        rounds = self[name].rounds
        return min(range(len(rounds)), key=lambda i: abs(rounds[i].sparsity - sparsity))

    def measured(self, name: str, row: Callable[[Result], Row]) -> Measured:
        """Accuracy of a training run of a cell."""
        _ = self[name]
        rows = {run.result.seed: (run, row(run.result)) for run in self.runs[name]}
        if any(one.final_test_accuracy is None for _, one in rows.values()):
            raise Missing("a seed has no such number")

        def correct(seed: int) -> np.ndarray:
            run, one = rows[seed]
            images = run.correct(one.kind, one.round)
            if images is None:
                remedy = f"remove {run.directory} to run it again"
                raise Missing(f"{name} seed {seed} predates the recording of single test images: {remedy}")
            return images

        values = {seed: one.final_test_accuracy or 0.0 for seed, (_, one) in rows.items()}
        return Measured(values, correct)

    def flops(self, method: str, index: int = -1) -> Measured:
        """FLOPs of the search of that ticket."""
        return self.number(method, lambda row: row.search.train_flops if row.search else None, index)

    def number(
        self, method: str, of: Callable[[TicketRow], float | None], index: int = -1, resolution: float = 0.0
    ) -> Measured:
        """A number of the row of that ticket; see `Measured` for `resolution`."""
        name, i = self._ticket(method, index)
        return self.numbers(name, lambda result: of(result.tickets[i]), resolution)

    def numbers(self, name: str, of: Callable[[Result], float | None], resolution: float = 0.0) -> Measured:
        """A number of each result of a cell; see `Measured` for `resolution`."""
        values = {result.seed: of(result) for result in self.results(name)}
        known = {seed: float(value) for seed, value in values.items() if value is not None}
        if len(known) < len(values):
            raise Missing("a seed has no such number")
        return Measured(known, resolution=resolution)


def method_of(name: str) -> str:
    """Method of a cell: its name without the sparsity.

    >>> method_of("eb+et_0.9822")
    'eb+et'
    """
    return name.split("_")[0]


def mean(values: Iterable[float]) -> float:
    """Mean over seeds.

    >>> mean([1, 2])
    1.5
    """
    return statistics.fmean(values)


def mean_of(estimate: Spread | None) -> float:
    """Mean of what every seed measured.

    Raises:
      Missing: a seed did not measure it.
    """
    if estimate is None:
        raise Missing("a seed has no such number")
    return estimate.mean


# --- tables


def table(title: str, *columns: str) -> Table:
    """An empty table."""
    empty = Table(title=title, title_justify="left", min_width=len(title))
    for i, column in enumerate(columns):
        empty.add_column(column, justify="right" if i else "left", no_wrap=True)
    return empty


def accuracies(outcomes: Outcomes) -> Table:
    """Accuracy of tickets: a line per method, a column per sparsity (equal up to the rounding of a count)."""
    tickets = [
        (method_of(name), row.sparsity, row.final_test_accuracy)
        for name, cell in outcomes.items()
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
    for method in outcomes.methods():
        by_column = {
            min(columns, key=lambda c: abs(c - sparsity)): plus_minus(accuracy, ".4f")
            for name, sparsity, accuracy in tickets
            if name == method
        }
        lines.add_row(method, *(by_column.get(column, "") for column in columns))
    return lines


def costs(outcomes: Outcomes) -> Table:
    """Cost of each search, a line per method and sparsity, also relative to IMP as measured here."""
    columns = ("", "sparsity", "accuracy", "search GFLOP", "of IMP", "search s", "of IMP", "epochs")
    lines = table("tickets and what their search cost", *columns)
    methods = outcomes.methods()
    rows = [(method_of(name), row) for name, cell in outcomes.items() for row in cell.tickets]
    rows.sort(key=lambda pair: (round(pair[1].sparsity, 2), methods.index(pair[0])))
    imp = {round(row.sparsity, 2): row for row in (outcomes["imp"].tickets if "imp" in outcomes else ())}

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


def decisions(outcomes: Outcomes) -> Table:
    """T' of Early-Time and the epoch in which Early-Bird fired, by seed."""
    lines = table("what the searches decided, by seed", "", "T'", "Early-Bird fired after epochs")
    for name, cell in outcomes.items():
        chosen = [str(record.num_timesteps) for record in cell.early_time if record]
        fired = [str(record.epoch) if record.fired else "never" for record in cell.early_bird if record]
        if chosen or fired:
            lines.add_row(name, ", ".join(chosen), ", ".join(fired))
    return lines
