"""The identity of a run: the fields that decide its results, and comparisons of two identities.

A field declares its part in the identity by its role, see `fields.Role`; the functions here read roles.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from snnlth_jax import data, surrogate
from snnlth_jax.configs import commands
from snnlth_jax.configs.commands import (
    MASKS_IN_QUEUE,
    OneShotConfig,
    ResolvedStability,
    ResolvedTrain,
    RetrainConfig,
    TrainConfig,
)
from snnlth_jax.configs.fields import Role, declared
from snnlth_jax.configs.methods import content, method_name
from snnlth_jax.configs.parts import Rounds

__all__ = [
    "Images",
    "chosen",
    "command_of",
    "common",
    "completed",
    "conditions",
    "defaulted",
    "difference",
    "digest",
    "identity",
    "not_overridable",
    "overridable",
]

_COMMANDS = [getattr(commands, name) for name in commands.__all__ if name.endswith("Config")]
_METHOD = "method"
_BY_METHOD: dict[str, type[TrainConfig]] = {command.method: command for command in _COMMANDS}
# fields that came after the first release, at the values by which programs worked before
_SINCE: Mapping[str, Any] = {
    "schedule_on_rewind": "restart",
    "biases_on_rewind": "rewind",
    "early_time_start": "continue",
    "score": "magnitude",
    "budget": "weights",
    "processing_elements": None,
    "early_time_loss": "mean",
    "ticket_schedule": "same",
    "arch_option": (),
    "neuron": "lif",
    "neuron_tau": 4 / 3,
    "v_threshold": 1.0,
    "v_reset": 0.0,
    "surrogate": "atan",
    "surrogate_scale": 2.0,
    "norm": "timestep",
    "loss": "mean-ce",
    "label_smoothing": 0.0,
}
_ROLES = {field.name: field.role for command in _COMMANDS for field in declared(command)}


class Images(NamedTuple):
    """Name and fingerprint of a dataset, in its place where its images are not needed."""

    name: str
    fingerprint: str | None


def identity(config: ResolvedTrain, dataset: data.Dataset | Images) -> dict[str, Any]:
    """The fields that decide the results of a run, as JSON values: the content of config.json.

    A field that came after the first release is among them only where it differs from what was before, so
    that the identity of a run does not change with the release; `completed` adds it.

    Args:
      config: a resolved configuration.
      dataset: its dataset, whose fingerprint becomes a part of the identity.

    Raises:
      InputError: a ticket file cannot be read.
    """
    values = dataclasses.asdict(config)
    fields = {field.name: values[field.name] for field in declared(config) if Role.IDENTITY in field.role}
    fields["dataset"] = dataset.name  # of a file its content counts, not its place
    if isinstance(config, OneShotConfig) and config.like is not None:  # the content of the file, not its name
        fields["like"] = content("`like`", config.like)
    if isinstance(config, RetrainConfig) and config.ticket:
        fields["ticket"] = content("ticket", config.ticket)
    if isinstance(config, ResolvedStability):  # with seeds there are several files of a name
        seeds = [dataclasses.replace(config, seed=seed) for seed in config.seeds or (config.seed,)]
        contents = [[content("`tickets`", file) for file in one.ticket_files] for one in seeds]
        fields["tickets"] = list(config.tickets) if config.seeds else contents[0]
    whole = {_METHOD: method_name(config), **fields, "dataset_fingerprint": dataset.fingerprint}
    before = _before(whole)
    return {name: value for name, value in whole.items() if name not in before or value != before[name]}


def command_of(identity: Mapping[str, Any]) -> type[TrainConfig]:
    """The configuration class of an identity.

    >>> command_of({"method": "one-shot snip"}).__name__
    'OneShotConfig'
    """
    return _BY_METHOD.get(re.split("[+ ]", str(identity.get(_METHOD)))[0], TrainConfig)


def completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the fields that are newer than it, at the values by which its program worked.

    >>> completed({"method": "imp+et", "early_time": True})["early_time_start"]
    'restart'
    """
    before = {name: list(x) if isinstance(x, tuple) else x for name, x in _before(identity).items()}
    return before | dict(identity)


