"""Defaults that depend on the dataset or on another field, filled in."""

import dataclasses
from typing import Any, NamedTuple, overload

from snnlth_jax import data, surrogate
from snnlth_jax._constants import of_python
from snnlth_jax.configs import checks
from snnlth_jax.configs.commands import (
    MASKS_IN_QUEUE,
    DynamicConfig,
    EbConfig,
    ImpConfig,
    OneShotConfig,
    ProbeConfig,
    ResolvedDynamic,
    ResolvedEb,
    ResolvedImp,
    ResolvedOneShot,
    ResolvedProbe,
    ResolvedRetrain,
    ResolvedRounds,
    ResolvedStability,
    ResolvedTrain,
    ResolvedTransfer,
    RetrainConfig,
    StabilityConfig,
    TrainConfig,
    TransferConfig,
)
from snnlth_jax.configs.methods import one_shot_criterion
from snnlth_jax.configs.naming import run_name, short_name
from snnlth_jax.configs.parts import Data, Dataset, EarlyTime, Rounds, Training
from snnlth_jax.configs.targets import rounds_to
from snnlth_jax.data import augment
from snnlth_jax.data.augment import STEPS
from snnlth_jax.data.frames import split_shape

__all__ = [
    "dataset_name",
    "load_dataset",
    "proportional_rewind_epoch",
    "resolve",
    "resolve_as_before",
    "steps",
]


class _Defaults(NamedTuple):
    arch: str
    num_timesteps: int
    epochs: int
    batch_size: int
    learning_rate: float
    rewind_epoch: int
    rounds: int


# Paper, training settings; rewind epoch 20: paper, IMP.
_CIFAR = _Defaults("vgg16", 5, 300, 128, 0.3, 20, 15)
_BY_DATASET = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn_cropped": _CIFAR._replace(epochs=150),
    "fashion_mnist": _CIFAR._replace(epochs=150),
    "mnist": _CIFAR._replace(epochs=150),
    # network: paper, supplement; its settings are not known to us, these are CIFAR's
    "tiny_imagenet": _CIFAR._replace(arch="resnet34"),
    # for two cores and a minute or two, chosen by trial (docs/results.md)
    "digits": _Defaults("vgg5", 4, 15, 64, 0.1, 1, 12),
}
# a user's own: a learning rate that small sets bear; arch and batch_size depend on the images, see `_own`
_OWN = _CIFAR._replace(epochs=150, learning_rate=0.1)
_RESOLVED: dict[type[TrainConfig], type[ResolvedTrain]] = {
    TrainConfig: ResolvedTrain,
    ImpConfig: ResolvedImp,
    TransferConfig: ResolvedTransfer,
    EbConfig: ResolvedEb,
    OneShotConfig: ResolvedOneShot,
    DynamicConfig: ResolvedDynamic,
    ProbeConfig: ResolvedProbe,
    StabilityConfig: ResolvedStability,
    RetrainConfig: ResolvedRetrain,
}


@overload
def resolve(config: ImpConfig) -> ResolvedImp: ...
@overload
def resolve(config: TransferConfig) -> ResolvedTransfer: ...
@overload
def resolve(config: EbConfig) -> ResolvedEb: ...
@overload
def resolve(config: OneShotConfig) -> ResolvedOneShot: ...
@overload
def resolve(config: DynamicConfig) -> ResolvedDynamic: ...
@overload
def resolve(config: ProbeConfig) -> ResolvedProbe: ...
@overload
def resolve(config: StabilityConfig) -> ResolvedStability: ...
@overload
def resolve(config: RetrainConfig) -> ResolvedRetrain: ...
@overload
def resolve(config: TrainConfig) -> ResolvedTrain: ...
def resolve(config: TrainConfig) -> ResolvedTrain:
    """Fill in every default, and check the result; no device is started.

    Args:
      config: any of `snnlth_jax.configs`; a resolved one stays as it is.

    Returns:
      The same values, and defaults, in the resolved type of the command.

    Raises:
      InputError: a value that is not allowed, see `check`.

    >>> resolve(ImpConfig(dataset="cifar10")).epochs
    300
    """
    resolved: ResolvedTrain = _resolved(config)
    return resolved


def resolve_as_before(config: TrainConfig) -> ResolvedTrain:
    """`resolve`, with the defaults of earlier versions, for runs that they began.

    The rewind epoch did not follow the number of epochs, nor the name of the directory the settings.

    >>> resolve_as_before(ImpConfig(epochs=45)).rewind_epoch, resolve(ImpConfig(epochs=45)).rewind_epoch
    (1, 3)
    """
    resolved: ResolvedTrain = _resolved(config, before=True)
    return resolved


def resolve_with_steps(config: TrainConfig) -> ResolvedTrain:
    """`resolve`, in which steps of augmentation that are given stay, though they are those of the dataset.

    Earlier versions told them from the default.

    >>> config = ImpConfig(augment=("crop",))
    >>> resolve_with_steps(config).augment, resolve(config).augment
    (('crop',), True)
    """
    resolved: ResolvedTrain = _resolved(config, steps=True)
    return resolved


def _resolved(config: TrainConfig, before: bool = False, steps: bool = False) -> Any:
    fields = {field.name: of_python(getattr(config, field.name)) for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **fields)
    checks.check_fields(config)
    spec = data.spec(config.dataset, config.data_dir)
    make = next(_RESOLVED[kind] for kind in type(config).__mro__ if kind in _RESOLVED)
    resolved = make(**_filled(config, spec, before, steps))
    if config.workdir is None:
        name = short_name(resolved, spec.name)
        if not before:
            name = run_name(config, resolved, spec.name, lambda other: _filled(other, spec, before, steps))
        resolved = dataclasses.replace(resolved, workdir=f"runs/{name}")
    checks.check(resolved)
    return resolved


