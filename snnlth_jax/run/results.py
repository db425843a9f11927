"""What a search leaves in result.json, as types: the only file that spells its keys.

A `Result` is one search with one seed; a `Summary` is the same search with several. Each training run is a
`Row`; a ticket's row, with what it cost, is a `TicketRow`. `read` gives either, `write` takes either.
"""

import json
import statistics
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from etils import epath

from snnlth_jax import files
from snnlth_jax.errors import InputError

__all__ = [
    "FORMAT",
    "Cost",
    "EarlyBirdRecord",
    "EarlyTimeEpoch",
    "EarlyTimeRecord",
    "FlopsPerImage",
    "LayerRecord",
    "Result",
    "Row",
    "Spread",
    "Summary",
    "SummaryRow",
    "TicketRow",
    "phase_name",
    "read",
    "read_rows",
    "spread",
    "to_json",
    "write",
]

FORMAT = "snnlth-result-1"  # of result.json and metrics.jsonl
MAX_BYTES = 256 * 2**20

Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Record(msgspec.Struct, frozen=True):
    """A JSON object with these fields; fields that are unknown are not read."""


class LayerRecord(Record, frozen=True, kw_only=True):
    """A prunable layer after a training run, as measured on test images; in the order of the forward pass.

    Attributes:
      name: name of its weights in masks and tickets.
      weights, kept: number of weights before and after pruning.
      channels, dead_channels: outputs, and those that no input reaches or that reach no logit.
      neurons, silent_neurons, saturated_neurons: spiking neurons behind the layer, those of them that never
        fired, and those that fired at every timestep of every image; None where there are none.
      firing_rate: mean spikes per neuron and image at each timestep; None where there are none.
      spikes_per_image: spikes per image over neurons and timesteps; None where there are none.
      synops_per_image: additions that incoming spikes cause over kept weights, at each timestep.
      macs_per_image: multiply-accumulates of inputs that are no spikes, at each timestep.
    """

    name: str
    weights: Annotated[int, msgspec.Meta(ge=1)]
    kept: Count
    channels: Count
    dead_channels: Count
    neurons: Count | None
    silent_neurons: Count | None
    saturated_neurons: Count | None
    firing_rate: tuple[float, ...] | None
    spikes_per_image: float | None
    synops_per_image: tuple[float, ...]
    macs_per_image: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.kept > self.weights:
            raise ValueError(f"layer {self.name}: {self.kept} of {self.weights} weights kept")


class Row(Record, frozen=True, kw_only=True):
    """One training run of a search and what came out of it.

    Attributes:
      kind: kind of the phase, see `snnlth_jax.search.phases`.
      round: round of the search, 0 is dense.
      kept, total: number of prunable weights that are left, and of all.
      sparsity: 1 - kept / total.
      collapsed_layers: names of layers of which nothing is left.
      network: name of the network variant, such as "lif T=4".
      num_timesteps: T of the training run.
      epochs: number of epochs of this training run.
      images: number of training images, counted as often as they were seen.
      forward_flops, train_flops: FLOPs of the forward passes, and of forward and backward passes.
      device_seconds: seconds of training steps.
      seconds: seconds of the whole phase, without compiling.
      final_test_accuracy, best_test_accuracy: accuracy on the test set after the last epoch, and the best of
        all epochs, in [0, 1]; None where it was not measured. Those of the validation set likewise.
      compile_seconds: seconds of compiling what scores the weights; 0 for other phases.
      ticket: name of the ticket file within the run.
      layers: what was measured of the layers; empty in runs from before they were recorded.
      measured_images: number of test images that spikes were counted on.
      weights_on_no_path: kept weights that are on no path from the image to the logits.
    """

    kind: str
    round: Count
    kept: Count
    total: Annotated[int, msgspec.Meta(ge=1)]
    network: str
    num_timesteps: Annotated[int, msgspec.Meta(ge=1)]
    epochs: Count
    ticket: str | None
    collapsed_layers: tuple[str, ...] = ()
    images: Count = 0
    forward_flops: Count = 0
    train_flops: Count = 0
    device_seconds: float = 0.0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    final_test_accuracy: Share | None = None
    best_test_accuracy: Share | None = None
    final_validation_accuracy: Share | None = None
    best_validation_accuracy: Share | None = None
    layers: tuple[LayerRecord, ...] = ()
    measured_images: Count = 0
    weights_on_no_path: Count | None = None
    sparsity: Share = -1.0

    def __post_init__(self) -> None:
        if self.kept > self.total:
            raise ValueError(f"{self.kept} of {self.total} weights kept")
        msgspec.structs.force_setattr(self, "sparsity", 1 - self.kept / self.total)

    @property
    def name(self) -> str:
        """Name of the training run, such as "round 3"."""
        return phase_name(self.kind, self.round)

    @property
    def density(self) -> float:
        """Share of the prunable weights that is left."""
        return self.kept / self.total

    @property
    def dense(self) -> bool:
        """Whether nothing was removed."""
        return self.kept == self.total


