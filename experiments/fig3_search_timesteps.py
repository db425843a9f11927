"""Timesteps that a search needs: IMP with T' = 2 ... T - 1, tickets trained at T.

paper     Fig. 3: T' >= 3 gives masks as good as T = 5; T' = 2 loses
command   python experiments/fig3_search_timesteps.py --data-dir ~/tensorflow_datasets
hours     per seed and T', on the paper's RTX 2080 Ti: about T'/5 of 52 for the search, 3.95 for each ticket
expected  T' = 3 within a point of T = 5 at every sparsity; T' = 2 below at the highest
"""

import sys

import findings
import grid


def cells(scale: str, **where: str | None) -> grid.Cells:
    s = grid.scale(scale, **where)
    fewer = range(2, s.resolved.num_timesteps)
    return {"T": s.imp()} | {f"T'={t}": s.imp(early_time=True, early_time_timesteps=t) for t in fewer}


TABLES = [findings.accuracies]
CLAIMS = [
    findings.Claim(
        "masks found with T' = 3 are as good as those with T at the highest sparsity (within a point)",
        lambda found: [found.accuracy("T'=3") + 0.01, found.accuracy("T")],
        ">=",
    ),
    findings.Claim(
        "masks found with T' = 2 lose at the highest sparsity",
        lambda found: [found.accuracy("T"), found.accuracy("T'=2")],
    ),
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
