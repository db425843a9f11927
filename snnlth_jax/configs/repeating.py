"""The settings of a run from its identity: what differs from the defaults, and the command line."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from snnlth_jax import data
from snnlth_jax.configs.commands import RetrainConfig
from snnlth_jax.configs.fields import declared
from snnlth_jax.configs.identities import command_of, completed
from snnlth_jax.configs.resolving import resolve
from snnlth_jax.configs.toml import command_name, following
from snnlth_jax.errors import InputError, flag

__all__ = ["changed", "command_line"]


def changed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that differ from the defaults of its command.

    A default that depends on other settings is that of these settings, if the dataset has a name.

    >>> changed({"method": "imp", "dataset": "digits", "epochs": 15, "batch_size": 64, "width": 0.5})
    {'width': 0.5}
    """
    command, settings = command_of(identity), _settings(identity)
    defaults = {field.name: field.default for field in dataclasses.fields(command)}
    filled_in = {name for name in settings if defaults[name] is None}
    kept = {name: v for name, v in settings.items() if name not in filled_in and v != defaults[name]}
    try:
        named = settings.get("dataset") in data.dataset.SPECS  # others would be read
        while missing := [
            name
            for name in settings
            if name in filled_in - {*kept}
            and not (named and getattr(resolve(command(**kept, workdir="run")), name) == settings[name])
        ]:
            kept[missing[0]] = settings[missing[0]]
    except InputError:  # files that are not here
        kept |= {name: settings[name] for name in filled_in}
    return {name: kept[name] for name in settings if name in kept}


def command_line(identity: Mapping[str, Any], seeds: tuple[int, ...] = ()) -> str:
    """The command line that repeats a run; a word in capitals stands for a file that no identity names.

    Args:
      identity: the content of config.json.
      seeds: seeds of several runs that differ in nothing else.

    >>> command_line({"method": "imp", "dataset": "digits", "augment": False, "seed": 1})
    'snnlth imp --augment none --seed 1'
    """
    command = command_of(identity)
    retrained = issubclass(command, RetrainConfig)  # whose defaults are those of the ticket
    settings = _settings(identity) if retrained else changed(identity)
    files = {field.name: field.file.word for field in declared(command) if field.file}
    words = ["snnlth", command_name(command), *([files["ticket"]] if retrained else ())]
    if seeds:
        settings = {name: value for name, value in settings.items() if name != "seed"} | {"seeds": seeds}
    for name, value in settings.items():
        if name in files and (name != "dataset" or value not in data.dataset.SPECS):
            count = len(value) if isinstance(value, tuple) else 1
            words += [flag(name), ",".join([files[name]] * count)] if name != "ticket" else []
        elif value is True or (value is False and name != "augment"):
            words += [flag(name)] if value and name != "augment" else []
        elif isinstance(value, tuple):
            words += [flag(name), ",".join(map(str, value)) or ","]
        else:
            words += [flag(name), "none" if value is False else str(value)]
    return shlex.join(words)


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the command that are set, except those that follow from others, in their order."""
    command, whole = command_of(identity), completed(identity)
    fields = [field.name for field in dataclasses.fields(command)]
    values = {name: tuple(v) if isinstance(v := whole[name], list) else v for name in fields if name in whole}
    follows = following(command, values)
    return {name: v for name, v in values.items() if v is not None and name not in follows}
