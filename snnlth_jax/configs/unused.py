"""Fields that a combination of others does not use: refused where they are set, as they change nothing."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from snnlth_jax.configs.commands import OneShotConfig, ResolvedImp, ResolvedTrain, RetrainConfig
from snnlth_jax.configs.fields import declared
from snnlth_jax.configs.parts import Divergence, EarlyTime
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
_RULES = (
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


def check(config: ResolvedTrain, defaults: Mapping[str, Any]) -> None:
    """Check that all fields that are not used have their defaults.

    Args:
      config: a resolved configuration.
      defaults: value of each field that was not chosen.

    Raises:
      InputError: naming the first that has not.
    """
    for rule in _RULES:
        if isinstance(config, rule.of) and rule.unused(config):
            for name in rule.names:
                value = getattr(config, name)
                if value != defaults[name]:
                    usual = "no value" if defaults[name] is None else defaults[name]
                    allowed = f"{usual}, {rule.why}"
                    raise InputError(f"`{name}`", value, problem="would change nothing", allowed=allowed)
