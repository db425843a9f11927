"""Records of a run under way: metrics.jsonl and TensorBoard for programs, progress for people.

Process 0 alone records. A terminal has a progress bar, another output a plain line per epoch.
"""

import functools
import json
import time
from importlib.metadata import version
from typing import TypeVar

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from snnlth_jax import __version__, files
from snnlth_jax.machine import hosts
from snnlth_jax.models import _onednn
from snnlth_jax.run import events, tables
from snnlth_jax.run.events import EpochEvent, Event
from snnlth_jax.run.results import Devices
from snnlth_jax.run.tensorboard import Events

__all__ = ["Recorder", "devices", "onednn", "versions"]

E = TypeVar("E")


class Recorder:
    """Appends to metrics.jsonl and shows progress; use as a context manager.

    Args:
      path: path of metrics.jsonl.
      console: console for people.
      tensorboard: directory of the same events for TensorBoard; None for no such events.
    """

    def __init__(self, path: epath.Path, console: Console, tensorboard: epath.Path | None = None):
        self._path, self._console = path, console
        self._directory = tensorboard
        self._events: Events | None = None
        self._total = 0  # epochs of the whole search, for the time left
        self._active = hosts.is_first()
        self._done_before = 0  # epochs, of the processes before this one
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (self._active and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=None, status="compiling")
        self._seconds = 0.0  # of the epochs of this process
        self._last: float | None = None  # when the last line was printed

    def __enter__(self) -> "Recorder":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        if self._events:
            self._events.close()

    # --- for programs

    def truncate(self, size: int) -> None:
        """Forget the events after a checkpoint; epochs that are trained again are recorded again."""
        if self._active and self._path.exists():
            files.replace(self._path, self._path.read_bytes()[:size])
        if self._active and self._directory:
            if self._events:
                self._events.close()
            self._events = Events(self._directory, events.read(self._path))

    def size(self) -> int:
        """Number of bytes recorded so far, for `truncate`."""
        return self._path.stat().length if self._path.exists() else 0

    def events(self, kind: type[E]) -> list[E]:
        """Recorded events of a kind, such as `events.StartEvent`."""
        return events.select(events.read(self._path), kind)

    def record(self, event: Event) -> None:
        """Append an event to metrics.jsonl."""
        if self._active:
            with self._path.open("a") as file:
                file.write(json.dumps(events.to_json(event)) + "\n")
                files.sync(file)
            if self._events:
                self._events.write(event)

    # --- for people

    def message(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._active:
            try:
                tables.say(self._progress.console, text)
            except (OSError, SystemExit):  # the reader is gone; the search continues
                self._console.quiet = True

    def resume(self, epochs: int) -> None:
        """Start from the number of epochs that earlier processes completed."""
        self._done_before = epochs
        self._progress.update(self._task, completed=epochs)

    def expect(self, total_epochs: int) -> None:
        """Expect this number of epochs of the whole search, as far as is known."""
        self._total = total_epochs
        self._progress.update(self._task, total=total_epochs)

    def show(self, label: str, epochs_done: float, loss: float, accuracy: float, rate: float) -> None:
        """Move the bar: `epochs_done` of the whole search, running loss and accuracy, images per second."""
        self._progress.update(
            self._task,
            description=label,
            completed=epochs_done,
            status=f"loss {loss:.3f}  accuracy {accuracy:.3f}  {rate:,.0f} images/s",
        )

    def compiled(self, seconds: float) -> None:
        """Leave out the time of compiling from the time that an epoch takes."""
        if self._last is not None:
            self._last += seconds

    def epoch_line(self, label: str, epochs_done: int, event: EpochEvent) -> None:
        """Print the plain line of an epoch, the last of `epochs_done`, unless the console has a bar."""
        if self._active and not self._console.is_terminal:
            now = time.perf_counter()
            # before the first epoch everything is prepared, which is not done again
            self._seconds += event.seconds if self._last is None else now - self._last
            self._last = now
            left = self._seconds / (epochs_done - self._done_before) * (self._total - epochs_done)
            accuracies = "".join(
                f"  {name} {value:.4f}" for name, value in event.accuracies.items() if value is not None
            )
            self.message(
                f"{label}  loss {event.train_loss:.4f}{accuracies}  {event.images_per_second:,.0f} images/s"
                f"  {tables.duration(left)} left"
            )


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package and those that it computes with, for provenance."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    used = onednn()
    return {
        "snnlth_jax": __version__,
        **{name: version(name) for name in packages},
        **({"onednn": used} if used else {}),
    }


def onednn() -> str:
    """Version of oneDNN, if it computes the convolutions of this process, else ""."""
    return _onednn.library().version if jax.default_backend() == "cpu" else ""


def devices() -> Devices:
    """The devices of all processes, for provenance."""
    first, *rest = jax.devices()
    return Devices(platform=first.platform, kind=first.device_kind, count=1 + len(rest))
