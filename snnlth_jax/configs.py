"""What a run is made of: frozen dataclasses, one per command. Every default is the paper's, with its source.

Where a default depends on the dataset the field is None until `resolve`, which also refuses what cannot be.
"""

import dataclasses
import hashlib
import json
from typing import Any, ClassVar

from snnlth_jax import data, models
from snnlth_jax.errors import InputError
from snnlth_jax.pruning import SCOPES

__all__ = [
    "ImpConfig",
    "Resolved",
    "TrainConfig",
    "difference",
    "digest",
    "identity",
    "load_dataset",
    "resolve",
]

# One value per dataset: paper, training settings; rewind epoch 20: paper, IMP.
# digits: for two cores and a minute or two, chosen by trial (docs/results.md).
_CIFAR: dict[str, Any] = {
    "arch": "vgg16",
    "num_timesteps": 5,
    "epochs": 300,
    "batch_size": 128,
    "learning_rate": 0.3,
    "rewind_epoch": 20,
    "rounds": 15,
}
_BY_DATASET: dict[str, dict[str, Any]] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn_cropped": _CIFAR | {"epochs": 150},
    "fashion_mnist": _CIFAR | {"epochs": 150},
    "digits": {
        "arch": "vgg5",
        "num_timesteps": 4,
        "epochs": 15,
        "batch_size": 64,
        "learning_rate": 0.1,
        "rewind_epoch": 1,
        "rounds": 12,
    },
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The data, the network and its training."""

    workdir: str | None = None
    """Directory of the run: checkpoints, tickets, metrics. The same command run again goes on there.
    Default: runs/METHOD_DATASET_ARCH_seedN"""
    dataset: str = "digits"
    """digits (8x8 images, comes with scikit-learn), or the paper's cifar10, cifar100, svhn_cropped,
    fashion_mnist (see `snnlth data prepare`)"""
    data_dir: str | None = None
    """Where TensorFlow Datasets keeps its data. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets"""
    arch: str | None = None
    """Network: vgg5, vgg9, vgg11, vgg13, vgg16, vgg19, resnet7, resnet19. Default: vgg16 (paper); vgg5 for
    digits"""
    width: float = 1.0
    """Factor on the channels of every layer"""
    activation: str = "lif"
    """lif, or relu for the artificial twin of the network, which has one timestep (paper, Fig. 8)"""
    num_timesteps: int | None = None
    """T, how often the image is shown. Default: 5 (paper, training settings); 4 for digits; 1 for relu"""
    epochs: int | None = None
    """Epochs of training from initialisation. Default: 300 for CIFAR, 150 for SVHN and Fashion-MNIST
    (paper, training settings); 15 for digits"""
    batch_size: int | None = None
    """Examples per step; the last, smaller batch of an epoch is used. Default: 128 (paper, training
    settings); 64 for digits"""
    learning_rate: float | None = None
    """Of the first epoch. Default: 0.3 (paper, training settings); 0.1 for digits"""
    schedule: str = "cosine"
    """cosine (paper, training settings) or step, per epoch"""
    optimizer: str = "sgd"
    """sgd (paper, training settings) or adam"""
    momentum: float = 0.9
    """Of SGD (paper, training settings)"""
    weight_decay: float = 5e-4
    """Added to the gradient of all parameters (paper, training settings)"""
    augment: bool = True
    """Random crop, flip and cutout, as the authors' code has it for each dataset"""
    dtype: str = "float32"
    """Of the computation: float32, or bfloat16 with parameters and statistics in float32"""
    seed: int = 0
    """Decides initialisation, data order, augmentation and the choice of capped training examples"""
    train_examples: int | None = None
    """Cap on the training set, for small machines. Default: all of it"""
    test_examples: int | None = None
    """Cap on the test set, for trying out on small machines. Default: all of it"""
    validation_examples: int = 0
    """Held out of the training set and evaluated beside the test set; the paper has none"""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch of a round has one in any case"""
    checkpoint_every: int = 1
    """Epochs between checkpoints; the end of a round has one in any case"""

    method: ClassVar[str] = "train"


@dataclasses.dataclass(frozen=True)
class ImpConfig(TrainConfig):
    """Iterative magnitude pruning with late rewinding: train, prune, rewind, again (paper, IMP)."""

    rounds: int | None = None
    """Rounds of training, the dense one counted: sparsity 1 - (1 - p)^(rounds - 1) at the end. Default: 15
    (paper, training settings), 98.2 % at p = 0.25; 12 for digits"""
    prune_fraction: float = 0.25
    """p, the fraction of the weights left that each round removes (paper, training settings)"""
    scope: str = "global"
    """global: one threshold for all layers (paper, IMP); layer: the same fraction of each (Fig. 6b); erk: in
    proportion to the sum of a layer's axes"""
    rewind_epoch: int | None = None
    """Survivors go back to their values after so many epochs; 0 is the original lottery ticket. Default: 20
    (paper, IMP); 1 for digits"""
    bn_on_rewind: str = "rewind"
    """Running statistics of batch norm on rewinding: rewind them with the weights, keep them (as the authors'
    code does), or reset them to mean 0 and variance 1"""
    random_control: str = "none"
    """Train, after the search, random masks of a round's layer-wise counts the same way: none, last, all"""

    method: ClassVar[str] = "imp"


_CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("lif", "relu"),
    "schedule": ("cosine", "step"),
    "optimizer": ("sgd", "adam"),
    "dtype": ("float32", "bfloat16"),
    "scope": SCOPES,
    "bn_on_rewind": ("rewind", "keep", "reset"),
    "random_control": ("none", "last", "all"),
}

FLOAT32_MAX = 3.4e38

# fields that may differ between a run and its continuation: they do not change what is computed
_NOT_IDENTITY = ("workdir", "data_dir", "checkpoint_every")

# a configuration whose every None is filled in
Resolved = Any


def resolve(config: TrainConfig) -> Resolved:
    """The configuration with every default filled in.

    Raises:
      InputError: a value that is not allowed; one line with the flag, the value and what is allowed.
    """
    spec = data.spec(config.dataset)
    defaults = dict(_BY_DATASET[spec.name])
    if config.activation == "relu":
        defaults["num_timesteps"] = 1
    arch = config.arch or defaults["arch"]
    defaults["workdir"] = f"runs/{config.method}_{spec.name}_{arch}_seed{config.seed}"
    names = [field.name for field in dataclasses.fields(config)]
    unset = {name: defaults[name] for name in names if name in defaults and getattr(config, name) is None}
    return _checked(dataclasses.replace(config, **unset), spec)


def _checked(config: Resolved, spec: data.Spec) -> Resolved:
    names = [field.name for field in dataclasses.fields(config)]
    for name in names:
        value = getattr(config, name)
        if name in _CHOICES and value not in _CHOICES[name]:
            raise InputError(f"{_flag(name)} {value}: allowed: {', '.join(_CHOICES[name])}")
    for name in ("epochs", "batch_size", "eval_every", "checkpoint_every", "rounds"):
        _require(config, name, lambda v: v >= 1, "1 or more")
    _require(config, "num_timesteps", lambda v: 1 <= v <= 1000, "1 to 1000")
    _require(config, "learning_rate", lambda v: 0 < v <= FLOAT32_MAX, "a number above 0, finite in float32")
    _require(config, "width", lambda v: 0 < v <= 16, "a number above 0, at most 16")
    _require(config, "weight_decay", lambda v: 0 <= v <= FLOAT32_MAX, "0 or more, finite in float32")
    _require(config, "seed", lambda v: 0 <= v < 2**32, "0 to 2^32 - 1")
    _require(config, "workdir", lambda v: v.strip(), "the name of a directory")
    _require(config, "momentum", lambda v: 0 <= v < 1, "0 or more, below 1")
    _require(config, "prune_fraction", lambda v: 0 < v < 1, "between 0 and 1, both excluded")
    last = config.epochs - 1
    _require(config, "rewind_epoch", lambda v: 0 <= v <= last, f"0 to {last}, before the last epoch")
    if config.activation == "relu":
        _require(config, "num_timesteps", lambda v: v == 1, "1 with --activation relu, which has no time")

    least, (height, width, _) = models.min_image_size(config.arch), spec.image_shape
    if min(height, width) < least:
        raise InputError(
            f"--arch {config.arch}: the {height}x{width} images of {spec.name} are too small for its pools, "
            f"which need {least}x{least}; allowed: "
            + ", ".join(name for name in models.names() if models.min_image_size(name) <= min(height, width))
        )
    return config


def load_dataset(config: Resolved) -> data.Dataset:
    """The data of a configuration.

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
    examples = len(dataset.train.labels)
    _require(config, "batch_size", lambda v: v <= examples, f"1 to {examples}, the training examples")
    return dataset


def identity(config: Resolved, dataset: data.Dataset) -> dict[str, Any]:
    """What decides the results of a run, as JSON values: what config.json holds."""
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_IDENTITY}
    return {"method": config.method, **fields, "dataset_fingerprint": dataset.fingerprint}


def digest(identity: dict[str, Any]) -> str:
    """A short hash of `identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two identities, as one line; empty where nothing does.

    >>> difference({"epochs": 15, "seed": 0}, {"epochs": 20, "seed": 0})
    '--epochs 15 there, 20 now'
    """
    changed = [k for k in {**there, **now} if there.get(k) != now.get(k)]
    return "; ".join(f"{_flag(k)} {there.get(k)} there, {now.get(k)} now" for k in changed)


def _require(config: Resolved, name: str, holds: Any, allowed: str) -> None:
    value = getattr(config, name, None)
    if value is not None and not holds(value):  # a command without the field has nothing to check
        raise InputError(f"{_flag(name)} {value}: allowed: {allowed}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
