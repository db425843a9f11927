"""Early-Time's divergences over the first epochs of a dense training run.

paper     Fig. 4: D_t = KL(P_t || P_T) is stable over epochs
command   python experiments/fig4_kl_over_epochs.py --data-dir ~/tensorflow_datasets
hours     0.13 per seed on the paper's RTX 2080 Ti: 10 epochs of 47.4 s (its Table 1), VGG16
expected  D_t / D_2 falls with t, and hardly changes from epoch 2 on
"""

import sys

import findings
import grid

from snnlth_jax.run.results import EarlyTimeRecord


def cells(scale: str, **where: str | None) -> grid.Cells:
    return {"probe": grid.scale(scale, **where).probe()}


def probes(found: findings.Found) -> list[EarlyTimeRecord]:
    """Measurements of each seed."""
    return [record for record in found["probe"].early_time if record]


def curve(found: findings.Found, index: int) -> dict[int, float]:
    """D_t / D_2 by t, mean over seeds, after epoch index + 1."""
    seeds = [record.over_epochs[index].normalised for record in probes(found)]
    return {t: findings.mean(seed[t] for seed in seeds) for t in seeds[0]}


def curves(found: findings.Found) -> findings.Table:
    epochs = [measurement.epoch for measurement in probes(found)[0].over_epochs]
    lines = findings.table("D_t / D_2, mean over seeds", "epoch", *(f"D_{t}" for t in curve(found, 0)))
    for i, epoch in enumerate(epochs):
        lines.add_row(str(epoch), *(f"{d:.3f}" for d in curve(found, i).values()))
    return lines


TABLES = [curves]


def of_three(found: findings.Found, index: int) -> float:
    divergences = curve(found, index)
    if 3 not in divergences:
        raise findings.Missing("with T = 3 there is D_2 alone")
    return divergences[3]


CLAIMS = [
    findings.Claim("D_t falls with t, after the last epoch", lambda found: [*curve(found, -1).values()]),
    findings.Claim(
        "D_3 is stable from epoch 2 to the last (within a quarter)",
        lambda found: [of_three(found, -1), of_three(found, 1)],
        "≈",
        within=0.25,
    ),
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
