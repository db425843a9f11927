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
    """Only note the first signal within the context; yield a function that returns it, or None.

    A second signal has its usual effect. Signals reach the main thread alone; another thread notes nothing.
    If one of several hosts gets a signal, all learn of it at the same point: the function takes the number of
    the point, see `hosts.preemption`.

    >>> with watch() as signal_at:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     signal_at(1)
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
            signal.raise_signal(signal.SIGTERM)  # JAX notices it, and tells the other hosts
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
    """Call `otherwise` unless the context ends within this number of seconds after the first signal.

    A thread of its own calls it: a handler would have to wait until the main thread comes back to Python,
    from compiling or from a long computation.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)  # required by `set_wakeup_fd`
    done = threading.Event()

    def wait() -> None:
        with receiver:
            while number := receiver.recv(1):
                if number[0] in SIGNALS and not done.wait(seconds):
                    otherwise(signal.Signals(number[0]))

    threading.Thread(target=wait, daemon=True).start()
    before = signal.set_wakeup_fd(sender.fileno())
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        sender.close()
