"""Early-Bird: the epoch in which it fires. Early-Time: T' by lambda, and accuracy by T'.

paper     Fig. 7: EB fires earlier at higher sparsity (a); T' against lambda in steps of 0.1 (b), usually
          T' = 3 with lambda = 0.6; accuracy against T': T' >= 3 is as good as T = 5
command   python experiments/fig7_eb_et.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 2.9 for the searches of EB (Table 1), 15.8 for their tickets,
          0.13 for the probe; and fig3_search_timesteps, whose cells these are too
expected  EB's hours of Table 1 fall from 1.96 to .09 with the sparsity
"""

import sys

import fig3_search_timesteps
import fig4_kl_over_epochs
import findings
import grid


def cells(scale: str, **where: str | None) -> grid.Cells:
    s = grid.scale(scale, **where)
    return (
        {f"eb_{p}": s.eb(p) for p in s.sparsities}
        | dict(fig4_kl_over_epochs.cells(scale, **where))
        | dict(fig3_search_timesteps.cells(scale, **where))
    )


def by_lambda(found: findings.Found) -> dict[float, float]:
    """T', mean over seeds, after the two epochs that Early-Time waits."""
    seeds = [record.over_epochs[1].by_lambda for record in fig4_kl_over_epochs.probes(found)]
    return {bound: findings.mean(seed[bound] for seed in seeds) for bound in seeds[0]}


def timesteps(found: findings.Found) -> findings.Table:
    lines = findings.table("T' by lambda, mean over seeds", "lambda", "T'")
    for bound, chosen in by_lambda(found).items():
        lines.add_row(str(bound), f"{chosen:g}")
    return lines


TABLES = [findings.decisions, timesteps, findings.accuracies]
CLAIMS = [
    findings.Claim(
        "eb fires earlier at higher sparsity",
        lambda found: [findings.mean_of(row.search_epochs) for row in found.tickets("eb")],
    ),
    findings.Claim("T' does not grow with lambda", lambda found: [*by_lambda(found).values()], ">="),
    findings.Claim("T' is 3 at lambda = 0.6", lambda found: [by_lambda(found)[0.6], 3], "≈"),
    *fig3_search_timesteps.CLAIMS,
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
