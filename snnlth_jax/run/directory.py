"""The directory of a run: its paths, its owner, its small files. No other module spells a path in it."""

import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from snnlth_jax import configs, files
from snnlth_jax.configs.toml import HEAD
from snnlth_jax.errors import InputError, StorageError, flag, named, one_line, passes
from snnlth_jax.machine import hosts
from snnlth_jax.run import results

log = logging.getLogger(__name__)

__all__ = [
    "LENGTH",
    "Paths",
    "claim",
    "gone",
    "hold",
    "paths",
    "read_bits",
    "read_correct",
    "read_json",
    "write_bits",
    "write_correct",
    "write_json",
    "write_settings",
    "writing",
]


LENGTH = ("rounds", "final_rounds", "controls")  # fields that add training runs to a finished search


class Paths(NamedTuple):
    """The paths of a run."""

    config: epath.Path
    settings: epath.Path
    metrics: epath.Path
    result: epath.Path
    checkpoints: epath.Path
    tickets: epath.Path
    masks: epath.Path
    weights: epath.Path
    correct: epath.Path
    spikes: epath.Path
    networks: epath.Path
    tensorboard: epath.Path

    def ticket(self, round_number: int) -> epath.Path:
        return self.tickets / f"round_{round_number:02d}.safetensors"

    def network(self, name: str) -> epath.Path:
        return self.networks / f"{name}.safetensors"

    def weights_of(self, epoch: int) -> epath.Path:
        return self.weights / f"epoch_{epoch:03d}.safetensors"

    def mask(self, epoch: int) -> epath.Path:
        return self.masks / f"epoch_{epoch:03d}.bits"

    def correct_of(self, kind: str, round_number: int) -> epath.Path:
        return self.correct / f"{kind}_{round_number:02d}.bits"

    def spikes_of(self, kind: str, round_number: int) -> epath.Path:
        return self.spikes / f"{kind}_{round_number:02d}.json"


def paths(workdir: epath.PathLike) -> Paths:
    """The paths of a run in `workdir`, which may be a `gs://` one."""
    try:
        root = epath.Path(workdir)
        if "\0" in str(root).encode().decode():
            raise ValueError("a zero byte")
    except Exception as error:
        allowed = "a directory with a name in UTF-8, or gs://..."
        raise InputError("`workdir`", workdir, problem=one_line(error), allowed=allowed) from error
    if "://" not in str(workdir):
        root = root.absolute()  # required by Orbax
    return Paths(
        config=root / "config.json",
        settings=root / "config.toml",
        metrics=root / "metrics.jsonl",
        result=root / "result.json",
        checkpoints=root / "checkpoints",
        tickets=root / "tickets",
        masks=root / "masks",
        weights=root / "weights",
        correct=root / "correct",
        spikes=root / "spikes",
        networks=root / "networks",
        tensorboard=root / "tensorboard",
    )


def claim(run: Paths, identity: dict[str, Any], override: bool = False) -> str:
    """Make the directory this run's, or check that it is.

    Args:
      run: paths of the run.
      identity: see `configs.identity`.
      override: accept a directory that holds a run with another configuration.

    Returns:
      The difference from the configuration in the directory, as one line: empty unless `override`.

    Raises:
      InputError: the directory cannot be written, or holds a run with another configuration (with the
        difference), or one that cannot resume with this one; or the hosts differ.
      StorageError: the disk has no room.
    """
    if not hosts.agree(json.dumps(identity)):
        differ = "the hosts have different configurations"
        raise InputError("`distributed`", problem=differ, allowed="the same command")
    hosts.on_first(lambda: _make(run, identity))
    return hosts.raise_together(lambda: _compare(run, identity, override))


def _make(run: Paths, identity: dict[str, Any]) -> None:
    root = run.config.parent
    try:
        if run.config.exists():
            return
        if orphans := [path.name for path in run if path != run.settings and path.exists()]:
            raise InputError(
                "`workdir`",
                root,
                problem=f"holds {orphans[0]} without a config.json to say whose it is",
                allowed="a directory of a run, or one without such files",
            )
        if root.exists() and not root.is_dir():
            raise InputError("`workdir`", root, problem="is no directory", allowed="one, or a new name")
        root.mkdir(parents=True, exist_ok=True)
        write_json(run.config, identity)
    except InputError:
        raise
    except OSError as error:
        raise _storage_error(run, error) from error
    except Exception as error:
        if "://" not in str(root):
            raise
        # a bucket, without the package for it or the right to write
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise InputError("`workdir`", root, problem=reason) from error


