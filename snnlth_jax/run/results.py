"""Types of the contents of result.json: the only file that spells its keys.

A `Result` is one search with one seed; a `Summary` is the same search with several. Each training run is a
`Row`; a ticket's row, with its cost, is a `TicketRow`. `read` returns either, `write` takes either.
"""

import json
import statistics
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from etils import epath

from snnlth_jax import files
from snnlth_jax.errors import InputError

__all__ = [
    "FORMAT",
    "Cost",
    "Devices",
    "EarlyBirdRecord",
    "EarlyBirdSettings",
    "EarlyTimeEpoch",
    "EarlyTimeRecord",
    "EarlyTimeSettings",
    "FlopsPerImage",
    "InterpolationRecord",
    "LayerRecord",
    "Result",
    "Row",
    "Settings",
    "Spread",
    "StabilityRecord",
    "Summary",
    "SummaryRow",
    "TicketRow",
    "content",
    "convert",
    "damaged",
    "from_json",
    "parse",
    "phase_name",
    "read",
    "to_json",
    "write",
]

FORMAT = "snnlth-result-1"  # of result.json and metrics.jsonl
MAX_BYTES = 256 * 2**20
MAX_DIGITS = 30

Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]  # finite
# texts that reach a terminal, a page or the name of a file
Name = Annotated[str, msgspec.Meta(max_length=500, pattern=r"\A[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*\Z")]
Kind = Annotated[str, msgspec.Meta(max_length=40, pattern=r"\A[\w -]+\Z")]  # of a phase
TicketName = Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A(\w+/)?\w+(\.\w+)*\Z")]  # within the run


_SettingsOf = TypeVar("_SettingsOf", bound="Record")


class Record(msgspec.Struct, frozen=True):
    """A JSON object with these fields; readers ignore unknown fields."""


class LayerRecord(Record, frozen=True, kw_only=True):
    """A prunable layer after a training run, as measured on test images; in the order of the forward pass.

    Attributes:
      name: name of its weights in masks and tickets.
      weights, kept: number of weights before and after pruning.
      channels, dead_channels: outputs, and those that no input reaches or that reach no logit; None where
        the connections of the network are not known.
      neurons, silent_neurons, saturated_neurons: spiking neurons behind the layer, those of them that never
        fired, and those that fired at every timestep of every image; None without such neurons.
      firing_rate: mean spikes per neuron and image at each timestep; None without spiking neurons.
      spikes_per_image: spikes per image over neurons and timesteps; None without spiking neurons.
      synops_per_image: additions that incoming spikes cause over kept weights, at each timestep; empty where
        the connections are not known.
      macs_per_image: multiply-accumulates of inputs that are no spikes, in the same way.
    """

    name: Name
    weights: Annotated[int, msgspec.Meta(ge=1)]
    kept: Count
    channels: Count
    dead_channels: Count | None
    neurons: Count | None
    silent_neurons: Count | None
    saturated_neurons: Count | None
    firing_rate: tuple[Amount, ...] | None
    spikes_per_image: Amount | None
    synops_per_image: tuple[Amount, ...]
    macs_per_image: tuple[Amount, ...]

    def __post_init__(self) -> None:
        if self.kept > self.weights:
            raise ValueError(f"layer {self.name}: {self.kept} of {self.weights} weights kept")


