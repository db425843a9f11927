"""Early-Bird's distance of masks: the paper's, which fires for any masks at high sparsity, and the overlap.

paper     EB with the Hamming distance, tau = 0.02: 91.74 91.05 89.55 84.64 % at 68.30, 89.91, 95.69 and
          98.13 % sparsity (Table 1, CIFAR-10, VGG16)
command   python experiments/eb_criteria.py --data-dir ~/tensorflow_datasets
hours     per seed and sparsity, on the paper's RTX 2080 Ti: up to 3.95 for the search and 3.95 for the ticket
          (300 epochs of 47.4 s each)
expected  Hamming fires ever earlier; at 99.5 % two masks are never further apart than 2 (1 - 0.995) = 0.01,
          and it fires as soon as the queue of 5 is full, after 4 epochs. Overlap wants 98 % of the kept
          weights shared
"""

import sys

import claims
import figures
import findings
import grid

BLIND = 0.995


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    return {
        f"{criterion}_{p}": s.eb(p, criterion=criterion)
        for criterion in ("hamming", "overlap")
        for p in (*s.sparsities, BLIND)
    }


def distances(outcomes: findings.Outcomes) -> findings.Table:
    lines = findings.table(
        "where the search stopped, mean over seeds", "", "epoch", "fired", "Hamming", "1 - overlap"
    )
    for name in outcomes:
        birds = [record for record in outcomes[name].early_bird if record]
        lines.add_row(
            name,
            f"{findings.mean(bird.epoch for bird in birds):g}",
            f"{sum(bird.fired for bird in birds)} of {len(birds)}",
            f"{findings.mean(bird.largest_hamming for bird in birds):.4f}",
            f"{findings.mean(bird.largest_overlap for bird in birds):.4f}",
        )
    return lines


def blind(outcomes: findings.Outcomes, criterion: str, of: str) -> findings.Measured:
    """A field of what decided at 99.5 %, of each seed."""
    counts = float(of == "epoch")
    return outcomes.numbers(
        f"{criterion}_{BLIND}", lambda result: getattr(result.early_bird, of, None), counts
    )


TABLES = [findings.accuracies, distances]
CLAIMS = [
    claims.Claim(
        "at 99.5 % Hamming fires after 4 epochs, whatever the masks do (within one)",
        lambda outcomes: claims.difference(blind(outcomes, "hamming", "epoch"), 4.0),
        low=-1.5,
        high=1.5,
    ),
    claims.Claim(
        "at 99.5 % the masks for which Hamming fires differ in more than 2 % of what they keep",
        lambda outcomes: claims.difference(blind(outcomes, "hamming", "largest_overlap"), 0.02),
    ),
    claims.Claim(
        "at 99.5 % overlap trains longer",
        lambda outcomes: claims.difference(
            blind(outcomes, "overlap", "epoch"), blind(outcomes, "hamming", "epoch")
        ),
    ),
]
FIGURES = [figures.epochs]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
