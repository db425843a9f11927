"""A ticket of a file, trained again: with another seed, T or learning rate, on other data, or as a control.

With the settings and the seed of its search the training run is that of the search, bit for bit. On data with
another number of classes the ticket gets a new readout, drawn by the seed and without removed weights.
"""

from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax
import msgspec
import numpy as np
from rich.console import Console

from snnlth_jax import configs, data, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.machine import hosts
from snnlth_jax.masks import trees
from snnlth_jax.run import earlier
from snnlth_jax.run.results import Result
from snnlth_jax.search import phases
from snnlth_jax.search.final import begin
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs, variables
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.session import Session, run

PyTree = Any

__all__ = ["search"]


def search(
    config: configs.RetrainConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Train the ticket of a file, or resume its training run; `configs.of_ticket` makes the configuration.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    ticket, dataset = hosts.raise_together(lambda: _checked(config, dataset, model))
    origin = _origin(config.ticket, ticket)
    planned = [phases.retrain(config, origin.round, origin.method)]
    retrain = partial(_search, ticket=ticket)
    return run(config, retrain, dataset, model, programs, console, planned=planned)


class _Origin(msgspec.Struct):
    """Facts about its search in the provenance of a ticket."""

    round: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 1
    method: str = ""


def _origin(file: str, ticket: tickets.Ticket) -> _Origin:
    try:
        return msgspec.convert(ticket.provenance, _Origin)
    except msgspec.ValidationError as error:
        raise InputError(file, problem=f"its provenance: {error}", allowed="that of a search") from error


def _search(session: Session[configs.ResolvedRetrain], ticket: tickets.Ticket) -> None:
    for phase in session.remaining("ticket"):
        for _ in session.train(phase, partial(_start, session, ticket)):
            pass
        name = session.save_ticket(phase, phase.round, session.carry.state.masks)
        session.finish(phase, name)


def _start(
    session: Session[configs.ResolvedRetrain], ticket: tickets.Ticket, phase: Phase, last: Carry
) -> Carry:
    config, number = session.config, phase.round
    state = session.initial_state(redrawn=number if config.redraw else 0)
    ticket, new = _fitted(ticket, state.params, session.variants.dataset.num_classes)
    if new:
        session.recorder.message(f"{phase}: a new readout, drawn by the seed: {', '.join(new)}")
    state, point = begin(session, state, number, ticket, redraw=config.redraw, shuffle=config.shuffle)
    return last._replace(state=state, rewind=point)


def _checked(
    config: configs.ResolvedRetrain, dataset: data.Dataset | None, model: nn.Module | None
) -> tuple[tickets.Ticket, data.Dataset]:
    """The ticket and the dataset, once they fit each other."""
    if not config.ticket:
        raise InputError("ticket", problem="no file is given", allowed="a ticket file")
    ticket, dataset = tickets.load(config.ticket), dataset or configs.load_dataset(config)
    params, batch_stats = variables(config, dataset, model).values()
    fitted, _ = _fitted(ticket, params, dataset.num_classes)
    tickets.check_trainable(config.ticket, fitted, params)
    if not config.redraw and _shapes(fitted.batch_stats) != _shapes(batch_stats):
        problem = "its batch statistics are those of another network"
        raise InputError(config.ticket, problem=problem, allowed="a ticket that a search wrote, or `redraw`")
    if not any(np.any(mask) for mask in jax.tree.leaves(fitted.masks)):
        raise InputError(config.ticket, problem="nothing is left of its weights", allowed="a ticket to train")
    return ticket, dataset


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


def _fitted(ticket: tickets.Ticket, params: PyTree, num_classes: int) -> tuple[tickets.Ticket, list[str]]:
    """The ticket with the readout of `params` where only the number of classes differs, and the new weights.

    Others that differ stay as they are.
    """
    wanted = dict(jax.tree_util.tree_leaves_with_path(params))
    new: list[str] = []

    def readout(path: tuple[Any, ...], own: Any) -> bool:
        if path not in wanted:
            return False
        given, here = np.shape(own), np.shape(wanted[path])
        return (
            len(given) == len(here) and given[:-1] == here[:-1] and given[-1:] != here[-1:] == (num_classes,)
        )

    def leaf(path: tuple[Any, ...], own: Any) -> Any:
        if not readout(path, own):
            return own
        new.append(trees.name_of(path))
        return wanted[path]

    def mask(path: tuple[Any, ...], own: Any) -> Any:
        return np.ones(np.shape(wanted[path]), bool) if own is not None and readout(path, own) else own

    fitted = jax.tree_util.tree_map_with_path(leaf, ticket.params)
    kept = jax.tree_util.tree_map_with_path(mask, ticket.masks, is_leaf=lambda x: x is None)
    return ticket._replace(params=fitted, masks=kept), new
