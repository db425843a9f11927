"""Transferred tickets: found by IMP in the ReLU twin, trained as a spiking network.

paper     Fig. 8: they lose less than 2 points at 98 % on SVHN and Fashion-MNIST and collapse on CIFAR
command   python experiments/fig8_transfer.py --data-dir ~/tensorflow_datasets
          (and --dataset svhn_cropped, fashion_mnist, cifar100)
hours     per seed, on the paper's RTX 2080 Ti: 56 for IMP (CIFAR-10, VGG16), about a fifth of it for the
          search in the twin, 3.7 for each of its tickets (280 epochs of 47.4 s)
expected  on CIFAR transfer far below imp at 98 %
"""

import sys

import findings
import grid


def cells(scale: str, **where: str | None) -> grid.Cells:
    s = grid.scale(scale, **where)
    return {"imp": s.imp(), "transfer": s.transfer()}


TABLES = [findings.costs]
CLAIMS = [
    findings.Claim(
        "transfer loses against imp at the highest sparsity",
        lambda found: [found.accuracy("imp"), found.accuracy("transfer")],
    ),
    findings.Claim(
        "transfer loses less than 2 points at the highest sparsity (SVHN, Fashion-MNIST)",
        lambda found: [found.accuracy("transfer") + 0.02, found.accuracy("imp")],
    ),
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
