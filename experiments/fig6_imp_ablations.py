"""Ablations of IMP: the rewind epoch, one threshold for all layers or one for each, densities of the layers.

paper     Fig. 6: the rewind epoch hardly matters below 96 %; at 98 % rewinding to epoch 260 (of 300) loses
          1.5 points (a); global beats layer-wise pruning (b); deep layers end sparser (c)
command   python experiments/fig6_imp_ablations.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 56 for epoch 20 and layer-wise, 59 for epoch 0, 33 for
          epoch 140, 11 for epoch 260 (epochs of 47.4 s)
expected  at 98 % epoch 260 is 1.5 points below epoch 20
"""

import itertools
import sys

import claims
import figures
import findings
import grid

from snnlth_jax.run.results import Result


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    epochs = s.resolved.epochs
    others = {"epoch 0": 0, "half": round(140 / 300 * epochs), "late": round(260 / 300 * epochs)}
    return (
        {"imp": s.imp()}
        | {name: s.imp(rewind_epoch=epoch) for name, epoch in others.items()}
        | {"layer-wise": s.imp(scope="layer")}
    )


def by_layer(result: Result) -> dict[str, tuple[int, int]]:
    """Weights that the sparsest ticket keeps in each layer, and all, in the order of the layers."""
    return {layer.name: (layer.kept, layer.weights) for layer in result.rounds[-1].layers}


def layers(outcomes: findings.Outcomes) -> findings.Table:
    lines = findings.table("the sparsest ticket of imp, seed 0", "layer", "kept", "of", "sparsity")
    for name, (kept, total) in by_layer(outcomes.results("imp")[0]).items():
        lines.add_row(name, f"{kept:,}", f"{total:,}", f"{100 * (1 - kept / total):.2f} %")
    return lines


def deeper(result: Result) -> float:
    """Sparsity of the deeper half of the convolutions, less that of the other."""
    counts = [counts for name, counts in by_layer(result).items() if name.endswith("conv/kernel")]
    halves = counts[len(counts) // 2 :], counts[: len(counts) // 2]
    deep, shallow = (1 - sum(k for k, _ in half) / sum(n for _, n in half) for half in halves)
    return deep - shallow


def between_epochs(outcomes: findings.Outcomes) -> list[claims.Interval]:
    """Differences of the rewind epochs from each other, below 96 %."""
    k = outcomes.below("imp", 0.96)
    accuracies = [outcomes.accuracy(name, k) for name in ("imp", "epoch 0", "half", "late")]
    return [claims.difference(a, b) for a, b in itertools.combinations(accuracies, 2)]


TABLES = [findings.accuracies, layers]
CLAIMS = [
    claims.Claim("the rewind epoch hardly matters below 96 % (within a point)", between_epochs, -0.01, 0.01),
    claims.less("rewinding late loses at the highest sparsity", claims.better("late", "imp")),
    claims.Claim(
        "global beats layer-wise pruning at the highest sparsity", claims.better("imp", "layer-wise")
    ),
    claims.Claim(
        "deep layers end sparser (halves of the convolutions)",
        lambda outcomes: claims.difference(outcomes.numbers("imp", deeper), 0.0),
    ),
]
FIGURES = [figures.of("imp", "epoch 0", "half", "late"), figures.of("imp", "layer-wise"), figures.layers]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
