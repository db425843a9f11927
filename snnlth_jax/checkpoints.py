"""The directory of a run: paths, configuration, checkpoints. No other file spells a path of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from snnlth_jax import configs
from snnlth_jax.errors import InputError

PyTree = Any

__all__ = ["Paths", "claim", "manager", "paths", "read_json", "restore", "save", "write_json"]


class Paths(NamedTuple):
    """Where a run keeps what."""

    config: epath.Path
    metrics: epath.Path
    result: epath.Path
    checkpoints: epath.Path
    tickets: epath.Path

    def ticket(self, round_number: int) -> epath.Path:
        return self.tickets / f"round_{round_number:02d}.safetensors"


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
    )


def claim(run: Paths, identity: dict[str, Any]) -> None:
    """Make the directory this run's, or find that it is.

    Raises:
      InputError: it cannot be written, or holds a run with another configuration (with the difference).
    """
    root = run.config.parent
    try:
        if run.config.exists():
            if changed := configs.difference(read_json(run.config), json.loads(json.dumps(identity))):
                raise InputError(f"--workdir {root}: holds a run with another configuration: {changed}")
            return
        root.mkdir(parents=True, exist_ok=True)
        write_json(run.config, identity)
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"--workdir {root}: {error}") from error


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
    """The newest checkpoint, on the devices and with the structure of `like`; None where there is none."""
    number = checkpoints.latest_step()
    if number is None:
        return None
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    restored = checkpoints.restore(
        number,
        args=ocp.args.Composite(arrays=ocp.args.StandardRestore(template), progress=ocp.args.JsonRestore()),
    )
    return restored.arrays, restored.progress


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def write_json(path: epath.Path, value: Any) -> None:
    """Replace a JSON file in one go: a reader finds the old content or the new."""
    partial = path.parent / f".{path.name}.partial"
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
