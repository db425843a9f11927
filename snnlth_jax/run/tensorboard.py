"""metrics.jsonl as events for TensorBoard: tags are its names, each training is one of TensorBoard's runs.

    tensorboard/round_03/    train_loss, test_accuracy ... of each epoch of round 3
    tensorboard/round/       sparsity, final_test_accuracy ... of each round; so are ticket/, random/ ...
    tensorboard/early_time/  of Early-Time, by epoch; tensorboard/mask/ of Early-Bird

They are a function of the lines and nothing else. A search that goes on cuts metrics.jsonl back to its
checkpoint, and event files cannot be cut; so they are written anew from the lines that are left, and grow
from there. What was trained twice is there once.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

__all__ = ["Events", "Scalar", "scalars"]

Line = Mapping[str, Any]


class Scalar(NamedTuple):
    """A point of a curve: of which run, under which tag, at which step."""

    run: str
    tag: str
    step: int
    value: float


def scalars(line: Line) -> Iterator[Scalar]:
    """The numbers of a line of metrics.jsonl; of an object in it "name/key"; texts and lists are left out.

    >>> line = {"event": "epoch", "kind": "round", "round": 3, "epoch": 2, "train_loss": 0.5}
    >>> list(scalars(line))
    [Scalar(run='round_03', tag='train_loss', step=2, value=0.5)]
    """
    event = line["event"]
    if event == "epoch":
        run, step = _training(line), line["epoch"]
    elif event == "round":
        run, step = line["kind"], line["round"]
    elif event in ("early_time", "mask"):
        run, step = event, line["epoch"]
    else:
        return
    for name, value in line.items():
        if name not in ("event", "kind", "round", "epoch"):
            yield from (Scalar(run, tag, step, number) for tag, number in _numbers(name, value))


def _training(line: Line) -> str:
    return f"{line['kind']}_{line['round']:02d}"


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, (int, float)):
        yield name, float(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(f"{name}/{key}", each)


class Events:
    """The event files of a run; made anew from the lines so far, then fed line by line.

    TensorBoard may look on all the while: each file begins by telling it to forget what it knew of the run.

    Args:
      directory: event files in it and below go.
      lines: of metrics.jsonl.

    Raises:
      OSError: it cannot be written.
    """

    def __init__(self, directory: epath.Path, lines: Iterable[Line] = ()):
        self._directory = directory
        self._writers: dict[str, Any] = {}
        self._clock = 0.0  # as the lines have it: when a process started, and the seconds of its epochs
        for old in directory.glob("*/*.tfevents.*") if directory.exists() else ():
            old.unlink()
        for line in lines:
            self.write(line)

    def write(self, line: Line) -> None:
        """One more line."""
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2

        if line["event"] == "start":
            self._clock = line.get("time", self._clock)
        elif line["event"] == "epoch":
            self._clock += line["seconds"]
        touched = set()
        for run, tag, step, value in scalars(line):
            point = summary.scalar(tag, value)
            event = event_pb2.Event(step=step, summary=point, wall_time=self._clock)
            self._writer(run).write_event(event)
            touched.add(run)
        for run in touched:
            self._writers[run].flush()
        if line["event"] == "round" and _training(line) in self._writers:  # this training is over
            self._writers.pop(_training(line)).close()

    def close(self) -> None:
        """Ends the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: str) -> Any:
        """Synchronous: where the disk is full the search hears of it, and no thread dies of it."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        if run not in self._writers:
            directory = self._directory / run
            directory.mkdir(parents=True, exist_ok=True)
            writer = self._writers[run] = EventsWriter(str(directory / "events"))
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            writer.write_event(event_pb2.Event(step=0, session_log=start, wall_time=self._clock))
        return self._writers[run]