def _compare(run: Paths, identity: dict[str, Any], override: bool) -> str:
    root = run.config.parent
    if not run.config.exists():
        unseen = "not seen by this host"
        raise InputError("`workdir`", root, problem=unseen, allowed="one that all hosts share")
    recorded = read_json(run.config)
    if recorded is None or (run.checkpoints.exists() and not run.checkpoints.is_dir()):
        damaged = "config.json" if recorded is None else "checkpoints"
        problem = f"its {damaged} is damaged"
        raise InputError("`workdir`", root, problem=problem, allowed="another directory")
    recorded, wanted = configs.completed(recorded), configs.completed(json.loads(json.dumps(identity)))
    new = configs.defaulted(recorded, wanted)
    recorded |= new
    changed = configs.difference(recorded, wanted)
    fixed = configs.not_overridable(recorded, wanted)
    if changed and not override:
        advice = "" if fixed or _over(run, recorded, wanted) else ", or `override` to resume with this one"
        problem = f"holds a run with another configuration: {changed}"
        raise InputError("`workdir`", root, problem=problem, allowed=f"that one, another directory{advice}")
    if fixed:
        allowed = ", ".join(f"`{name}`" for name in configs.overridable())
        raise InputError("`override`", problem=fixed, allowed=f"to change {allowed}")
    if new:
        taken = ", ".join(f"{name} is taken as {value}" for name, value in new.items())
        _warn(f"{run.config} is of a version without some settings: {taken}")
    return named(changed, flag)  # in the words of the command line


@functools.cache
def _warn(line: str) -> None:
    log.warning("%s", line)  # once


def _over(run: Paths, recorded: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the run is finished, and stays so with the configuration that is wanted."""
    try:
        finished = results.read(run.result).finished
    except InputError:
        return False
    return finished and all(recorded.get(name) == wanted.get(name) for name in LENGTH)


def write_settings(run: Paths, config: configs.ResolvedTrain) -> None:
    """Write the settings of a run as a file for `--config`; a file that is someone's own stays."""
    text = configs.written(config)
    try:
        existing = results.content(run.settings).decode() if run.settings.exists() else HEAD
    except (ValueError, InputError):
        return
    if existing != text and existing.startswith(HEAD):
        files.replace(run.settings, text.encode())


def _storage_error(run: Paths, error: OSError) -> OSError | InputError:
    """InputError for a directory that cannot be written; StorageError for a disk that can have room again."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return StorageError(f"`workdir` {run.config.parent}: {error.strerror}")
    return InputError("`workdir`", run.config.parent, problem=str(error))


@contextmanager
def hold(run: Paths) -> Iterator[None]:
    """Lock the directory against other runs until the process ends, in any way.

    This works on a local or network file system; a bucket has no locks.

    Raises:
      InputError: another process holds the lock, or the directory cannot be written.
    """
    root = run.config.parent

    def lock() -> None:
        try:
            file = stack.enter_context(open(root / ".lock", "a+"))  # noqa: SIM115
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = "another process is at it"
            raise InputError("`workdir`", root, problem=busy, allowed="another one") from None
        except OSError as error:
            raise _storage_error(run, error) from error

    with ExitStack() as stack:
        if "://" not in str(root):
            hosts.on_first(lock)
        yield


@contextmanager
def writing(run: Paths) -> Iterator[None]:
    """Turn write errors of Orbax and the file system into one line.

    Raises:
      StorageError: in place of such an error.
    """
    try:
        yield
    except (InputError, StorageError):
        raise
    except Exception as error:
        # tensorstore has its own errors, with the number of the system's inside
        match = re.search(r"\[os_error_code='(\d+)'", str(error))
        if match:
            reason = os.strerror(int(match[1]))
        elif isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif not run.config.exists():
            reason = "it is gone"
        elif passes(error, "/orbax/"):  # files that were there a moment ago
            reason = one_line(error)
        else:
            raise
        raise StorageError(f"`workdir` {run.config.parent}: {reason}") from error


def gone(run: Paths, names: Sequence[str]) -> str:
    """Which of the files of a run are gone, in words; empty if none is."""
    missing = [name for name in names if not (run.config.parent / name).exists()]
    return f"{', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} gone" if missing else ""


def read_json(path: epath.Path) -> dict[str, Any] | None:
    """Read the object in a JSON file; None without a file that can be read."""
    try:
        value = results.parse(results.content(path))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: epath.Path, value: Any) -> None:
    """Replace a JSON file in one go: a reader finds the old content or the new."""
    files.replace(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bits(path: epath.Path, bits: np.ndarray) -> None:
    """Write a vector of uint8 and eight bytes of checksum, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bits.tobytes()
    files.replace(path, content + hashlib.sha256(content).digest()[:8])


def read_bits(path: epath.Path) -> np.ndarray | None:
    """Read a file of `write_bits`; None without one that can be read whole."""
    try:
        whole = results.content(path)
    except InputError:
        return None
    content, checksum = whole[:-8], whole[-8:]
    return np.frombuffer(content, np.uint8) if hashlib.sha256(content).digest()[:8] == checksum else None


def write_correct(path: epath.Path, correct: np.ndarray) -> None:
    """Write which test images a network classifies correctly, booleans `[N]`, whole or not at all."""
    count = np.frombuffer(len(correct).to_bytes(4, "little"), np.uint8)
    write_bits(path, np.concatenate([count, np.packbits(correct)]))


def read_correct(path: epath.Path) -> np.ndarray | None:
    """Read a file of `write_correct`; None without one that can be read whole."""
    content = read_bits(path)
    if content is None or len(content) < 4:
        return None
    count = int.from_bytes(content[:4].tobytes(), "little")
    correct: np.ndarray = np.unpackbits(content[4:], count=count).astype(bool)
    return correct
