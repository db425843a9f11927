"""Fields that a combination of others does not use: refused where they are set, as they change nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from snnlth_jax.configs.commands import (
    OneShotConfig,
    ResolvedImp,
    ResolvedRounds,
    ResolvedTrain,
    RetrainConfig,
    TrainConfig,
)
from snnlth_jax.configs.fields import declared
from snnlth_jax.configs.parts import Divergence, EarlyTime
from snnlth_jax.configs.resolving import resolve
from snnlth_jax.errors import InputError

__all__ = ["check"]


class Rule(NamedTuple):
    """Fields that are used under a condition alone.

    Attributes:
      names: the fields.
      of: type of configuration that the rule is for.
      unused: whether they are not used.
      why: where they are not used, in words.
    """

    names: tuple[str, ...]
    of: type[Any]
    unused: Callable[[Any], bool]
    why: str


_DIVERGENCE = tuple(field.name for field in declared(Divergence))
_ROUNDS = ("prune_fraction", "scope", "bn_on_rewind", "schedule_on_rewind", "biases_on_rewind")
_RULES = (
    Rule(_ROUNDS, ResolvedRounds, lambda c: c.rounds == 1, "with `rounds` 1, which prunes nothing"),
    Rule(
        ("score", "budget", "processing_elements", "rewinding"),
        ResolvedImp,
        lambda c: c.rounds == 1,
        "with `rounds` 1, which prunes nothing",
    ),
    Rule(
        ("momentum",),
        ResolvedTrain,
        lambda c: c.optimizer != "sgd",
        "with `optimizer` adam, which has its own",
    ),
    Rule(_DIVERGENCE, EarlyTime, lambda c: not c.early_time, "without `early_time`"),
    Rule(
        _DIVERGENCE,
        EarlyTime,
        lambda c: not c.measures_timesteps,
        "with `early_time_timesteps`: nothing is measured",
    ),
    Rule(
        ("score",),
        ResolvedImp,
        lambda c: c.scope != "global",
        "unless `scope` is global: LAMP compares layers",
    ),
    Rule(
        ("synflow_iterations",),
        OneShotConfig,
        lambda c: c.criterion != "synflow",
        "unless `criterion` is synflow",
    ),
    Rule(
        ("score_examples",),
        OneShotConfig,
        lambda c: c.criterion not in ("snip", "grasp"),
        "unless `criterion` is snip or grasp",
    ),
    Rule(("scope",), OneShotConfig, lambda c: c.like is not None, "with `like`, whose layers decide"),
    Rule(
        ("seed",),
        ResolvedTrain,  # a ticket's search had a seed
        lambda c: bool(c.seeds) and not isinstance(c, RetrainConfig),
        "with `seeds`, which take its place",
    ),
)


def _default(config: TrainConfig, name: str) -> Any:
    """The value of a field that is not set."""
    (usual,) = (field.default for field in dataclasses.fields(config) if field.name == name)
    without: dict[str, Any] = {name: usual}
    return getattr(resolve(dataclasses.replace(config, **without)), name)


def check(config: TrainConfig) -> None:
    """Check that a configuration sets no field that it does not use.

    This is for the command line, where a flag is there to change something; a program may hold the values of
    several searches in one configuration.

    Raises:
      InputError: naming the first that it sets; or what `resolve` refuses.

    >>> check(OneShotConfig(criterion="snip", synflow_iterations=50))
    Traceback (most recent call last):
    ...
    snnlth_jax.errors.InputError: synflow_iterations 50: would change nothing; allowed: 100, unless ...
    """
    resolved = resolve(config)
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    for rule in _RULES:
        if isinstance(resolved, rule.of) and rule.unused(resolved):
            for name in rule.names:
                value = getattr(config, name)
                if value != usual[name] and value != _default(config, name):
                    without = "no value" if usual[name] is None else usual[name]
                    allowed = f"{without}, {rule.why}"
                    raise InputError(f"`{name}`", value, problem="would change nothing", allowed=allowed)
