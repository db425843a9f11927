"""Norm, fire and pool as four kernels for GPUs, written in Pallas (Triton).

An activation is read as `[T, M, C]`, M = B H W. A *window* is the rows that make one output: one row, or with
pooling four, its *corners*. A program of a kernel has some channels and takes tiles of windows in turn. All
timesteps of a tile stay in registers, so that a kernel reads and writes each array once:

    1. statistics   x            mean and M2, the sum of squared deviations, of the program's rows
    2. forward      x        ->  spikes
    3. sums         x, ds        sum dy, sum dy (x - mean), over the program's rows
    4. gradient     x, ds    ->  dx = slope dy + B x + C

y = slope x + shift are the currents. Kernels 3 and 4 compute them and the spikes again; dy comes from `jax.vjp`
of the function that kernel 2 computes, for any neuron. `norm_fire` adds up the parts of the programs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

__all__ = ["Currents", "Layer", "Windows", "forward", "gradient", "statistics", "sums"]

_WARPS = 4  # of a program: 128 threads
_CHANNELS = 64  # of a tile, at most
_ENTRIES = {"statistics": 1024, "layer": 256, "pooled": 128}  # of a tile, at each timestep and corner
_PROGRAMS = 1024  # of a kernel, some eight for each multiprocessor, unless tiles are left
_LEAST_TILES = 8  # of a program that writes sums, which would be many otherwise

Layer = Callable[[list[list[jax.Array]]], Sequence[jax.Array]]
"""Outputs by timestep, from currents by corner and timestep."""


class Windows(NamedTuple):
    """How an activation is read.

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
    def count(self) -> int:
        """Number of windows."""
        return math.prod(self.shape[1:-1]) // len(self.corners)

    def first_row(self, window: jax.Array) -> jax.Array:
        """First rows of some windows."""
        if not self.pool:
            return window
        across = self.shape[-2] // 2
        return window // across * (4 * across) + window % across * 2


class Currents(NamedTuple):
    """Currents `y = sum_i slope_i x_i + shift + sum_j other_j`.

    Attributes:
      xs: arrays `[T, B, H, W, C]` that are normalised.
      others: arrays that are not.
      slopes: `[T, C]`, one for each of `xs`.
      shift: `[T, C]`.
    """

    xs: tuple[jax.Array, ...]
    others: tuple[jax.Array, ...]
    slopes: tuple[jax.Array, ...]
    shift: jax.Array


# --- who computes what


class _Plan(NamedTuple):
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
    def of(cls, windows: Windows, kind: str, least_turns: int = 1, copies: int = 1) -> "_Plan":
        channels = min(_CHANNELS, pl.next_power_of_2(windows.shape[-1]))
        size = _ENTRIES[kind] // channels, channels
        tiles, blocks = pl.cdiv(windows.count, size[0]), pl.cdiv(windows.shape[-1], channels)
        turns = min(tiles, max(least_turns, pl.cdiv(tiles * blocks * copies, _PROGRAMS)))
        return cls(windows, size, turns, (blocks, pl.cdiv(tiles, turns)))

    def parts(self, dtype: Any) -> jax.ShapeDtypeStruct:
        """One value for each program, timestep and channel."""
        steps, *_, channels = self.windows.shape
        return jax.ShapeDtypeStruct((self.grid[1], steps, channels), dtype)

    def counts(self) -> np.ndarray[Any, Any]:
        """Number of windows of each program, `[programs]`."""
        most = self.size[0] * self.turns
        return np.clip(self.windows.count - most * np.arange(self.grid[1]), 0, most)

    def call(self, kernel: Callable[..., None], outputs: Any, interpret: bool, *copies: int) -> Any:
        """The kernel as a function of arrays."""
        parameters = plt.CompilerParams(num_warps=_WARPS, num_stages=1)
        grid = (*self.grid, *copies)
        options: Any = {"compiler_params": parameters, "interpret": interpret}
        return pl.pallas_call(kernel, grid=grid, out_shape=outputs, **options)


