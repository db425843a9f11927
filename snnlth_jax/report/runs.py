"""What searches left in their directories, read from `result.json` and `metrics.jsonl` alone."""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from snnlth_jax.errors import InputError
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import metrics

__all__ = ["Cost", "Layer", "Run", "Runs", "Training", "collect", "read"]

PARTS = ("preparations", "rounds", "tickets", "controls")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A prunable layer after a training, as measured on test images; in the order of the forward pass.

    Attributes:
      name: that masks and tickets use.
      weights, kept: before and after pruning.
      channels, dead_channels: outputs, and those that cannot influence the logits or are reached by no input.
      neurons, silent_neurons, saturated_neurons: that follow it, of these without any spike, and with one at
        every timestep of every image; None for the classifier, which has none.
      firing_rate: mean spikes per neuron, of each timestep; or None.
      spikes_per_image: over neurons and timesteps; or None.
      synops_per_image: additions that incoming spikes cause over weights that are kept, of each timestep.
      macs_per_image: multiply-accumulates of inputs that are no spikes, of each timestep.
    """

    name: str
    weights: int
    kept: int
    channels: int
    dead_channels: int
    neurons: int | None
    silent_neurons: int | None
    saturated_neurons: int | None
    firing_rate: list[float] | None
    spikes_per_image: float | None
    synops_per_image: list[float]
    macs_per_image: list[float]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a ticket's search or of its own training: epochs, FLOPs, seconds of training steps."""

    epochs: int
    train_flops: int
    device_seconds: float


@dataclasses.dataclass(frozen=True)
class Training:
    """A row of result.json: one training and what came out of it.

    Attributes:
      kind: see `snnlth_jax.search.session.Phase`.
      round: of the search, 0 is dense.
      kept, total: weights, of the prunable ones.
      network: such as "lif T=4".
      num_timesteps: T that it was trained with.
      epochs: of this training.
      accuracy: of the test set after the last epoch, in [0, 1]; None where it was not measured.
      ticket: name of its file within the run.
      layers: none in runs from before they were recorded.
      search, training: of a ticket, what it cost; `relative`: the FLOPs of its search over those of IMP.
    """

    kind: str
    round: int
    kept: int
    total: int
    network: str
    num_timesteps: int
    epochs: int
    accuracy: float | None
    ticket: str | None
    layers: tuple[Layer, ...]
    search: Cost | None = None
    training: Cost | None = None
    relative: float | None = None

    @property
    def density(self) -> float:
        """The share of the weights that is left."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """The share that is gone."""
        return 1 - self.kept / self.total

    @property
    def flops(self) -> int:
        """Of a ticket: of its search and its own training together."""
        return sum(part.train_flops for part in (self.search, self.training) if part)


@dataclasses.dataclass(frozen=True)
class Run:
    """A search with one seed.

    Attributes:
      directory: as given, or below what was given.
      method, finished, config, config_hash, versions, devices, overrides: as in result.json.
      preparations, rounds, tickets, controls: its trainings.
      early_time, early_bird: what they found, None where they were not asked for.
      lines: of metrics.jsonl.
    """

    directory: str
    method: str
    finished: bool
    config: dict[str, Any]
    config_hash: str
    preparations: tuple[Training, ...]
    rounds: tuple[Training, ...]
    tickets: tuple[Training, ...]
    controls: tuple[Training, ...]
    early_time: dict[str, Any] | None
    early_bird: dict[str, Any] | None
    overrides: list[str]
    versions: dict[str, str]
    devices: dict[str, Any]
    lines: tuple[dict[str, Any], ...]

    @property
    def seed(self) -> int:
        """That decides its randomness."""
        return self.config["seed"]

    def told(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event."""
        return [line for line in self.lines if line["event"] == event]


@dataclasses.dataclass(frozen=True)
class Runs:
    """What was found.

    Attributes:
      runs: that have a result, if only so far.
      without_result: directories of searches that failed, or are not that far.
    """

    runs: tuple[Run, ...]
    without_result: tuple[str, ...]


def collect(workdirs: Sequence[str]) -> Runs:
    """Every run in these directories or below, each once, in the order of their names.

    Raises:
      InputError: a directory that does not exist or has no search in it; none with a result; a result that is
        damaged, or of a format that this version does not read.
    """
    runs: dict[str, Run] = {}
    without: dict[str, str] = {}
    seen: set[str] = set()
    allowed = "allowed: a directory with a result.json, which a search has after its first training"
    for workdir in workdirs:
        root = epath.Path(workdir)
        if not root.is_dir():
            raise InputError(
                f"{workdir}: no such directory; allowed: those of searches, or one with them below"
            )
        begun = _place(root) in seen
        for directory in _directories(root, seen):
            begun = True
            if not (directory / "result.json").exists():
                without[_place(directory)] = str(directory)
            elif (run := read(directory)) is not None:
                runs[_place(directory)] = run
        if not begun:
            raise InputError(f"{workdir}: no search in it or below; {allowed}")
    if not runs:
        raise InputError(f"{', '.join(workdirs)}: no result ({len(without)} begun); {allowed}")
    return Runs(tuple(runs.values()), tuple(without.values()))


