"""Files of any origin read within bounds; a file replaced in one go, also on a full disk, after a kill."""

import contextlib
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from snnlth_jax.errors import InputError, StorageError, one_line

__all__ = ["opened", "read", "replace", "sync"]

MOST_BYTES = 2**36
_LONGEST_WRITE = 3600  # seconds


@contextlib.contextmanager
def opened(path: epath.PathLike, kind: str = "file") -> Iterator[IO[bytes]]:
    """Open a regular file, which may be a `gs://` one.

    Args:
      path: path of the file.
      kind: kind of file that is expected, for the error.

    Raises:
      InputError: no such file, no permission, or a directory, a pipe or a device.

    >>> with opened("/dev/zero"):
    ...     pass
    Traceback (most recent call last):
    ...
    snnlth_jax.errors.InputError: /dev/zero: not a file, but a directory, a pipe or a device
    """
    try:
        if not ("://" in os.fspath(path) or stat.S_ISREG(os.stat(path).st_mode)):
            raise InputError(path, problem=f"not a {kind}, but a directory, a pipe or a device")
        file = epath.Path(path).open("rb")
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: what no name can have
        raise InputError(path, problem=f"no such {kind}") from error
    except OSError as error:
        raise InputError(path, problem=f"cannot be read ({error.strerror or one_line(error)})") from error
    except Exception as error:
        if "://" not in os.fspath(path):
            raise
        # a bucket, without the package for it or the right to read
        raise InputError(path, problem=f"cannot be read ({one_line(error)})") from error
    with file:
        yield file


def read(path: epath.PathLike, kind: str = "file", most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file, `most` at most.

    Raises:
      InputError: as `opened`, or more bytes.
    """
    with opened(path, kind) as file:
        size = file.seek(0, os.SEEK_END)
        if size > most:
            raise InputError(path, problem=f"more than {most:,} bytes, too many for a {kind}")
        file.seek(0)
        content: bytes = file.read(size)
    return content


def replace(path: epath.Path, content: bytes) -> None:
    """Write a file, which may be a `gs://` one; the old content stays until the new is whole and read back.

    A process that is killed on the way may leave a hidden file, which a later call removes after an hour. A
    file keeps its permissions, and a link goes on to its file.

    Raises:
      InputError: what is there is no regular file, such as a device.
      StorageError: the file system gives back other bytes than were written; the old content stays.

    >>> import tempfile
    >>> path = epath.Path(tempfile.mkdtemp()) / "note"
    >>> replace(path, b"old")
    >>> replace(path, b"new")
    >>> path.read_bytes(), [other.name for other in path.parent.iterdir()]
    (b'new', ['note'])
    """
    mode = None
    if "://" not in str(path) and os.path.lexists(path):
        real = os.path.realpath(path)
        path = epath.Path(real) if os.path.isdir(os.path.dirname(real)) else path
        if path.exists() and not path.is_dir():
            if not os.path.isfile(path):
                raise InputError(
                    str(path), problem="is no regular file", allowed="a new file, or one like it"
                )
            mode = stat.S_IMODE(os.stat(path).st_mode)
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
        if mode is not None:
            os.chmod(partial, mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(file: IO[Any]) -> None:
    """Flush an open file to the disk, if it is a local one."""
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation, AttributeError):
        os.fsync(file.fileno())
