"""`snnlth demo`: a ticket of a spiking network in minutes on two cores, beside a random mask.

IMP with late rewinding on real 8x8 digits, then a random mask of the ticket's layer-wise counts, trained from
the same weights in the same way: if the structure of the ticket did not matter, both would reach the same
accuracy.
"""

import dataclasses

from snnlth_jax import configs
from snnlth_jax.commands.output import show
from snnlth_jax.commands.searches import search
from snnlth_jax.run import directory, results
from snnlth_jax.run.results import Result, Row

__all__ = ["Demo", "config", "summary"]


@dataclasses.dataclass(frozen=True)
class Demo:
    """Find a ticket of a small spiking network on 8x8 digits, in minutes, beside a random mask: `imp` with
    `--controls random`. Needs scikit-learn."""

    workdir: str = "runs/demo"
    """Directory of the search, which resumes there."""

    def run(self) -> None:
        search(config(self))
        if isinstance(result := results.read(directory.paths(self.workdir).result), Result):
            show(summary(result, self.workdir))


def config(command: Demo) -> configs.ImpConfig:
    """The search of the demo.

    >>> config(Demo()).controls
    ('random',)
    """
    return configs.ImpConfig(workdir=command.workdir, controls=("random",))


def summary(result: Result, workdir: str) -> str:
    """Outcome of the search, in two lines."""
    dense, ticket, control = result.rounds[0], result.rounds[-1], result.controls[-1]
    return (
        f"{100 * ticket.sparsity:.1f} % of the weights are gone. The ticket reaches {_percent(ticket)} "
        f"(dense: {_percent(dense)}), a random mask of the same layer-wise counts {_percent(control)}.\n"
        f"Look into it: snnlth ticket inspect {workdir}/{ticket.ticket}"
    )


def _percent(row: Row) -> str:
    return f"{100 * (row.final_test_accuracy or 0.0):.2f} %"
