"""Transferred tickets (the paper's TT): a search in the ReLU twin of a network, trained as a spiking one.

The twin has the same layers and parameters and no time, so that its search costs about T times less. The
spiking network then takes its masks and rewound weights.
"""

import flax.linen as nn
from rich.console import Console

from snnlth_jax import configs, data
from snnlth_jax.run import earlier
from snnlth_jax.run.results import Result
from snnlth_jax.search import final, imp
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs
from snnlth_jax.search.session import Session, run

__all__ = ["search"]


def search(
    config: configs.TransferConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Search tickets in the ReLU twin, train them as spiking networks, or resume such a search.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    return run(config, _search, dataset, model, programs, console)


def _search(session: Session[configs.ResolvedTransfer]) -> None:
    imp.iterate(session)
    final.train(session)
