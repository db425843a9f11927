"""The loss of a host: the processes of the others end with one line and a status of their own.

JAX learns that another process is gone from heartbeats, or from its connection to process 0. It then ends
this process from a thread of its own, by `abort()` and with a trace of its functions, whatever the main
thread waits for. Here the handler of SIGABRT, and a reader of what JAX prints, put a line in their place.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from typing import Any

from snnlth_jax import streams
from snnlth_jax.errors import passes

__all__ = ["HEARTBEAT", "SLACK", "STATUS", "answer", "await_news"]

STATUS = 69  # EX_UNAVAILABLE
HEARTBEAT = 30  # seconds without one after which JAX takes a process for gone
SLACK = 15  # seconds for JAX to tell the others
_HEAD = re.compile(rb"^[IWEF]\d{4} ")
_NEWS = re.compile(rb"^[EF]\d{4} .*(coordination_service|distributed service|distributed/client)")
_NOISE = re.compile(rb"preemption_sync_manager")
_LINE = "snnlth: error: another host is gone; the same command on all hosts resumes after the last checkpoint"
_handlers: list[Any] = []  # what C calls must not be collected


def answer() -> None:
    """From now on answer JAX's news of a lost host with one line and `STATUS`.

    What C and C++ print on standard error passes through a pipe, where JAX's report is left out. Any other
    abort ends the process as before.
    """
    reader, writer = os.pipe()
    true = os.dup(2)
    sys.stderr.flush()
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = streams.Output(open(true, "w", buffering=1))  # noqa: SIM115
    lost = threading.Event()
    threading.Thread(target=_pass_on, args=(reader, true, lost), daemon=True).start()

    def end(number: int) -> None:
        if lost.wait(1):
            print(_LINE, file=sys.stderr, flush=True)
            os._exit(STATUS)

    function = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _handlers.append(function(end))
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, function), ctypes.c_void_p
    set_handler(signal.SIGABRT, _handlers[-1])


def _pass_on(reader: int, true: int, lost: threading.Event) -> None:
    """Pass messages on, each one or more lines, up to JAX's news of a lost host."""
    passing = True
    with open(reader, "rb") as lines:
        for line in lines:
            if _HEAD.match(line):
                passing = not _NOISE.search(line)
            if _NEWS.search(line):
                lost.set()
            if passing and not lost.is_set():
                os.write(true, line)


def await_news(error: BaseException) -> None:
    """Wait as long as JAX may need to tell that a host is gone, if an error can come from that.

    What the main thread computes or writes with the others can fail before; the process then ends while it
    waits here.
    """
    link: BaseException | None = error
    while _handlers and link is not None:
        if passes(link, "/jax/") or passes(link, "/orbax/"):
            time.sleep(HEARTBEAT + SLACK)
            return
        link = link.__cause__ or link.__context__