class Row(Record, frozen=True, kw_only=True):
    """One training run of a search and its outcome.

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
      seconds: seconds of the whole phase, without compiling the training program.
      final_test_accuracy, best_test_accuracy: accuracy on the test set after the last epoch, and the best of
        all epochs, in [0, 1]; None if it was not measured. Those of the validation set likewise.
      compile_seconds: seconds of compiling the function that scores the weights; 0 for other phases.
      ticket: name of the ticket file within the run.
      layers: measurements of the layers; empty in runs from before they were recorded.
      measured_images: number of test images that spikes were counted on.
      weights_on_no_path: kept weights that are on no path from the image to the logits.
    """

    kind: Kind
    round: Count
    kept: Count
    total: Annotated[int, msgspec.Meta(ge=1)]
    sparsity: Share = -1.0  # follows from kept and total, whatever a file says
    collapsed_layers: tuple[Name, ...] = ()
    network: Name
    num_timesteps: Annotated[int, msgspec.Meta(ge=1)]
    epochs: Count
    images: Count = 0
    forward_flops: Count = 0
    train_flops: Count = 0
    device_seconds: Amount = 0.0
    seconds: Amount = 0.0
    final_test_accuracy: Share | None = None
    best_test_accuracy: Share | None = None
    final_validation_accuracy: Share | None = None
    best_validation_accuracy: Share | None = None
    ticket: TicketName | None
    layers: tuple[LayerRecord, ...] = ()
    measured_images: Count = 0
    weights_on_no_path: Count | None = None
    compile_seconds: Amount = 0.0

    def __post_init__(self) -> None:
        if self.kept > self.total:
            raise ValueError(f"{self.kept} of {self.total} weights kept")
        if self.connected and self.weights_on_no_path is None:
            raise ValueError("weights_on_no_path is missing")
        if len({layer.name for layer in self.layers}) < len(self.layers):
            raise ValueError("layers have the same name")
        msgspec.structs.force_setattr(self, "sparsity", 1 - self.kept / self.total)

    @property
    def connected(self) -> bool:
        """Whether it has layers with known connections, and so their operations."""
        return any(layer.dead_channels is not None for layer in self.layers)

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
        """Whether no weight was removed."""
        return self.kept == self.total


class Cost(Record, frozen=True, kw_only=True):
    """Total cost of training runs.

    Attributes:
      epochs: number of epochs.
      images: number of training images, counted as often as they were seen.
      train_flops: FLOPs of training, the sum of `forward_flops` and `backward_flops`.
      device_seconds: seconds of training steps and of scoring.
      seconds: seconds with evaluations, pruning, masks and divergences.
      compile_seconds: seconds of compiling the programs.
    """

    epochs: Count
    images: Count = 0
    train_flops: Count
    forward_flops: Count = 0
    backward_flops: Count = 0
    device_seconds: Amount
    seconds: Amount = 0.0
    compile_seconds: Amount = 0.0


class TicketRow(Row, frozen=True, kw_only=True):
    """The training run of a ticket at the full T, and the cost of its search.

    Attributes:
      search_test_accuracy: accuracy of the search's own round with the same masks, where that ran another
        network variant; None without such a round.
      search, training: cost of the search up to the masks, and of this training run.
      imp_epochs: number of epochs in which IMP at the full T has masks of this sparsity.
      search_relative_to_imp: FLOPs of the search over those of IMP.
    """

    search_test_accuracy: Share | None = None
    search: Cost | None = None
    training: Cost | None = None
    imp_epochs: Count | None = None
    search_relative_to_imp: Amount | None = None

    @property
    def train_flops_in_all(self) -> int:
        """Sum of the FLOPs of the search and of the ticket's own training run."""
        return sum(cost.train_flops for cost in (self.search, self.training) if cost)


class EarlyTimeEpoch(Record, frozen=True, kw_only=True):
    """Normalised divergences after one epoch, and the T' that each lambda would choose."""

    epoch: Count
    normalised: dict[int, float]
    by_lambda: Annotated[dict[float, int], msgspec.Meta(min_length=1)]


class EarlyTimeRecord(Record, frozen=True, kw_only=True, rename={"threshold": "lambda"}):
    """Measurement and choice of Early-Time; `divergences` are D_t by t, `num_timesteps` is T'."""

    num_timesteps: Annotated[int, msgspec.Meta(ge=1)]
    threshold: Amount = 0.6
    divergences: dict[int, float]
    normalised: dict[int, float] = {}
    over_epochs: tuple[EarlyTimeEpoch, ...] = ()


