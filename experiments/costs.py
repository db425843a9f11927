"""Cost of the experiments: epochs of one seed, and hours on the paper's device.

    command  python experiments/costs.py

An epoch with t of T timesteps counts t / T epochs, one of the ReLU twin 1 / T, one with a T' that is still to
be measured 3 / T. Cells of Early-Bird count as if it never fired. Cells that scripts share count with each.
Hours are those of the paper's epochs on its RTX 2080 Ti: 47.4 s for VGG16, 67.2 s for ResNet19 (table2).
"""

import importlib
from pathlib import Path

from grid import Cells, jobs

from snnlth_jax import configs
from snnlth_jax.search import phases

OTHERS = ("claims", "costs", "figures", "findings", "gather", "grid", "imp", "zoo")  # no experiments
TAKEN_APART = "supplement"  # networks of other sizes
MEASURED = 3  # T' of Early-Time, as the paper's
SECONDS = {"table2_imp": 67.2}  # of an epoch at the full T, ResNet19
SECONDS_OF_VGG16 = 47.4


def scripts() -> list[str]:
    """Names of the scripts with an experiment."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in names if name not in OTHERS]


def epochs(config: configs.ResolvedTrain) -> float:
    """Epochs of a search at the full T of its network, at most."""
    full = configs.resolve(configs.ImpConfig(dataset=config.dataset)).num_timesteps
    planned = phases.of(config)
    numbers = phases.all_epochs(planned)
    timesteps = [MEASURED if phase.by_early_time else phase.variant.num_timesteps for phase in planned]
    return sum(number * t / full for number, t in zip(numbers, timesteps, strict=True))


def total(cells: Cells) -> float:
    """Epochs of one seed of all cells."""
    return sum(epochs(configs.resolve(config)) for config in cells.values())


def distinct(scale: str) -> float:
    """Epochs of one seed of all scripts together, each search once, the supplement's not."""
    searches: dict[str, float] = {}
    for name in scripts():
        if name != TAKEN_APART:
            planned = jobs(importlib.import_module(name).cells(scale), [0], "", None)
            for config in planned.values():
                searches[config.workdir] = max(searches.get(config.workdir, 0), epochs(config))
    return sum(searches.values())


def main() -> None:
    for name in scripts():
        cells = importlib.import_module(name).cells
        counts = {scale: total(cells(scale)) for scale in ("paper", "fast")}
        hours = {scale: count * SECONDS.get(name, SECONDS_OF_VGG16) / 3600 for scale, count in counts.items()}
        paper, fast = (f"{counts[scale]:,.0f} | {hours[scale]:.1f}" for scale in ("paper", "fast"))
        print(f"| {name} | {paper} | {fast} |")
    print(f"all, each search once: {distinct('paper'):,.0f} epochs at paper, {distinct('fast'):,.0f} at fast")


if __name__ == "__main__":
    main()
