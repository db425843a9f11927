"""All searches of the paper and its baselines: accuracy against the cost of the search.

paper     Fig. 1; its numbers are those of Table 1 (see table1_early_time), Fig. 8 (transfer), Fig. 9 (SNIP,
          random)
command   python experiments/fig1_methods.py --data-dir ~/tensorflow_datasets
          python experiments/fig1_methods.py --scale digits                    # five seeds
          python experiments/fig1_methods.py --scale small --data-dir ../shared/tfds   # CIFAR-10
hours     0.5 on two CPU cores for digits; paper: see table1_early_time
expected  the tables in docs/results.md, for digits and small
"""

import itertools
import sys
from collections.abc import Callable

import claims
import figures
import findings
import grid
import table1_early_time


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    table1 = dict(table1_early_time.cells(scale, **flags))
    table1.pop("imp")
    return {
        "imp": s.imp(controls=grid.CONTROLS),
        "imp+et": table1.pop("imp+et"),
        "transfer": s.transfer(rewind_epoch=0),
        **table1,
        **{f"{name}_{p}": s.one_shot(p, name) for p in s.sparsities for name in ("snip", "random")},
    }


def falling(*methods: str) -> Callable[[findings.Outcomes], list[claims.Interval]]:
    """Accuracy of each method at the highest sparsity, less that of the next."""
    return lambda outcomes: [
        claims.difference(outcomes.accuracy(a), outcomes.accuracy(b)) for a, b in itertools.pairwise(methods)
    ]


def cheaper(*methods: str) -> Callable[[findings.Outcomes], list[claims.Interval]]:
    """Relative cost of each method's search, next to that of the one before."""
    return lambda outcomes: [
        claims.relative(outcomes.flops(b), outcomes.flops(a)) for a, b in itertools.pairwise(methods)
    ]


def above_control(kind: str) -> Callable[[findings.Outcomes], claims.Interval]:
    return lambda outcomes: claims.difference(outcomes.accuracy("imp"), outcomes.control(kind))


TABLES = [findings.decisions, findings.costs, claims.against_controls]
CLAIMS = [
    claims.BEATS_RANDOM,
    *(
        claims.Claim(f"imp's sparsest ticket beats its control {kind}", above_control(kind))
        for kind in grid.CONTROLS[:2]
    ),
    claims.Claim(
        "imp's sparsest ticket is not a point worse than a dense network trained for as long",
        above_control("dense"),
        low=-claims.MARGIN,
    ),
    claims.Claim(
        "at the highest sparsity accuracy falls from imp to eb to random", falling("imp", "eb", "random")
    ),
    claims.less(
        "the search costs less from imp to imp+et to eb to random", cheaper("imp", "imp+et", "eb", "random")
    ),
]
FIGURES = [figures.costs]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
