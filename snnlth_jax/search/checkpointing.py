"""When a search checkpoints, and when it stops: points that all hosts pass in step."""

import time
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp

from snnlth_jax.machine import hosts, sharding
from snnlth_jax.machine.signals import Stopped
from snnlth_jax.run import checkpoints
from snnlth_jax.search.progress import Carry, Progress

__all__ = ["Checkpointer"]


class Checkpointer:
    """The checkpoints of a search that is under way.

    At each point the hosts agree whether a signal asks them to stop. A checkpoint is numbered by its point,
    because Orbax asks them about its number too.

    Args:
      manager: see `run.checkpoints.manager`.
      signal_at: gives the signal that asks to stop at a point, or None; see `machine.signals.watch`.
      devices: devices of the arrays.
      minutes: time without a checkpoint after which one is due.
    """

    def __init__(
        self,
        manager: ocp.CheckpointManager,
        signal_at: Callable[[int], Any],
        devices: sharding.Devices | None,
        minutes: float,
    ):
        self._manager, self._signal_at, self._devices = manager, signal_at, devices
        self._seconds, self._last = 60 * minutes, time.monotonic()

    def restore(self, like: Carry) -> tuple[Carry, Progress] | None:
        """Arrays and progress of the newest good checkpoint, with the structure of `like`; None without one.

        Raises:
          InputError: there are some, and none of them can be read.
        """
        restored = checkpoints.restore(self._manager, self._arrays(like))
        if restored is None:
            return None
        arrays, progress = restored
        return Carry(**arrays), Progress.from_json(progress)

    def save(self, carry: Carry, progress: Progress, metrics_bytes: int) -> None:
        """Write a checkpoint in the background; `metrics_bytes` is the size of metrics.jsonl so far."""
        self.pass_point(progress)
        progress.metrics_bytes = metrics_bytes
        checkpoints.save(self._manager, progress.points, self._arrays(carry), progress.to_json())
        self._last = time.monotonic()

    def wait(self) -> None:
        """Wait until the last checkpoint is written."""
        self._manager.wait_until_finished()

    @property
    def due(self) -> bool:
        """Whether too much time has passed without a checkpoint, by the clock of the first host."""
        return hosts.broadcast_from_first(time.monotonic() - self._last) > self._seconds

    def pass_point(self, progress: Progress) -> Any:
        """Pass one more point; the signal that asks to stop there, or None."""
        progress.points += 1
        return self._signal_at(progress.points)

    def stop_if_asked(self, progress: Progress) -> None:
        """Stop where a checkpoint was just written, if a signal asks for it.

        Raises:
          Stopped: naming the signal.
        """
        if signal := self.pass_point(progress):
            raise Stopped(signal.name)

    def _arrays(self, carry: Carry) -> Any:
        arrays = {name: tree for name, tree in carry._asdict().items() if tree is not None}
        return sharding.replicate(arrays, self._devices)