class _Program(NamedTuple):
    """A program of a kernel, as it runs.

    Attributes:
      plan: the work of all.
      block: index of this program among those that share the channels.
      part: index among those that share the windows.
    """

    plan: _Plan
    block: jax.Array
    part: jax.Array

    @classmethod
    def of(cls, plan: _Plan) -> "_Program":
        return cls(plan, pl.program_id(0), pl.program_id(1))

    def over_tiles(self, body: Callable[["_Tile", Any], Any], carry: Any) -> Any:
        """Take the tiles in turn."""
        if self.plan.turns == 1:
            return body(self._tile(0), carry)
        return jax.lax.fori_loop(
            0, self.plan.turns, lambda turn, carry: body(self._tile(turn), carry), carry
        )

    def load(self, ref: Any, row: Any) -> jax.Array:
        """Entries `[1, channels]` of a row of `[rows, C]`."""
        channel, exists = self._channel()
        return plt.load(ref.at[row, channel], mask=exists, other=None if exists is None else 0.0)[None]

    def store(self, ref: Any, step: Any, value: jax.Array) -> None:
        """Write a part `[channels]` of this program."""
        channel, exists = self._channel()
        plt.store(ref.at[self.part, step, channel], value, mask=exists)

    def _channel(self) -> tuple[jax.Array, jax.Array | None]:
        tile, channels = self.plan.size[1], self.plan.windows.shape[-1]
        channel = self.block * tile + jax.lax.iota(jnp.int32, tile)
        return channel, channel < channels if channels % tile else None

    def _tile(self, turn: Any) -> "_Tile":
        (rows, columns), turns, windows = self.plan.size, self.plan.turns, self.plan.windows
        iota = functools.partial(jax.lax.broadcasted_iota, jnp.int32, self.plan.size)
        window = (self.part * turns + turn) * rows + iota(0)
        channel = self.block * columns + iota(1)
        exists = [window < windows.count] if windows.count % (rows * turns) else []
        exists += [channel < windows.shape[-1]] if windows.shape[-1] % columns else []
        return _Tile(window, channel, functools.reduce(jnp.logical_and, exists) if exists else None)


class _Tile(NamedTuple):
    """Windows and channels of a tile, and which exist; None for all."""

    window: jax.Array
    channel: jax.Array
    exists: jax.Array | None

    def load(self, ref: Any, step: Any, row: jax.Array, dtype: Any) -> jax.Array:
        other = None if self.exists is None else 0.0
        return plt.load(ref.at[step, row, self.channel], mask=self.exists, other=other).astype(dtype)

    def store(self, ref: Any, step: Any, row: jax.Array, value: jax.Array) -> None:
        plt.store(ref.at[step, row, self.channel], value.astype(ref.dtype), mask=self.exists)


# --- the kernels


def statistics(x: jax.Array, dtype: Any, interpret: bool) -> tuple[jax.Array, jax.Array, Any]:
    """Means and M2 over the rows of each program, `[programs, T, C]`, and the number of rows `[programs]`.

    Each row of a tile has a running mean of its own (Welford 1962); they are merged at the end (Chan 1979).

    Args:
      x: `[T, B, H, W, C]`.
      dtype: of the statistics.
      interpret: whether the kernel is emulated.
    """
    steps = len(x)
    plan = _Plan.of(Windows(x.shape, pool=False), "statistics", _LEAST_TILES, steps)

    def kernel(x: Any, mean: Any, m2: Any) -> None:
        program, step = _Program.of(plan), pl.program_id(2)

        def add(tile: _Tile, sums: Any) -> Any:
            number, mean, m2 = sums
            value = tile.load(x, step, tile.window, dtype)
            if tile.exists is None:
                exists = jnp.ones((), dtype)
            else:
                exists, value = tile.exists.astype(dtype), jnp.where(tile.exists, value, mean)
            number, change = number + exists, value - mean
            mean = mean + change / jnp.maximum(number, 1)
            return number, mean, m2 + change * (value - mean)

        zeros = jnp.zeros(plan.size, dtype)
        number, mean_of_rows, m2_of_rows = program.over_tiles(add, (zeros, zeros, zeros))
        merged = (number * mean_of_rows).sum(0) / jnp.maximum(number.sum(0), 1)
        between = number * (mean_of_rows - merged[None]) ** 2
        program.store(mean, step, merged)
        program.store(m2, step, (m2_of_rows + between).sum(0))

    means, m2s = plan.call(kernel, (plan.parts(dtype),) * 2, interpret, steps)(_rows(x))
    return means, m2s, plan.counts()


