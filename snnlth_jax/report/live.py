"""The report of searches under way: written anew whenever one of their files changes."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from snnlth_jax.errors import InputError, printable
from snnlth_jax.report import markup
from snnlth_jax.report.runs import Runs
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import events
from snnlth_jax.run.events import EpochEvent, Event, StartEvent, select
from snnlth_jax.run.results import phase_name
from snnlth_jax.run.tables import duration

__all__ = ["REFRESH", "under_way", "watch"]

log = logging.getLogger(__name__)

REFRESH = 10  # seconds after which a browser loads the page again
_SECONDS = 3.0  # between two looks at the files
_RECENT = 10  # epochs that the time left is estimated from


def watch(workdirs: Sequence[str], write: Callable[[], epath.Path], say: Callable[[object], None]) -> None:
    """Write a page, and again when a file of the searches changes, until Ctrl-C.

    Writing it takes a quarter of a core at most.

    Args:
      workdirs: directories of searches, or with any number of them below.
      write: function that writes the page, and returns its path.
      say: function that prints a line.

    Raises:
      InputError: the page cannot be written the first time (later it stays as it is, and a line says why), or
        a bucket, whose files are not looked at.
    """
    if buckets := [workdir for workdir in workdirs if "://" in workdir]:
        raise InputError(
            "`watch`", problem=f"{buckets[0]} is a bucket", allowed="directories of this machine"
        )
    try:
        before = _state(workdirs)
        started = time.perf_counter()
        say(f"{write()}, until Ctrl-C")
        last_line = ""
        while True:
            time.sleep(max(_SECONDS, 3 * (time.perf_counter() - started)))
            started = time.perf_counter()
            if (now := _state(workdirs)) == before:
                continue
            before = now
            try:
                write()
                last_line = ""
            except InputError as error:
                if (line := printable(error)) != last_line:
                    log.warning("%s; the page stays as it is", line)
                last_line = line
    except KeyboardInterrupt:
        return


def _state(workdirs: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Time and size of the files that a report reads; of those that vanish meanwhile none."""
    return {path: state for workdir in workdirs for path, state in _files(workdir)}


def _files(workdir: str) -> Iterator[tuple[str, tuple[int, int]]]:
    run = rundir.paths(workdir)
    watched = {path.name for path in (run.result, run.metrics, run.config)}
    for directory, _, names in os.walk(workdir):
        for name in {*names} & watched:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                status = os.stat(path)
                yield path, (status.st_mtime_ns, status.st_size)


def under_way(collected: Runs) -> str:
    """A card with the searches that are not finished: how far they are, and the time left; "" if all are."""
    searches = [(run.directory, run.events) for run in collected.runs if not run.result.finished]
    searches += [(name, events.read_whole(rundir.paths(name).metrics)) for name in collected.without_result]
    rows = [[markup.wrapped(f"<code>{markup.text(name)}</code>"), *_progress(of)] for name, of in searches]
    heads = ("search", "training run", "epoch", "loss", "accuracy", "epochs in all", "time left")
    table = markup.table(heads, rows) if rows else "<p>All searches are finished.</p>"
    written = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return f'<div class="card"><h3>Under way, {written}</h3>{table}</div>'


def _progress(of: Sequence[Event]) -> list[str]:
    """Training run, epoch, loss, accuracy, epochs so far and in all, time left of a search; as HTML."""
    epochs, starts = select(of, EpochEvent), select(of, StartEvent)
    if not epochs:
        return ["begun", "", "", "", "", ""]
    last, total = epochs[-1], starts[-1].epochs if starts else 0
    tested = [event for event in epochs if event.test_accuracy is not None]
    accuracy = f"{tested[-1].test_accuracy:.4f}" if tested else f"{last.train_accuracy:.4f} (training)"
    recent = [event.seconds for event in epochs[-_RECENT:]]
    left = max(total - len(epochs), 0) * sum(recent) / len(recent)
    return [
        markup.text(phase_name(last.kind, last.round)),
        f"{last.epoch}",
        f"{last.train_loss:.4f}",
        accuracy,
        f"{len(epochs)} of {total}" if total else f"{len(epochs)}",
        duration(left) if total else "",
    ]
