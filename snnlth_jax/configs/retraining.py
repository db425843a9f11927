"""The configuration of a ticket's search, to train the ticket again."""

import dataclasses
from typing import Any

import msgspec
from etils import epath

from snnlth_jax import _imported, data, tickets
from snnlth_jax.configs.commands import RetrainConfig
from snnlth_jax.configs.fields import Role, declared
from snnlth_jax.configs.identities import completed
from snnlth_jax.errors import InputError

__all__ = ["of_ticket", "of_tickets"]

_OWN = ("ticket", "redraw", "shuffle")


def of_tickets() -> tuple[str, ...]:
    """The fields of `RetrainConfig` that `of_ticket` takes from a ticket."""
    return tuple(
        field.name
        for field in declared(RetrainConfig)
        if Role.IDENTITY in field.role and field.name not in _OWN
    )


def of_ticket(path: epath.PathLike, **changes: Any) -> RetrainConfig:
    """The configuration that trains a ticket as its search trains it.

    Settings that the file does not name are the defaults of `RetrainConfig`.

    Args:
      path: path of the ticket file.
      **changes: fields with other values; `arch` and `dataset` too for a network and for data of your own,
        since a file alone calls no function and names no file.

    Raises:
      InputError: not a ticket file, one whose search had settings of other types, or no `arch` or
        `dataset` for what is your own.
      TypeError: no such field.

    >>> from snnlth_jax.configs import of_ticket
    >>> of_ticket("runs/imp/tickets/round_05.safetensors", seed=1)  # doctest: +SKIP
    """
    if not str(path):  # which would be the current directory
        raise InputError("ticket", problem="no file is given", allowed="a ticket file")
    provenance = completed(tickets.load(path).provenance)
    values: dict[str, Any] = {}
    for field in declared(RetrainConfig):
        if field.name not in of_tickets() or field.name not in provenance:
            continue
        value = provenance[field.name]
        try:
            values[field.name] = msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            problem = f"its provenance has {field.name} {value!r:.80}"
            raise InputError(path, problem=problem, allowed="a ticket that a search wrote") from error
    arch = str(values.get("arch"))
    if _imported.is_name(arch) and changes.get("arch") != arch:
        allowed = f"{arch}, to call that function of yours"
        problem = "the ticket's network is its author's own"
        raise InputError("`arch`", changes.get("arch"), problem=problem, allowed=allowed)
    known = values.get("dataset", RetrainConfig.dataset)
    if known not in data.dataset.SPECS and "dataset" not in changes:
        problem = f"the ticket is of {known!r:.80}, no dataset of this package"
        raise InputError("`dataset`", problem=problem, allowed="yours, as for its search")
    config = RetrainConfig(**values, ticket=str(path))
    return dataclasses.replace(config, **changes)
