"""Requests to stop: SIGTERM of a preemption, SIGINT of Ctrl-C."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import jax

from snnlth_jax.machine import hosts

__all__ = ["Stopped", "answered_within", "watch"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Asked to stop by a signal; what was computed is in a checkpoint."""


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], signal.Signals | None]]:
    """While it lasts, the first signal is only noted: yields a function that gives it, or None.

    A second one does what it always did. Signals reach the main thread alone; elsewhere nothing is noted. Of
    several hosts all are told at the same point when one gets a signal: the function takes the number of the
    point, see `hosts.preemption`.

    >>> with watch() as asked:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     asked(1)
    <Signals.SIGTERM: 15>
    """
    noted: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda point: None
        return
    preempted = hosts.preemption() if jax.process_count() > 1 else None

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        restore()
        if preempted:
            signal.raise_signal(signal.SIGTERM)  # which JAX notices, and tells the other hosts
        else:
            noted.append(signal.Signals(number))

    watched = (signal.SIGINT,) if preempted else SIGNALS
    before = {number: signal.signal(number, note) for number in watched}
    try:
        if preempted:
            yield lambda point: signal.SIGTERM if preempted(point) else None
        else:
            yield lambda point: noted[0] if noted else None
    finally:
        restore()


@contextlib.contextmanager
def answered_within(seconds: float, otherwise: Callable[[signal.Signals], None]) -> Iterator[None]:
    """While it lasts, and unless it ends within so many seconds of the first signal, calls `otherwise`.

    From a thread of its own: a handler would have to wait until the main thread comes back to Python, from
    compiling or from a long computation.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends, told = socket.socketpair()
    told.setblocking(False)  # as `set_wakeup_fd` wants it
    done = threading.Event()

    def wait() -> None:
        with ends:
            while number := ends.recv(1):
                if number[0] in SIGNALS and not done.wait(seconds):
                    otherwise(signal.Signals(number[0]))

    threading.Thread(target=wait, daemon=True).start()
    before = signal.set_wakeup_fd(told.fileno())
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        told.close()