class EarlyBirdRecord(Record, frozen=True, kw_only=True):
    """Early-Bird's rule after an epoch: whether it fired, and the largest distances in the queue."""

    fired: bool
    epoch: Count
    criterion: Literal["hamming", "overlap"]
    largest_hamming: Amount
    largest_overlap: Amount

    @property
    def largest(self) -> float:
        """Largest distance in the queue by the criterion of the search."""
        return self.largest_hamming if self.criterion == "hamming" else self.largest_overlap


class InterpolationRecord(Record, frozen=True, kw_only=True):
    """Two copies of a network, and the networks on the line from the first to the second.

    Attributes:
      epoch: number of completed epochs of the weights that were copied.
      ticket: ticket file of the masks of the copies; None without masks.
      kept, total: number of prunable weights that are left, and of all.
      alphas: places on the line, from 0 to 1.
      test_errors: share of the test images that the network at each place classifies wrongly.
      train_losses: its loss on the training images.
      barrier: largest error on the line, less the mean error of its ends.
    """

    epoch: Count
    ticket: str | None = None
    kept: Count
    total: Annotated[int, msgspec.Meta(ge=1)]
    alphas: Annotated[tuple[Share, ...], msgspec.Meta(min_length=2)]
    test_errors: tuple[Share, ...]
    train_losses: tuple[float, ...]
    barrier: Share

    def __post_init__(self) -> None:
        if self.kept > self.total:
            raise ValueError(f"{self.kept} of {self.total} weights kept")
        if not len(self.alphas) == len(self.test_errors) == len(self.train_losses):
            raise ValueError("alphas, test_errors and train_losses differ in length")

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that is removed."""
        return 1 - self.kept / self.total


class StabilityRecord(Record, frozen=True, kw_only=True):
    """Stability to the order of images, by epoch and sparsity, and the rewind epoch that follows.

    Attributes:
      bound: error barrier below which an epoch is stable.
      proposed: first epoch that is stable at all sparsities; None if there is none, or not all are measured.
      interpolations: the measurements, one for each epoch and sparsity.
    """

    bound: Amount
    proposed: Count | None
    interpolations: tuple[InterpolationRecord, ...]


class FlopsPerImage(Record, frozen=True, kw_only=True):
    """FLOPs of the forward pass of one image: `once` for all timesteps, and per timestep."""

    once: Count
    per_timestep: Count


class Devices(Record, frozen=True, kw_only=True):
    """Devices of a search, such as 8 of the kind "TPU v4"."""

    platform: Name
    kind: Name
    count: Annotated[int, msgspec.Meta(ge=1)]


class Settings(Record, frozen=True, kw_only=True):
    """Settings of a configuration that every result has; the names are those of the flags."""

    dataset: Name
    arch: Name
    num_timesteps: Annotated[int, msgspec.Meta(ge=1)]
    activation: Name = "lif"


class EarlyBirdSettings(Record, frozen=True, kw_only=True):
    """Settings of an Early-Bird search."""

    sparsity: Share
    queue: Annotated[int, msgspec.Meta(ge=1)]
    tau: Amount


class EarlyTimeSettings(Record, frozen=True, kw_only=True):
    """Settings of Early-Time."""

    early_time_lambda: Amount
    early_time_normalisation: Literal["first", "max"]


class _Configured(Record, frozen=True, kw_only=True):
    format: str = FORMAT
    method: Name
    finished: bool
    config: dict[str, Any]

    @property
    def settings(self) -> Settings:
        """Dataset and network."""
        return self._settings(Settings)

    @property
    def title(self) -> str:
        """Method, dataset and architecture in a line."""
        return f"{self.method} on {self.settings.dataset}, {self.settings.arch}"

    def _settings(self, kind: type[_SettingsOf]) -> _SettingsOf:
        try:
            settings: _SettingsOf = convert(self.config, kind)
        except ValueError as error:
            raise ValueError(f"config: {error}") from error
        return settings


class Result(_Configured, frozen=True, kw_only=True):
    """One search with one seed, finished or under way.

    Attributes:
      method: name of the method, see `configs.method_name`.
      finished: whether all its phases are done.
      config: settings that decide the results, see `configs.identity`; `config_hash` is their digest.
      preparations, rounds, tickets, controls: its training runs.
      flops_per_image: FLOPs of the forward pass of one image.
      early_time, early_bird, stability: results of these methods; None if they were not used.
      overrides: changes of the configuration on the way, a line each.
      train_compilations: number of network variants whose training this search compiled.
      compile_seconds: seconds of these compilations.
      versions: versions of packages.
      devices: devices of the process that wrote it.
    """

    config_hash: str = ""
    preparations: tuple[Row, ...] = ()
    rounds: tuple[Row, ...]
    tickets: tuple[TicketRow, ...]
    controls: tuple[Row, ...]
    flops_per_image: FlopsPerImage | None = None
    early_time: EarlyTimeRecord | None = None
    early_bird: EarlyBirdRecord | None = None
    stability: StabilityRecord | None = None
    overrides: tuple[str, ...] = ()
    train_compilations: Count = 0
    compile_seconds: Amount = 0.0
    versions: dict[Name, Name] = {}
    devices: Devices | None = None

    def __post_init__(self) -> None:
        rows = (*self.preparations, *self.rounds, *self.tickets, *self.controls)
        if len({tuple(layer.name for layer in row.layers) for row in rows if row.layers}) > 1:
            raise ValueError("rows have different layers")
        if type(seed := self.config.get("seed")) is not int:
            raise ValueError(f"config: seed is {seed!r}, not a number")
        # these raise if a field that readers need is missing
        _ = self.settings
        _ = self.early_bird and self.early_bird_settings
        _ = self.early_time and self.early_time_settings

    @property
    def seed(self) -> int:
        """Seed of the search."""
        return int(self.config["seed"])

    @property
    def early_bird_settings(self) -> EarlyBirdSettings:
        """Settings of Early-Bird, if `early_bird` is not None."""
        return self._settings(EarlyBirdSettings)

    @property
    def early_time_settings(self) -> EarlyTimeSettings:
        """Settings of Early-Time, if `early_time` is not None."""
        return self._settings(EarlyTimeSettings)

    @property
    def trainings(self) -> tuple[Row, ...]:
        """One row per training run; for a round of IMP that is also a ticket, the ticket's row."""
        rows = {(row.kind, row.round): row for row in (*self.rounds, *self.tickets, *self.controls)}
        return tuple(rows.values())


