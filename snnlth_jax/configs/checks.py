"""Values that a configuration may have. An error is one line that names field, value and what is allowed."""

import builtins
import dataclasses
import operator
import types
import typing
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, get_args, get_origin

import numpy as np

from snnlth_jax import _imported, data, losses, surrogate
from snnlth_jax.configs.commands import (
    DynamicConfig,
    EbConfig,
    OneShotConfig,
    ResolvedDivergence,
    ResolvedEb,
    ResolvedImp,
    ResolvedProbe,
    ResolvedRetrain,
    ResolvedRounds,
    ResolvedStability,
    ResolvedTrain,
    ResolvedTransfer,
)
from snnlth_jax.configs.fields import FLOAT32_MIN, Declared, declared
from snnlth_jax.configs.parts import Data, EarlyTime, Neuron, Training
from snnlth_jax.data.frames import split_shape
from snnlth_jax.errors import InputError, not_one_of

__all__ = ["check", "check_devices", "check_examples", "check_fields", "check_frames"]


def check(config: ResolvedTrain) -> None:
    """Check every field of a resolved configuration, and how its fields go together.

    The check depends on the configuration alone: it reads no device and starts no JAX backend.

    Raises:
      InputError: a field with a value that is not allowed.

    >>> from snnlth_jax.configs import ImpConfig, resolve
    >>> resolve(ImpConfig(epochs=3, rewind_epoch=7))
    Traceback (most recent call last):
    snnlth_jax.errors.InputError: rewind_epoch 7: allowed: 0 to 2, before the last epoch
    """
    check_fields(config)
    _check_training(config)
    _check_neuron(config)
    _check_network(config)
    if isinstance(config, ResolvedRounds):
        _check_rounds(config)
    if isinstance(config, ResolvedDivergence):
        most, before = config.epochs, "`epochs`"
        if isinstance(config, EarlyTime) and config.measures_timesteps:
            _require(config, "epochs", lambda v: v >= 2, "2 or more, for the search to continue at T'")
            most, before = config.epochs - 1, "before the last epoch"
        _require(config, "early_time_epochs", lambda v: 1 <= v <= most, f"1 to {most}, {before}")
    if isinstance(config, EarlyTime):
        _check_early_time(config)
    if isinstance(config, ResolvedProbe) or (isinstance(config, EarlyTime) and config.early_time):
        candidates = "3 or more for Early-Time, whose candidates are 2 to T - 1"
        _require(config, "num_timesteps", lambda v: v >= 3, candidates)
    if isinstance(config, EbConfig):
        most = config.epochs + 1
        drawn = f"2 to {most}, the masks drawn in {config.epochs} epochs"
        _require(config, "queue", lambda v: 2 <= v <= most, drawn)
    if isinstance(config, ResolvedImp) and config.budget == "synops":
        spiking = "lif with `budget` synops: the ReLU twin has no spikes"
        _require(config, "activation", lambda v: v == "lif", spiking)
        _require(config, "scope", lambda v: v == "global", "global with `budget` synops")
        even = "not with `budget` synops, which other weights of even loads would exceed"
        _require(config, "processing_elements", lambda v: False, even)
        _require(config, "sparsity", lambda v: False, "not with `budget` synops, which counts no weights")
    if isinstance(config, DynamicConfig):
        if config.update_until == DynamicConfig.update_until:
            _require(config, "epochs", lambda v: v >= 2, "2 or more, for masks that change after the first")
        moving = f"enough of {config.epochs} epochs for a change after the first"
        _require(config, "update_until", lambda v: round(v * config.epochs) >= 2, moving)
    if isinstance(config, ResolvedTransfer):
        twin = "lif, since the ticket goes from the ReLU twin to that"
        _require(config, "activation", lambda v: v == "lif", twin)
    if isinstance(config, ResolvedStability):
        last = config.epochs - 1
        candidates = f"one or more of 0 to {last}, before the last epoch"
        _require(config, "stability_epochs", lambda v: v and all(0 <= r <= last for r in v), candidates)
    if isinstance(config, ResolvedRetrain):
        _require(config, "shuffle", lambda v: not (v and config.redraw), "without `redraw`")
    if isinstance(config, OneShotConfig) and config.like is not None:
        _require(config, "criterion", lambda v: v == "random", "random, with `like`")
        _require(config, "sparsity", lambda v: False, "not with `like`, which has its own")
    _check_images(config)


