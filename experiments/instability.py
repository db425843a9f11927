"""Stability to the order of images: the epoch to rewind to.

paper     not in it: it rewinds to epoch 20 of 300 (Fig. 6 varies it); the measure is that of Frankle et al.
          (2020)
command   python experiments/instability.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 64 for VGG16 (4,824 epochs of 47.4 s)
expected  the barrier falls with the epoch; the initial weights are not stable
"""

import sys

import claims
import figures
import findings
import grid

from snnlth_jax.run.results import InterpolationRecord, Result


def cells(scale: str, **flags: str | None) -> grid.Cells:
    return {"instability": grid.scale(scale, **flags).stability()}


def measured(outcomes: findings.Outcomes) -> list[tuple[InterpolationRecord, ...]]:
    """Interpolations of the dense network, of each seed."""
    return [record.interpolations for record in outcomes["instability"].stability if record]


def barrier(outcomes: findings.Outcomes, index: int) -> findings.Measured:
    """Error barrier of one of the epochs."""

    def of(result: Result) -> float | None:
        return result.stability.interpolations[index].barrier if result.stability else None

    return outcomes.numbers("instability", of)


def barriers(outcomes: findings.Outcomes) -> findings.Table:
    lines = findings.table("error barrier between two copies", "epoch", "by seed", "stable in")
    (bound,) = {record.bound for record in outcomes["instability"].stability if record}
    for pair in zip(*measured(outcomes), strict=True):
        values = [one.barrier for one in pair]
        stable = f"{sum(value < bound for value in values)} of {len(values)}"
        lines.add_row(str(pair[0].epoch), ", ".join(f"{value:.4f}" for value in values), stable)
    return lines


def over_epochs(outcomes: findings.Outcomes) -> figures.Drawing:
    (bound,) = {record.bound for record in outcomes["instability"].stability if record}
    epochs = [record.epoch for record in measured(outcomes)[0]]
    points = [(float(epoch), barrier(outcomes, i).spread) for i, epoch in enumerate(epochs)]
    axis = figures.measured("epoch that was copied (log scale)", log=True)
    return figures.lines({"dense": points}, axis, "error barrier", {f"bound {bound:g}": bound})


TABLES = [barriers]
CLAIMS = [
    claims.Claim(
        "the initial weights are not stable (a barrier above 2 %)",
        lambda outcomes: claims.difference(barrier(outcomes, 0), 0.02),
    ),
    claims.less(
        "the barrier of the last epoch measured is below that of the initial weights",
        lambda outcomes: claims.difference(barrier(outcomes, -1), barrier(outcomes, 0)),
    ),
]
FIGURES = [over_epochs]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
