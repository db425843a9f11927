"""The configuration of each command, and the same with every default filled in.

A resolved configuration is an instance of its own type, in which no field that stands for a default can be
None. Where None remains it has a meaning: no cap on examples, T' measured, no ticket file, all devices.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from snnlth_jax.configs.fields import (
    AT_LEAST_1,
    FACTOR,
    FRACTION,
    IDENTITY,
    OVERRIDABLE,
    VARIED,
    Bounds,
    File,
)
from snnlth_jax.configs.parts import (
    Controls,
    Data,
    Dataset,
    Divergence,
    EarlyTime,
    Machine,
    Network,
    Neuron,
    Rounds,
    Run,
    Seeds,
    Training,
)
from snnlth_jax.pruning import Scope

__all__ = [
    "MASKS_IN_QUEUE",
    "DynamicConfig",
    "EbConfig",
    "ImpConfig",
    "OneShotConfig",
    "ProbeConfig",
    "ResolvedDivergence",
    "ResolvedDynamic",
    "ResolvedEb",
    "ResolvedImp",
    "ResolvedOneShot",
    "ResolvedProbe",
    "ResolvedRetrain",
    "ResolvedRounds",
    "ResolvedStability",
    "ResolvedTrain",
    "ResolvedTransfer",
    "RetrainConfig",
    "StabilityConfig",
    "TrainConfig",
    "TransferConfig",
]


MASKS_IN_QUEUE = 5  # of Early-Bird: authors' code


@dataclasses.dataclass(frozen=True)
class TrainConfig(Machine, Run, Data, Seeds, Training, Neuron, Network, Dataset):
    """The data, the network and its training."""

    method: ClassVar[str] = "train"


@dataclasses.dataclass(frozen=True)
class ImpConfig(Controls, EarlyTime, Rounds, TrainConfig):
    """Iterative magnitude pruning with late rewinding: train, prune, rewind, repeat (paper, IMP)."""

    rewinding: Annotated[Literal["weights", "learning-rate", "fine-tune"], IDENTITY] = "weights"
    """Weights that a round starts from: weights, the survivors return to those of the rewind epoch (paper,
    IMP); or they keep their trained weights and see the schedule again (learning-rate) or a hundredth of the
    learning rate (fine-tune; Renda et al. 2020)."""
    score: Annotated[Literal["magnitude", "lamp"], IDENTITY] = "magnitude"
    """Score by which weights are removed: magnitude (paper, IMP), or lamp, each weight's share in those of
    its layer that are no smaller (Lee et al. 2021)."""
    budget: Annotated[Literal["weights", "synops"], IDENTITY] = "weights"
    """Quantity of which a round removes the fraction p: weights (paper, IMP), or synops, the synaptic
    operations of the trained network on training images."""
    processing_elements: Annotated[int | None, AT_LEAST_1._replace(most=10_000), IDENTITY] = None
    """Number of processing elements that each get as many kept weights of every layer (u-Ticket, Yin et al.
    2023). Default: none, masks as they are."""

    method: ClassVar[str] = "imp"


@dataclasses.dataclass(frozen=True)
class TransferConfig(Controls, Rounds, TrainConfig):
    """Search by IMP in the ReLU twin of the network, then train its ticket as a spiking one (paper, TT)."""

    search_learning_rate_factor: Annotated[float, FACTOR, IDENTITY] = 1.0
    """Factor on the learning rate during the search in the twin, which may not bear the learning rate of the
    spiking network."""

    method: ClassVar[str] = "transfer"


@dataclasses.dataclass(frozen=True)
class EbConfig(Controls, EarlyTime, TrainConfig):
    """Early-Bird: train the dense network until its magnitude mask stops changing, train that (paper, EB)."""

    sparsity: Annotated[float, FRACTION, VARIED] = 0.9
    """Fraction of the prunable weights that the ticket lacks. Paper, Table 1: 0.683, 0.899, 0.957, 0.981."""
    queue: Annotated[int | None, IDENTITY] = None
    """q, the number of masks that must agree, the newest included: it is compared with q - 1 earlier ones
    (authors' code). The paper's text compares it with q earlier ones: that is this number plus 1. Default: 5
    (authors' code), or the masks drawn in --epochs if those are fewer."""
    tau: Annotated[float, Bounds("0 to 1", lambda v: 0 <= v <= 1), IDENTITY] = 0.02
    """Distance below which two masks agree: the search stops when the newest mask is closer than this to all
    others in the queue (paper, EB)."""
    criterion: Annotated[Literal["hamming", "overlap"], IDENTITY] = "hamming"
    """Distance of two masks: hamming, the share of all weights in which they differ (paper, EB), or overlap,
    the share of the kept weights that they do not share, which stays informative at high sparsity."""
    search_learning_rate_factor: Annotated[float, FACTOR, IDENTITY] = 2.0
    """Factor on the learning rate during the search (authors' code)."""
    scope: Annotated[Scope, OVERRIDABLE] = "global"
    """Weights that are compared: global, layer or erk, as for imp."""
    rewind_epoch: Annotated[int, IDENTITY] = 0
    """Number of completed epochs of the search whose weights the ticket has (at most those until it stopped).
    The default is the initial weights (paper, EB)."""
    ticket_schedule: Annotated[Literal["same", "cosine-twice"], OVERRIDABLE] = "same"
    """Learning rate of the ticket's training run: the same schedule as all others; or cosine-twice, a cosine
    that takes two steps each epoch, reaches 0 at half of the epochs and rises again (authors' code)."""

    method: ClassVar[str] = "eb"


Criterion = Literal["magnitude", "random", "snip", "grasp", "synflow"]


@dataclasses.dataclass(frozen=True)
class OneShotConfig(Controls, TrainConfig):
    """Prune once, at initialisation, and train what remains (paper, Fig. 9 and baselines)."""

    criterion: Annotated[Criterion | None, IDENTITY] = None
    """Score of a weight: magnitude, random, snip (Lee et al. 2019), grasp (Wang et al. 2020) or synflow
    (Tanaka et al. 2020). Default: snip; random with --like."""
    sparsity: Annotated[float | None, FRACTION, VARIED] = None
    """Fraction of the prunable weights to remove. Default: 0.9; with --like, that of the ticket."""
    scope: Annotated[Scope, OVERRIDABLE] = "global"
    """Weights that are compared: global, layer or erk, as for imp."""
    score_examples: Annotated[int | None, AT_LEAST_1, IDENTITY] = None
    """Number of training images from which snip and grasp compute scores. Default: at most 1000."""
    synflow_iterations: Annotated[int, AT_LEAST_1, IDENTITY] = 100
    """Number of steps in which synflow reaches the density, exponentially (Tanaka et al. 2020)."""
    like: Annotated[str | None, File("TICKET"), IDENTITY] = None
    """Ticket file: remove from each layer, at random, as many weights as the ticket lacks. Default: no
    ticket."""

    method: ClassVar[str] = "one-shot"


@dataclasses.dataclass(frozen=True)
class DynamicConfig(Controls, TrainConfig):
    """Train a network that is sparse from the start and whose masks move: RigL or SET (beyond the paper)."""

    criterion: Annotated[Literal["rigl", "set"], IDENTITY] = "rigl"
    """Weights that are grown: rigl, those of largest dense gradient (Evci et al. 2020), or set, random ones
    (Mocanu et al. 2018)."""
    sparsity: Annotated[float, FRACTION, VARIED] = 0.9
    """Fraction of the prunable weights that are absent at any time."""
    distribution: Annotated[Literal["erk", "uniform"], IDENTITY] = "erk"
    """Densities of the layers, which they keep: erk, in proportion to the sum of a layer's axes (Evci et al.
    2020), or uniform, the same for all."""
    drop_fraction: Annotated[float, FRACTION, IDENTITY] = 0.3
    """Fraction of each layer's weights that a change drops and grows, at the start of the cosine along which
    it falls (Evci et al. 2020); the first change is after one epoch."""
    update_until: Annotated[float, Bounds("above 0, at most 1", lambda v: 0 < v <= 1), IDENTITY] = 0.75
    """Share of the epochs after which the masks stay; until then they change after each epoch (Evci et al.
    2020 change them every 100 steps)."""

    method: ClassVar[str] = "dynamic"


@dataclasses.dataclass(frozen=True)
class ProbeConfig(Divergence, TrainConfig):
    """Measure which T' Early-Time would choose, over epochs and over lambda (paper, Fig. 4 and 7b)."""

    method: ClassVar[str] = "probe-timesteps"


@dataclasses.dataclass(frozen=True)
class StabilityConfig(TrainConfig):
    """Find a rewind epoch: the first from which two copies of the dense network end in one basin, so that the
    error does not rise on the line between them, whatever the order of their images (Frankle et al. 2020)."""

    stability_epochs: Annotated[tuple[int, ...] | None, IDENTITY] = None
    """Candidates for the rewind epoch: numbers of completed epochs of the dense network after which it is
    copied. Default: 0, 1, 2, 5, 10, 20, 50 ... below the number of epochs."""
    stability_points: Annotated[int, Bounds("3 to 1001", lambda v: 3 <= v <= 1001), IDENTITY] = 11
    """Number of networks on the line from one copy to the other that are evaluated, both ends included."""
    stability_bound: Annotated[float, Bounds("above 0, at most 1", lambda v: 0 < v <= 1), OVERRIDABLE] = 0.02
    """Error barrier, a fraction of the test set, below which an epoch is stable (Frankle et al. 2020)."""
    tickets: Annotated[tuple[str, ...], File("TICKET"), IDENTITY] = ()
    """Ticket files of a search with the same seed, whose masks the copies have, beside copies without masks;
    {seed} in a name stands for the seed. Default: no tickets, the dense network alone."""
    schedule_on_rewind: Annotated[Literal["restart", "resume"], OVERRIDABLE] = "restart"
    """Learning rate of the copies: restart or resume, as that of a rewound network of imp."""

    method: ClassVar[str] = "stability"


@dataclasses.dataclass(frozen=True)
class RetrainConfig(TrainConfig):
    """Train the ticket of a file again: another seed, T or learning rate, other data, or as a control.

    `configs.of_ticket` takes the settings from the ticket's search.
    """

    ticket: Annotated[str, File("TICKET"), IDENTITY] = ""
    """Ticket file: tickets/round_NN.safetensors in the directory of a run."""
    redraw: Annotated[bool, IDENTITY] = False
    """Train newly drawn weights with the ticket's masks, from epoch 0: the control redrawn."""
    shuffle: Annotated[bool, IDENTITY] = False
    """Train the ticket's weights with its masks shuffled within each layer: the control random."""
    rewind_epoch: Annotated[int, IDENTITY] = 0
    """Number of completed epochs of the ticket's weights, from which it is trained to --epochs."""
    schedule_on_rewind: Annotated[Literal["restart", "resume"], OVERRIDABLE] = "restart"
    """Learning rate at the rewind epoch: restart or resume, as that of a rewound network of imp."""
    ticket_schedule: Annotated[Literal["same", "cosine-twice"], OVERRIDABLE] = "same"
    """Schedule of the ticket: the same as --schedule says, or cosine-twice, as for eb."""

    method: ClassVar[str] = "retrain"


# --- resolved: no dataclasses of their own, but narrower types of the same fields


class ResolvedTrain(TrainConfig):
    """A configuration whose every default is filled in."""

    workdir: str
    arch: str
    num_timesteps: int
    epochs: int
    batch_size: int
    learning_rate: float
    surrogate_scale: float


class ResolvedRounds(Rounds):
    """Rounds whose every default is filled in."""

    rounds: int
    rewind_epoch: int
    final_rounds: tuple[int, ...]


class ResolvedDivergence(Divergence):
    """A divergence whose every default is filled in."""

    early_time_epochs: int


class ResolvedImp(ResolvedDivergence, ResolvedRounds, ResolvedTrain, ImpConfig):
    """`ImpConfig`, resolved."""


class ResolvedTransfer(ResolvedRounds, ResolvedTrain, TransferConfig):
    """`TransferConfig`, resolved."""


class ResolvedEb(ResolvedDivergence, ResolvedTrain, EbConfig):
    """`EbConfig`, resolved."""

    queue: int


class ResolvedOneShot(ResolvedTrain, OneShotConfig):
    """`OneShotConfig`, resolved; `sparsity` is None with `like`."""

    criterion: Criterion


class ResolvedDynamic(ResolvedTrain, DynamicConfig):
    """`DynamicConfig`, resolved."""


class ResolvedProbe(ResolvedDivergence, ResolvedTrain, ProbeConfig):
    """`ProbeConfig`, resolved."""


class ResolvedRetrain(ResolvedTrain, RetrainConfig):
    """`RetrainConfig`, resolved."""


class ResolvedStability(ResolvedTrain, StabilityConfig):
    """`StabilityConfig`, resolved."""

    stability_epochs: tuple[int, ...]

    @property
    def ticket_files(self) -> tuple[str, ...]:
        """The files of `tickets`, with the seed in their names."""
        return tuple(name.replace("{seed}", str(self.seed)) for name in self.tickets)
