"""Runs: directories of searches, with their `result.json` and `metrics.jsonl`."""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence

from etils import epath

from snnlth_jax.errors import InputError, printable
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import events, results
from snnlth_jax.run.events import Event
from snnlth_jax.run.results import Result

log = logging.getLogger(__name__)

__all__ = ["Run", "Runs", "collect", "read"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A search with one seed: its directory, as given or below what was given, its result and its events."""

    directory: str
    result: Result
    events: tuple[Event, ...]

    @property
    def seed(self) -> int:
        """Seed of the search."""
        return self.result.seed


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of which each has a result, finished or not, and directories of searches without one."""

    runs: tuple[Run, ...]
    without_result: tuple[str, ...]


def collect(workdirs: Sequence[str], *, begun: bool = False) -> Runs:
    """Every run in these directories or below, each once, in the order of their names.

    Args:
      workdirs: the directories.
      begun: accept that none has a result yet, as long as one has begun.

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
        if len(workdirs) > 1 and root.exists() and not root.is_dir():
            log.warning("%s: passed over, no directory", workdir)
            continue
        if not root.is_dir():
            problem = "a file" if root.exists() else "no such directory"
            raise InputError(
                f"{workdir}: {problem}; allowed: directories of searches, or one with them below"
            )
        known = _place(root) in seen
        for directory in _directories(root, seen):
            known = True
            if not rundir.paths(directory).result.exists():
                without[_place(directory)] = printable(directory)
            elif (run := read(directory)) is not None:
                runs[_place(directory)] = run
        if not known and len(workdirs) > 1:
            log.warning("%s: passed over, no search in it or below", workdir)
        elif not known:
            raise InputError(f"{workdir}: no search in it or below; {allowed}")
    if not runs and not (begun and without):
        raise InputError(f"{', '.join(workdirs)}: no result ({len(without)} begun); {allowed}")
    return Runs(tuple(runs.values()), tuple(without.values()))


def read(directory: epath.PathLike) -> Run | None:
    """One run; None where result.json only sums up those of several seeds.

    Raises:
      InputError: result.json or metrics.jsonl is damaged, or of another format.
    """
    paths = rundir.paths(directory)
    result = results.read(paths.result)
    if not isinstance(result, Result):
        return None
    return Run(printable(directory), result, events.read_whole(paths.metrics))


def _place(directory: epath.Path) -> str:
    """One name, however the directory was written or linked to."""
    return str(directory) if "://" in str(directory) else os.path.realpath(directory)


def _directories(root: epath.Path, seen: set[str]) -> Iterator[epath.Path]:
    """Directories of runs: `root`, or those below that were not seen yet; no directory of several seeds."""
    if _place(root) in seen:
        return
    seen.add(_place(root))
    run = rundir.paths(root)
    configured = run.config.exists()
    config = rundir.read_json(run.config) or {"seed": 0}  # damaged: of a run that ended early
    holds_seeds = configured and not isinstance(config.get("seed"), int)
    if not holds_seeds and (configured or run.result.exists()):
        yield root
        if configured:
            return  # what is below are its checkpoints and tickets
    for below in sorted(path for path in root.iterdir() if path.is_dir()):
        yield from _directories(below, seen)
