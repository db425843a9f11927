"""Early-Bird: the epoch in which it fires. Early-Time: T' by lambda, and accuracy by T'.

paper     Fig. 7: EB fires earlier at higher sparsity (a); T' against lambda in steps of 0.1 (b), usually
          T' = 3 with lambda = 0.6; accuracy of tickets against T': T' >= 3 is as good as T = 5 (c)
command   python experiments/fig7_eb_et.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 2.9 for the searches of EB (Table 1), 15.8 for their tickets,
          0.13 for the probe; 56 for IMP and, for each T', about T'/5 of 52 and 3.95 for each ticket
expected  EB's hours of Table 1 fall from 1.96 to .09 with the sparsity; T' = 3 within a point of T = 5
"""

import itertools
import sys
from collections.abc import Callable

import claims
import fig4_kl_over_epochs
import figures
import findings
import grid

from snnlth_jax.run.results import Result


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    fewer = range(2, s.resolved.num_timesteps)
    return (
        {f"eb_{p}": s.eb(p) for p in s.sparsities}
        | dict(fig4_kl_over_epochs.cells(scale, **flags))
        | {"T": s.imp()}
        | {f"T'={t}": s.imp(early_time=True, early_time_timesteps=t) for t in fewer}
    )


def by_lambda(outcomes: findings.Outcomes) -> dict[float, findings.Measured]:
    """T' of each seed after the two epochs that Early-Time waits, by lambda."""
    bounds = fig4_kl_over_epochs.probes(outcomes)[0].over_epochs[1].by_lambda

    def chosen(bound: float) -> Callable[[Result], float | None]:
        return lambda result: result.early_time.over_epochs[1].by_lambda[bound] if result.early_time else None

    return {bound: outcomes.numbers("probe", chosen(bound), 1.0) for bound in bounds}


def timesteps(outcomes: findings.Outcomes) -> findings.Table:
    lines = findings.table("T' by lambda, mean over seeds", "lambda", "T'")
    for bound, measured in by_lambda(outcomes).items():
        lines.add_row(str(bound), f"{measured.mean:g}")
    return lines


def growth(outcomes: findings.Outcomes) -> list[claims.Interval]:
    return [claims.difference(b, a) for a, b in itertools.pairwise(by_lambda(outcomes).values())]


TABLES = [findings.decisions, timesteps, findings.accuracies]
CLAIMS = [
    claims.Claim("eb fires earlier at higher sparsity", claims.shorter_the_sparser),
    claims.Claim("T' does not grow with lambda (by one at most)", growth, low=-10.0, high=1.0),
    claims.Claim(
        "T' is 3 at lambda = 0.6 (within one)",
        lambda outcomes: claims.difference(by_lambda(outcomes)[0.6], 3.0),
        low=-1.0,
        high=1.0,
    ),
    claims.Claim(
        "tickets found with T' = 3 are not a point worse than those with T at the highest sparsity",
        claims.better("T'=3", "T"),
        low=-claims.MARGIN,
    ),
    claims.less("tickets found with T' = 2 lose at the highest sparsity", claims.better("T'=2", "T")),
]
FIGURES = [figures.epochs, figures.over(by_lambda, "lambda", "T'"), figures.over_timesteps]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