def forward(currents: Currents, layer: Layer, windows: Windows, like: Any, interpret: bool) -> jax.Array:
    """Outputs of a layer.

    Args:
      currents: its currents.
      layer: the function of them.
      windows: how they are read.
      like: shape and dtype of the output, `[T, B, H, W, C]`.
      interpret: whether the kernel is emulated.
    """
    plan = _Plan.of(windows, "pooled" if windows.pool else "layer")

    def kernel(currents: Currents, outputs: Any) -> None:
        program = _Program.of(plan)
        read = _reader(currents, program)

        def fire(tile: _Tile, carry: Any) -> Any:
            for step, output in enumerate(layer(read(tile)[1])):
                tile.store(outputs, step, tile.window, output)
            return carry

        program.over_tiles(fire, ())

    flat = jax.ShapeDtypeStruct((len(like), windows.count, like.shape[-1]), like.dtype)
    output: jax.Array = plan.call(kernel, flat, interpret)(_flat(currents))
    return output.reshape(like.shape)


def sums(
    currents: Currents, means: Any, grad: jax.Array, layer: Layer, windows: Windows, interpret: bool
) -> tuple[jax.Array, ...]:
    """Sums over the rows of each program, `[programs, T, C]`: of dy, and for each of `xs` of dy (x - mean).

    Args:
      currents: currents of the layer.
      means: `[T, C]`, one for each of `xs`.
      grad: cotangent of the output.
      layer: the function of the currents.
      windows: how they are read.
      interpret: whether the kernel is emulated.
    """
    plan, dtype = _Plan.of(windows, "pooled" if windows.pool else "layer", _LEAST_TILES), currents.shift.dtype
    steps = range(windows.shape[0])

    def kernel(currents: Currents, means: Any, grad: Any, *parts: Any) -> None:
        program = _Program.of(plan)
        read = _reader(currents, program)
        centres = [[program.load(mean, step) for step in steps] for mean in means]

        def add(tile: _Tile, totals: Any) -> Any:
            xs, ys = read(tile)
            dys = _pulled_back(layer, ys, grad, tile)
            terms = [dys]
            for x, centre in zip(xs, centres, strict=True):
                terms.append(
                    [
                        [dy[step] * (at[step] - centre[step]) for step in steps]
                        for dy, at in zip(dys, x, strict=True)
                    ]
                )
            return [
                [sum((corner[step] for corner in term), start=total[step]) for step in steps]
                for total, term in zip(totals, terms, strict=True)
            ]

        zeros = jnp.zeros(plan.size, dtype)
        totals = program.over_tiles(add, [[zeros for _ in steps] for _ in parts])
        for part, total in zip(parts, totals, strict=True):
            for step in steps:
                program.store(part, step, total[step].sum(0))

    outputs = (plan.parts(dtype),) * (1 + len(currents.xs))
    return tuple(plan.call(kernel, outputs, interpret)(_flat(currents), means, _rows(grad)))