class Cost(Record, frozen=True, kw_only=True):
    """What training runs cost together.

    Attributes:
      epochs: number of epochs.
      images: number of training images, counted as often as they were seen.
      train_flops: FLOPs of training, the sum of `forward_flops` and `backward_flops`.
      device_seconds: seconds of training steps and of scoring.
      seconds: seconds with evaluations, pruning, masks and divergences.
      compile_seconds: seconds of compiling the programs.
    """

    epochs: Count
    train_flops: Count
    device_seconds: float
    images: Count = 0
    forward_flops: Count = 0
    backward_flops: Count = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0


class TicketRow(Row, frozen=True, kw_only=True):
    """The training run of a ticket at the full T, and what it took to find the ticket.

    Attributes:
      search_test_accuracy: accuracy of the search's own round with the same masks, where that ran another
        network variant; None where there is none.
      search, training: cost of the search up to the masks, and of this training run.
      imp_epochs: number of epochs in which IMP at the full T has masks of this sparsity.
      search_relative_to_imp: FLOPs of the search over those of IMP.
    """

    search: Cost | None = None
    training: Cost | None = None
    search_test_accuracy: Share | None = None
    imp_epochs: Count | None = None
    search_relative_to_imp: float | None = None

    @property
    def train_flops_in_all(self) -> int:
        """FLOPs of the search and of the ticket's own training run together."""
        return sum(cost.train_flops for cost in (self.search, self.training) if cost)


class EarlyTimeEpoch(Record, frozen=True, kw_only=True):
    """Normalised divergences after one epoch, and the T' that each lambda would choose."""

    epoch: Count
    normalised: dict[int, float]
    by_lambda: dict[float, int]


class EarlyTimeRecord(Record, frozen=True, kw_only=True, rename={"threshold": "lambda"}):
    """What Early-Time measured and chose; `divergences` are D_t by t, `num_timesteps` is T'."""

    num_timesteps: Annotated[int, msgspec.Meta(ge=1)]
    divergences: dict[int, float]
    threshold: float = 0.6
    normalised: dict[int, float] = {}
    over_epochs: tuple[EarlyTimeEpoch, ...] = ()


class EarlyBirdRecord(Record, frozen=True, kw_only=True):
    """Early-Bird's rule after an epoch: whether it fired, and the largest distances in the queue."""

    fired: bool
    epoch: Count
    criterion: str
    largest_hamming: float
    largest_overlap: float


class FlopsPerImage(Record, frozen=True, kw_only=True):
    """FLOPs of the forward pass of one image: `once` for all timesteps, and per timestep."""

    once: Count
    per_timestep: Count


class Result(Record, frozen=True, kw_only=True):
    """One search with one seed, finished or under way.

    Attributes:
      method: name of the method, see `configs.method_name`.
      finished: whether all its phases are done.
      config: what decides the results, see `configs.identity`; `config_hash` is its digest.
      preparations, rounds, tickets, controls: its training runs.
      flops_per_image: FLOPs of the forward pass of one image.
      early_time, early_bird: what these methods found; None where they were not asked for.
      overrides: changes of the configuration on the way, a line each.
      train_compilations: number of network variants whose training this search compiled.
      compile_seconds: seconds that it took.
      versions, devices: versions of packages; platform, kind and count of the devices.
    """

    format: str = FORMAT
    method: str
    finished: bool
    config: dict[str, Any]
    rounds: tuple[Row, ...]
    tickets: tuple[TicketRow, ...]
    controls: tuple[Row, ...]
    config_hash: str = ""
    preparations: tuple[Row, ...] = ()
    flops_per_image: FlopsPerImage | None = None
    early_time: EarlyTimeRecord | None = None
    early_bird: EarlyBirdRecord | None = None
    overrides: tuple[str, ...] = ()
    train_compilations: Count = 0
    compile_seconds: float = 0.0
    versions: dict[str, str] = {}
    devices: dict[str, Any] = {}

    @property
    def trainings(self) -> tuple[Row, ...]:
        """One row per training run; of a round of IMP that is a ticket at the same time, the ticket's."""
        rows = {(row.kind, row.round): row for row in (*self.rounds, *self.tickets, *self.controls)}
        return tuple(rows.values())