def read(directory: epath.PathLike) -> Run | None:
    """One run; None where result.json only sums up those of several seeds.

    Raises:
      InputError: result.json or metrics.jsonl is damaged, or of another format.
    """
    paths = rundir.paths(directory)
    try:
        result = json.loads(paths.result.read_text())
        if not isinstance(result, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(f"{paths.result}: damaged ({error}); allowed: as a search wrote it") from error
    metrics.checked(paths.result, result)
    if "seeds" in result:
        return None
    try:
        parts: Any = {part: tuple(map(_training, result[part])) for part in PARTS}
        same = (
            "method",
            "finished",
            "config",
            "config_hash",
            "early_time",
            "early_bird",
            "versions",
            "devices",
        )
        run = Run(
            directory=str(directory),
            **{name: result[name] for name in same},
            overrides=result.get("overrides", []),
            **parts,
            lines=tuple(_lines(paths.metrics)),
        )
        if not isinstance(run.seed, int):
            raise TypeError("the seed is not a number")
        _ = run.config["dataset"], run.config["arch"], run.config["num_timesteps"]
        _ = run.early_time and (run.early_time["divergences"], run.early_time["num_timesteps"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{paths.result}: damaged ({reason}); allowed: as a search wrote it") from error
    return run


def _place(directory: epath.Path) -> str:
    """One name, however the directory was written or linked to."""
    return str(directory) if "://" in str(directory) else os.path.realpath(directory)


def _directories(root: epath.Path, seen: set[str]) -> Iterator[epath.Path]:
    """Of runs: `root`, or those below that were not seen yet; not what only holds those of several seeds."""
    if _place(root) in seen:
        return
    seen.add(_place(root))
    configured = (root / "config.json").exists()
    config = rundir.read_json(root / "config.json") or {"seed": 0}  # damaged: of a run that ended early
    holds_seeds = configured and not isinstance(config.get("seed"), int)
    if not holds_seeds and (configured or (root / "result.json").exists()):
        yield root
        if configured:
            return  # what is below are its checkpoints and tickets
    for below in sorted(path for path in root.iterdir() if path.is_dir()):
        yield from _directories(below, seen)


def _training(row: dict[str, Any]) -> Training:
    search, training = row.get("search"), row.get("training")
    same = ("kind", "round", "kept", "total", "network", "num_timesteps", "epochs", "ticket")
    if not 0 <= row["kept"] <= row["total"] or not row["total"]:
        raise ValueError(f"{row['kept']} of {row['total']} weights kept")
    accuracy = row.get("final_test_accuracy")
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"an accuracy of {accuracy}")
    return Training(
        **{name: row[name] for name in same},
        accuracy=accuracy,
        layers=tuple(map(_layer, row.get("layers") or ())),
        search=_only(Cost, search) if search else None,
        training=_only(Cost, training) if training else None,
        relative=row.get("search_relative_to_imp"),
    )


def _layer(fields: dict[str, Any]) -> Layer:
    layer = _only(Layer, fields)
    counts = (layer.kept, layer.weights, layer.dead_channels, layer.channels)
    if not (0 <= layer.kept <= layer.weights and layer.weights and all(isinstance(n, int) for n in counts)):
        raise ValueError(f"layer {layer.name}: {layer.kept} of {layer.weights} weights kept")
    return layer


def _only(kind: Any, fields: dict[str, Any]) -> Any:
    """A dataclass of some of the fields, whatever else may have been recorded."""
    return kind(**{field.name: fields[field.name] for field in dataclasses.fields(kind)})


# what is read of the lines of an event
_FIELDS = {
    "epoch": ("kind", "round", "epoch", "train_accuracy", "train_loss"),
    "mask": ("epoch", "fired", "hamming", "overlap"),
}


def _lines(path: epath.Path) -> Iterator[dict[str, Any]]:
    """Of metrics.jsonl; a last one that is cut off is still being written."""
    try:
        text = path.read_text() if path.exists() else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); allowed: as a search wrote it") from error
    whole, _, _ = text.rpartition("\n")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            fields = json.loads(line)
            _ = [fields[name] for name in _FIELDS.get(fields["event"], ())]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: line {number} is damaged; allowed: as a search wrote it") from error
        yield fields
