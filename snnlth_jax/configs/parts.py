"""The parts that commands combine: small frozen dataclasses, one concept each.

Every default is the paper's, with its source. A field whose default depends on the dataset is None until
`resolve`. The identity of a run keeps the order of the fields here, so new fields go to the end of a part.
"""

import dataclasses
from typing import Annotated, Literal

from snnlth_jax import losses, neurons
from snnlth_jax.configs.fields import (
    AT_LEAST_1,
    CONDITION,
    EPOCHS,
    FINITE,
    FLOAT32_MAX,
    FRACTION,
    IDENTITY,
    LOCAL,
    OVERRIDABLE,
    ROUNDS,
    SEED,
    VARIED,
    Bounds,
    File,
)
from snnlth_jax.data.augment import Step
from snnlth_jax.machine.sharding import How
from snnlth_jax.pruning import Scope

__all__ = [
    "Control",
    "Controls",
    "Data",
    "Dataset",
    "Divergence",
    "EarlyTime",
    "Machine",
    "Network",
    "Neuron",
    "Rounds",
    "Run",
    "Seeds",
    "Training",
]

Control = Literal["random", "redrawn", "dense"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The dataset and its place."""

    dataset: Annotated[str, File("DATASET"), IDENTITY] = "digits"
    """Dataset: digits (8x8 images, comes with scikit-learn), or the paper's cifar10, cifar100, svhn_cropped,
    fashion_mnist, and tiny_imagenet of its supplement, or mnist (see `snnlth data prepare`). Or your own:
    FILE.npz, a folder DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, tfds:NAME, or MODULE:FUNCTION (see
    docs/data.md)."""
    data_dir: Annotated[str | None, File("DIR"), LOCAL] = None
    """Directory of TensorFlow Datasets, or that of the folder tiny-imagenet-200, or of the idx files of mnist
    or fashion_mnist. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The network and its time."""

    arch: Annotated[str | None, IDENTITY] = None
    """Network: vgg5, vgg9, vgg11, vgg13, vgg16, vgg19, alexnet, convnet5, resnet7, resnet19, resnet34.
    Default: vgg16 (paper); resnet34 for tiny_imagenet (paper, supplement); vgg5 for digits; for your own data
    vgg16, or for images below 32 pixels vgg9, below 16 vgg5, below 4 resnet7. Or your own, as MODULE:FUNCTION
    (see docs/networks.md)."""
    width: Annotated[float, Bounds("a number above 0, at most 16", lambda v: 0 < v <= 16), CONDITION] = 1.0
    """Factor on the number of channels of every layer."""
    activation: Annotated[Literal["lif", "relu"], CONDITION] = "lif"
    """Kind of network: lif, a spiking one, or relu, its artificial twin of one timestep (paper, Fig. 8)."""
    num_timesteps: Annotated[int | None, Bounds("1 to 1000", lambda v: 1 <= v <= 1000), CONDITION] = None
    """T, the number of timesteps for which an image is shown. Default: 5 (paper, training settings); 4 for
    digits; for images that change over time the number of their frames; 1 for relu."""
    arch_option: Annotated[tuple[str, ...], IDENTITY] = ()
    """Options of your own network, name=value, for its function. Default: no options."""


@dataclasses.dataclass(frozen=True)
class Neuron:
    """The neurons of the network, and its batch norm."""

    neuron: Annotated[neurons.Name, CONDITION] = "lif"
    """Spiking neuron: lif, leaky (paper); if, without a leak; plif, leaky with a tau for each layer that is
    trained with the weights (Fang et al. 2021)."""
    neuron_tau: Annotated[
        float, Bounds("a number of at least 1, finite in float32", lambda v: 1 <= v <= FLOAT32_MAX), CONDITION
    ] = 4 / 3
    """Membrane time constant in timesteps (paper: 4/3); of plif the initial one. Short: --tau, except for eb,
    whose --tau is another."""
    v_threshold: Annotated[float, FINITE, CONDITION] = 1.0
    """Potential at which a neuron fires (paper)."""
    v_reset: Annotated[
        float | Literal["none"],
        Bounds("a number, finite in float32, or none", lambda v: v == "none" or abs(v) <= FLOAT32_MAX),
        CONDITION,
    ] = 0.0
    """Potential after a spike (paper: 0); none subtracts the threshold instead."""
    surrogate: Annotated[Literal["atan", "sigmoid", "fast_sigmoid", "triangle", "rectangle"], CONDITION] = (
        "atan"
    )
    """Derivative of a spike in training: that of atan (paper), sigmoid, fast_sigmoid (SuperSpike), or a
    triangle or rectangle."""
    surrogate_scale: Annotated[float | None, Bounds("1e-6 to 1e6", lambda v: 1e-6 <= v <= 1e6), CONDITION] = (
        None
    )
    """Parameter of the surrogate: alpha of atan and sigmoid, the slope, the height, the width. Default: 2
    (paper), 4, 25, 1, 1."""
    norm: Annotated[Literal["timestep", "tdbn", "bntt"], CONDITION] = "timestep"
    """Batch norm: timestep, statistics of each timestep (paper); tdbn, over all timesteps, as wide as the
    threshold (Zheng et al. 2021); bntt, with a scale and running statistics of each timestep (Kim and Panda
    2020)."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run: its length, its optimiser, its augmentation and its precision."""

    epochs: Annotated[int | None, EPOCHS, CONDITION] = None
    """Number of epochs of a training run that starts at initialisation. Default: 300 for CIFAR, 150 for SVHN
    and Fashion-MNIST (paper, training settings), MNIST and your own data; 300 for TinyImageNet, as for CIFAR;
    15 for digits."""
    batch_size: Annotated[int | None, AT_LEAST_1, CONDITION] = None
    """Number of examples in a step; the last, smaller batch of an epoch is used. Default: 128 (paper,
    training settings); 64 for digits, and for your own data below 10,000 training images (or all of them, if
    they are fewer)."""
    learning_rate: Annotated[
        float | None,
        Bounds("a number above 0, finite in float32", lambda v: 0 < v <= FLOAT32_MAX),
        OVERRIDABLE | CONDITION,
    ] = None
    """Initial learning rate. Default: 0.3 (paper, training settings); 0.1 for digits and your own data."""
    schedule: Annotated[Literal["cosine", "step"], OVERRIDABLE | CONDITION] = "cosine"
    """Learning rate of each epoch: cosine (paper, training settings), or step, a tenth after half of the
    epochs and a hundredth after three quarters."""
    optimizer: Annotated[Literal["sgd", "adam"], CONDITION] = "sgd"
    """Optimiser: sgd (paper, training settings), or adam."""
    momentum: Annotated[
        float, Bounds("0 or more, below 1", lambda v: 0 <= v < 1), OVERRIDABLE | CONDITION
    ] = 0.9
    """Momentum of SGD (paper, training settings)."""
    weight_decay: Annotated[
        float,
        Bounds("0 or more, finite in float32", lambda v: 0 <= v <= FLOAT32_MAX),
        OVERRIDABLE | CONDITION,
    ] = 5e-4
    """Weight decay, added to the gradient of all parameters (paper, training settings)."""
    augment: Annotated[bool | tuple[Step, ...], OVERRIDABLE | CONDITION] = True
    """Random steps for training images: a list of crop, flip, cutout, or none (as --no-augment). Default:
    those of the dataset, as in the authors' code; crop for your own data."""
    dtype: Annotated[Literal["float32", "bfloat16"], CONDITION] = "float32"
    """Number format of the computation: float32, or bfloat16 with parameters and statistics in float32."""
    loss: Annotated[losses.Name, CONDITION] = "mean-ce"
    """Loss, of evaluations too: mean-ce, the mean over timesteps of the cross-entropy (paper); sum-ce, the
    cross-entropy of the summed logits; tet, mean-ce with a term that keeps logits together (Deng et al.
    2022); mse-rate, the squared error of the mean logits to the one-hot label."""
    label_smoothing: Annotated[float, Bounds("0 or more, below 1", lambda v: 0 <= v < 1), CONDITION] = 0.0
    """Share of the target that all classes have evenly, in place of the label."""


@dataclasses.dataclass(frozen=True)
class Seeds:
    """The seed, or several of them."""

    seed: Annotated[int, SEED, VARIED] = 0
    """Seed of initialisation, data order, augmentation and the choice of capped training examples."""
    seeds: Annotated[tuple[int, ...], SEED, LOCAL] = ()
    """Seeds of replicates, such as 0,1,2 or 0-2, in place of --seed: run once for each, in WORKDIR/seedN, and
    report mean and standard deviation."""


@dataclasses.dataclass(frozen=True)
class Data(Seeds, Dataset):
    """The images of a run."""

    train_examples: Annotated[int | None, CONDITION] = None
    """Largest number of training images, for small machines. Default: no cap."""
    test_examples: Annotated[int | None, CONDITION] = None
    """Largest number of test images, for a trial on a small machine. Default: no cap."""
    validation_examples: Annotated[int, CONDITION] = 0
    """Number of training images to hold out and evaluate beside the test set, from all classes as evenly as
    their sizes allow; the paper has none."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The directory of a run and what is written there."""

    workdir: Annotated[str | None, LOCAL] = None
    """Directory of the run: checkpoints, tickets, metrics. The same command resumes the run there. Default:
    runs/METHOD_DATASET_ARCH_seedN with what differs from the defaults, such as
    runs/eb_0.9_digits_vgg5_width0.25_lr0.2_seed0."""
    eval_every: Annotated[int, AT_LEAST_1, OVERRIDABLE] = 1
    """Number of epochs between evaluations; the last epoch of a round is always evaluated."""
    checkpoint_every: Annotated[int, AT_LEAST_1, LOCAL] = 1
    """Number of epochs between checkpoints; the end of a round always has one."""
    checkpoint_minutes: Annotated[float, Bounds("0 or more", lambda v: 0 <= v <= FLOAT32_MAX), LOCAL] = 10.0
    """Number of minutes without a checkpoint after which one is written within the epoch."""
    tensorboard: Annotated[bool, LOCAL] = False
    """Write metrics.jsonl as events for TensorBoard too, in WORKDIR/tensorboard, as it grows. A finished
    search gets its events when the command is run again. Needs tensorboardX."""
    dry_run: Annotated[bool, LOCAL] = False
    """Show the training runs, their FLOPs, memory and hours (measured by 20 steps on these devices), and
    write nothing."""
    override: Annotated[bool, LOCAL] = False
    """Resume a run that has another configuration with this one: another learning rate, more rounds ...
    (the refusal lists what may change)."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices that compute a run; they change no result."""

    devices: Annotated[int | None, LOCAL] = None
    """Number of devices to use on each host; each batch is split evenly over them. Default: all devices."""
    parallel: Annotated[How, LOCAL] = "shard_map"
    """Means to use several devices: shard_map, or pmap, which gives the same numbers."""
    shard_data: Annotated[Literal["auto", "yes", "no"], LOCAL] = "auto"
    """Divide the images among the devices in place of a copy on each: yes, no, or auto, which divides images
    that would take more than a quarter of a device's memory. The results are the same."""
    kernels: Annotated[Literal["auto", "plain"], LOCAL] = "auto"
    """Kernels for training on a GPU or TPU: auto, those of this package that normalise, fire and pool at
    once, where they fit; or plain, JAX's own operations. Equal up to rounding; no difference on CPUs."""
    distributed: Annotated[bool, LOCAL] = False
    """Connect the processes that run this command, one on each of several hosts. Cloud TPU, Slurm, Open MPI
    and Kubernetes are recognised; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Rounds of train, prune, rewind."""

    rounds: Annotated[int | None, ROUNDS, OVERRIDABLE] = None
    """Number of rounds, the dense one included: the last has sparsity 1 - (1 - p)^(rounds - 1). Default: 15
    (paper, training settings), 98.2 % at p = 0.25; 12 for digits."""
    prune_fraction: Annotated[float, FRACTION, OVERRIDABLE] = 0.25
    """p, the fraction of the remaining weights that each round removes (paper, training settings)."""
    scope: Annotated[Scope, OVERRIDABLE] = "global"
    """Weights that are compared: global, one threshold for all layers (paper, IMP); layer, the same fraction
    of each layer (Fig. 6b); erk, a density of each layer in proportion to the sum of its axes."""
    rewind_epoch: Annotated[int | None, IDENTITY] = None
    """Number of completed epochs to whose weights the survivors return; 0 is the original lottery ticket.
    Default: 20 of the default number of epochs (paper, IMP), 1 of the 15 for digits; with other --epochs in
    proportion."""
    bn_on_rewind: Annotated[Literal["rewind", "keep", "reset"], OVERRIDABLE] = "rewind"
    """Running statistics of batch norm at a rewind: rewind them with the weights, keep them (authors' code),
    or reset them to mean 0 and variance 1."""
    final_rounds: Annotated[tuple[int, ...] | None, OVERRIDABLE] = None
    """Rounds whose tickets are reported, compared with the controls and, if the search had another network
    or fewer timesteps, trained as a spiking network at the full T. Paper, Table 1: 4,8,11,14. Default: the
    last round."""
    schedule_on_rewind: Annotated[Literal["restart", "resume"], OVERRIDABLE] = "restart"
    """Learning rate after a rewind: restart, the whole schedule over the epochs that are left (authors'
    code); or resume it at the rewind epoch (Frankle et al. 2020)."""
    biases_on_rewind: Annotated[Literal["rewind", "keep"], OVERRIDABLE] = "rewind"
    """Biases, those of batch norm included, at a rewind: rewind them with the weights; or, from the second
    pruned round on, keep those of the previous round (authors' code, whose rounds share the arrays)."""
    sparsity: Annotated[float | None, FRACTION, VARIED] = None
    """Fraction of the prunable weights to remove, exactly: as many rounds of p as that takes, the last one
    smaller; with --rounds given too, p follows from both. Default: what --rounds and p give."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The divergence between the first t timesteps and all T."""

    early_time_epochs: Annotated[int | None, IDENTITY] = None
    """N, the number of epochs at the full T before the measurement. Default: 2 (paper, ET).
    probe-timesteps measures after each of them; its default: 10, or --epochs if that is fewer."""
    early_time_examples: Annotated[int, AT_LEAST_1, IDENTITY] = 1000
    """Largest number of augmented training images to measure on (authors' code)."""
    early_time_lambda: Annotated[float, Bounds("above 0, at most 1", lambda v: 0 < v <= 1), IDENTITY] = 0.6
    """lambda: T' is the first t from 2 to T - 1 with a normalised divergence D_t below it (paper, ET)."""
    early_time_direction: Annotated[Literal["forward", "reverse"], IDENTITY] = "forward"
    """Direction of the divergence: forward, D_t = KL(P_t || P_T) (paper, ET); reverse, KL(P_T || P_t)
    (authors' code)."""
    early_time_reduction: Annotated[Literal["sum", "mean"], IDENTITY] = "sum"
    """Argument of the softmax that gives P_t: sum of the first t logits (paper, ET), or their mean (authors'
    code)."""
    early_time_normalisation: Annotated[Literal["first", "max"], IDENTITY] = "first"
    """Divisor of every D_t: first, D_2 (paper, ET); max, the largest of D_2 ... D_(T-1) (authors' code)."""


@dataclasses.dataclass(frozen=True)
class EarlyTime(Divergence):
    """A search with fewer timesteps."""

    early_time: Annotated[bool, IDENTITY] = False
    """Search with T' < T timesteps, chosen after N epochs (paper, ET); then train the tickets at T."""
    early_time_timesteps: Annotated[int | None, IDENTITY] = None
    """T' itself. Default: T' is measured."""
    early_time_start: Annotated[Literal["continue", "restart"], IDENTITY] = "continue"
    """Start of the search at a measured T': continue, the N epochs at T are its first (paper, Algorithm 1);
    restart, it begins anew with the initial weights."""
    early_time_loss: Annotated[Literal["mean", "over-t"], IDENTITY] = "mean"
    """Training loss of the search at T': mean of the cross-entropy over its T' outputs; or over-t, the sum
    over them divided by the full T (authors' code)."""

    @property
    def measures_timesteps(self) -> bool:
        """Whether the search measures T', after its first epochs at the full T."""
        return self.early_time and self.early_time_timesteps is None


@dataclasses.dataclass(frozen=True)
class Controls:
    """The networks that a ticket is compared with."""

    controls: Annotated[tuple[Control, ...], OVERRIDABLE] = ()
    """Networks to train beside the tickets: random (masks shuffled within each layer of the ticket, its
    weights), redrawn (its masks, newly drawn weights), dense (no masks, for as many epochs as search and
    ticket)."""
