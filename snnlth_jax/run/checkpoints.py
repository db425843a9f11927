"""Checkpoints of a run: arrays and progress, with checksums, written by Orbax in the background.

Orbax's next API, v1, reads them bit for bit (a test holds it to that), but is `orbax.checkpoint.experimental`
still, "subject to change without notice", and would make this file no shorter. The API used here is not
deprecated.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from snnlth_jax.errors import InputError
from snnlth_jax.machine import hosts
from snnlth_jax.run.directory import Paths

PyTree = Any
log = logging.getLogger(__name__)

__all__ = ["manager", "restore", "save"]


@contextmanager
def manager(run: Paths, keep: int = 3) -> Iterator[ocp.CheckpointManager]:
    """Orbax over a run's checkpoints: it writes them in the background, whole, and keeps the last few."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(run.checkpoints, options=options) as checkpoints:
        yield checkpoints


def save(checkpoints: ocp.CheckpointManager, number: int, arrays: PyTree, progress: dict[str, Any]) -> None:
    """Save checkpoint `number`: a pytree of arrays, and the rest of a search's state as JSON values.

    It has checksums of both, since some damaged files can still be read.
    """
    text = json.dumps(progress)  # written in the background, while the search continues
    sums = {"arrays": int(_checksum(arrays)), "progress": hashlib.sha256(text.encode()).hexdigest()}
    saved = checkpoints.save(
        number,
        args=ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays),
            progress=ocp.args.JsonSave({"progress": text, "checksums": sums}),
        ),
    )
    if not saved:
        raise RuntimeError(f"Orbax did not save checkpoint {number}")


def restore(checkpoints: ocp.CheckpointManager, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """Read the newest good checkpoint, with the devices and the structure of `like`.

    The result is None without checkpoints. Damaged checkpoints are logged, and deleted once an older one was
    read.

    Raises:
      InputError: all checkpoints are damaged.
    """
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    damaged = []
    for number in sorted(checkpoints.all_steps(), reverse=True):
        for _ in range(2):  # a file system may fail once
            try:
                restored, failure = _restore(checkpoints, number, template), "on another host"
                break
            except Exception as error:  # damaged files fail in orbax, tensorstore, zstd or json
                restored, failure = None, type(error).__name__
        if not hosts.all_true(restored is not None):
            log.warning("checkpoint %d cannot be read (%s), trying an older one", number, failure)
            damaged.append(number)
            continue
        for newer in damaged:
            checkpoints.delete(newer)
        return restored
    if damaged:
        raise InputError(
            f"{checkpoints.directory}: none of the checkpoints {damaged} can be read; allowed: to start anew "
            "in another directory"
        )
    return None


def _restore(
    checkpoints: ocp.CheckpointManager, number: int, template: PyTree
) -> tuple[PyTree, dict[str, Any]]:
    args = ocp.args.Composite(arrays=ocp.args.StandardRestore(template), progress=ocp.args.JsonRestore())
    restored = checkpoints.restore(number, args=args)
    text, sums = restored.progress["progress"], restored.progress["checksums"]
    if sums["progress"] != hashlib.sha256(text.encode()).hexdigest():
        raise _Altered
    if sums["arrays"] != int(_checksum(restored.arrays)):
        raise _Altered
    return restored.arrays, json.loads(text)


class _Altered(ValueError):
    """Read without an error, but not what was saved."""


@jax.jit
def _checksum(tree: PyTree) -> jax.Array:
    """Sum of word i times 2 i + 1, over the leaves and again over their sums, in 32 bits.

    Odd numbers are invertible there, so any one word that changed changes the sum.
    """

    def weighted(words: jax.Array) -> jax.Array:
        return (words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)

    def words(x: jax.Array) -> jax.Array:
        if x.dtype == bool:
            return x.astype(jnp.uint32).ravel()
        unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
        return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()

    return weighted(jnp.stack([weighted(words(leaf)) for leaf in jax.tree.leaves(tree)]))
