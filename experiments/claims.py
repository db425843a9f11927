"""Claims of an experiment, decided by intervals: they hold, are contradicted, or are undecided."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from findings import Measured, Missing, Outcomes, Table, table

from snnlth_jax.analysis import comparison
from snnlth_jax.analysis.comparison import Interval

__all__ = [
    "BEATS_RANDOM",
    "MARGIN",
    "Claim",
    "Interval",
    "against_controls",
    "better",
    "decided",
    "difference",
    "less",
    "ratio",
    "relative",
    "shorter_the_sparser",
    "winning_tickets",
]

MARGIN = 0.01  # a ticket is as good as the dense network if it loses less than this


def difference(first: Measured, second: Measured | float) -> Interval:
    """Interval of the paired difference over the seeds that both have.

    Raises:
      Missing: no seed in common, or an accuracy without the images that it was measured on.
    """
    seeds = [seed for seed in first.values if isinstance(second, float) or seed in second.values]
    if not seeds:
        raise Missing("no seed has both numbers")
    if first.correct is None:
        numbers = [second if isinstance(second, float) else second.values[seed] for seed in seeds]
        own = [first.values[seed] for seed in seeds]
        coarse = max(first.resolution, 0.0 if isinstance(second, float) else second.resolution)
        return comparison.of_numbers(own, numbers, resolution=coarse)
    images = [first.correct(seed) for seed in seeds]
    if isinstance(second, float):
        others = [np.full(len(one), second) for one in images]
    elif second.correct is None:
        raise Missing("an accuracy is compared with another number")
    else:
        others = [second.correct(seed) for seed in seeds]
    if len({one.size for one in (*images, *others)}) > 1:
        raise Missing("the accuracies are of different test sets")
    return comparison.of_images(np.stack(images), np.stack(others))


def ratio(first: Measured, second: Measured) -> Measured:
    """Ratio of two numbers in each seed that has both."""
    seeds = [seed for seed in first.values if seed in second.values]
    if not all(second.values[seed] for seed in seeds):
        raise Missing("a number to compare with is 0")
    return Measured({seed: first.values[seed] / second.values[seed] for seed in seeds})


def relative(first: Measured, second: Measured) -> Interval:
    """Interval of the relative difference, first / second - 1."""
    return difference(ratio(first, second), 1.0)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, as paired differences that lie between bounds; the bounds are fixed before a run.

    Attributes:
      text: the claim in words, with its margin.
      differences: function from the results to one interval or several; raises `Missing` where they are not
        there.
      low, high: bounds; `low` alone is a claim of more, or of not much less, `high` alone of less, both of
        about equal.
      datasets: datasets that the paper makes the claim for; None for any.
    """

    text: str
    differences: Callable[[Outcomes], Interval | Sequence[Interval]]
    low: float = 0.0
    high: float = math.inf
    datasets: tuple[str, ...] | None = None

    def verdict(self, outcomes: Outcomes) -> str:
        """One of "holds", "contradicted" and "undecided", with the differences and their 95 % intervals.

        A claim of several differences holds if each does, and is contradicted if one is, by intervals that
        are not corrected for their number. With one seed there is "no verdict"; without the numbers the claim
        is "open".
        """
        try:
            if self.datasets and outcomes.dataset not in self.datasets:
                return f"not of {outcomes.dataset}, but of {', '.join(self.datasets)}"
            made = self.differences(outcomes)
        except Missing as missing:
            return f"open, {missing}"
        intervals = [made] if isinstance(made, Interval) else list(made)
        if not intervals:
            return "open, there is one number only"
        seeds = min(interval.seeds for interval in intervals)
        if seeds < 2:
            return "no verdict from one seed, " + "; ".join(f"{i.mean:+.4g}" for i in intervals)
        verdicts = {comparison.verdict(interval, self.low, self.high) for interval in intervals}
        order = ("contradicted", "undecided", "holds")
        worst = next(verdict for verdict in order if verdict in verdicts)
        return f"{worst}, {'; '.join(map(str, intervals))}, {seeds} seeds"


def shorter_the_sparser(outcomes: Outcomes) -> list[Interval]:
    """Epochs of eb's search at one sparsity, less those at the next."""
    epochs = [
        outcomes.number("eb", lambda row: row.search.epochs if row.search else None, i, resolution=1.0)
        for i in range(len(outcomes.tickets("eb")))
    ]
    return [difference(sparse, sparser) for sparse, sparser in itertools.pairwise(epochs)]


def better(first: str, second: str, index: int = -1) -> Callable[[Outcomes], Interval]:
    """Accuracy of a method at one of the sparsities, by default the highest, less that of another method."""
    return lambda outcomes: difference(outcomes.accuracy(first, index), outcomes.accuracy(second, index))


def less(text: str, differences: Callable[[Outcomes], Interval | Sequence[Interval]]) -> Claim:
    """A claim that differences are below 0."""
    return Claim(text, differences, low=-math.inf, high=0.0)


BEATS_RANDOM = Claim("imp beats random at the highest sparsity", better("imp", "random"))


# --- tables


def decided(interval: Interval, low: float = 0.0, high: float = math.inf) -> tuple[str, str]:
    """Two columns: a difference of accuracies in points with its interval, and yes, no or undecided."""
    points = f"{100 * interval.mean:+.2f}"
    if interval.seeds < 2:
        return points, "no verdict from one seed"
    bounds = f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
    answers = {"holds": "yes", "contradicted": "no", "undecided": "undecided"}
    return f"{points} {bounds}", answers[comparison.verdict(interval, low, high)]


def winning_tickets(outcomes: Outcomes) -> Table:
    """Rounds of imp against the dense network: a winning ticket is not worse by the margin."""
    lines = table(
        f"winning tickets of imp: not {100 * MARGIN:g} point worse than dense",
        *("round", "sparsity", "accuracy", "points from dense (95 %)", "winning ticket"),
    )
    dense = outcomes.dense()
    for i, row in enumerate(outcomes["imp"].rounds[1:], start=1):
        own = outcomes.round("imp", i)
        points, answer = decided(difference(own, dense), low=-MARGIN)
        accuracy = f"{own.mean:.4f}"
        lines.add_row(str(row.round), f"{100 * row.sparsity:.2f} %", accuracy, points, answer)
    return lines


def against_controls(outcomes: Outcomes) -> Table:
    """Tickets of imp against their controls."""
    columns = ("", "sparsity", "control", "ticket's points above it (95 %)", "ticket is better")
    lines = table("tickets of imp and their controls", *columns)
    tickets = outcomes.tickets("imp")
    for kind in dict.fromkeys(row.kind for row in outcomes["imp"].controls):
        for i, row in enumerate(tickets):
            if kind == "dense" and i < len(tickets) - 1:
                continue  # it is as long as the last ticket's search
            control = outcomes.control(kind, index=i)
            points, answer = decided(difference(outcomes.accuracy("imp", i), control))
            lines.add_row(kind, f"{100 * row.sparsity:.2f} %", f"{control.mean:.4f}", points, answer)
    return lines
