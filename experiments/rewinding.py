"""Starting weights of a round: those of the rewind epoch; or the trained ones, with a new schedule or tuned.

paper     not in it: it rewinds weights, to epoch 20; the other two are those of Renda et al. (2020)
command   python experiments/rewinding.py --data-dir ~/tensorflow_datasets
hours     56 per seed and choice on the paper's RTX 2080 Ti (4220 epochs of 47.4 s, VGG16)
expected  learning-rate as good as weights (Renda et al. 2020), fine-tune below both at the highest sparsity
"""

import sys

import claims
import figures
import findings
import grid

CHOICES = ("weights", "learning-rate", "fine-tune")


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    return {choice: s.imp(rewinding=choice) for choice in CHOICES}


TABLES = [findings.accuracies]
CLAIMS = [
    claims.Claim(
        "learning-rate is not a point worse than weights at the highest sparsity",
        claims.better("learning-rate", "weights"),
        low=-claims.MARGIN,
    ),
    claims.less(
        "fine-tune loses against weights at the highest sparsity", claims.better("fine-tune", "weights")
    ),
]
FIGURES = [figures.accuracies]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
