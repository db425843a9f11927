"""Methods beside the paper's at its sparsities: RigL, SET, LAMP, balanced masks, a budget of SynOps.

paper     not in it: RigL (Evci et al. 2020), SET (Mocanu et al. 2018), LAMP (Lee et al. 2021), u-Ticket (Yin
          et al. 2023)
command   python experiments/other_methods.py --data-dir ~/tensorflow_datasets
hours     per seed, on the paper's RTX 2080 Ti: 56 for imp and each of its three variants (4,220 epochs of
          47.4 s, VGG16), 3.95 for each sparsity of RigL and SET
expected  RigL above SET, both below imp and far cheaper; balanced tickets at a utilisation of nearly 1
"""

import contextlib
import sys
from typing import Any

import claims
import figures
import findings
import grid

ELEMENTS = 16
VARIANTS: dict[str, dict[str, Any]] = {
    "lamp": {"score": "lamp"},
    "balanced": {"processing_elements": ELEMENTS},
    "synops": {"budget": "synops"},
}


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    variants = {name: s.imp(**option) for name, option in VARIANTS.items()}
    moving = {f"{name}_{p}": s.dynamic(p, name) for name in ("rigl", "set") for p in s.sparsities}
    return {"imp": s.imp(), **variants, **moving}


def operations(outcomes: findings.Outcomes) -> findings.Table:
    """SynOps of the tickets: those of other searches have other layers for the same sparsity."""
    lines = findings.table(
        "SynOps per image of the tickets, mean over seeds", "", "sparsity", "SynOps", "accuracy"
    )
    for method in outcomes.methods():
        for i, row in enumerate(outcomes.tickets(method)):
            count, accuracy = synops(outcomes, method, i).mean, outcomes.accuracy(method, i)
            lines.add_row(method, f"{100 * row.sparsity:.2f} %", f"{count:,.0f}", f"{accuracy.mean:.4f}")
    return lines


def synops(outcomes: findings.Outcomes, method: str, i: int) -> findings.Measured:
    return outcomes.number(method, lambda row: sum(sum(layer.synops_per_image) for layer in row.layers), i)


def over_operations(outcomes: findings.Outcomes) -> figures.Drawing:
    curves = {}
    for method in outcomes.methods():
        with contextlib.suppress(findings.Missing):
            curves[method] = [
                (synops(outcomes, method, i).mean, outcomes.accuracy(method, i).spread)
                for i in range(len(outcomes.tickets(method)))
            ]
    axis = figures.logarithmic("SynOps per image (log scale)")
    return figures.lines(curves, axis, "test accuracy", form=figures.percents)


TABLES = [findings.costs, operations]
CLAIMS = [
    claims.less(f"{name} falls behind imp at the highest sparsity", claims.better(name, "imp"))
    for name in ("rigl", "set")
] + [
    claims.Claim("rigl beats set at the highest sparsity", claims.better("rigl", "set")),
    claims.Claim("lamp beats magnitude at the highest sparsity", claims.better("lamp", "imp")),
    claims.Claim(
        "balanced tickets are not a point worse at the highest sparsity",
        claims.better("balanced", "imp"),
        low=-claims.MARGIN,
    ),
]
FIGURES = [over_operations]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
