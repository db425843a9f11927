"""All searches of the paper and its baselines: accuracy against the cost of the search.

paper     Fig. 1; its numbers are those of Table 1 (see table1_early_time), Fig. 8 (transfer), Fig. 9 (SNIP,
          random)
command   python experiments/fig1_methods.py --data-dir ~/tensorflow_datasets
          python experiments/fig1_methods.py --scale digits                    # three seeds
          python experiments/fig1_methods.py --scale small --data-dir ../shared/tfds   # CIFAR-10
hours     0.5 on two CPU cores for digits; paper: see table1_early_time
expected  the tables in docs/results.md, for digits and small
"""

import sys

import findings
import grid
import table1_early_time


def cells(scale: str, **where: str | None) -> grid.Cells:
    s = grid.scale(scale, **where)
    table1 = dict(table1_early_time.cells(scale, **where))
    return {
        **{name: table1.pop(name) for name in ("imp", "imp+et")},
        "transfer": s.transfer(),
        **table1,
        **{f"{name}_{p}": s.one_shot(p, name) for p in s.sparsities for name in ("snip", "random")},
    }


TABLES = [findings.decisions, findings.costs]
CLAIMS = [
    findings.BEATS_RANDOM,
    findings.Claim(
        "at the highest sparsity accuracy falls from imp to eb to random",
        lambda found: [found.accuracy(name) for name in ("imp", "eb", "random")],
        ">=",
    ),
    findings.Claim(
        "the search costs less from imp to imp+et to eb to random",
        lambda found: [found.flops(name) for name in ("imp", "imp+et", "eb", "random")],
    ),
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
