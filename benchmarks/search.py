"""Whole searches for a ticket, IMP and Early-Bird, each with Early-Time and without: seconds by phase.

    python benchmarks/search.py [FLAG...]

Flags are those of `snnlth imp` but for what differs between the four; by default digits, as small as the
demo. Seconds are those of result.json: training steps, evaluations, pruning; compilation apart.
"""

import argparse
import tempfile
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from snnlth_jax import checkpoints, cli

SEARCHES = {
    "IMP": ["imp"],
    "IMP + ET": ["imp", "--early-time"],
    "EB": ["eb", "--sparsity", "0.95"],
    "EB + ET": ["eb", "--sparsity", "0.95", "--early-time"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    _, flags = parser.parse_known_args()
    columns = ("probe", "search", "ticket", "compiling", "together", "epochs of the search", "FLOPs of IMP's")
    table = Table("", *columns, title=f"{jax.devices()[0].device_kind}: {' '.join(flags)}")
    with tempfile.TemporaryDirectory(prefix="snnlth_search_") as directory:
        for name, command in SEARCHES.items():
            run = checkpoints.paths(Path(directory) / name.replace(" ", ""))
            status = cli.main([*command, *flags, "--workdir", str(run.config.parent)])
            assert status == 0
            result = checkpoints.read_json(run.result)
            probe, search, ticket = (
                sum(row["seconds"] for row in result[part]) for part in ("preparations", "rounds", "tickets")
            )
            compiling = result["compile_seconds"]
            cells = [probe, search, ticket, compiling, probe + search + ticket + compiling]
            cost = result["tickets"][-1]
            relative = cost["search_relative_to_imp"]
            table.add_row(
                name, *(f"{cell:.1f} s" for cell in cells), str(cost["search"]["epochs"]), f"{relative:.3f}"
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
