"""Every search of the paper and its baselines at two sparsities: accuracy against what the search cost.

    paper    Table 1 (IMP, EB, with Early-Time), Fig. 8 (transfer), Fig. 9 (SNIP, random)
    command  python experiments/methods.py                       # digits, three seeds
             python experiments/methods.py --dataset cifar10 --data-dir ../shared/tfds     # a small network
    hours    0.5 on two CPU cores for digits; the tables are in docs/results.md

Each cell is an ordinary search in a directory of its own below --workdir: stopped, the same command goes on.
"""

import dataclasses
import sys
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from snnlth_jax import configs
from snnlth_jax.errors import InputError
from snnlth_jax.search import early_bird, imp, one_shot, replicates, transfer
from snnlth_jax.tables import plus_minus

# by dataset: flags that all methods share, the factor on the learning rate at which the ReLU twin learns,
# rounds of IMP that reach the two sparsities, seeds
SCALES: dict[str, dict[str, Any]] = {
    "digits": {
        "common": {},
        "twin": 1.0,
        "prune_fraction": 0.25,
        "final_rounds": (5, 11),
        "seeds": (0, 1, 2),
    },
    "cifar10": {
        "common": {
            "arch": "vgg9",
            "width": 0.25,
            "num_timesteps": 4,
            "train_examples": 2048,
            "test_examples": 2000,
            "batch_size": 64,
            "epochs": 8,
            "learning_rate": 0.1,
            "eval_every": 8,
        },
        "twin": 0.1,
        "prune_fraction": 0.5,
        "final_rounds": (2, 4),
        "seeds": (0,),
    },
}


@dataclasses.dataclass(frozen=True)
class Methods:
    """Train all cells that are not there yet, and print the table."""

    dataset: Literal["digits", "cifar10"] = "digits"
    """Real 8x8 digits, three seeds, or a small network on CIFAR-10, one seed"""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data"""
    workdir: str = "runs/methods"
    """The cells are in WORKDIR/DATASET/METHOD"""


def cells(options: Methods) -> dict[str, tuple[Any, configs.TrainConfig]]:
    """The searches, by the name of their directory."""
    scale = SCALES[options.dataset]
    common = {"dataset": options.dataset, "data_dir": options.data_dir, "seeds": scale["seeds"]}
    common |= scale["common"]
    final = scale["final_rounds"]
    rounds = {
        "rounds": final[-1] + 1,
        "final_rounds": final,
        "prune_fraction": scale["prune_fraction"],
        "rewind_epoch": 1,
    }
    found: dict[str, tuple[Any, configs.TrainConfig]] = {
        "imp": (imp, configs.ImpConfig(**common, **rounds)),
        "imp+et": (imp, configs.ImpConfig(**common, **rounds, early_time=True)),
        "transfer": (
            transfer,
            configs.TransferConfig(**common, **rounds, search_learning_rate_factor=scale["twin"]),
        ),
    }
    for k in final:
        sparsity = round(1 - (1 - scale["prune_fraction"]) ** k, 4)
        single: dict[str, Any] = common | {"sparsity": sparsity}
        found |= {
            f"eb_{sparsity}": (early_bird, configs.EbConfig(**single)),
            f"eb+et_{sparsity}": (early_bird, configs.EbConfig(**single, early_time=True)),
            f"snip_{sparsity}": (one_shot, configs.OneShotConfig(**single, criterion="snip")),
            f"random_{sparsity}": (one_shot, configs.OneShotConfig(**single, criterion="random")),
        }
    return {
        name: (module, dataclasses.replace(config, workdir=f"{options.workdir}/{options.dataset}/{name}"))
        for name, (module, config) in found.items()
    }


def table(results: dict[str, dict[str, Any]]) -> Table:
    """A line per method and sparsity; cost relative to IMP, as it was measured here."""
    lines = Table()
    lines.add_column("")
    for name in ("sparsity", "accuracy", "search GFLOP", "of IMP", "search s", "of IMP", "epochs"):
        lines.add_column(name, justify="right", no_wrap=True)
    rows = [(name.split("_")[0], row) for name, result in results.items() for row in result["tickets"]]
    rows.sort(key=lambda row: (round(row[1]["sparsity"], 2), list(results).index(_first(results, row[0]))))
    imp_rows = {round(row["sparsity"], 2): row for name, row in rows if name == "imp"}
    for name, row in rows:
        reference = imp_rows[round(row["sparsity"], 2)]
        flops, seconds = row["search_train_flops"]["mean"], row["search_device_seconds"]["mean"]
        lines.add_row(
            name,
            f"{100 * row['sparsity']:.2f} %",
            plus_minus(row["final_test_accuracy"], ".4f"),
            f"{flops / 1e9:,.0f}",
            f"{flops / reference['search_train_flops']['mean']:.3f}",
            f"{seconds:,.0f}",
            f"{seconds / reference['search_device_seconds']['mean']:.3f}",
            plus_minus(row["search_epochs"], ".0f"),
        )
    return lines


def _first(results: dict[str, Any], method: str) -> str:
    return next(name for name in results if name.split("_")[0] == method)


def main() -> int:
    options = tyro.cli(Methods)
    console = Console(width=max(Console().width, 100))
    results = {}
    for name, (module, config) in cells(options).items():
        try:
            results[name] = replicates.run(module.search, configs.resolve(config), console)
        except InputError as error:
            print(f"methods: error: {error}", file=sys.stderr)
            return 2
    for name, result in results.items():
        chosen = [each["num_timesteps"] for each in result["early_time"] if each]
        fired = [each["epoch"] if each["fired"] else "never" for each in result["early_bird"] if each]
        if chosen or fired:
            told = (f"T' = {chosen}" if chosen else "") + (f" fired after {fired} epochs" if fired else "")
            console.print(f"{name}: {told.strip()}", highlight=False)
    dense = next(row for row in results["imp"]["rounds"] if row["round"] == 0)
    console.print(f"dense: {plus_minus(dense['final_test_accuracy'], '.4f')}", highlight=False)
    console.print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
