"""Progress of a search: the arrays and the JSON values that each checkpoint holds."""

from typing import Any, NamedTuple

import jax
import msgspec

from snnlth_jax.run.results import EarlyBirdRecord, EarlyTimeRecord, Row, StabilityRecord
from snnlth_jax.search.rewinding import RewindPoint
from snnlth_jax.train import Metrics, TrainState, zero_metrics

__all__ = ["Carry", "Progress", "Tally"]


class Carry(NamedTuple):
    """The arrays that a search carries along, and that each checkpoint holds.

    Attributes:
      state: training state of the phase under way.
      rewind: weights that survivors of a pruning go back to.
      metrics: sums over the steps of an epoch that is under way.
      queue: Early-Bird's newest masks, packed; None for other searches.
    """

    state: TrainState
    rewind: RewindPoint
    metrics: Metrics
    queue: jax.Array | None = None

    @classmethod
    def of(cls, state: TrainState, queue: jax.Array | None = None) -> "Carry":
        """A search that starts with this state, which is its rewind point too."""
        return cls(state, RewindPoint.of(state), zero_metrics(), queue)


class Tally(msgspec.Struct):
    """Sums over the epochs of a phase; see `Row` for the fields."""

    device_seconds: float = 0.0
    seconds: float = 0.0
    final_test_accuracy: float | None = None
    best_test_accuracy: float | None = None
    final_validation_accuracy: float | None = None
    best_validation_accuracy: float | None = None

    def evaluated(self, split: str, accuracy: float) -> None:
        """Note the accuracy on a split after an epoch."""
        best = getattr(self, f"best_{split}_accuracy") or 0.0
        setattr(self, f"final_{split}_accuracy", accuracy)
        setattr(self, f"best_{split}_accuracy", max(accuracy, best))


class Progress(msgspec.Struct):
    """Progress of a search.

    Attributes:
      phase: index of the phase that began last; -1 before the first.
      epoch: number of completed epochs of its weights.
      step: number of completed steps of the next epoch; `step_seconds` is their time.
      over: whether the training run of the phase is over.
      row: sums over its epochs.
      rows: rows of the phases before it.
      epochs_done: number of epochs of all phases.
      points: number of points so far at which the hosts agreed whether to stop.
      metrics_bytes: size of metrics.jsonl at the checkpoint.
      compile_seconds: seconds of compiling, by network variant.
      early_time, early_bird, stability: results of these methods so far.
      devices: devices of the search; `software` compiles its programs.
      phases: names of all phases.
      overrides: changes of the configuration on the way, a line each.
    """

    phase: int = -1
    epochs_done: int = 0
    points: int = 0
    epoch: int = 0
    step: int = 0
    step_seconds: float = 0.0
    over: bool = False
    rows: list[Row] = []
    row: Tally = msgspec.field(default_factory=Tally)
    compile_seconds: dict[str, float] = {}
    early_time: EarlyTimeRecord | None = None
    early_bird: EarlyBirdRecord | None = None
    stability: StabilityRecord | None = None
    devices: str = ""
    software: str = ""
    phases: list[str] = []
    overrides: list[str] = []
    metrics_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON value that checkpoints hold."""
        value: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Progress":
        """The inverse of `to_json`."""
        return msgspec.convert(value, cls, str_keys=True)

    def begin(self, phase: int, first_epoch: int) -> None:
        """Begin a phase."""
        self.phase, self.epoch, self.step, self.over, self.row = phase, first_epoch, 0, False, Tally()
