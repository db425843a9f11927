"""What a run is made of: frozen dataclasses, one per command. Every default is the paper's, with its source.

Where a default depends on the dataset the field is None until `resolve`, which also refuses what cannot be.
Options that several commands share are dataclasses of their own, which the commands inherit.
"""

import dataclasses
import hashlib
import json
from typing import Any, ClassVar

from etils import epath

from snnlth_jax import data, validation

__all__ = [
    "OVERRIDABLE",
    "EbConfig",
    "ImpConfig",
    "OneShotConfig",
    "ProbeConfig",
    "Resolved",
    "TrainConfig",
    "TransferConfig",
    "default_rewind_epoch",
    "difference",
    "digest",
    "fixed",
    "identity",
    "load_dataset",
    "method_name",
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
    Default: runs/METHOD_DATASET_ARCH_seedN, METHOD with what it varies, such as eb_0.9"""
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
    seeds: tuple[int, ...] = ()
    """Instead of --seed: run once for each, in WORKDIR/seedN, and report mean and standard deviation"""
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
    devices: int | None = None
    """How many devices of each host to use; the batch is split evenly over all. Default: all"""
    parallel: str = "shard_map"
    """How: shard_map, or pmap, which gives the same numbers"""
    shard_data: str = "auto"
    """Divide the images among the devices instead of having all on each: yes, no, or auto, where they would
    take more than a quarter of a device's memory; the results are the same"""
    checkpoint_minutes: float = 10.0
    """Time without a checkpoint after which there is one within the epoch"""
    tensorboard: bool = False
    """Write metrics.jsonl as events for TensorBoard too, in WORKDIR/tensorboard, as it grows. Of a finished
    search they are written after the fact. Needs tensorboardX"""
    dry_run: bool = False
    """Show the trainings, their FLOPs, memory and hours (by 20 steps on these devices), and write nothing"""
    override: bool = False
    """Go on in a directory that holds a run with another configuration, from where that one is: another
    learning rate, more rounds ... (the refusal lists what may be another)"""
    distributed: bool = False
    """Several hosts: connect the processes that run this command, one on each. Cloud TPU, Slurm, Open MPI and
    Kubernetes are recognised; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"""

    method: ClassVar[str] = "train"


# --- what several commands share


@dataclasses.dataclass(frozen=True)
class DivergenceOptions:
    """How much the first t timesteps already say of all T."""

    early_time_epochs: int | None = None
    """N, epochs of training at the full T before measuring. Default: 2 (paper, ET); of probe-timesteps,
    which measures after each: 10, or all where there are fewer"""
    early_time_examples: int = 1000
    """Augmented training images to measure on (authors' code); all where there are fewer"""
    early_time_lambda: float = 0.6
    """lambda: T' is the first t from 2 to T - 1 with a normalised divergence D_t below it (paper, ET)"""
    early_time_direction: str = "forward"
    """forward: D_t = KL(P_t || P_T) (paper, ET); reverse: KL(P_T || P_t) (authors' code)"""
    early_time_reduction: str = "sum"
    """P_t is the softmax of the sum of the first t logits (paper, ET), or of their mean (authors' code)"""
    early_time_normalisation: str = "first"
    """D_t are divided by D_2: first (paper, ET), or by the largest of D_2 ... D_(T-1): max (authors' code)"""


@dataclasses.dataclass(frozen=True)
class EarlyTimeOptions(DivergenceOptions):
    """A search with fewer timesteps."""

    early_time: bool = False
    """Search with T' < T timesteps, chosen after N epochs (paper, ET); then train the tickets at T"""
    early_time_timesteps: int | None = None
    """T' itself, with no measuring (Fig. 3)"""


@dataclasses.dataclass(frozen=True)
class ControlOptions:
    """What a ticket is compared with."""

    controls: tuple[str, ...] = ()
    """Trained beside the tickets: random (shuffled masks of a ticket's layer-wise counts, its weights),
    redrawn (its masks, newly drawn weights), dense (no masks, for as many epochs as search and ticket)"""


@dataclasses.dataclass(frozen=True)
class RoundOptions:
    """Rounds of train, prune, rewind."""

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
    final_rounds: tuple[int, ...] | None = None
    """Rounds whose tickets are reported, compared with the controls and, where the search was not that,
    trained as a spiking network at the full T. Paper, Table 1: 4,8,11,14. Default: the last"""


# --- one per command


@dataclasses.dataclass(frozen=True)
class ImpConfig(ControlOptions, EarlyTimeOptions, RoundOptions, TrainConfig):
    """Iterative magnitude pruning with late rewinding: train, prune, rewind, again (paper, IMP)."""

    rewinding: str = "weights"
    """Survivors go back to the weights of the rewind epoch (paper, IMP), or stay as trained and see the
    schedule again: learning-rate, or a hundredth of the learning rate: fine-tune (Renda et al. 2020)"""

    method: ClassVar[str] = "imp"


@dataclasses.dataclass(frozen=True)
class TransferConfig(ControlOptions, RoundOptions, TrainConfig):
    """Search by IMP in the ReLU twin of the network, then train its ticket as a spiking one (paper, TT)."""

    search_learning_rate_factor: float = 1.0
    """On the learning rate, during the search in the twin, which may not bear that of the spiking network"""

    method: ClassVar[str] = "transfer"


@dataclasses.dataclass(frozen=True)
class EbConfig(ControlOptions, EarlyTimeOptions, TrainConfig):
    """Early-Bird: train the dense network until its magnitude mask stands still, train that (paper, EB)."""

    sparsity: float = 0.9
    """Fraction of the prunable weights that the ticket lacks. Paper, Table 1: 0.683, 0.899, 0.957, 0.981"""
    queue: int = 5
    """q, masks that must agree: the newest and those drawn before it (paper, EB)"""
    tau: float = 0.02
    """The search stops when the newest mask is closer than this to all others in the queue (paper, EB)"""
    criterion: str = "hamming"
    """Distance of two masks: hamming, the share of all weights in which they differ (paper, EB), or overlap,
    the share of the kept weights that they do not share, which does not go blind at high sparsity"""
    search_learning_rate_factor: float = 2.0
    """On the learning rate, during the search (authors' code)"""
    scope: str = "global"
    """global, layer or erk, as for imp"""
    rewind_epoch: int = 0
    """The ticket has the weights after so many epochs of the search (or those where it stopped, if it
    stopped before). Initial weights by default (paper, EB)"""

    method: ClassVar[str] = "eb"


@dataclasses.dataclass(frozen=True)
class OneShotConfig(ControlOptions, TrainConfig):
    """Prune at initialisation, in one shot, and train what is left (paper, Fig. 9 and baselines)."""

    criterion: str = "snip"
    """magnitude, random, snip (Lee et al. 2019), grasp (Wang et al. 2020) or synflow (Tanaka et al. 2020)"""
    sparsity: float | None = None
    """Fraction of the prunable weights that is removed. Default: 0.9, or that of --like"""
    scope: str = "global"
    """global, layer or erk, as for imp"""
    score_examples: int | None = None
    """Training images that snip and grasp judge the weights by. Default: 1000, or all if there are fewer"""
    synflow_iterations: int = 100
    """Steps in which synflow comes down to the density, exponentially (Tanaka et al. 2020)"""
    like: str | None = None
    """Ticket file: remove at random as many weights from each layer as it lacks"""

    method: ClassVar[str] = "one-shot"


@dataclasses.dataclass(frozen=True)
class ProbeConfig(DivergenceOptions, TrainConfig):
    """Measure which T' Early-Time would choose, over epochs and over lambda (paper, Fig. 4 and 7b)."""

    method: ClassVar[str] = "probe-timesteps"


# fields that may differ between a run and its continuation: they do not change what is computed
_NOT_IDENTITY = (
    "workdir",
    "data_dir",
    "checkpoint_every",
    "checkpoint_minutes",
    "seeds",
    "devices",
    "parallel",
    "shard_data",
    "tensorboard",
    "dry_run",
    "override",
    "distributed",
)

# a configuration whose every None is filled in
Resolved = Any


def resolve(config: TrainConfig) -> Resolved:
    """The configuration with every default filled in.

    Raises:
      InputError: a value that is not allowed; one line with the flag, the value and what is allowed.
    """
    spec = data.spec(config.dataset)
    names = [field.name for field in dataclasses.fields(config)]
    defaults = dict(_BY_DATASET[spec.name])
    if config.activation == "relu":
        defaults["num_timesteps"] = 1
    epochs = defaults["epochs"] if config.epochs is None else config.epochs
    defaults["early_time_epochs"] = min(10 if config.method == "probe-timesteps" else 2, epochs)
    if getattr(config, "like", None) is None:
        defaults["sparsity"] = 0.9
    if isinstance(config, RoundOptions):
        rounds = defaults["rounds"] if config.rounds is None else config.rounds
        defaults["final_rounds"] = (rounds - 1,) if rounds > 1 else ()
    unset = {name: defaults[name] for name in names if name in defaults and getattr(config, name) is None}
    resolved: Any = dataclasses.replace(config, **unset)
    if isinstance(config, RoundOptions):
        resolved = dataclasses.replace(resolved, final_rounds=tuple(sorted(resolved.final_rounds)))
    if resolved.workdir is None:
        resolved = dataclasses.replace(resolved, workdir=f"runs/{_run_name(resolved)}")
    validation.check(resolved, spec)
    return resolved


def default_rewind_epoch(dataset: str, epochs: int) -> int:
    """That of IMP on a dataset (paper, IMP), in proportion to the epochs.

    >>> default_rewind_epoch("cifar10", 300), default_rewind_epoch("cifar10", 30)
    (20, 2)
    """
    defaults = _BY_DATASET[dataset]
    return min(max(1, round(defaults["rewind_epoch"] * epochs / defaults["epochs"])), epochs - 1)


def method_name(config: TrainConfig) -> str:
    """The method of a configuration: "imp", "eb", with Early-Time or without, "one-shot snip" ...

    >>> method_name(ImpConfig(early_time=True)), method_name(OneShotConfig(criterion="random"))
    ('imp+et', 'one-shot random')
    """
    if isinstance(config, OneShotConfig):
        return f"{config.method} {config.criterion}"
    return config.method + ("+et" if getattr(config, "early_time", False) else "")


def _run_name(config: Resolved) -> str:
    parts = [method_name(config).replace(" ", "_"), getattr(config, "sparsity", None)]
    parts += [config.dataset, config.arch, None if config.seeds else f"seed{config.seed}"]
    return "_".join(str(part) for part in parts if part is not None)


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
    for name in ("batch_size", "score_examples"):
        validation.require(config, name, lambda v: v <= examples, f"1 to {examples}, the training examples")
    return dataset


def identity(config: Resolved, dataset: data.Dataset) -> dict[str, Any]:
    """What decides the results of a run, as JSON values: what config.json holds."""
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_IDENTITY}
    if fields.get("like") is not None:  # what the file holds, not where it lies
        fields["like"] = hashlib.sha256(epath.Path(fields["like"]).read_bytes()).hexdigest()[:12]
    return {"method": method_name(config), **fields, "dataset_fingerprint": dataset.fingerprint}


def digest(identity: dict[str, Any]) -> str:
    """A short hash of `identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


# What may change in the middle of a run: it alters no shape, no data and no count of epochs that are behind.
OVERRIDABLE = (
    "learning-rate",
    "schedule",
    "momentum",
    "weight-decay",
    "augment",
    "eval-every",
    "rounds",
    "prune-fraction",
    "scope",
    "bn-on-rewind",
    "rewinding",
    "final-rounds",
    "controls",
)


def fixed(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two identities and cannot change on the way, as one line.

    >>> fixed({"epochs": 15, "learning_rate": 0.1}, {"epochs": 20, "learning_rate": 0.2})
    '--epochs 15 there, 20 now'
    """
    free = [name.replace("-", "_") for name in OVERRIDABLE]
    return difference(*({k: v for k, v in fields.items() if k not in free} for fields in (there, now)))


def difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two identities, as one line; empty where nothing does.

    >>> difference({"epochs": 15, "seed": 0}, {"epochs": 20, "seed": 0})
    '--epochs 15 there, 20 now'
    """
    changed = [k for k in {**there, **now} if there.get(k) != now.get(k)]
    return "; ".join(f"{validation.flag(k)} {there.get(k)} there, {now.get(k)} now" for k in changed)
