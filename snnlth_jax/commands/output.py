"""Output of a command: text on standard output; a file, refused before the work if it cannot be written."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from etils import epath

from snnlth_jax import files
from snnlth_jax.errors import InputError, StorageError, one_line, printable

__all__ = ["check", "fail", "refusing", "show", "write"]

_NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)


def show(text: object, stream: TextIO | None = None) -> None:
    """Print text of any origin: line breaks as they are, other control characters as escapes."""
    print(printable(text, keep="\n"), file=stream)


def fail(status: int, message: object) -> int:
    """Print the line of an error on standard error; return the exit status."""
    print(f"snnlth: error: {printable(message)}", file=sys.stderr, flush=True)
    return status


def check(path: str, overwrite: bool, *inputs: str | None) -> None:
    """Refuse a file that is there already, unless it may be replaced, and a place where none can be.

    Args:
      path: file to write.
      overwrite: whether it may be replaced.
      inputs: files that the command reads, which it does not replace.

    Raises:
      InputError: with the reason.

    >>> check("/dev/null/file", overwrite=False)
    Traceback (most recent call last):
    ...
    snnlth_jax.errors.InputError: output /dev/null/file: /dev/null is not a directory
    """
    if not path or "\0" in path:
        raise InputError("`output`", repr(path), allowed="the name of a file")
    if "://" in path:
        try:
            present = epath.Path(path).exists()
        except Exception as error:  # no such kind of place, a package or a login that is missing
            raise InputError("`output`", path, problem=one_line(error)) from error
        if present and not overwrite:
            allowed = "a new file, or `overwrite`"
            raise InputError("`output`", path, problem="is there already", allowed=allowed)
        return
    with refusing(path):
        if os.path.isdir(path) or path.endswith("/"):
            raise InputError("`output`", path, problem="is a directory", allowed="the name of a file")
        if os.path.lexists(path):
            if not overwrite:
                problem, allowed = "is there already", "a new file, or `overwrite`"
                raise InputError("`output`", path, problem=problem, allowed=allowed)
            if any(one is not None and os.path.exists(one) and os.path.samefile(one, path) for one in inputs):
                raise InputError("`output`", path, problem="is what is read", allowed="another file")
            if not os.path.isfile(path):
                raise InputError("`output`", path, problem="is no regular file")
        parent = os.path.dirname(os.path.abspath(path))
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if not os.path.isdir(parent):
            raise InputError("`output`", path, problem=f"{parent} is not a directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError("`output`", path, problem=f"{parent} is not writable")


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turn errors of the file system into one line: a bad name or place is bad input, the rest storage."""
    try:
        yield
    except (InputError, StorageError):
        raise
    except OSError as error:
        if error.errno in _NO_PLACE:
            raise InputError("`output`", path, problem=f"{error.strerror}") from error
        raise StorageError(f"{path}: {error.strerror}") from error


def write(path: str, content: bytes) -> None:
    """Write a file in one go, with its directory.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/new/file"
    >>> write(path, b"content")
    >>> open(path, "rb").read()
    b'content'
    """
    with refusing(path):
        target = epath.Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        files.replace(target, content)
