"""The directory of a run: paths, configuration, checkpoints. No other file spells a path of it."""

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from snnlth_jax import configs
from snnlth_jax.errors import InputError

PyTree = Any
log = logging.getLogger(__name__)

__all__ = [
    "Paths",
    "claim",
    "hold",
    "manager",
    "paths",
    "read_bits",
    "read_json",
    "restore",
    "save",
    "write_bits",
    "write_json",
]


class Paths(NamedTuple):
    """Where a run keeps what."""

    config: epath.Path
    metrics: epath.Path
    result: epath.Path
    checkpoints: epath.Path
    tickets: epath.Path
    masks: epath.Path

    def ticket(self, round_number: int) -> epath.Path:
        return self.tickets / f"round_{round_number:02d}.safetensors"

    def mask(self, epoch: int) -> epath.Path:
        return self.masks / f"epoch_{epoch:03d}.bits"


def paths(workdir: epath.PathLike) -> Paths:
    """The paths of a run in `workdir`, which may be a `gs://` one."""
    root = epath.Path(workdir)
    if "://" not in str(workdir):
        root = root.absolute()  # orbax takes no other
    return Paths(
        config=root / "config.json",
        metrics=root / "metrics.jsonl",
        result=root / "result.json",
        checkpoints=root / "checkpoints",
        tickets=root / "tickets",
        masks=root / "masks",
    )


def claim(run: Paths, identity: dict[str, Any]) -> None:
    """Make the directory this run's, or find that it is.

    Raises:
      InputError: it cannot be written, or holds a run with another configuration (with the difference).
    """
    root = run.config.parent
    try:
        if run.config.exists():
            there = read_json(run.config)
            if there is None:
                raise InputError(f"--workdir {root}: its config.json is damaged; allowed: another directory")
            if changed := configs.difference(there, json.loads(json.dumps(identity))):
                raise InputError(f"--workdir {root}: holds a run with another configuration: {changed}")
            return
        if orphans := [path.name for path in run if path.exists()]:
            raise InputError(
                f"--workdir {root}: holds {orphans[0]} without a config.json to say whose it is; allowed: a "
                "directory of a run, or one without such files"
            )
        root.mkdir(parents=True, exist_ok=True)
        write_json(run.config, identity)
    except OSError as error:
        raise InputError(f"--workdir {root}: {error}") from error


@contextmanager
def hold(run: Paths) -> Iterator[None]:
    """Keep other processes out of the directory; ends with the process, however that ends.

    On a local or network file system; a bucket has no locks.

    Raises:
      InputError: another process has it.
    """
    if "://" in str(run.config):
        yield
        return
    with open(run.config.parent / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            root = run.config.parent
            raise InputError(f"--workdir {root}: another process is at it; allowed: another one") from None
        yield


@contextmanager
def manager(run: Paths, keep: int = 3) -> Iterator[ocp.CheckpointManager]:
    """Orbax over a run's checkpoints: written in the background, whole or not at all; the last few stay."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(run.checkpoints, options=options) as checkpoints:
        yield checkpoints


def save(checkpoints: ocp.CheckpointManager, number: int, arrays: PyTree, progress: dict[str, Any]) -> None:
    """Checkpoint `number`: a pytree of arrays, and the rest of a search's state as JSON values."""
    progress = json.loads(json.dumps(progress))  # written in the background, while the search goes on
    checkpoints.save(
        number,
        args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(progress)),
    )


def restore(checkpoints: ocp.CheckpointManager, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest checkpoint that can be read, on the devices and with the structure of `like`.

    None where there is none. Checkpoints that cannot be read are logged, and deleted once an older one was.

    Raises:
      InputError: there are some, and none can be read.
    """
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    args = ocp.args.Composite(arrays=ocp.args.StandardRestore(template), progress=ocp.args.JsonRestore())
    damaged = []
    for number in sorted(checkpoints.all_steps(), reverse=True):
        try:
            restored = checkpoints.restore(number, args=args)
        except Exception as error:  # damaged files fail in orbax, tensorstore, zstd or json
            log.warning(
                "checkpoint %d cannot be read (%s), trying an older one", number, type(error).__name__
            )
            damaged.append(number)
            continue
        for newer in damaged:
            checkpoints.delete(newer)
        return restored.arrays, restored.progress
    if damaged:
        raise InputError(f"{checkpoints.directory}: none of the checkpoints {damaged} can be read")
    return None


def read_json(path: epath.Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file, or something else in it."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: epath.Path, value: Any) -> None:
    """Replace a JSON file in one go: a reader finds the old content or the new."""
    _replace(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bits(path: epath.Path, bits: np.ndarray) -> None:
    """A vector of uint8 as a file, there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, bits.tobytes())


def read_bits(path: epath.Path, size: int) -> np.ndarray | None:
    """What `write_bits` wrote; None where there is no such file, or one of another size."""
    content = path.read_bytes() if path.exists() else b""
    return np.frombuffer(content, np.uint8) if len(content) == size else None


def _replace(path: epath.Path, content: bytes) -> None:
    partial = path.parent / f".{path.name}.partial"
    partial.write_bytes(content)
    partial.replace(path)