def defaulted(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that an identity of an earlier version lacks, at their defaults.

    A field whose default depends on others has the value of `now`.

    >>> defaulted({"method": "imp", "epochs": 15}, {"method": "imp", "epochs": 15, "momentum": 0.5})
    {'momentum': 0.9}
    """
    command = command_of(now)
    usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(command)}
    return {
        name: value if usual[name] is None else list(usual[name]) if usual[name] == () else usual[name]
        for name, value in now.items()
        if name in usual and name not in recorded
    }


def _before(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that came after the first release, at the values by which programs worked before."""
    command = command_of(identity)
    before = dict(_SINCE)
    if identity.get("early_time") is True and identity.get("early_time_timesteps") is None:
        before["early_time_start"] = "restart"
    if issubclass(command, Rounds):  # other commands have had a sparsity from the start
        before["sparsity"] = None
    return {field.name: before[field.name] for field in declared(command) if field.name in before}


def digest(identity: Mapping[str, Any]) -> str:
    """A short hash of an identity, or of other JSON values, whatever their order.

    >>> digest({"seed": 0, "epochs": 15}) == digest({"epochs": 15, "seed": 0})
    True
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def overridable() -> tuple[str, ...]:
    """The fields of all commands that `--override` may change in the middle of a run."""
    return _with(Role.OVERRIDABLE)


def conditions() -> tuple[str, ...]:
    """The fields in which two training runs must agree for a fair comparison.

    >>> "learning_rate" in conditions(), "workdir" in conditions()
    (True, False)
    """
    return _with(Role.CONDITION)


def common(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that all runs of one series share: seed and sparsity vary within a series.

    The tickets in `like`, `ticket` and `tickets` differ from seed to seed, so any ticket counts as the same.

    >>> common({"method": "imp", "seed": 3, "dataset_fingerprint": "digits-1"})
    {'method': 'imp'}
    """
    varied = (*_with(Role.VARIED), "dataset_fingerprint")
    shared = {name: value for name, value in identity.items() if name not in varied}
    like = {name: "a ticket" for name in ("like", "ticket") if shared.get(name)}
    return shared | like | ({"tickets": len(files)} if (files := shared.get("tickets")) else {})


def chosen(config: TrainConfig) -> dict[str, Any]:
    """The fields that differ from the defaults of the command, except the directory.

    Their digest can name a directory: a field that is added later, at its default, filled in or not, does not
    change it.

    >>> chosen(commands.ImpConfig(seed=2, workdir="here"))
    {'seed': 2}
    """
    values = dataclasses.asdict(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    filled_in: dict[str, Any] = {
        "surrogate_scale": surrogate.default_scale(values["surrogate"]),
        "queue": MASKS_IN_QUEUE,
    }
    if isinstance(config, OneShotConfig):
        filled_in["criterion"] = "snip"
    return {k: v for k, v in values.items() if k != "workdir" and v not in (defaults[k], filled_in.get(k))}


def not_overridable(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The difference between two identities that cannot be overridden, as `difference` has it.

    >>> not_overridable({"epochs": 15, "learning_rate": 0.1}, {"epochs": 20, "learning_rate": 0.2})
    '`epochs` 15 there, 20 now'
    """
    return difference(
        *({k: v for k, v in fields.items() if k not in overridable()} for fields in (recorded, now))
    )


def difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The difference between two identities as one line, names of fields in backticks; empty if none.

    >>> difference({"epochs": 15, "seed": 0}, {"epochs": 20, "seed": 0})
    '`epochs` 15 there, 20 now'
    """
    changed = [k for k in {**recorded, **now} if recorded.get(k) != now.get(k)]
    return "; ".join(f"`{k}` {recorded.get(k)} there, {now.get(k)} now" for k in changed)


def _with(role: Role) -> tuple[str, ...]:
    return tuple(name for name, own in _ROLES.items() if role in own)
