"""The lines of metrics.jsonl, as types: the only file that spells their keys."""

import contextlib
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec
from etils import epath

from snnlth_jax.run import results
from snnlth_jax.run.results import Count, Devices, InterpolationRecord, Kind, Row, Share

__all__ = [
    "EarlyTimeEvent",
    "EpochEvent",
    "Event",
    "MaskEvent",
    "OverrideEvent",
    "RoundEvent",
    "StabilityEvent",
    "StartEvent",
    "curve",
    "from_json",
    "numbers",
    "read",
    "read_whole",
    "select",
    "to_json",
]


class StartEvent(results.Record, frozen=True, kw_only=True, tag_field="event", tag="start"):
    """A process begins or resumes a search; `time` is in seconds since 1970.

    `epochs` is the number of epochs of the whole search, as far as is known: Early-Bird may need fewer.
    """

    time: float | None = None
    resumed: bool = False
    checkpoint_every: Count = 0
    epochs: Count = 0
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    devices: Devices | None = None


class OverrideEvent(results.Record, frozen=True, kw_only=True, tag_field="event", tag="override"):
    """The configuration was changed on the way."""

    changed: str


class EpochEvent(
    results.Record, frozen=True, kw_only=True, tag_field="event", tag="epoch", omit_defaults=True
):
    """An epoch of a training run; test and validation set are measured after some epochs only."""

    kind: Kind
    round: Count
    epoch: Count
    train_loss: float
    train_accuracy: Share
    test_loss: float | None = None
    test_accuracy: Share | None = None
    validation_loss: float | None = None
    validation_accuracy: Share | None = None
    learning_rate: float
    images_per_second: float
    seconds: float

    @property
    def accuracies(self) -> dict[str, float | None]:
        """Accuracy by the name of the images."""
        return {
            "train": self.train_accuracy,
            "test": self.test_accuracy,
            "validation": self.validation_accuracy,
        }


class RoundEvent(Row, frozen=True, kw_only=True, tag_field="event", tag="round"):
    """The end of a training run, with its row."""

    @classmethod
    def from_row(cls, row: Row) -> "RoundEvent":
        """The event of a row."""
        return cls(**{name: getattr(row, name) for name in Row.__struct_fields__})


class MaskEvent(results.Record, frozen=True, kw_only=True, tag_field="event", tag="mask"):
    """Early-Bird's mask of an epoch: its distances to the earlier masks, None for lost ones."""

    epoch: Count
    fired: bool
    hamming: tuple[float | None, ...]
    overlap: tuple[float | None, ...]

    def distances(self, criterion: Literal["hamming", "overlap"]) -> tuple[float | None, ...]:
        """Distances by one of the criteria."""
        return self.hamming if criterion == "hamming" else self.overlap


class EarlyTimeEvent(
    results.Record,
    frozen=True,
    kw_only=True,
    tag_field="event",
    tag="early_time",
    rename={"threshold": "lambda"},
    omit_defaults=True,
):
    """Early-Time's measurement after an epoch, see `results.EarlyTimeRecord`."""

    epoch: Count
    num_timesteps: Count
    threshold: float
    divergences: dict[int, float]
    normalised: dict[int, float]
    by_lambda: dict[float, int] | None = None


class StabilityEvent(InterpolationRecord, frozen=True, kw_only=True, tag_field="event", tag="stability"):
    """The error on the line between two copies of a network was measured."""

    @classmethod
    def from_record(cls, record: InterpolationRecord) -> "StabilityEvent":
        """The event of a measurement."""
        return cls(**{name: getattr(record, name) for name in InterpolationRecord.__struct_fields__})


Event = StartEvent | OverrideEvent | EpochEvent | RoundEvent | MaskEvent | EarlyTimeEvent | StabilityEvent
E = TypeVar("E")


def select(events: Iterable[Event], kind: type[E]) -> list[E]:
    """Events of a kind, in their order."""
    return [event for event in events if isinstance(event, kind)]


# --- as curves


def curve(event: Event) -> tuple[str, int] | None:
    """Curve of the numbers of an event, and the step on it; None for events without numbers."""
    match event:
        case EpochEvent():
            return f"{event.kind}_{event.round:02d}", event.epoch
        case RoundEvent():
            return event.kind, event.round
        case MaskEvent():
            return "mask", event.epoch
        case EarlyTimeEvent():
            return "early_time", event.epoch
        case StabilityEvent():
            return f"stability_{event.kept}_weights", event.epoch
    return None


def numbers(event: Event) -> dict[str, Any]:
    """Fields of an event, without those that name its curve and step."""
    return {k: v for k, v in to_json(event).items() if k not in ("event", "kind", "round", "epoch")}


# --- reading and writing


def to_json(event: Event) -> dict[str, Any]:
    """The JSON value of an event; `json.dumps` of it is its line."""
    value: dict[str, Any] = results.to_json(event)
    return value


def from_json(value: Any) -> Event:
    """The event of a JSON value, the inverse of `to_json`.

    Raises:
      ValueError: a field is damaged; the message names it.
    """
    event: Event = results.convert(value, Event)
    return event


def read(path: epath.Path) -> tuple[Event, ...]:
    """Read the events of a search under way, without lines that were cut off."""
    events = []
    for line in results.content(path).splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, RecursionError):
            events.append(_event(line))
    return tuple(events)


def read_whole(path: epath.Path) -> tuple[Event, ...]:
    """Read the events of a search, all of them whole, except a last line that is still being written.

    Raises:
      InputError: the file or a line of it is damaged.
    """
    try:
        text = results.content(path).decode() if path.exists() else ""
    except UnicodeDecodeError as error:
        raise results.damaged(path, error) from error
    events = []
    for number, line in enumerate(text.rpartition("\n")[0].splitlines(), start=1):
        try:
            events.append(_event(line))
        except (ValueError, RecursionError) as error:
            raise results.damaged(path, error, f"line {number}") from error
    return tuple(events)


def _event(line: str | bytes) -> Event:
    return from_json(results.parse(line))  # accepts the NaN of `json.dumps`: a loss may be NaN