# --- several seeds


class Spread(Record, frozen=True, kw_only=True):
    """Mean and sample standard deviation (n - 1; None for one value) over seeds, and the values."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Mean and standard deviation of at least one value.

        >>> str(Spread.of([0.96, 0.98])), str(Spread.of([0.97]))
        ('0.9700 ± 0.0141', '0.9700')
        """
        values = tuple(values)
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), std=std, values=values)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.std:.4f}" if self.std is not None else "")

    def scaled(self, factor: float) -> "Spread":
        """Spread of the values times a factor."""
        std = None if self.std is None else factor * self.std
        return Spread(mean=factor * self.mean, std=std, values=tuple(factor * value for value in self.values))


class SummaryRow(Record, frozen=True, kw_only=True):
    """A training run over seeds: the fields that all seeds share, and the spread of the others."""

    kind: Kind
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


class Summary(_Configured, frozen=True, kw_only=True):
    """The same search with several seeds: as `Result`, with the results of methods by seed."""

    seeds: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
    rounds: tuple[SummaryRow, ...]
    tickets: tuple[SummaryRow, ...]
    controls: tuple[SummaryRow, ...]
    early_time: tuple[EarlyTimeRecord | None, ...] = ()
    early_bird: tuple[EarlyBirdRecord | None, ...] = ()
    stability: tuple[StabilityRecord | None, ...] = ()
    versions: dict[Name, Name] = {}
    devices: Devices | None = None

    def __post_init__(self) -> None:
        _ = self.settings

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
    return kind if kind in ("probe", "scores", "search", "trunk") else f"{kind} {number}"


