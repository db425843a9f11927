"""Tiles of an activation, which the programs of a GPU's kernel share among them; in Pallas (Triton).

An activation `[T, B, H, W, C]` is read as `[T, M, C]`, M = B H W. A *window* is the rows that make one
output: one row, or with pooling four, its *corners*. A program has some channels and takes tiles of windows
in turn. `_tiles_tpu` has the same names.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

__all__ = ["LEAST_TILES", "Plan", "Program", "Tile", "Windows"]

_WARPS = 4  # of a program: 128 threads
_CHANNELS = 64  # of a tile, at most
_ENTRIES = {"statistics": 1024, "layer": 256, "pooled": 128}  # of a tile, at each timestep and corner
_PROGRAMS = 1024  # of a kernel, some eight for each multiprocessor, unless tiles are left
LEAST_TILES = 8  # of a program that writes sums, which would be many otherwise


class Windows(NamedTuple):
    """Way in which an activation is read.

    Attributes:
      shape: T, B, H, W, C.
      pool: whether a window is 2x2 rows, and not one.
    """

    shape: tuple[int, ...]
    pool: bool

    @property
    def corners(self) -> tuple[int, ...]:
        """Distances in rows from the first row of a window, in row-major order."""
        width = self.shape[-2]
        return (0, 1, width, width + 1) if self.pool else (0,)

    @property
    def number(self) -> int:
        """Number of windows."""
        return math.prod(self.shape[1:-1]) // len(self.corners)

    def first_row(self, window: jax.Array) -> jax.Array:
        """First rows of some windows."""
        if not self.pool:
            return window
        across = self.shape[-2] // 2
        return window // across * (4 * across) + window % across * 2


class Plan(NamedTuple):
    """The work of the programs of a kernel.

    Attributes:
      windows: how the activation is read.
      size: windows and channels of a tile, both powers of two.
      turns: tiles of a program.
      grid: number of programs that share the channels, and of those that share the windows.
    """

    windows: Windows
    size: tuple[int, int]
    turns: int
    grid: tuple[int, int]

    @classmethod
    def of(cls, shape: tuple[int, ...], pool: bool = False, timesteps: int = 1, sums: bool = False) -> "Plan":
        """The work of a kernel that reads an activation of this shape; with `sums` it writes sums."""
        return cls.sized(Windows(shape, pool), "pooled" if pool else "layer", LEAST_TILES if sums else 1)

    @classmethod
    def sized(cls, windows: Windows, kind: str, least_turns: int, copies: int = 1) -> "Plan":
        """The work in tiles of a kind, at least so many for a program."""
        channels = min(_CHANNELS, pl.next_power_of_2(windows.shape[-1]))
        size = _ENTRIES[kind] // channels, channels
        tiles, blocks = pl.cdiv(windows.number, size[0]), pl.cdiv(windows.shape[-1], channels)
        turns = min(tiles, max(least_turns, pl.cdiv(tiles * blocks * copies, _PROGRAMS)))
        return cls(windows, size, turns, (blocks, pl.cdiv(tiles, turns)))

    @property
    def steps(self) -> range:
        """Timesteps of the inputs."""
        return range(self.windows.shape[0])

    @staticmethod
    def rows(x: jax.Array) -> jax.Array:
        """An activation as kernels read it."""
        return x.reshape(len(x), -1, x.shape[-1])

    @staticmethod
    def whole(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """An activation as it was, from what kernels wrote."""
        return rows.reshape(shape)

    @staticmethod
    def lines(values: jax.Array) -> jax.Array:
        """Values `[rows, C]` of the channels as kernels read them."""
        return values

    @staticmethod
    def joined(parts: jax.Array, number: int) -> jax.Array:
        """Parts that kernels wrote, as `[programs, number, T, C]`."""
        return parts

    def program(self) -> "Program":
        """The program that runs."""
        return Program(self, pl.program_id(0), pl.program_id(1))

    def parts(self, dtype: Any, *number: int) -> jax.ShapeDtypeStruct:
        """Values for each program, timestep and channel, in arrays of shape `number`."""
        steps, *_, channels = self.windows.shape
        return jax.ShapeDtypeStruct((self.grid[1], *number, steps, channels), dtype)

    def counts(self) -> np.ndarray[Any, Any]:
        """Number of windows of each program, `[programs]`."""
        most = self.size[0] * self.turns
        return np.clip(self.windows.number - most * np.arange(self.grid[1]), 0, most)

    def call(self, kernel: Callable[..., None], outputs: Any, interpret: bool, *copies: int) -> Any:
        """The kernel as a function of arrays."""
        parameters = plt.CompilerParams(num_warps=_WARPS, num_stages=1)
        grid = (*self.grid, *copies)
        options: Any = {"compiler_params": parameters, "interpret": interpret}
        return pl.pallas_call(kernel, grid=grid, out_shape=outputs, **options)


class Program(NamedTuple):
    """A program of a kernel, as it runs.

    Attributes:
      plan: the work of all.
      block: index of this program among those that share the channels.
      part: index among those that share the windows.
    """

    plan: Plan
    block: jax.Array
    part: jax.Array

    def over_tiles(self, body: Callable[["Tile", Any], Any], carry: Any) -> Any:
        """Take the tiles in turn."""
        if self.plan.turns == 1:
            return body(self._tile(0), carry)
        return jax.lax.fori_loop(
            np.int32(0), np.int32(self.plan.turns), lambda turn, carry: body(self._tile(turn), carry), carry
        )

    def load(self, ref: Any, row: Any) -> jax.Array:
        """Entries `[1, channels]` of a row of `[rows, C]`."""
        channel, exists = self._channel()
        return plt.load(ref.at[row, channel], mask=exists, other=None if exists is None else 0.0)[None]

    @staticmethod
    def total(values: jax.Array) -> jax.Array:
        """Sums `[channels]` over the windows of a tile."""
        return values.sum(0)

    def store(self, ref: Any, index: tuple[Any, ...], total: jax.Array) -> None:
        """Write a part `[channels]` of this program."""
        channel, exists = self._channel()
        plt.store(ref.at[(self.part, *index, channel)], total, mask=exists)

    def _channel(self) -> tuple[jax.Array, jax.Array | None]:
        tile, channels = self.plan.size[1], self.plan.windows.shape[-1]
        channel = self.block * tile + jax.lax.iota(jnp.int32, tile)
        return channel, channel < channels if channels % tile else None

    def _tile(self, turn: Any) -> "Tile":
        (rows, columns), turns, windows = self.plan.size, self.plan.turns, self.plan.windows
        iota = functools.partial(jax.lax.broadcasted_iota, jnp.int32, self.plan.size)
        window = (self.part * turns + turn) * rows + iota(0)
        channel = self.block * columns + iota(1)
        exists = [window < windows.number] if windows.number % (rows * turns) else []
        exists += [channel < windows.shape[-1]] if windows.shape[-1] % columns else []
        first = windows.first_row(window)
        corners = [first + corner for corner in windows.corners]
        return Tile(window, corners, channel, functools.reduce(jnp.logical_and, exists) if exists else None)


class Tile(NamedTuple):
    """Windows of a tile, the rows of their corners, channels, and which exist; None for all."""

    window: jax.Array
    corners: list[jax.Array]
    channel: jax.Array
    exists: jax.Array | None

    def load(self, ref: Any, step: Any, row: jax.Array, dtype: Any) -> jax.Array:
        other = None if self.exists is None else 0.0
        return plt.load(ref.at[step, row, self.channel], mask=self.exists, other=other).astype(dtype)

    def store(self, ref: Any, step: Any, row: jax.Array, value: jax.Array) -> None:
        plt.store(ref.at[step, row, self.channel], value.astype(ref.dtype), mask=self.exists)
