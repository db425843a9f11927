"""Neurons, batch norms and losses of others in the paper's search: dense networks and tickets by IMP.

paper     not in it: PLIF (Fang et al. 2021), tdBN (Zheng et al. 2021), BNTT (Kim and Panda 2020), TET (Deng
          et al. 2022)
command   python experiments/variants.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 56 for imp and each of its eight variants (4,220 epochs of
          47.4 s, VGG16)
expected  all but sum-ce and mse-rate learn as well at the paper's learning rate; gradients of these two have
          another size
"""

import sys
from typing import Any

import claims
import figures
import findings
import grid

VARIANTS: dict[str, dict[str, Any]] = {
    "if": {"neuron": "if"},
    "plif": {"neuron": "plif", "neuron_tau": 2.0},
    "soft reset": {"v_reset": "none"},
    "tdbn": {"norm": "tdbn"},
    "bntt": {"norm": "bntt"},
    "sum-ce": {"loss": "sum-ce"},
    "tet": {"loss": "tet"},
    "mse-rate": {"loss": "mse-rate"},
}


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    return {"imp": s.imp(), **{name: s.imp(**option) for name, option in VARIANTS.items()}}


TABLES = [findings.accuracies]
CLAIMS = [
    claims.Claim(
        f"{name} is not a point worse than the paper's at the lowest sparsity",
        claims.better(name, "imp", 0),
        low=-claims.MARGIN,
    )
    for name in VARIANTS
]
FIGURES = [figures.accuracies]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