def check_fields(config: object) -> None:
    """Check the fields of a configuration, resolved or not, each by itself: choices, bounds, duplicates.

    Raises:
      InputError: a field with a value that is not allowed.
    """
    for field in declared(config):
        _check_field(field, getattr(config, field.name))


def check_devices(config: ResolvedTrain) -> None:
    """Check what a configuration asks of the devices of this machine; this starts JAX's backend.

    To be called where a search is about to begin, on all hosts.

    Raises:
      InputError: more devices than there are, a batch that cannot be divided among them, or `pmap` on several
        hosts.
    """
    import jax

    available, hosts = jax.local_device_count(), jax.process_count()
    _require(config, "devices", lambda v: 1 <= v <= available, f"1 to {available}, those of this machine")
    devices, batch = (config.devices or available) * hosts, config.batch_size
    if batch % devices:
        nearest = [f"`batch_size` {max(batch // devices, 1) * devices}"]
        fewer = [number for number in range(1, devices // hosts) if batch % (number * hosts) == 0]
        nearest += [f"`devices` {number}" for number in fewer[-1:]]
        allowed = f"a multiple of {devices}, the devices"
        raise InputError("`batch_size`", batch, allowed=allowed, nearest=" or ".join(nearest))
    if hosts > 1:
        _require(config, "parallel", lambda v: v == "shard_map", "shard_map, on several hosts")


def check_examples(config: Data, examples: int) -> None:
    """Check that a training set of `examples` images is large enough.

    Raises:
      InputError: a batch, or the images of scores, are more than that, or the last batch is too small for the
        network.
    """
    allowed = f"1 to {examples}, the training examples"
    if isinstance(config, Training):
        _require(config, "batch_size", lambda v: v <= examples, allowed)
    if isinstance(config, OneShotConfig):
        _require(config, "score_examples", lambda v: v <= examples, allowed)
    if isinstance(config, ResolvedTrain):
        from snnlth_jax import models  # loads Flax, which readers of configurations do without

        least = models.min_batch_size(config.arch)
        _check_last_batch(config, "batch_size", examples, least)
        if isinstance(config, OneShotConfig) and config.criterion in ("snip", "grasp"):
            scored = config.score_examples or min(1000, examples)
            _check_last_batch(config, "score_examples", scored, least)
        if isinstance(config, EarlyTime) and config.measures_timesteps:
            enough = f"{least} or more, with {config.arch}"
            _require(config, "early_time_examples", lambda v: v >= least, enough)


def check_frames(config: ResolvedTrain, image_shape: tuple[int, ...]) -> None:
    """Check that images that change over time have as many frames as there are timesteps.

    Raises:
      InputError: they have fewer.
    """
    frames, _ = split_shape(image_shape)
    if frames is not None:
        allowed = f"1 to {frames}, the frames of an image"
        _require(config, "num_timesteps", lambda v: v <= frames, allowed)


def _check_last_batch(config: ResolvedTrain, name: str, examples: int, least: int) -> None:
    """Refuse a number of examples whose last batch is too small for the network to train on."""
    size = min(config.batch_size, examples)
    last = examples % size or size
    if last < least:
        raise InputError(
            f"`{name}`",
            getattr(config, name),
            problem=f"leaves {last} of {examples} examples for the last batch of {config.batch_size}",
            allowed=f"{least} or more of them, with {config.arch}",
        )


def _check_field(field: Declared, value: Any) -> None:
    """Its choices, its type, its bounds, and that a list has no duplicates."""
    several = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for one in several:
        if field.choices and one not in field.choices and not isinstance(one, bool):
            raise not_one_of(f"`{field.name}`", one, field.choices)
    if value is not None and not _is_a(value, field.type):
        raise InputError(f"`{field.name}`", repr(value), allowed=_in_words(field.type))
    if any(isinstance(one, float) and 0 < abs(one) < FLOAT32_MIN for one in several):
        allowed = field.bounds.allowed if field.bounds else ""
        raise InputError(f"`{field.name}`", _text(value), problem="is 0 in float32", allowed=allowed)
    if len(set(several)) < len(several):
        raise InputError(f"`{field.name}`", _text(value), allowed="each once")
    if field.bounds and value is not None and not all(map(field.bounds.holds, several)):
        raise InputError(f"`{field.name}`", _text(value), allowed=field.bounds.allowed)
    if (
        field.bounds
        and field.bounds.most
        and value is not None
        and max(several, default=0) > field.bounds.most
    ):
        raise InputError(f"`{field.name}`", _text(value), allowed=f"at most {field.bounds.most:,}")


def _is_a(value: object, kind: Any) -> bool:
    """Whether a value is of the type of a field: a whole number is a number, 0 and 1 are truth values."""
    parts = get_args(kind)
    match get_origin(kind) or kind:
        case typing.Literal:
            return value in parts
        case types.UnionType | typing.Union:
            return any(_is_a(value, part) for part in parts)
        case builtins.tuple:
            return isinstance(value, (tuple, list)) and all(_is_a(one, parts[0]) for one in value)
        case builtins.float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case builtins.int:
            return isinstance(value, int) and not isinstance(value, bool)
        case builtins.bool:
            return value in (0, 1)
        case other:
            return isinstance(value, other)


def _in_words(kind: Any) -> str:
    """The values of a type, for an error."""
    parts = [part for part in get_args(kind) if part not in (types.NoneType, ...)]
    match get_origin(kind) or kind:
        case typing.Literal:
            return ", ".join(map(str, parts))
        case types.UnionType | typing.Union:
            return " or ".join(map(_in_words, parts))
        case builtins.tuple:
            return f"a tuple; in it {_in_words(parts[0])}"
    return {int: "a whole number", float: "a number", bool: "True, False"}.get(kind, "a text")


def _check_training(config: ResolvedTrain) -> None:
    _require(config, "workdir", lambda v: bool(v.strip()), "the name of a directory")
    if config.shard_data == "yes":
        _require(config, "parallel", lambda v: v == "shard_map", "shard_map, with `shard_data` yes")
    if isinstance(config, (ResolvedRounds, ResolvedEb, ResolvedRetrain)):
        last = config.epochs - 1
        _require(config, "rewind_epoch", lambda v: 0 <= v <= last, f"0 to {last}, before the last epoch")
    if config.activation == "relu":
        _require(config, "num_timesteps", lambda v: v == 1, "1 with `activation` relu, which has no time")
    if config.tensorboard:
        if find_spec("tensorboardX") is None:
            raise InputError("`tensorboard`", allowed="after pip install 'snnlth_jax[tensorboard]'")
        _require(config, "workdir", lambda v: "://" not in v, "a local directory, with `tensorboard`")


def _check_network(config: ResolvedTrain) -> None:
    """Refuse options that a network of the user's own decides by itself."""
    if not _imported.is_name(config.arch):
        own = "with `arch` MODULE:FUNCTION, whose options they are"
        _require(config, "arch_option", lambda v: not v, own)
        return
    for name, value in (_usual_neuron(config) | {"width": 1.0}).items():
        without = f"{value} with `arch` {config.arch}, which has its own; see `arch_option`"
        _require(config, name, partial(operator.eq, value), without)


def _usual_neuron(config: ResolvedTrain) -> dict[str, Any]:
    """The fields of `Neuron` at their defaults."""
    usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Neuron)}
    return usual | {"surrogate_scale": surrogate.default_scale(config.surrogate)}


