"""Several hosts: one process on each runs the same command, and process 0 alone writes.

The processes compute in step, so every decision about the next computation must be the same on all. A fact
that only one of them knows (its clock, a signal, a file just written) goes through this module. With one
process nothing happens.
"""

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from snnlth_jax.errors import InputError, StorageError
from snnlth_jax.machine import host_loss

__all__ = [
    "agree",
    "all_true",
    "broadcast_from_first",
    "connect",
    "devices",
    "is_first",
    "on_first",
    "preemption",
    "raise_together",
]

T = TypeVar("T")
_LONGEST_MESSAGE = 500
PATIENCE = 300  # seconds to wait for the other processes


def connect() -> None:
    """Connect this process to the others, before any other use of JAX.

    `jax.distributed` recognises Cloud TPU, Slurm, Open MPI and Kubernetes; elsewhere set the variables
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. If one of the
    others is gone later, this process ends, see `host_loss`.

    Raises:
      InputError: no other processes are known, or they cannot be reached.
    """
    late = threading.Timer(PATIENCE, _nobody_came)
    late.daemon = True
    late.start()
    try:
        count, index = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
        _check_address(os.environ.get("JAX_COORDINATOR_ADDRESS"))
        host_loss.answer()
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(index) if index else None,
            initialization_timeout=2 * PATIENCE,  # at which JAX would abort the process
            heartbeat_timeout_seconds=host_loss.HEARTBEAT,
        )
    except (ValueError, RuntimeError, OSError) as error:
        allowed = "on Cloud TPU, Slurm, Open MPI, Kubernetes, or with "
        allowed += "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID set"
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError("`distributed`", problem=reason, allowed=allowed) from error
    finally:
        late.cancel()


def _check_address(address: str | None) -> None:
    """ValueError or OSError for an address that is none; JAX would wait for it, or abort the process."""
    if address is None:
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS {address!r:.80} is not host:port")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise OSError(f"JAX_COORDINATOR_ADDRESS {address!r:.80}: {error.strerror}") from error


def _nobody_came() -> None:
    """End the process, which waits in JAX for the others."""
    line = f"--distributed: the other processes did not come within {PATIENCE} s, or not to this address"
    print(f"snnlth: error: {line}", file=sys.stderr, flush=True)
    os._exit(2)


def devices(per_host: int | None = None) -> list[jax.Device]:
    """The first `per_host` devices of each host, or all."""
    chosen = []
    for process in range(jax.process_count()):
        chosen += [d for d in jax.devices() if d.process_index == process][:per_host]
    return chosen


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def broadcast_from_first(number: float) -> float:
    """The number of process 0, on every process."""
    if jax.process_count() == 1:
        return number
    return float(multihost_utils.broadcast_one_to_all(np.float32(number)))


def all_true(condition: bool) -> bool:
    """Whether the condition is true on every process."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.array([condition]))))


def raise_together(action: Callable[[], T]) -> T:
    """Run `action` on every process and return its result; if one raises, all raise.

    Raises:
      InputError, StorageError: the error of this process, or a note that another host has one.
    """
    result: T | None = None
    failure: InputError | StorageError | None = None
    try:
        result = action()
    except (InputError, StorageError) as error:
        failure = error
    if all_true(failure is None):
        return cast(T, result)
    raise failure or InputError("refused on another host, which says why")


def agree(text: str) -> bool:
    """Whether all processes have the same text."""
    if jax.process_count() == 1:
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return all_true(np.array_equal(multihost_utils.broadcast_one_to_all(digest), digest))


def on_first(action: Callable[[], None]) -> None:
    """Run `action` on process 0 while the others wait.

    Raises:
      InputError, StorageError, OSError: the error of `action`, on all processes; for another kind of error,
        RuntimeError on the others.
    """
    if jax.process_count() == 1:
        return action()
    failure = None
    if is_first():
        try:
            action()
        except Exception as error:  # the others must not wait for it
            failure = error
    kinds = (InputError, StorageError, OSError, Exception)
    message = np.zeros(_LONGEST_MESSAGE, np.uint8)
    if failure:
        kind = next(i for i, kind in enumerate(kinds) if isinstance(failure, kind))
        # names of arguments stay in backticks
        text = failure.text("`{}`".format) if isinstance(failure, kinds[:2]) else str(failure)
        encoded = f"{kind}{text}".encode()[:_LONGEST_MESSAGE]
        message[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    text = multihost_utils.broadcast_one_to_all(message).tobytes().rstrip(b"\0").decode(errors="replace")
    if failure:
        raise failure
    if text:
        raise (*kinds[:3], RuntimeError)[int(text[0])](text[1:])
    return None


def preemption() -> Callable[[int], bool]:
    """A function that returns whether the hosts stop at a point, since one of them is preempted.

    All hosts call it at each of the points 1, 2, ..., such as the end of every few steps. JAX notices the
    SIGTERM of one host, and all agree on a point ahead of them.
    """
    reached = False

    def stops_at(point: int) -> bool:
        nonlocal reached
        reached = reached or multihost_utils.reached_preemption_sync_point(point)
        return reached

    return stops_at
