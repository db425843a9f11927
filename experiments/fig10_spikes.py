"""Spikes, operations and energy of IMP's tickets over sparsity.

    paper     Fig. 10: the number of spikes per image stays about constant over sparsity
    command   python experiments/fig10_spikes.py --data-dir ~/tensorflow_datasets
    hours     56 per seed on the paper's RTX 2080 Ti: the cell of table1_early_time, nothing else
    expected  spikes about constant, synaptic operations falling with the weights that are left

Energy is computed from the operations at 45 nm: 4.6 pJ a multiply-accumulate, 0.9 pJ an addition.
"""

import sys
from collections.abc import Callable

import findings
import grid

from snnlth_jax.analysis.energy import energy


def cells(scale: str, **where: str | None) -> grid.Cells:
    return {"imp": grid.scale(scale, **where).imp()}


def per_image(found: findings.Found) -> list[dict[str, float]]:
    """Spikes, synaptic operations and multiply-accumulates of each round, mean over seeds."""
    rounds = []
    for rows in zip(*(result.rounds for result in found.seeds("imp")), strict=True):
        if not all(row.layers for row in rows):
            raise findings.Missing("imp predates the recording of spikes: no 'layers' in its result.json")
        layers = [layer for row in rows for layer in row.layers]
        sums = {"spikes": sum(layer.spikes_per_image or 0.0 for layer in layers), **energy(layers)._asdict()}
        rounds.append({"sparsity": rows[0].sparsity} | {k: v / len(rows) for k, v in sums.items()})
    return rounds


def operations(found: findings.Found) -> findings.Table:
    lines = findings.table("per image", "sparsity", "spikes", "synaptic operations", "MACs", "nJ")
    for means in per_image(found):
        counts = (f"{means[name]:,.0f}" for name in ("spikes", "synops", "macs"))
        lines.add_row(f"{100 * means['sparsity']:.2f} %", *counts, f"{means['picojoules'] / 1000:,.1f}")
    return lines


def dense_and_sparsest(name: str) -> Callable[[findings.Found], list[float]]:
    return lambda found: [per_image(found)[0][name], per_image(found)[-1][name]]


TABLES = [operations]
CLAIMS = [
    findings.Claim(
        "spikes per image are about constant, dense and at the highest sparsity (within a fifth)",
        dense_and_sparsest("spikes"),
        "≈",
        within=0.2,
    ),
    findings.Claim("synaptic operations fall with the weights", dense_and_sparsest("synops")),
]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS))
