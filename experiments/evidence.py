"""All that docs/results.md says of a dataset: searches, baselines, controls, and the paper's claims.

paper     Table 1, Fig. 1, 5, 8 and 9, for all of a dataset's images
command   python experiments/evidence.py --scale fmnist --data-dir /usr/share/datasets/fashion-mnist
          python experiments/evidence.py --scale cifar --only imp,imp+et,eb --data-dir ~/tensorflow_datasets
          cd experiments/results; python ../evidence.py --scale fmnist-vgg11 --show --workdir fmnist-vgg11
hours     per seed, on the paper's RTX 2080 Ti: those of fig1_methods, and 15 for the late transfer
expected  the claims below, written down before the first run at the scales fmnist and cifar

The cells are those of fig1_methods and the late transfer of fig8_transfer. A margin is a point (a hundredth)
where the claim names no other.
"""

import sys
from collections.abc import Callable

import claims
import fig1_methods
import fig5_accuracy_vs_sparsity
import fig8_transfer
import figures
import findings
import grid
import table1_early_time


def cells(scale: str, **flags: str | None) -> grid.Cells:
    late = fig8_transfer.cells(scale, **flags)["transfer late"]
    return {**fig1_methods.cells(scale, **flags), "transfer late": late}


def above_control(kind: str) -> Callable[[findings.Outcomes], list[claims.Interval]]:
    """Accuracy of each ticket of imp, less that of its control."""
    return lambda outcomes: [
        claims.difference(outcomes.accuracy("imp", i), outcomes.control(kind, index=i))
        for i in range(len(outcomes.tickets("imp")))
    ]


def from_dense(method: str, index: int) -> Callable[[findings.Outcomes], claims.Interval]:
    return lambda outcomes: claims.difference(outcomes.accuracy(method, index), outcomes.dense())


OF_FASHION, OF_CIFAR = ("fashion_mnist",), ("cifar10",)
OWN = [
    *(
        claims.Claim(
            f"imp is not a point worse than its control {kind} at any sparsity",
            above_control(kind),
            low=-claims.MARGIN,
        )
        for kind in grid.CONTROLS[:2]
    ),
    claims.Claim("imp loses less than 2 points at the highest sparsity", from_dense("imp", -1), low=-0.02),
    claims.Claim(
        "eb is not a point worse than dense at the second sparsity",
        from_dense("eb", 1),
        -0.01,
        datasets=OF_FASHION,
    ),
    claims.less("eb is worse than dense at the highest sparsity", from_dense("eb", -1)),
    claims.Claim(
        "eb+et is not a point worse than eb at the second sparsity",
        claims.better("eb+et", "eb", 1),
        low=-0.01,
    ),
    claims.less("snip falls below random at the highest sparsity", claims.better("snip", "random")),
]
TABLES = [claims.winning_tickets, findings.decisions, findings.costs, claims.against_controls]
_SCRIPTS = (fig5_accuracy_vs_sparsity, fig1_methods, table1_early_time, fig8_transfer)
CLAIMS = list({claim.text: claim for claim in (*(c for s in _SCRIPTS for c in s.CLAIMS), *OWN)}.values())
FIGURES = [figures.accuracies, figures.costs]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
