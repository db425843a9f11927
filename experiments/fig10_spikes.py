"""Spikes, operations and energy of IMP's tickets over sparsity.

    paper     Fig. 10: the number of spikes per image stays about constant over sparsity
    command   python experiments/fig10_spikes.py --data-dir ~/tensorflow_datasets
    hours     56 per seed on the paper's RTX 2080 Ti: the cell of table1_early_time, nothing else
    expected  spikes about constant, synaptic operations falling with the weights that are left

Energy is computed from the operations at 45 nm: 4.6 pJ a multiply-accumulate, 0.9 pJ an addition.
"""

import sys
from collections.abc import Callable

import claims
import figures
import findings
import grid

from snnlth_jax.analysis.energy import energy
from snnlth_jax.run.results import Result, Spread
from snnlth_jax.run.tables import si


def cells(scale: str, **flags: str | None) -> grid.Cells:
    return {"imp": grid.scale(scale, **flags).imp()}


def per_image(result: Result) -> list[dict[str, float]]:
    """Spikes, synaptic operations and multiply-accumulates of each round."""
    if not all(row.layers for row in result.rounds):
        raise findings.Missing("imp predates the recording of spikes: no 'layers' in its result.json")
    return [
        {"spikes": sum(layer.spikes_per_image or 0.0 for layer in row.layers), **energy(row.layers)._asdict()}
        for row in result.rounds
    ]


def operations(outcomes: findings.Outcomes) -> findings.Table:
    lines = findings.table("per image, mean over seeds", "sparsity", "spikes", "SynOps", "MACs", "nJ")
    seeds = [per_image(result) for result in outcomes.results("imp")]
    for row, counts in zip(outcomes["imp"].rounds, zip(*seeds, strict=True), strict=True):
        means = {name: findings.mean(one[name] for one in counts) for name in counts[0]}
        numbers = (f"{means[name]:,.0f}" for name in ("spikes", "synops", "macs"))
        lines.add_row(f"{100 * row.sparsity:.2f} %", *numbers, f"{means['picojoules'] / 1000:,.1f}")
    return lines


def spikes(outcomes: findings.Outcomes) -> figures.Drawing:
    seeds = [per_image(result) for result in outcomes.results("imp")]
    rounds = zip(outcomes["imp"].rounds, zip(*seeds, strict=True), strict=True)
    points = [(row.kept / row.total, Spread.of(one["spikes"] for one in counts)) for row, counts in rounds]
    return figures.lines({"imp": points}, figures.sparsities, "spikes per image", form=si, zero=True)


def change(name: str) -> Callable[[findings.Outcomes], claims.Interval]:
    """Relative difference of the sparsest network from the dense one."""

    def relative(outcomes: findings.Outcomes) -> claims.Interval:
        sparse = outcomes.numbers("imp", lambda result: per_image(result)[-1][name])
        return claims.relative(sparse, outcomes.numbers("imp", lambda result: per_image(result)[0][name]))

    return relative


TABLES = [operations]
CLAIMS = [
    claims.Claim(
        "spikes per image are about constant, dense and at the highest sparsity (within a fifth)",
        change("spikes"),
        low=-0.2,
        high=0.2,
    ),
    claims.less("synaptic operations fall with the weights", change("synops")),
]
FIGURES = [spikes]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
