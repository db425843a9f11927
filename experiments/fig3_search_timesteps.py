"""Timesteps before pruning: train at T_pre, prune once by magnitude, train the mask at T from the start.

paper     Fig. 3: T_pre >= 3 gives masks as good as T = 5, which are compared with the unpruned network;
          T_pre = 2 loses
command   python experiments/fig3_search_timesteps.py --data-dir ~/tensorflow_datasets
hours     per seed, T_pre and sparsity, on the paper's RTX 2080 Ti: T_pre/5 of 3.95 before pruning, 3.95
          after it; and half a gigabyte for the masks of 300 epochs
expected  T_pre = 3 within a point of T = 5 at every sparsity; T_pre = 2 below at the highest

Each cell is an Early-Bird search that never stops (tau = 0), at the learning rate of the ticket: its mask is
that of the trained network, and the ticket has the initial weights.
"""

import contextlib
import sys

import claims
import figures
import findings
import grid

from snnlth_jax import configs


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    full = s.resolved.num_timesteps

    def once(sparsity: float, before: int) -> configs.EbConfig:
        fewer = {"early_time": True, "early_time_timesteps": before} if before < full else {}
        return s.eb(sparsity, tau=0.0, search_learning_rate_factor=1.0, **fewer)

    names = {t: f"T'={t}" if t < full else "T" for t in range(2, full + 1)}
    return {f"{name}_{p}": once(p, t) for t, name in names.items() for p in s.sparsities}


def against_unpruned(outcomes: findings.Outcomes) -> findings.Table:
    columns = ("", "sparsity", "accuracy", "points from the unpruned network (95 %)")
    lines = findings.table("pruned once, trained at T from the initial weights", *columns)
    for method in outcomes.methods():
        for i, row in enumerate(outcomes.tickets(method)):
            own = outcomes.accuracy(method, i)
            points, _ = claims.decided(claims.difference(own, unpruned(outcomes)))
            lines.add_row(method, f"{100 * row.sparsity:.2f} %", f"{own.mean:.4f}", points)
    return lines


def unpruned(outcomes: findings.Outcomes) -> findings.Measured:
    """Accuracy of the dense network that was trained at T."""
    return outcomes.dense(next((name for name in outcomes if name.startswith("T_0")), "T"))


def beside_unpruned(outcomes: findings.Outcomes) -> figures.Drawing:
    with contextlib.suppress(findings.Missing):
        return figures.accuracies(outcomes, references={"unpruned": unpruned(outcomes).mean})
    return figures.accuracies(outcomes)


TABLES = [against_unpruned]
CLAIMS = [
    claims.Claim(
        "masks found with T_pre = 3 are not a point worse than those with T at any sparsity",
        lambda outcomes: [claims.better("T'=3", "T", i)(outcomes) for i in range(len(outcomes.tickets("T")))],
        low=-claims.MARGIN,
    ),
    claims.less("masks found with T_pre = 2 lose at the highest sparsity", claims.better("T'=2", "T")),
]
FIGURES = [beside_unpruned]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