# --- reading and writing


# a row has these only if they were measured
_ACCURACIES = (
    *("final_test_accuracy", "best_test_accuracy"),
    *("final_validation_accuracy", "best_validation_accuracy"),
)
_LAYER_FIELDS = ("layers", "measured_images", "weights_on_no_path")


def to_json(record: Record) -> Any:
    """The JSON value of a record, with lists and text keys, as `write` writes it."""
    return json.loads(json.dumps(_fields(record)))


def _fields(record: Record) -> Any:
    value = msgspec.to_builtins(record, str_keys=True)
    if isinstance(record, Result):
        for part in ("preparations", "rounds", "tickets", "controls"):
            value[part] = [_fields(row) for row in getattr(record, part)]
    if isinstance(record, Row):
        absent = {name for name in _ACCURACIES if value[name] is None}
        absent |= set() if record.layers else {*_LAYER_FIELDS}
        absent |= set() if record.compile_seconds else {"compile_seconds"}
        value = {name: field for name, field in value.items() if name not in absent}
    return value


def from_json(value: Any) -> Result | Summary:
    """The record of a JSON value, the inverse of `to_json`.

    Raises:
      ValueError: a field is damaged, and the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError("not an object")
    kind: type[Result] | type[Summary] = Summary if "seeds" in value else Result
    result: Result | Summary = convert(value, kind)
    return result


def write(path: epath.Path, result: Result | Summary) -> None:
    """Replace result.json in one go: a reader finds the old content or the new.

    Raises:
      OSError: it cannot be written.
    """
    files.replace(path, (json.dumps(_fields(result), indent=2) + "\n").encode())


def read(path: epath.Path) -> Result | Summary:
    """Read a result.json of this version, or of an earlier one.

    Raises:
      InputError: the file is missing, damaged (the message names the field), or of another format.
    """
    try:
        value = parse(content(path))
        # the first format had no name yet
        if isinstance(value, dict) and (written := value.get("format", FORMAT)) != FORMAT:
            raise InputError(path, problem=f"format {written!r:.80}, this version reads {FORMAT!r}")
        return from_json(value)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error) or type(error).__name__) from error


def parse(text: str | bytes) -> Any:
    """The value of a JSON text of any origin.

    Raises:
      ValueError, RecursionError: it is no JSON, nested without end, or has a number without end.
    """
    return json.loads(text, parse_int=_integer)


def content(path: epath.Path) -> bytes:
    """The bytes of a file of a run.

    Raises:
      InputError: it cannot be read, or has more than `MAX_BYTES`.
    """
    try:
        return files.read(path, most=MAX_BYTES)
    except InputError as error:
        raise damaged(path, getattr(error.__cause__, "strerror", None) or error.problem) from error


def damaged(path: epath.Path, reason: object, part: str = "") -> InputError:
    """The error for a file of a run that a reader refuses, or for a part of it."""
    problem = f"{part} is damaged ({reason!s:.300})" if part else f"damaged ({reason!s:.300})"
    return InputError(path, problem=problem, allowed="as a search wrote it")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {digits[:8]}... has more than {MAX_DIGITS} digits")
    return int(digits)


def convert(value: Any, kind: Any) -> Any:
    """Convert a JSON value to one of the types of this package.

    Raises:
      ValueError: the value does not fit; the message names the field, then the problem.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        problem, _, field = str(error).replace("`", "'").partition(" - at '$")
        field = field.strip("'.")
        raise ValueError(f"{field}: {problem}" if field else problem) from error
