"""Defaults that depend on the dataset or on another field, filled in."""

import dataclasses
import hashlib
from typing import Any, NamedTuple, overload

from etils import epath

from snnlth_jax import data
from snnlth_jax.configs import checks
from snnlth_jax.configs.commands import (
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
    ResolvedStability,
    ResolvedTrain,
    ResolvedTransfer,
    RetrainConfig,
    StabilityConfig,
    TrainConfig,
    TransferConfig,
)
from snnlth_jax.configs.parts import Data, EarlyTime, Rounds
from snnlth_jax.errors import InputError

__all__ = ["content", "load_dataset", "method_name", "proportional_rewind_epoch", "resolve"]


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
    # network: paper, supplement; its settings are not known to us, these are CIFAR's
    "tiny_imagenet": _CIFAR._replace(arch="resnet34"),
    # for two cores and a minute or two, chosen by trial (docs/results.md)
    "digits": _Defaults("vgg5", 4, 15, 64, 0.1, 1, 12),
}
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
    spec = data.spec(config.dataset)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    defaults: dict[str, Any] = _BY_DATASET[spec.name]._asdict()
    if config.activation == "relu":
        defaults["num_timesteps"] = 1
    epochs = defaults["epochs"] if config.epochs is None else config.epochs
    measures = isinstance(config, EarlyTime) and config.measures_timesteps
    most = max(1, epochs - 1) if measures else epochs  # a search has epochs of its own after these
    defaults["early_time_epochs"] = min(10 if isinstance(config, ProbeConfig) else 2, most)
    if isinstance(config, OneShotConfig) and config.like is None:
        defaults["sparsity"] = 0.9
    if isinstance(config, Rounds):
        rounds = defaults["rounds"] if config.rounds is None else config.rounds
        defaults["final_rounds"] = (rounds - 1,) if rounds > 1 else ()
        fields["final_rounds"] = config.final_rounds and tuple(sorted(config.final_rounds))
    if isinstance(config, StabilityConfig):
        ladder = (0, *(step * 10**power for power in range(len(str(epochs))) for step in (1, 2, 5)))
        defaults["stability_epochs"] = tuple(epoch for epoch in ladder if epoch < epochs)
        fields["stability_epochs"] = config.stability_epochs and tuple(sorted(config.stability_epochs))
    for name, default in defaults.items():
        if name in fields and fields[name] is None:
            fields[name] = default
    make = next(_RESOLVED[kind] for kind in type(config).__mro__ if kind in _RESOLVED)
    resolved = make(**fields)
    if config.workdir is None:
        resolved = dataclasses.replace(resolved, workdir=f"runs/{_run_name(resolved)}")
    checks.check(resolved)
    return resolved


def proportional_rewind_epoch(dataset: str, epochs: int) -> int:
    """The default rewind epoch of IMP on a dataset (paper, IMP), in proportion to the number of epochs.

    >>> proportional_rewind_epoch("cifar10", 300), proportional_rewind_epoch("cifar10", 30)
    (20, 2)
    """
    defaults = _BY_DATASET[dataset]
    return min(max(1, round(defaults.rewind_epoch * epochs / defaults.epochs)), epochs - 1)


def method_name(config: TrainConfig) -> str:
    """The method of a configuration: "imp", "eb", with Early-Time or without, "one-shot snip" ...

    >>> method_name(ImpConfig(early_time=True)), method_name(OneShotConfig(criterion="random"))
    ('imp+et', 'one-shot random')
    """
    if isinstance(config, (OneShotConfig, DynamicConfig)):
        return f"{config.method} {config.criterion}"
    if isinstance(config, RetrainConfig):
        return config.method + " redrawn" * config.redraw + " random" * config.shuffle
    return config.method + ("+et" if isinstance(config, EarlyTime) and config.early_time else "")


def content(what: str, file: str) -> str:
    """A short hash of the content of a ticket file.

    Args:
      what: the argument that names the file, for the error.
      file: path of the file.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        return hashlib.sha256(epath.Path(file).read_bytes()).hexdigest()[:12]
    except OSError as error:
        problem = str(error.strerror)
        raise InputError(what, file, problem=problem, allowed="a ticket file") from error


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


def _run_name(config: TrainConfig) -> str:
    sparsity = config.sparsity if isinstance(config, (EbConfig, OneShotConfig, DynamicConfig)) else None
    file = config.ticket if isinstance(config, RetrainConfig) else ""
    ticket = content("ticket", file)[:6] if file else None
    parts = [method_name(config).replace(" ", "_"), ticket, sparsity, config.dataset, config.arch]
    parts.append(None if config.seeds else f"seed{config.seed}")
    return "_".join(str(part) for part in parts if part is not None)
