"""The default directory of a run, named after what differs from the defaults."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from snnlth_jax.configs.commands import RetrainConfig, TrainConfig
from snnlth_jax.configs.fields import Role, declared
from snnlth_jax.configs.methods import content, method_name
from snnlth_jax.configs.retraining import of_ticket
from snnlth_jax.errors import InputError

__all__ = ["run_name", "short_name"]

_LONGEST = 150  # characters
_SHORT = {"learning_rate": "lr", "num_timesteps": "T"}
# fields of which the short name speaks
_NAMED = ("dataset", "arch", "sparsity", "seed", "ticket", "early_time", "redraw", "shuffle")


def short_name(config: TrainConfig, dataset: str) -> str:
    """Method, sparsity or ticket, dataset, network and seed of a resolved configuration: METHOD_..._seedN."""
    return "_".join(_parts(config, dataset, []))


def run_name(
    config: TrainConfig, resolved: TrainConfig, dataset: str, filled: Callable[[Any], Mapping[str, Any]]
) -> str:
    """The short name, with every setting that decides results and is not what it would be by default.

    Args:
      config: a configuration.
      resolved: the same, resolved except for its directory.
      dataset: name of the dataset.
      filled: function from a configuration to its fields with every default filled in.

    >>> from snnlth_jax.configs import ImpConfig, resolve
    >>> resolve(ImpConfig(width=0.25, learning_rate=0.2, epochs=10)).workdir
    'runs/imp_digits_vgg5_width0.25_epochs10_lr0.2_seed0'
    """
    pieces = list(_differing(config, resolved, filled))
    texts = [re.sub(r"[^\w.+-]+", "-", piece) for piece in pieces]
    name = "_".join(_parts(resolved, dataset, texts))
    if texts == pieces and len(name) <= _LONGEST:
        return name
    code = hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:8]
    while texts and len("_".join(_parts(resolved, dataset, [*texts, code]))) > _LONGEST:
        texts.pop()
    return "_".join(_parts(resolved, dataset, [*texts, code]))


def _parts(config: TrainConfig, dataset: str, more: list[str]) -> list[str]:
    file = config.ticket if isinstance(config, RetrainConfig) else ""
    parts = [
        method_name(config).replace(" ", "_"),
        content("ticket", file)[:6] if file else None,
        getattr(config, "sparsity", None),
        dataset,
        str(config.arch).replace(":", "."),
        *more,
        None if config.seeds else f"seed{config.seed}",
    ]
    return [str(part) for part in parts if part is not None]


def _differing(
    config: TrainConfig, resolved: TrainConfig, filled: Callable[[Any], Mapping[str, Any]]
) -> Iterator[str]:
    """A text for each field that is not what it would be if it were not given."""
    usual = _usual(config)
    for field in declared(type(config)):
        name, given = field.name, getattr(config, field.name)
        if Role.IDENTITY not in field.role or name in _NAMED or given == usual[name]:
            continue
        if name == "criterion" and str(given) in method_name(resolved):
            continue
        value = getattr(resolved, name)
        if value != filled(dataclasses.replace(config, **{name: usual[name]}))[name]:
            yield _text(name, value)


def _usual(config: TrainConfig) -> dict[str, Any]:
    """The fields as they are without flags: those of the class, or of a ticket's search."""
    if isinstance(config, RetrainConfig) and config.ticket:
        try:
            config = of_ticket(config.ticket, dataset=config.dataset, arch=config.arch)
        except InputError:  # refused where it is trained
            return dataclasses.asdict(config)
        return dataclasses.asdict(config)
    return {field.name: field.default for field in dataclasses.fields(config)}


def _text(name: str, value: Any) -> str:
    words = _SHORT.get(name, name.replace("_", "-"))
    if isinstance(value, bool):
        return words if value else f"no-{words}"
    if name == "like":
        with contextlib.suppress(InputError):  # refused where it is read
            return f"{words}-{content('`like`', value)[:6]}"
    if name in ("like", "tickets"):
        return f"{words}-{hashlib.sha256(repr(value).encode()).hexdigest()[:6]}"
    text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{words}{text}" if text[:1].isdigit() else f"{words}-{text}"