def _check_neuron(config: ResolvedTrain) -> None:
    usual = _usual_neuron(config)
    if config.activation == "relu":
        for name in [name for name in usual if name != "norm"]:
            text = f"{usual[name]} with `activation` relu, which has no spiking neurons"
            _require(config, name, partial(operator.eq, usual[name]), text)
    if config.neuron == "if":
        leaky = "with `neuron` lif or plif: if has no leak"
        _require(config, "neuron_tau", partial(operator.eq, usual["neuron_tau"]), leaky)
    if config.neuron == "plif":
        _require(config, "neuron_tau", lambda v: v > 1, "above 1, with `neuron` plif, whose tau is learned")
    rest = 0.0 if config.v_reset == "none" else float(config.v_reset)
    above = f"above {rest} in float32, the potential after a spike"
    _require(config, "v_threshold", lambda v: bool(np.float32(v) > np.float32(rest)), above)
    if config.norm == "tdbn":
        _require(config, "v_threshold", lambda v: v > 0, "above 0, with `norm` tdbn, which scales by it")


def _check_rounds(config: ResolvedRounds) -> None:
    last = config.rounds - 1
    pruned = f"1 to {last}, the rounds after the dense one" if last else "none, with `rounds` 1"
    _require(config, "final_rounds", lambda v: all(1 <= r <= last for r in v), pruned)
    if isinstance(config, ResolvedImp) and config.rewinding != "weights":
        own = f"rewind, with `rewinding` {config.rewinding}, which keeps all that was trained"
        _require(config, "biases_on_rewind", lambda v: v == "rewind", own)
    if isinstance(config, ResolvedImp) and config.rewinding == "fine-tune":
        constant = "restart, with `rewinding` fine-tune, whose learning rate is one"
        _require(config, "schedule_on_rewind", lambda v: v == "restart", constant)
    if config.sparsity is not None:
        _require(config, "rounds", lambda v: v >= 2, "2 or more, with `sparsity`")
    trained = isinstance(config, ResolvedTransfer) or (
        isinstance(config, ResolvedImp) and (config.early_time or config.controls)
    )
    if trained:
        _require(config, "rounds", lambda v: v >= 2, "2 or more, for a ticket to train or to compare with")
    if last:
        _require(config, "final_rounds", bool, f"one or more of {pruned}")


