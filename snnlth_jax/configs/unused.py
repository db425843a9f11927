"""Fields that a combination of others does not use: refused where they are set, since they would change nothing."""

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
    Rule(("momentum",), ResolvedTrain, lambda c: c.optimizer != "sgd", "`optimizer` adam, which has its own"),
    Rule(_DIVERGENCE, EarlyTime, lambda c: not c.early_time, "out `early_time`"),
    Rule(
        _DIVERGENCE,
        EarlyTime,
        lambda c: not c.measures_timesteps,
        "`early_time_timesteps`: nothing is measured",
    ),
    Rule(
        ("score",),
        ResolvedImp,
        lambda c: c.scope != "global",
        "`scope` other than global: LAMP compares layers",
    ),
    Rule(
        ("synflow_iterations",),
        OneShotConfig,
        lambda c: c.criterion != "synflow",
        "`criterion` other than synflow",
    ),
    Rule(
        ("score_examples",),
        OneShotConfig,
        lambda c: c.criterion not in ("snip", "grasp"),
        "`criterion` other than snip and grasp",
    ),
    Rule(("scope",), OneShotConfig, lambda c: c.like is not None, "`like`, whose layers decide"),
    Rule(
        ("seed",),
        ResolvedTrain,  # a ticket's search had a seed
        lambda c: bool(c.seeds) and not isinstance(c, RetrainConfig),
        "`seeds`, which take its place",
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
                    allowed = f"{defaults[name]}, with {rule.why}"
                    raise InputError(f"`{name}`", value, problem="would change nothing", allowed=allowed)