# --- several seeds


class Spread(Record, frozen=True, kw_only=True):
    """Mean and sample standard deviation (n - 1; None for one value) over seeds, and the values."""

    mean: float
    std: float | None
    values: tuple[float, ...]


class SummaryRow(Record, frozen=True, kw_only=True):
    """A training run over seeds: what is the same for all, and the spread of what differs."""

    kind: str
    round: Count
    kept: Count
    total: Annotated[int, msgspec.Meta(ge=1)]
    sparsity: Share
    num_timesteps: tuple[int, ...]
    epochs: Spread | None = None
    seconds: Spread | None = None
    final_test_accuracy: Spread | None = None
    best_test_accuracy: Spread | None = None
    search_test_accuracy: Spread | None = None
    search_epochs: Spread | None = None
    search_train_flops: Spread | None = None
    search_device_seconds: Spread | None = None
    search_relative_to_imp: Spread | None = None

    @property
    def name(self) -> str:
        """Name of the training run, such as "round 3"."""
        return phase_name(self.kind, self.round)


class Summary(Record, frozen=True, kw_only=True):
    """The same search with several seeds: as `Result`, with `early_time` and `early_bird` by seed."""

    format: str = FORMAT
    method: str
    finished: bool
    seeds: tuple[int, ...]
    config: dict[str, Any]
    rounds: tuple[SummaryRow, ...]
    tickets: tuple[SummaryRow, ...]
    controls: tuple[SummaryRow, ...]
    early_time: tuple[EarlyTimeRecord | None, ...] = ()
    early_bird: tuple[EarlyBirdRecord | None, ...] = ()
    versions: dict[str, str] = {}
    devices: dict[str, Any] = {}

    @property
    def trainings(self) -> tuple[SummaryRow, ...]:
        """One row per training run, as `Result.trainings`."""
        rows = {(row.kind, row.round): row for row in (*self.rounds, *self.tickets, *self.controls)}
        return tuple(rows.values())


def phase_name(kind: str, number: int) -> str:
    """Name of a phase of a search: "round 3", "ticket 3", "random 3"; there is one "probe".

    >>> phase_name("round", 3), phase_name("probe", 0)
    ('round 3', 'probe')
    """
    return kind if kind in ("probe", "scores", "search") else f"{kind} {number}"


# --- reading and writing


def to_json(record: msgspec.Struct) -> Any:
    """The JSON value of a record, as `write` writes it."""
    return msgspec.to_builtins(record, str_keys=True)


def write(path: epath.Path, result: Result | Summary) -> None:
    """Replace result.json in one go: a reader finds the old content or the new.

    Raises:
      OSError: it cannot be written.
    """
    files.replace(path, (json.dumps(to_json(result), indent=2) + "\n").encode())


def read(path: epath.Path) -> Result | Summary:
    """A result.json of this version, or of one before it.

    Raises:
      InputError: no such file, damaged (naming the field), or of another format.
    """
    allowed = "as a search wrote it"
    try:
        if path.stat().length > MAX_BYTES:
            raise InputError(path, problem=f"damaged (more than {MAX_BYTES} bytes)", allowed=allowed)
        value = msgspec.json.decode(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not an object")
        # the first format had no name yet
        if (written := value.get("format", FORMAT)) != FORMAT:
            raise InputError(path, problem=f"format {written!r}, this version reads {FORMAT!r}")
        if "seeds" in value:
            return msgspec.convert(value, Summary, str_keys=True)
        return msgspec.convert(value, Result, str_keys=True)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(path, problem=f"damaged ({reason})", allowed=allowed) from error


def read_rows(values: Sequence[Any]) -> tuple[Row, ...]:
    """Rows from their JSON values, as checkpoints hold them."""
    return msgspec.convert(values, tuple[Row, ...], str_keys=True)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation; None where a value is missing."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(mean=statistics.fmean(numbers), std=std, values=tuple(numbers))
