"""Differences of the authors' code, each switched on alone beside this package's default.

paper     not in it: read from the released code (docs/method.md, last section)
command   python experiments/discrepancies.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 56 for imp and each variant of it (4,220 epochs of 47.4 s), 42
          for imp+et and each of its, up to 7.9 for each cell of eb
expected  no difference of a point; the schedule of eb's retraining and the loss at T' are the most likely
"""

import sys
from collections.abc import Callable

import claims
import figures
import findings
import grid

# of each variant: the cell that it differs from, and the options that it switches on
VARIANTS = {
    "batch norm kept": ("imp", {"bn_on_rewind": "keep"}),
    "biases kept": ("imp", {"biases_on_rewind": "keep"}),
    "schedule resumed": ("imp", {"schedule_on_rewind": "resume"}),  # Frankle's late rewinding, not theirs
    "loss over T": ("imp+et", {"early_time_loss": "over-t"}),
    "authors' T'": (
        "imp+et",
        {
            "early_time_direction": "reverse",
            "early_time_reduction": "mean",
            "early_time_normalisation": "max",
        },
    ),
    "ET restarts": ("imp+et", {"early_time_start": "restart"}),  # neither the paper's nor theirs
    "cosine twice": ("eb", {"ticket_schedule": "cosine-twice"}),
}


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    made = {"imp": s.imp(), "imp+et": s.imp(early_time=True)} | {f"eb_{p}": s.eb(p) for p in s.sparsities}
    for name, (default, options) in VARIANTS.items():
        if default == "eb":
            made |= {f"{name}_{p}": s.eb(p, **options) for p in s.sparsities}
        else:
            made[name] = s.imp(early_time=default == "imp+et", **options)
    return made


def differences(outcomes: findings.Outcomes) -> findings.Table:
    columns = ("", "beside", "sparsity", "accuracy", "points from it (95 %)", "search's FLOPs of it")
    lines = findings.table("one difference at a time", *columns)
    for name, (default, _) in VARIANTS.items():
        for i, row in enumerate(outcomes.tickets(name)):
            own = outcomes.accuracy(name, i)
            points, _ = claims.decided(claims.difference(own, outcomes.accuracy(default, i)))
            share = claims.ratio(outcomes.flops(name, i), outcomes.flops(default, i)).mean
            sparsity = f"{100 * row.sparsity:.2f} %"
            lines.add_row(name, default, sparsity, f"{own.mean:.4f}", points, f"{share:.3f}")
    return lines


def at_all_sparsities(name: str) -> Callable[[findings.Outcomes], list[claims.Interval]]:
    default = VARIANTS[name][0]
    return lambda outcomes: [
        claims.better(name, default, i)(outcomes) for i in range(len(outcomes.tickets(default)))
    ]


TABLES = [differences, findings.decisions]
CLAIMS = [
    claims.Claim(
        f"{name}: no difference at any sparsity (within a point)", at_all_sparsities(name), -0.01, 0.01
    )
    for name in VARIANTS
]
DEFAULTS = {name: default for name, (default, _) in VARIANTS.items()}
FIGURES = [lambda outcomes: figures.changes(outcomes, DEFAULTS)]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
