"""Standard streams with the habits of a Unix tool: what cannot be printed stops nothing that is computed."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["Output", "guarded", "open_missing"]


class Output(io.TextIOWrapper):
    """A text stream in place of another one of the same file, which accepts everything.

    Characters that the encoding lacks are written as escapes. After a write has failed, the rest is dropped.

    Attributes:
      lost: the error by which output was lost; None without one, or where the reader had gone, which is not
        an error: it had seen enough.
    """

    lost: OSError | None = None
    _restored = False

    def __init__(self, stream: io.TextIOWrapper):
        self._before = stream
        stream.flush()
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        if self._restored:  # a logger of another library has kept this stream
            return self._before.write(text)
        with self._dropping():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written, or drop it."""
        if self._restored:
            self._before.flush()
            return
        with self._dropping():
            super().flush()

    def restore(self) -> Any:
        """Flush, and give the file back to the stream that this one stood for."""
        self.flush()
        self.detach()
        self._restored = True
        return self._before

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or (None if error.errno == errno.EPIPE else error)
            nowhere = os.open(os.devnull, os.O_WRONLY)  # where the rest goes, that of the buffer too
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def guarded(*names: str) -> Iterator[list[OSError]]:
    """Have `sys.stdout` and `sys.stderr`, or the one that is named, accept everything within the context.

    The list that is yielded gets the error of standard output at the end, if something of it was lost.
    """
    lost: list[OSError] = []
    replaced: dict[str, Output] = {}
    for name in names or ("stdout", "stderr"):
        stream: IO[str] = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, Output):
            replaced[name] = Output(stream)
            setattr(sys, name, replaced[name])
    try:
        yield lost
    finally:
        for name, output in replaced.items():
            if getattr(sys, name) is output:
                setattr(sys, name, output.restore())
            if name == "stdout" and output.lost:
                lost.append(output.lost)


def open_missing() -> None:
    """Open standard streams that were closed, so that no file of a run gets their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
