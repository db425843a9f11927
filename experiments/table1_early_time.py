"""Early-Time: IMP and Early-Bird with fewer timesteps, accuracy and cost of the search.

paper     Table 1, CIFAR-10, VGG16, at 68.30 / 89.91 / 95.69 / 98.13 % sparsity:
            IMP     92.66 92.54 92.38 91.81 %   14.97 29.86 40.84 51.99 h
            IMP+ET  92.49 92.09 91.54 91.10 %   11.19 22.00 30.11 38.26 h
            EB      91.74 91.05 89.55 84.64 %    1.96   .74   .11   .09 h
            EB+ET   91.27 90.66 88.95 84.86 %    1.44   .55   .07   .06 h
command   python experiments/table1_early_time.py --data-dir ~/tensorflow_datasets
          (--arch resnet19 and --dataset cifar100 for its other rows)
hours     per seed, on the paper's RTX 2080 Ti: the searches above, 3.95 h for each ticket's own training
expected  T' = 3 of 5: imp+et's search costs 0.74 of imp's hours, at most about a point below 95 %; eb+et's
          less than eb's wherever that lasts longer than the two epochs at T
"""

import sys

import claims
import figures
import findings
import grid


def cells(scale: str, **flags: str | None) -> grid.Cells:
    s = grid.scale(scale, **flags)
    return {"imp": s.imp(), "imp+et": s.imp(early_time=True)} | {
        f"{name}_{sparsity}": s.eb(sparsity, early_time=name == "eb+et")
        for sparsity in s.sparsities
        for name in ("eb", "eb+et")
    }


def saving(outcomes: findings.Outcomes) -> claims.Interval:
    """Relative difference of the cost of imp+et's search from T'/T of imp's."""
    full = outcomes["imp"].settings.num_timesteps
    chosen = outcomes.numbers("imp+et", lambda r: r.early_time.num_timesteps if r.early_time else None)
    share = findings.Measured({seed: t / full for seed, t in chosen.values.items()})
    return claims.relative(claims.ratio(outcomes.flops("imp+et"), outcomes.flops("imp")), share)


def loss(outcomes: findings.Outcomes) -> claims.Interval:
    k = outcomes.below("imp", 0.95)
    return claims.difference(outcomes.accuracy("imp+et", k), outcomes.accuracy("imp", k))


TABLES = [findings.costs, findings.decisions]
CLAIMS = [
    claims.Claim("the search of imp+et costs T'/T of imp's (within a tenth)", saving, low=-0.1, high=0.1),
    claims.Claim("imp+et loses less than a point below 95 %", loss, low=-0.01),
    claims.less(
        "the search of eb costs less than imp's",
        lambda outcomes: claims.relative(outcomes.flops("eb"), outcomes.flops("imp")),
    ),
    claims.Claim("the search of eb is shorter the sparser", claims.shorter_the_sparser),
    claims.less(
        "the search of eb+et costs less than eb's at the lowest sparsity",
        lambda outcomes: claims.relative(outcomes.flops("eb+et", 0), outcomes.flops("eb", 0)),
    ),
]
FIGURES = [figures.accuracies]

if __name__ == "__main__":
    sys.exit(grid.main(cells, TABLES, CLAIMS, FIGURES))
