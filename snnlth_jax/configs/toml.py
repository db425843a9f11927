"""A configuration as a TOML file, which `--config` takes back."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from snnlth_jax import data
from snnlth_jax.configs.commands import ResolvedTrain, RetrainConfig, TrainConfig
from snnlth_jax.configs.fields import Role, declared
from snnlth_jax.configs.parts import Rounds
from snnlth_jax.configs.resolving import resolve
from snnlth_jax.configs.targets import rounds_to

__all__ = ["HEAD", "command_name", "following", "toml_value", "written"]

HEAD = "# Settings of a run of snnlth"


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

    A default that follows from other settings is a comment, so that it follows them when these are changed.

    >>> from snnlth_jax.configs import ImpConfig, resolve
    >>> print(written(resolve(ImpConfig(epochs=3))))  # doctest: +ELLIPSIS
    # Settings of a run of snnlth: ...
    command = "imp"
    dataset = "digits"
    arch = "vgg5"
    ...
    """
    follows = following(type(config), dataclasses.asdict(config))
    # a training run of a ticket has its search's settings for defaults
    of_search = () if isinstance(config, RetrainConfig) else dataclasses.fields(config)
    free = [field.name for field in of_search if field.name in _FROM_OTHERS and field.default is None]
    unset: dict[str, Any] = dict.fromkeys(free)
    usual = resolve(dataclasses.replace(config, **unset))
    name = command_name(config)
    lines = [f"{HEAD}: snnlth {name} --config FILE takes them; flags beside it win.", f'command = "{name}"']
    for field in declared(config):
        value = getattr(config, field.name)
        decides = Role.IDENTITY in field.role or field.name in ("seeds", "data_dir")
        if not decides or value is None or value == () or field.name in follows:
            continue
        if field.name == "seed" and config.seeds:
            continue
        if field.file and not (field.name == "dataset" and value in data.dataset.SPECS):
            names = [_absolute(name, config) for name in ([value] if isinstance(value, str) else value)]
            value = names[0] if isinstance(value, str) else names
        line = f"{field.name} = {toml_value(value)}"
        as_others = field.name in free and value == getattr(usual, field.name)
        lines.append(f"# {line}, from the other settings" if as_others else line)
    return "\n".join(lines) + "\n"


# defaults that depend on the number of epochs or rounds, or on the surrogate
_FROM_OTHERS = (
    *("final_rounds", "rewind_epoch", "early_time_epochs", "queue", "stability_epochs"),
    "surrogate_scale",
)


def _absolute(name: str, config: ResolvedTrain) -> str:
    """The name of a file that is here for a seed, from the root; other names as they are."""
    names = [name.replace("{seed}", str(seed)) for seed in config.seeds or (config.seed,)]
    return os.path.abspath(name) if any(map(os.path.exists, names)) else name


def following(command: type[TrainConfig], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings that follow from others: of a target sparsity, the fraction of each round or their number.

    >>> from snnlth_jax.configs import ImpConfig
    >>> following(ImpConfig, {"sparsity": 0.97, "rounds": 14, "prune_fraction": 0.25})
    ('rounds',)
    """
    if not issubclass(command, Rounds) or values.get("sparsity") is None:
        return ()
    fraction = rounds_to(values["sparsity"], values.get("rounds"), Rounds.prune_fraction).get(
        "prune_fraction"
    )
    return ("prune_fraction",) if fraction == values.get("prune_fraction") else ("rounds",)


def toml_value(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(toml_value, value))}]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