def _filled(config: TrainConfig, spec: data.Spec, before: bool, steps: bool) -> dict[str, Any]:
    """The fields of a configuration, with every default except the directory."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    own = config.dataset not in _BY_DATASET
    defaults: dict[str, Any] = (_own(spec, config) if own else _BY_DATASET[config.dataset])._asdict()
    if isinstance(config.augment, (tuple, list)):  # in one order; none of them is False
        ranks = {step: rank for rank, step in enumerate(STEPS)}
        chosen = tuple(sorted(config.augment, key=lambda s: ranks.get(s, len(ranks))))
        usual = chosen == augment.steps(spec.augmentation) and not (before or steps)
        fields["augment"] = usual or chosen or False
    if (frames := split_shape(spec.image_shape)[0]) is not None:
        defaults["num_timesteps"] = frames
    if config.activation == "relu":
        defaults["num_timesteps"] = 1
    epochs = defaults["epochs"] if config.epochs is None else config.epochs
    if own or not before:
        defaults["rewind_epoch"] = proportional_rewind_epoch(spec.name, epochs)
    measures = isinstance(config, EarlyTime) and config.measures_timesteps
    most = max(1, epochs - 1) if measures else epochs  # a search has epochs of its own after these
    defaults["early_time_epochs"] = min(10 if isinstance(config, ProbeConfig) else 2, most)
    if isinstance(config, OneShotConfig):
        defaults["criterion"] = one_shot_criterion(config)
        if config.like is None:
            defaults["sparsity"] = 0.9
    if config.surrogate in surrogate.NAMES:  # others are refused
        defaults["surrogate_scale"] = surrogate.default_scale(config.surrogate)
    defaults["v_reset"] = "none"
    defaults["queue"] = min(MASKS_IN_QUEUE, epochs + 1)
    defaults["batch_size"] = min(defaults["batch_size"], _examples(spec, config))
    if isinstance(config, Rounds) and config.sparsity is not None and not isinstance(config, ResolvedRounds):
        fields |= rounds_to(config.sparsity, config.rounds, config.prune_fraction)
    if isinstance(config, Rounds):
        rounds = defaults["rounds"] if fields["rounds"] is None else fields["rounds"]
        defaults["final_rounds"] = (rounds - 1,) if rounds > 1 else ()
        fields["final_rounds"] = config.final_rounds and tuple(sorted(config.final_rounds))
    if isinstance(config, StabilityConfig):
        ladder = (0, *(step * 10**power for power in range(len(str(epochs))) for step in (1, 2, 5)))
        defaults["stability_epochs"] = tuple(epoch for epoch in ladder if epoch < epochs)
        fields["stability_epochs"] = config.stability_epochs and tuple(sorted(config.stability_epochs))
    for name, default in defaults.items():
        if name in fields and fields[name] is None:
            fields[name] = default
    return fields


def proportional_rewind_epoch(dataset: str, epochs: int) -> int:
    """The default rewind epoch of IMP on a dataset (paper, IMP), in proportion to the number of epochs.

    >>> proportional_rewind_epoch("cifar10", 300), proportional_rewind_epoch("cifar10", 30)
    (20, 2)
    """
    defaults = _BY_DATASET.get(dataset, _OWN)
    return max(0, min(max(1, round(defaults.rewind_epoch * epochs / defaults.epochs)), epochs - 1))


def load_dataset(config: Data) -> data.Dataset:
    """Load the dataset of a configuration.

    Raises:
      InputError: as `data.load`, and for a batch larger than the training set.
    """
    dataset = data.load(
        config.dataset,
        config.data_dir,
        train_examples=config.train_examples,
        validation_examples=config.validation_examples,
        test_examples=config.test_examples,
        seed=config.seed,
    )
    checks.check_examples(config, len(dataset.train.labels))
    return dataset


def steps(config: Training, dataset: str) -> str:
    """The random steps for training images of a dataset, as `--augment` has them.

    >>> steps(Training(), "cifar10"), steps(Training(augment=False), "cifar10")
    ('crop,flip,cutout', 'none')
    """
    if config.augment is True:
        own = data.dataset.SPECS.get(dataset)
        return (",".join(augment.steps(own.augmentation)) or "none") if own else "crop"
    return ",".join(config.augment or ("none",))


def dataset_name(config: Dataset) -> str:
    """The name of the dataset of a configuration, as results and directories have it.

    >>> dataset_name(Dataset(dataset="cifar10"))
    'cifar10'
    """
    return data.spec(config.dataset, config.data_dir).name


def _own(spec: data.Spec, config: TrainConfig) -> _Defaults:
    """The defaults for a dataset of the user's own."""
    from snnlth_jax import models  # loads Flax, which readers of configurations do without

    side = min(spec.image_shape[-3:-1])
    arch = next(name for name in ("vgg16", "vgg9", "vgg5", "resnet7") if models.min_image_size(name) <= side)
    return _OWN._replace(arch=arch, batch_size=128 if _examples(spec, config) >= 10_000 else 64)


def _examples(spec: data.Spec, config: Data) -> int:
    """Number of training images that are left; numbers that are not allowed are refused with the data."""
    examples = spec.train_size - max(0, config.validation_examples)
    if config.train_examples is not None and config.train_examples >= 1:
        examples = min(examples, config.train_examples)
    return max(1, examples)
