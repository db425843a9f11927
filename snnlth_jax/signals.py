"""Being asked to stop: SIGTERM of a preemption, SIGINT of Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["Stopped", "watch"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Asked to stop by a signal; what was computed is in a checkpoint."""


@contextlib.contextmanager
def watch() -> Iterator[Callable[[], signal.Signals | None]]:
    """While it lasts, the first signal is only noted: yields a function that gives it, or None.

    A second one does what it always did. Signals reach the main thread alone; elsewhere nothing is noted.

    >>> with watch() as asked:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     asked()
    <Signals.SIGTERM: 15>
    """
    noted: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame) -> None:
        noted.append(signal.Signals(number))
        restore()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: noted[0] if noted else None
    finally:
        restore()
