"""Early-Time's divergences over the first epochs of a dense training run.

paper     Fig. 4: D_t = KL(P_t || P_T) is stable over epochs
command   python experiments/fig4_kl_over_epochs.py --data-dir ~/tensorflow_datasets
hours     0.13 per seed on the paper's RTX 2080 Ti: 10 epochs of 47.4 s (its Table 1), VGG16
expected  D_t / D_2 falls with t, and hardly changes from epoch 2 on
"""

import itertools
import sys

import claims
import figures
import findings
import grid

from snnlth_jax.run.results import EarlyTimeRecord, Result, Spread


def cells(scale: str, **flags: str | None) -> grid.Cells:
    return {"probe": grid.scale(scale, **flags).probe()}


def probes(outcomes: findings.Outcomes) -> list[EarlyTimeRecord]:
    """Measurements of each seed."""
    return [result.early_time for result in outcomes.results("probe") if result.early_time]


def curves(outcomes: findings.Outcomes) -> findings.Table:
    seeds = [record.over_epochs for record in probes(outcomes)]
    timesteps = list(seeds[0][0].normalised)
    lines = findings.table("D_t / D_2, mean over seeds", "epoch", *(f"D_{t}" for t in timesteps))
    for epochs in zip(*seeds, strict=True):
        means = (findings.mean(epoch.normalised[t] for epoch in epochs) for t in timesteps)
        lines.add_row(str(epochs[0].epoch), *(f"{d:.3f}" for d in means))
    return lines


def divergences(outcomes: findings.Outcomes) -> figures.Drawing:
    curves: dict[str, list[tuple[float, Spread]]] = {}
    for epochs in zip(*(record.over_epochs for record in probes(outcomes)), strict=True):
        for t in epochs[0].normalised:
            measured = Spread.of(epoch.normalised[t] for epoch in epochs)
            curves.setdefault(f"D_{t}", []).append((epochs[0].epoch, measured))
    return figures.lines(curves, figures.numbers("epoch"), "D_t / D_2", zero=True)


def divergence(outcomes: findings.Outcomes, t: int, index: int) -> findings.Measured:
    """D_t / D_2 of each seed after epoch index + 1."""

    def of(result: Result) -> float:
        curve = result.early_time.over_epochs[index].normalised if result.early_time else {}
        if t not in curve:
            raise findings.Missing(f"there is no D_{t}")
        return float(curve[t])

    return outcomes.numbers("probe", of)


def falling(outcomes: findings.Outcomes) -> list[claims.Interval]:
    timesteps = list(probes(outcomes)[0].over_epochs[-1].normalised)
    last = [divergence(outcomes, t, -1) for t in timesteps]
    return [claims.difference(more, less) for more, less in itertools.pairwise(last)]


TABLES = [curves]
CLAIMS = [
    claims.Claim("D_t falls with t, after the last epoch", falling),
    claims.Claim(
        "D_3 is stable from epoch 2 to the last (within a quarter)",
        lambda outcomes: claims.relative(divergence(outcomes, 3, -1), divergence(outcomes, 3, 1)),
        low=-0.25,
        high=0.25,
    ),
]
FIGURES = [divergences]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
