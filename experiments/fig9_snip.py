"""SNIP and random pruning at initialisation, of the spiking network and of its ReLU twin.

paper     Fig. 9: SNIP falls below random above 80 % on the SNN
command   python experiments/fig9_snip.py --data-dir ~/tensorflow_datasets
hours     per seed and sparsity, on the paper's RTX 2080 Ti: 2 x 3.95 for the SNN (300 epochs of 47.4 s,
          VGG16), about a fifth of it for the twin
expected  random above SNIP at 90, 96 and 98 % on the SNN
"""

import sys

import claims
import figures
import findings
import grid


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    twin = {"activation": "relu", "num_timesteps": 1, "learning_rate": s.twin * s.resolved.learning_rate}
    return {
        f"{criterion}{network}_{p}": s.one_shot(p, criterion, **changes)
        for criterion in ("snip", "random")
        for network, changes in (("", {}), (" in the twin", twin))
        for p in s.sparsities
    }


TABLES = [findings.accuracies]
CLAIMS = [
    claims.less(
        "snip falls below random at the highest sparsity on the spiking network",
        claims.better("snip", "random"),
    ),
    claims.Claim(
        "snip beats random at the highest sparsity on the ReLU twin",
        claims.better("snip in the twin", "random in the twin"),
    ),
]
FIGURES = [figures.accuracies]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
