"""A file replaced in one go: a reader finds the old content or the new, also after a full disk or a kill."""

import contextlib
import io
import os
import secrets
import time
from typing import IO, Any

from etils import epath

from snnlth_jax.errors import StorageError

__all__ = ["replace", "sync"]

_LONGEST_WRITE = 3600  # seconds


def replace(path: epath.Path, content: bytes) -> None:
    """Write a file, which may be a `gs://` one; the old content stays until the new is whole and read back.

    A process that is killed on the way may leave a hidden file, which a later call removes after an hour.

    Raises:
      StorageError: the file system gives back other bytes than were written; the old content stays.

    >>> import tempfile
    >>> path = epath.Path(tempfile.mkdtemp()) / "note"
    >>> replace(path, b"old")
    >>> replace(path, b"new")
    >>> path.read_bytes(), [other.name for other in path.parent.iterdir()]
    (b'new', ['note'])
    """
    for left in path.parent.glob(".*.partial"):  # by a process that was killed
        with contextlib.suppress(OSError):
            if left.stat().mtime < time.time() - _LONGEST_WRITE:
                left.unlink(missing_ok=True)
    partial = path.parent / f".{secrets.token_hex(8)}.partial"  # two writers do not share one
    try:
        with partial.open("wb") as file:
            file.write(content)
            sync(file)
        if partial.read_bytes() != content:
            raise StorageError(f"{path}: what was written is not what is read back")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(file: IO[Any]) -> None:
    """Flush an open file to the disk, if it is a local one."""
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation, AttributeError):
        os.fsync(file.fileno())
