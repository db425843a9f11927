"""The zoo: the last ticket of each of some finished searches, its trained network, its curve and its card.

    command  python experiments/zoo.py RUN... --output zoo

A RUN is the directory of a search. DATASET_NETWORK_METHOD_SPARSITY_seedN in the output gets

    ticket.safetensors    masks, and the weights that training begins with
    network.safetensors   the ticket trained
    curve.csv             accuracy by sparsity, of all networks that the search trained
    README.md             the model card, and the curve as a table

and the output a README.md that lists them all.
"""

import csv
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from snnlth_jax import cli, masks, networks, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.interop import card
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.run.results import Result, Row

LARGEST = 5_000_000  # bytes of a file
COLUMNS = ("run", "T", "sparsity", "weights", "accuracy")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the command line."""

    runs: tyro.conf.Positional[list[str]]
    """Directories of finished searches."""
    output: str = "zoo"
    """Directory of the zoo."""


def entry(run: str) -> tuple[str, dict[str, bytes]]:
    """Name of a search in the zoo, and the content of its files.

    Raises:
      InputError: the search is not finished, left no trained ticket, or a file is too large.
    """
    paths = rundir.paths(run)
    if not paths.result.exists():
        raise InputError(run, problem="no result.json", allowed="the directory of a search")
    result = results.read(paths.result)
    if not isinstance(result, Result) or not result.finished or not result.tickets:
        raise InputError(run, problem="no ticket", allowed="a finished search with one seed and a ticket")
    row = result.tickets[-1]
    network = paths.network(f"ticket_{row.round:02d}")
    if not network.exists():
        raise InputError(run, problem=f"no {network.name}", allowed="a search that left its networks")
    files = {
        "ticket.safetensors": paths.ticket(row.round).read_bytes(),
        "network.safetensors": network.read_bytes(),
        "curve.csv": _csv(result).encode(),
        "README.md": _card(networks.load(network), result).encode(),
    }
    if large := [name for name, content in files.items() if len(content) > LARGEST]:
        raise InputError(run, problem=f"{large[0]} is too large", allowed=f"{LARGEST:,} bytes")
    settings = result.settings
    name = f"{settings.dataset}_{settings.arch}_{result.method}_{row.sparsity:.3f}_seed{result.seed}"
    return name, files


def _curve(result: Result) -> list[Row]:
    return [row for row in result.trainings if row.final_test_accuracy is not None]


def _csv(result: Result) -> str:
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in _curve(result):
        table.writerow([row.name, row.num_timesteps, row.sparsity, row.kept, row.final_test_accuracy])
    return file.getvalue()


def _card(network: networks.Network, result: Result) -> str:
    rows = [
        f"| {row.name} | {row.num_timesteps} | {100 * row.sparsity:.2f} % | {row.kept:,} | "
        f"{row.final_test_accuracy:.4f} |"
        for row in _curve(result)
    ]
    lines = [
        card.from_network(network, "network.safetensors") + "\n## Curve",
        "",
        "All networks that its search trained; `curve.csv` has the same numbers.",
        "",
        "| | T | sparsity | weights kept | test accuracy |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "## Training it again",
        "",
        "`snnlth train ticket.safetensors` trains the ticket as its search did, `--seed 1 --redraw` its",
        "masks with new weights.",
    ]
    return "\n".join(lines) + "\n"


def index(zoo: Path) -> str:
    """The README.md of the zoo: a line for each of its directories."""
    lines = [
        "# Tickets to load",
        "",
        "Tickets and their trained networks, made by `experiments/zoo.py` from searches of",
        "[docs/results.md](../docs/results.md): IMP's is that of `snnlth demo`, on another machine. In a "
        "clone of this repository:",
        "",
        "```python",
        "import snnlth_jax",
        "",
        'network = snnlth_jax.load("zoo/NAME/network.safetensors")  # uint8 images -> logits',
        'ticket = snnlth_jax.tickets.load("zoo/NAME/ticket.safetensors")  # masks, and weights to train from',
        "```",
        "",
        "| name | weights kept | test accuracy | network | ticket |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(zoo.glob("*/network.safetensors")):
        known, name = networks.load(path).provenance, path.parent.name
        ticket = path.with_name("ticket.safetensors")
        kept = int(masks.count(tickets.load(ticket).masks)[0])
        sizes = " | ".join(f"{file.stat().st_size / 1e3:,.0f} kB" for file in (path, ticket))
        with path.with_name("curve.csv").open() as file:
            accuracy = {row["run"]: float(row["accuracy"]) for row in csv.DictReader(file)}
        lines.append(f"| [{name}]({name}/README.md) | {kept:,} | {accuracy[known['phase']]:.4f} | {sizes} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the zoo as the command line says; return the exit status."""

    def action() -> None:
        options = cli.options(Options, __doc__ or "", arguments)
        zoo, entries = Path(options.output), [entry(run) for run in options.runs]
        for name, files in entries:
            (zoo / name).mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                (zoo / name / file).write_bytes(content)
            print(zoo / name)
        (zoo / "README.md").write_text(index(zoo))

    return cli.exit_status(action)


if __name__ == "__main__":
    sys.exit(main())
