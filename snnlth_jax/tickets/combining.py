"""Tickets made of two tickets of one network: masks intersected, united, or put on the weights of another.

The provenance of the result keeps what both tickets agree on, and names both under `made_of`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from snnlth_jax import masks as masks_lib
from snnlth_jax.errors import not_one_of
from snnlth_jax.tickets import Ticket
from snnlth_jax.tickets.comparing import check_same_network

__all__ = ["Source", "combine", "transplant"]

Source = Mapping[str, Any]  # JSON that names a ticket: its file and checksum

_OF_THE_MASKS = ("kept", "total", "sparsity", "round")


def combine(
    first: Ticket, second: Ticket, how: Literal["and", "or"], sources: tuple[Source, Source] = ({}, {})
) -> Ticket:
    """The ticket of the weights that both keep ("and"), or one of the two ("or").

    Args:
      first: a ticket; weights and batch statistics are its.
      second: another ticket of the same network.
      how: "and" or "or".
      sources: JSON for the provenance, that names each of the two.

    Raises:
      InputError: tickets of different networks, or another word for `how`.

    >>> weights = {"w": np.ones(3, np.float32)}
    >>> first = Ticket({"w": np.array([True, True, False])}, weights, {}, {"arch": "vgg5", "seed": 0})
    >>> second = Ticket({"w": np.array([True, False, True])}, weights, {}, {"arch": "vgg5", "seed": 1})
    >>> combine(first, second, "and").masks["w"].tolist()
    [True, False, False]
    >>> ticket = combine(first, second, "or", ({"file": "a"}, {"file": "b"}))
    >>> ticket.provenance["arch"], ticket.provenance["made_by"], ticket.provenance["sparsity"]
    ('vgg5', 'combine or', 0.0)
    """
    if how not in ("and", "or"):
        raise not_one_of("`how`", how, ("and", "or"))
    check_same_network(("the first ticket", "the second ticket"), first, second)
    joined = np.logical_and if how == "and" else np.logical_or
    mask_tree = masks_lib.tree_map(lambda a, b: joined(a, b), first.masks, second.masks)
    provenance = _provenance(mask_tree, first, second, f"combine {how}", ("first", "second"), sources)
    return Ticket(mask_tree, first.params, first.batch_stats, provenance)


def transplant(masks_of: Ticket, weights_of: Ticket, sources: tuple[Source, Source] = ({}, {})) -> Ticket:
    """The ticket with the masks of one ticket, and the weights and batch statistics of another.

    Args:
      masks_of: ticket that gives the masks.
      weights_of: ticket of the same network that gives the rest.
      sources: JSON for the provenance, that names each of the two.

    Raises:
      InputError: tickets of different networks.

    >>> masks = {"w": np.array([True, False])}
    >>> a = Ticket(masks, {"w": np.zeros(2, np.float32)}, {}, {})
    >>> b = Ticket({"w": np.array([True, True])}, {"w": np.ones(2, np.float32)}, {}, {})
    >>> ticket = transplant(a, b)
    >>> ticket.masks["w"].tolist(), ticket.params["w"].tolist()
    ([True, False], [1.0, 1.0])
    """
    check_same_network(("the ticket of the masks", "the ticket of the weights"), masks_of, weights_of)
    provenance = _provenance(
        masks_of.masks, masks_of, weights_of, "transplant", ("masks", "weights"), sources
    )
    return Ticket(masks_of.masks, weights_of.params, weights_of.batch_stats, provenance)


def _provenance(
    mask_tree: Any,
    first: Ticket,
    second: Ticket,
    made_by: str,
    parts: tuple[str, str],
    sources: tuple[Source, Source],
) -> dict[str, Any]:
    shared = {
        name: value
        for name, value in first.provenance.items()
        if name not in _OF_THE_MASKS and name in second.provenance and second.provenance[name] == value
    }
    kept, total = masks_lib.count(mask_tree)
    return {
        **shared,
        "made_by": made_by,
        "made_of": {part: dict(source) for part, source in zip(parts, sources, strict=True)},
        "kept": int(kept),
        "total": total,
        "sparsity": masks_lib.sparsity(mask_tree),
    }
