"""Running statistics of batch norm at a rewind: rewound with the weights, kept, or reset.

paper     not in it; the authors' code keeps them
command   python experiments/bn_on_rewind.py --data-dir ~/tensorflow_datasets
hours     56 per seed and choice on the paper's RTX 2080 Ti (4220 epochs of 47.4 s, VGG16)
expected  no difference: training normalises by its batches, and only a part 0.9^(T steps) of the initial
          statistics remains
"""

import itertools
import sys

import claims
import figures
import findings
import grid

CHOICES = ("rewind", "keep", "reset")


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    return {choice: s.imp(bn_on_rewind=choice) for choice in CHOICES}


def differences(outcomes: findings.Outcomes) -> list[claims.Interval]:
    return [claims.better(a, b)(outcomes) for a, b in itertools.combinations(CHOICES, 2)]


TABLES = [findings.accuracies]
CLAIMS = [
    claims.Claim(
        "the choice makes no difference at the highest sparsity (within half a point)",
        differences,
        low=-0.005,
        high=0.005,
    )
]
FIGURES = [figures.accuracies]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
