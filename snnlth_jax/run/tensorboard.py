"""metrics.jsonl as events for TensorBoard: tags are its names; each training run is a run of TensorBoard.

    tensorboard/round_03/    train_loss, test_accuracy ... of each epoch of round 3
    tensorboard/round/       sparsity, final_test_accuracy ... of each round; ticket/, random/ ... likewise
    tensorboard/early_time/  divergences of Early-Time, by epoch; tensorboard/mask/ distances of Early-Bird;
                             tensorboard/stability_N_weights/ error barriers

The events are a function of these lines alone. A search that resumes cuts metrics.jsonl back to its
checkpoint, and event files cannot be cut: they are written anew from the lines that are left, and grow from
there. An epoch that was trained twice appears once.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from snnlth_jax.run.events import EpochEvent, Event, RoundEvent, StartEvent, curve, numbers

__all__ = ["Events", "Scalar", "scalars"]


class Scalar(NamedTuple):
    """A point of a curve: its run and tag, its step and value."""

    run: str
    tag: str
    step: int
    value: float


def scalars(event: Event) -> Iterator[Scalar]:
    """Numbers of an event, without texts and lists; a number within an object has the tag "name/key".

    >>> from snnlth_jax.run.events import MaskEvent
    >>> list(scalars(MaskEvent(epoch=3, fired=True, hamming=(0.1,), overlap=(0.2,))))
    [Scalar(run='mask', tag='fired', step=3, value=1.0)]
    """
    if position := curve(event):
        run, step = position
        for name, value in numbers(event).items():
            yield from (Scalar(run, tag, step, number) for tag, number in _numbers(name, value))


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, (int, float)):
        yield name, float(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)


class Events:
    """Event files of a run, made anew from the events so far, then extended event by event.

    TensorBoard may read them at any time: each file first tells it to forget earlier events of the run.

    Args:
      directory: directory of the event files, which are replaced.
      events: events so far.

    Raises:
      OSError: a file cannot be written.
    """

    def __init__(self, directory: epath.Path, events: Iterable[Event] = ()):
        self._directory = directory
        self._writers: dict[str, Any] = {}
        self._clock = 0.0  # time of the events: start of a process, plus the seconds of its epochs
        for old in directory.glob("*/*.tfevents.*") if directory.exists() else ():
            old.unlink()
        for event in events:
            self.write(event)

    def write(self, event: Event) -> None:
        """Append an event."""
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        if isinstance(event, StartEvent) and event.time is not None:
            self._clock = event.time
        elif isinstance(event, EpochEvent):
            self._clock += event.seconds
        touched = set()
        for run, tag, step, value in scalars(event):
            point = event_pb2.Event(step=step, summary=summary.scalar(tag, value), wall_time=self._clock)
            self._writer(run).write_event(point)
            touched.add(run)
        for run in touched:
            self._writers[run].flush()
        if isinstance(event, RoundEvent):  # its training run is over
            name = f"{event.kind}_{event.round:02d}"
            if name in self._writers:
                self._writers.pop(name).close()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: str) -> Any:
        """Synchronous writer of a run: a full disk raises here, and not in a thread."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        if run not in self._writers:
            directory = self._directory / run
            directory.mkdir(parents=True, exist_ok=True)
            writer = self._writers[run] = EventsWriter(str(directory / "events"))
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            writer.write_event(event_pb2.Event(step=0, session_log=start, wall_time=self._clock))
        return self._writers[run]