def gradient(
    currents: Currents,
    of_x: Any,
    constant: Any,
    grad: jax.Array,
    layer: Layer,
    windows: Windows,
    interpret: bool,
) -> tuple[Any, Any]:
    """Gradients of the inputs: slope dy + of_x x + constant for each of `xs`, and dy for each of `others`.

    Args:
      currents: currents of the layer.
      of_x: `[T, C]`, one for each of `xs`.
      constant: `[T, C]`, one for each of `xs`.
      grad: cotangent of the output.
      layer: the function of the currents.
      windows: how they are read.
      interpret: whether the kernel is emulated.
    """
    plan = _Plan.of(windows, "pooled" if windows.pool else "layer")
    steps = range(windows.shape[0])

    def kernel(currents: Currents, of_x: Any, constant: Any, grad: Any, dxs: Any, dothers: Any) -> None:
        program = _Program.of(plan)
        read = _reader(currents, program)
        lines = [
            [[program.load(ref, step) for step in steps] for ref in refs]
            for refs in (currents.slopes, of_x, constant)
        ]

        def write(tile: _Tile, carry: Any) -> Any:
            xs, ys = read(tile)
            dys, rows = _pulled_back(layer, ys, grad, tile), _corner_rows(plan, tile)
            for corner, (dy, row) in enumerate(zip(dys, rows, strict=True)):
                for ref, x, slope, b, c in zip(dxs, xs, *lines, strict=True):
                    for t in steps:
                        tile.store(ref, t, row, slope[t] * dy[t] + b[t] * x[corner][t] + c[t])
                for ref in dothers:
                    for t in steps:
                        tile.store(ref, t, row, dy[t])
            return carry

        program.over_tiles(write, ())

    flat = _flat(currents)
    outputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (flat.xs, flat.others))
    grads = plan.call(kernel, outputs, interpret)(flat, of_x, constant, _rows(grad))
    shaped: tuple[Any, Any] = jax.tree.map(lambda x: x.reshape(windows.shape), grads)
    return shaped


# --- what they share


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1, x.shape[-1])


def _flat(currents: Currents) -> Currents:
    return currents._replace(xs=tuple(map(_rows, currents.xs)), others=tuple(map(_rows, currents.others)))


def _corner_rows(plan: _Plan, tile: _Tile) -> list[jax.Array]:
    return [plan.windows.first_row(tile.window) + corner for corner in plan.windows.corners]


def _reader(currents: Currents, program: _Program) -> Callable[[_Tile], tuple[Any, list[list[jax.Array]]]]:
    """A function of a tile: `xs`, by input, corner and timestep, and currents, by corner and timestep."""
    steps, dtype = range(program.plan.windows.shape[0]), currents.shift.dtype
    slopes = [[program.load(slope, step) for step in steps] for slope in currents.slopes]
    shift = [program.load(currents.shift, step) for step in steps]

    def read(tile: _Tile) -> tuple[Any, list[list[jax.Array]]]:
        rows = _corner_rows(program.plan, tile)

        def by_corner(ref: Any) -> list[list[jax.Array]]:
            return [[tile.load(ref, step, row, dtype) for step in steps] for row in rows]

        xs, others = list(map(by_corner, currents.xs)), list(map(by_corner, currents.others))

        def current(corner: int, step: int) -> jax.Array:
            terms = [x[corner][step] * slope[step] for x, slope in zip(xs, slopes, strict=True)]
            terms += [other[corner][step] for other in others]
            return sum(terms, start=shift[step])

        return xs, [[current(corner, step) for step in steps] for corner in range(len(rows))]

    return read


def _pulled_back(layer: Layer, ys: list[list[jax.Array]], grad: Any, tile: _Tile) -> list[list[jax.Array]]:
    """Gradients of the currents, by corner and timestep."""
    outputs, pull_back = jax.vjp(layer, ys)
    dtype = ys[0][0].dtype
    (dys,) = pull_back([tile.load(grad, step, tile.window, dtype) for step in range(len(outputs))])
    if tile.exists is None:
        return dys
    return jax.tree.map(lambda dy: jnp.where(tile.exists, dy, 0), dys)
