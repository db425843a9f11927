"""The method of a configuration by name, and ticket files by their content."""

import hashlib

from snnlth_jax import files
from snnlth_jax.configs.commands import Criterion, DynamicConfig, OneShotConfig, RetrainConfig, TrainConfig
from snnlth_jax.configs.parts import EarlyTime
from snnlth_jax.errors import InputError

__all__ = ["content", "method_name", "one_shot_criterion"]


def method_name(config: TrainConfig) -> str:
    """The method of a configuration: "imp", "eb", with Early-Time or without, "one-shot snip" ...

    >>> from snnlth_jax.configs import ImpConfig
    >>> method_name(ImpConfig(early_time=True)), method_name(OneShotConfig(criterion="random"))
    ('imp+et', 'one-shot random')
    """
    if isinstance(config, OneShotConfig):
        return f"{config.method} {one_shot_criterion(config)}"
    if isinstance(config, DynamicConfig):
        return f"{config.method} {config.criterion}"
    if isinstance(config, RetrainConfig):
        return config.method + " redrawn" * config.redraw + " random" * config.shuffle
    return config.method + ("+et" if isinstance(config, EarlyTime) and config.early_time else "")


def one_shot_criterion(config: OneShotConfig) -> Criterion:
    """The score of a configuration: its own, or random with a ticket to be like, or snip."""
    return config.criterion or ("snip" if config.like is None else "random")


def content(what: str, file: str) -> str:
    """A short hash of the content of a ticket file.

    Args:
      what: the argument that names the file, for the error.
      file: path of the file.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        return hashlib.sha256(files.read(file, "ticket file")).hexdigest()[:12]
    except InputError as error:
        problem = getattr(error.__cause__, "strerror", None) or error.problem
        raise InputError(what, file, problem=problem, allowed="a ticket file") from error
