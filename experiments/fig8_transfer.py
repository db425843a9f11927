"""Transferred tickets: found by IMP in the ReLU twin, trained as a spiking network.

paper     Fig. 8: with the initial weights they lose less than 2 points at 98 % on SVHN and Fashion-MNIST and
          collapse on CIFAR
command   python experiments/fig8_transfer.py --data-dir ~/tensorflow_datasets
          (and --dataset svhn_cropped, fashion_mnist, cifar100)
hours     per seed, on the paper's RTX 2080 Ti: 56 for IMP (CIFAR-10, VGG16); twice about a fifth of it for
          the search in the twin, and 3.95 for each of its tickets (300 epochs of 47.4 s)
expected  on CIFAR transfer far below imp at 98 %

"transfer" rewinds to the initial weights (paper, TT), "transfer late" to the rewind epoch of imp.
"""

import sys

import claims
import figures
import findings
import grid


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    return {"imp": s.imp(), "transfer": s.transfer(rewind_epoch=0), "transfer late": s.transfer()}


TABLES = [findings.costs]
CLAIMS = [
    claims.Claim(
        "transfer loses less than 2 points at the highest sparsity",
        claims.better("transfer", "imp"),
        low=-0.02,
        datasets=("svhn_cropped", "fashion_mnist"),
    ),
    claims.Claim(
        "transfer loses more than 2 points at the highest sparsity",
        claims.better("imp", "transfer"),
        low=0.02,
        datasets=("cifar10", "cifar100"),
    ),
    claims.less("transfer loses against imp at the highest sparsity", claims.better("transfer", "imp")),
    claims.Claim(
        "transfer is better with the weights of the rewind epoch than with the initial ones",
        claims.better("transfer late", "transfer"),
    ),
]
FIGURES = [figures.accuracies]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
