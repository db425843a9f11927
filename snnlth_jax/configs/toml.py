"""A configuration as a TOML file, which `--config` takes back."""

import os
from typing import Any

from snnlth_jax.configs.commands import ResolvedTrain, RetrainConfig
from snnlth_jax.configs.fields import Role, declared
from snnlth_jax.configs.parts import Rounds
from snnlth_jax.configs.targets import rounds_to

__all__ = ["HEAD", "command_name", "written"]

HEAD = "# Settings of a run of snnlth"
_PLACES = ("dataset", "like", "ticket")  # which may be files


def command_name(config: Any) -> str:
    """The command of a configuration or of its class.

    >>> from snnlth_jax.configs import EbConfig
    >>> command_name(EbConfig)
    'eb'
    """
    command: Any = config if isinstance(config, type) else type(config)
    return "train" if issubclass(command, RetrainConfig) else str(command.method)


def written(config: ResolvedTrain) -> str:
    """The settings that decide the results of a run, every default filled in, and its seeds.

    >>> from snnlth_jax.configs import ImpConfig, resolve
    >>> print(written(resolve(ImpConfig(epochs=3))))  # doctest: +ELLIPSIS
    # Settings of a run of snnlth: ...
    command = "imp"
    dataset = "digits"
    arch = "vgg5"
    ...
    """
    follows: tuple[str, ...] = ()
    if isinstance(config, Rounds) and config.sparsity is not None:  # one of the two follows from the other
        fraction = rounds_to(config.sparsity, config.rounds, Rounds.prune_fraction).get("prune_fraction")
        follows = ("prune_fraction",) if fraction == config.prune_fraction else ("rounds",)
    name = command_name(config)
    lines = [f"{HEAD}: snnlth {name} --config FILE takes them; flags beside it win.", f'command = "{name}"']
    for field in declared(config):
        value = getattr(config, field.name)
        decides = Role.IDENTITY in field.role or field.name in ("seeds", "data_dir")
        if not decides or value is None or value == () or field.name in follows:
            continue
        if field.name == "seed" and config.seeds:
            continue
        if field.name in _PLACES and os.path.exists(str(value)):
            value = os.path.abspath(value)
        lines.append(f"{field.name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_value, value))}]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