def _check_early_time(config: EarlyTime) -> None:
    if not config.measures_timesteps:
        measured = "continue, unless `early_time` measures T'"
        _require(config, "early_time_start", lambda v: v == "continue", measured)
    if not config.early_time:
        _require(config, "early_time_loss", lambda v: v == "mean", "mean, without `early_time`")
    if isinstance(config, Training) and not losses.Loss(config.loss).averages:
        summed = f"mean, with `loss` {config.loss}, which is no mean over timesteps"
        _require(config, "early_time_loss", lambda v: v == "mean", summed)
    if config.early_time_timesteps is None:
        return
    if not config.early_time:
        raise InputError("`early_time_timesteps`", config.early_time_timesteps, allowed="with `early_time`")
    assert isinstance(config, ResolvedTrain)
    most = config.num_timesteps - 1
    _require(config, "early_time_timesteps", lambda v: 1 <= v <= most, f"1 to {most}, below T")


def _check_images(config: ResolvedTrain) -> None:
    from snnlth_jax import models  # loads Flax, which readers of configurations do without

    spec, least = data.spec(config.dataset, config.data_dir), models.min_image_size(config.arch)
    check_frames(config, spec.image_shape)
    height, width = spec.image_shape[-3:-1]
    if min(height, width) < least:
        raise InputError(
            "`arch`",
            config.arch,
            problem=f"the {height}x{width} images of {spec.name} are too small for its pools, which need "
            f"{least}x{least}",
            allowed=", ".join(n for n in models.names() if models.min_image_size(n) <= min(height, width)),
        )


def _require(config: object, name: str, holds: Callable[[Any], bool], allowed: str) -> None:
    """Refuse the value of a field, if it is set and the predicate does not hold for it."""
    value = getattr(config, name)
    if value is not None and not holds(value):
        raise InputError(f"`{name}`", _given(value), allowed=allowed)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _given(value: object) -> object:
    """A value as it is given: a flag that is set has none."""
    return None if value is True else _text(value)
