"""Whole searches for a ticket, IMP and Early-Bird, each with Early-Time and without: seconds by phase.

    python benchmarks/search.py [--rounds N] [--sparsity S] [FLAG...]

Flags are those that `snnlth imp` and `snnlth eb` share; by default digits, as small as the demo. --rounds are
those of IMP, --sparsity that of Early-Bird. Seconds are those of result.json: training steps, evaluations,
pruning. Compilation stands apart, and each search compiles its own programs: none are kept on disk or in the
process from one search to the next.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
from rich.console import Console
from rich.table import Table

from snnlth_jax import cli
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.search import programs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", default="12")
    parser.add_argument("--sparsity", default="0.9578")
    options, flags = parser.parse_known_args()
    imp, eb = ["imp", "--rounds", options.rounds], ["eb", "--sparsity", options.sparsity]
    searches = {"IMP": imp, "IMP + ET": [*imp, "--early-time"], "EB": eb, "EB + ET": [*eb, "--early-time"]}
    columns = ("probe", "search", "ticket", "compiling", "together", "epochs of the search", "FLOPs of IMP's")
    table = Table("", *columns, title=f"{jax.devices()[0].device_kind}: {' '.join(flags)}")
    with tempfile.TemporaryDirectory(prefix="snnlth_search_") as directory:
        for name, command in searches.items():
            run = rundir.paths(Path(directory) / name.replace(" ", ""))
            programs.SHARED.clear()
            status = cli.main([*command, *flags, "--workdir", str(run.config.parent)])
            if status:
                raise SystemExit(status)
            result = results.read(run.result)
            probe, search, ticket = (
                sum(row.seconds for row in rows)
                for rows in (result.preparations, result.rounds, result.tickets)
            )
            compiling = result.compile_seconds
            cells = [probe, search, ticket, compiling, probe + search + ticket + compiling]
            cost = result.tickets[-1]
            relative = f"{cost.search_relative_to_imp:.3f}"
            table.add_row(name, *(f"{cell:.1f} s" for cell in cells), str(cost.search.epochs), relative)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
