"""Which values a configuration may have, said in one line where it has another."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax

from snnlth_jax import data, models
from snnlth_jax.errors import InputError
from snnlth_jax.machine.sharding import HOW
from snnlth_jax.pruning import SCOPES

__all__ = ["check", "flag", "require"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("lif", "relu"),
    "schedule": ("cosine", "step"),
    "optimizer": ("sgd", "adam"),
    "dtype": ("float32", "bfloat16"),
    "scope": SCOPES,
    "bn_on_rewind": ("rewind", "keep", "reset"),
    "rewinding": ("weights", "learning-rate", "fine-tune"),
    "parallel": HOW,
    "shard_data": ("auto", "yes", "no"),
    "controls": ("random", "redrawn", "dense"),
    "early_time_direction": ("forward", "reverse"),
    "early_time_reduction": ("sum", "mean"),
    "early_time_normalisation": ("first", "max"),
}
_CRITERIA = {"eb": ("hamming", "overlap"), "one-shot": ("magnitude", "random", "snip", "grasp", "synflow")}

FLOAT32_MAX = 3.4e38


def check(config: Any, spec: data.Spec) -> None:
    """That a configuration whose every default is filled in can be run.

    Args:
      config: any of `snnlth_jax.configs`; a command without a field has nothing to check in it.
      spec: of its dataset.

    Raises:
      InputError: one line with the flag, the value and what is allowed.
    """
    choices = _CHOICES | {"criterion": _CRITERIA.get(config.method, ())}
    for name in (field.name for field in dataclasses.fields(config)):
        value = getattr(config, name)
        for one in value if isinstance(value, tuple) else (value,):
            if name in choices and one not in choices[name]:
                raise InputError(f"{flag(name)} {one}: allowed: {', '.join(choices[name])}")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise InputError(f"{flag(name)} {_text(value)}: allowed: each once")
    for name in ("epochs", "batch_size", "eval_every", "checkpoint_every", "rounds"):
        require(config, name, lambda v: v >= 1, "1 or more")
    for name in ("early_time_examples", "score_examples", "synflow_iterations"):
        require(config, name, lambda v: v >= 1, "1 or more")
    require(config, "num_timesteps", lambda v: 1 <= v <= 1000, "1 to 1000")
    require(config, "learning_rate", lambda v: 0 < v <= FLOAT32_MAX, "a number above 0, finite in float32")
    require(config, "width", lambda v: 0 < v <= 16, "a number above 0, at most 16")
    require(config, "weight_decay", lambda v: 0 <= v <= FLOAT32_MAX, "0 or more, finite in float32")
    require(config, "seed", lambda v: 0 <= v < 2**32, "0 to 2^32 - 1")
    require(config, "seeds", lambda v: all(0 <= seed < 2**32 for seed in v), "0 to 2^32 - 1")
    require(config, "workdir", lambda v: v.strip(), "the name of a directory")
    available = jax.local_device_count()
    require(config, "devices", lambda v: 1 <= v <= available, f"1 to {available}, those of this machine")
    devices = (config.devices or available) * jax.process_count()
    evenly = f"a multiple of {devices}, the devices (or fewer --devices)"
    require(config, "batch_size", lambda v: v % devices == 0, evenly)
    if config.shard_data == "yes":
        require(config, "parallel", lambda v: v == "shard_map", "shard_map, with --shard-data yes")
    if jax.process_count() > 1:
        require(config, "parallel", lambda v: v == "shard_map", "shard_map, on several hosts")
    require(config, "checkpoint_minutes", lambda v: 0 <= v <= FLOAT32_MAX, "0 or more")
    require(config, "momentum", lambda v: 0 <= v < 1, "0 or more, below 1")
    for name in ("prune_fraction", "sparsity"):
        require(config, name, lambda v: 0 < v < 1, "between 0 and 1, both excluded")
    last = config.epochs - 1
    require(config, "rewind_epoch", lambda v: 0 <= v <= last, f"0 to {last}, before the last epoch")
    last_round = (getattr(config, "rounds", None) or 1) - 1
    pruned = f"1 to {last_round}, the rounds after the dense one"
    require(config, "final_rounds", lambda v: all(1 <= r <= last_round for r in v), pruned)
    if last_round == 0 and config.method in ("imp", "transfer"):
        trained = config.method == "transfer" or config.early_time or config.controls
        require(
            config, "rounds", lambda v: not trained, "2 or more, for a ticket to train or to compare with"
        )
    require(config, "final_rounds", lambda v: v or not last_round, f"one or more of {pruned}")
    most = config.epochs + 1
    require(
        config, "queue", lambda v: 2 <= v <= most, f"2 to {most}, the masks drawn in {config.epochs} epochs"
    )
    require(config, "tau", lambda v: 0 <= v <= 1, "0 to 1")
    require(config, "search_learning_rate_factor", lambda v: 0 < v <= 1e6, "a number above 0, at most 1e6")
    require(config, "early_time_lambda", lambda v: 0 < v <= 1, "above 0, at most 1")
    require(config, "early_time_epochs", lambda v: 1 <= v <= config.epochs, f"1 to {config.epochs}, --epochs")
    if config.method == "transfer" and config.activation == "relu":
        raise InputError("--activation relu: allowed: lif, since the ticket goes from the ReLU twin to that")
    if config.activation == "relu":
        require(config, "num_timesteps", lambda v: v == 1, "1 with --activation relu, which has no time")
    if getattr(config, "early_time", config.method == "probe-timesteps"):
        candidates = "3 or more for Early-Time, whose candidates are 2 to T - 1"
        require(config, "num_timesteps", lambda v: v >= 3, candidates)
    if getattr(config, "early_time_timesteps", None) is not None:
        require(config, "early_time", bool, "with --early-time-timesteps")
        most = config.num_timesteps - 1
        require(config, "early_time_timesteps", lambda v: 1 <= v <= most, f"1 to {most}, below T")
    if getattr(config, "like", None) is not None:
        if config.criterion != "random":
            raise InputError(f"--criterion {config.criterion}: allowed: random, with --like")
        if config.sparsity is not None:
            raise InputError(f"--sparsity {config.sparsity}: allowed: not with --like, which has its own")

    if config.tensorboard:
        if find_spec("tensorboardX") is None:
            raise InputError("--tensorboard: allowed: after pip install 'snnlth_jax[tensorboard]'")
        local = "a local directory, with --tensorboard"
        require(config, "workdir", lambda v: "://" not in v, local)
    least, (height, width, _) = models.min_image_size(config.arch), spec.image_shape
    if min(height, width) < least:
        raise InputError(
            f"--arch {config.arch}: the {height}x{width} images of {spec.name} are too small for its pools, "
            f"which need {least}x{least}; allowed: "
            + ", ".join(name for name in models.names() if models.min_image_size(name) <= min(height, width))
        )


def require(config: Any, name: str, holds: Callable[[Any], bool], allowed: str) -> None:
    """That a predicate holds for a field, if the configuration has it and it is set; else InputError."""
    value = getattr(config, name, None)
    if value is not None and not holds(value):
        raise InputError(f"{flag(name)} {_text(value)}: allowed: {allowed}")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flag(name: str) -> str:
    """What a field is called on the command line."""
    return "--" + name.replace("_", "-")
