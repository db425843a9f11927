"""Early-Bird's distance of masks: the paper's, which goes blind at high sparsity, and one that does not.

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

import findings
import grid

BLIND = 0.995


def cells(scale: str, **where: str | None) -> grid.Cells:
    s = grid.scale(scale, **where)
    return {
        f"{criterion}_{p}": s.eb(p, criterion=criterion)
        for criterion in ("hamming", "overlap")
        for p in (*s.sparsities, BLIND)
    }


def distances(found: findings.Found) -> findings.Table:
    lines = findings.table(
        "where the search stopped, mean over seeds", "", "epoch", "fired", "Hamming", "1 - overlap"
    )
    for name, cell in found.items():
        birds = cell["early_bird"]
        values = [
            f"{findings.mean(bird[key] for bird in birds):.4f}"
            for key in ("largest_hamming", "largest_overlap")
        ]
        fired = f"{sum(bird['fired'] for bird in birds)} of {len(birds)}"
        lines.add_row(name, f"{findings.mean(bird['epoch'] for bird in birds):g}", fired, *values)
    return lines


def bird(found: findings.Found, criterion: str, key: str) -> float:
    return findings.mean(each[key] for each in found[f"{criterion}_{BLIND}"]["early_bird"])


TABLES = [findings.accuracies, distances]
CLAIMS = [
    findings.Claim(
        "at 99.5 % Hamming fires after 4 epochs, whatever the masks do",
        lambda found: [bird(found, "hamming", "epoch"), 4],
        "≈",
    ),
    findings.Claim(
        "at 99.5 % the masks for which Hamming fires differ in more than 2 % of what they keep",
        lambda found: [bird(found, "hamming", "largest_overlap"), 0.02],
    ),
    findings.Claim(
        "at 99.5 % overlap trains longer",
        lambda found: [bird(found, "overlap", "epoch"), bird(found, "hamming", "epoch")],
    ),
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
