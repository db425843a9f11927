"""Tiles of an activation, which the programs of a TPU's kernel share among them; in Pallas (Mosaic).

A TPU's registers hold 8 rows of 128 lanes. XLA lays activations of convolutions out with the positions of an
image before images and channels, so that the lanes are channels, `[H, W, T, B, C]`, or, where there are fewer
than 128, images, `[H, W, C, T B]`. Kernels read them as they lie: transposing moves nothing. A program has a
block of positions, of channels and of images; a tile is a position's window, one position or with pooling
four, its *corners*, for some rows of lanes. The programs run one after another, so that those of the same
channels add to one sum. `_tiles_gpu` has the same names.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as plt

__all__ = ["Plan", "Program", "Tile", "fits"]

_LANES = 128
_ROWS = 16  # of a tile: what a register has in bfloat16
_ENTRIES = 2**17  # of a block
_BLOCKS = 12  # of a program, of inputs and cotangents; with gradients, twice and in float32, 16 MiB hold them


def fits(shape: tuple[int, ...], pool: bool, arrays: int) -> bool:
    """Whether activations `[T, B, H, W, C]`, `arrays` of them, fill whole tiles, and a window's a program.

    Fewer images than lanes are read from the middle of a row.

    >>> fits((5, 128, 32, 32, 64), True, 2), fits((5, 24, 8, 8, 256), False, 2)
    (True, False)
    """
    _, images, _, _, channels = shape
    if images % _ROWS or channels % _ROWS or (channels % _LANES and images > _LANES and images % _LANES):
        return False
    plan = Plan.of(shape, pool)
    return arrays <= _BLOCKS and math.prod(plan.block) * plan.entries(shape[0]) <= _ENTRIES


class Plan(NamedTuple):
    """The work of the programs of a kernel.

    Attributes:
      shape: T, B, H, W, C of the inputs.
      pool: whether a window is 2x2 positions, and not one.
      block: positions of a program, down and across.
      images: images of a program.
    """

    shape: tuple[int, ...]
    pool: bool
    block: tuple[int, int]
    images: int

    @classmethod
    def of(cls, shape: tuple[int, ...], pool: bool = False, timesteps: int = 1, sums: bool = False) -> "Plan":
        """The work of a kernel that reads an activation of this shape, and one of so many timesteps."""
        steps, images, _, width, channels = shape
        steps, side = max(steps, timesteps), 2 if pool else 1
        if channels % _LANES == 0:
            images = _divisor(images, _ENTRIES // (steps * _LANES * side**2), _ROWS)
        plan = cls(shape, pool, (side, side), images)
        return plan._replace(block=(side, _divisor(width, _ENTRIES // (plan.entries(steps) * side), side)))

    def entries(self, steps: int) -> int:
        """Entries of one position, for so many timesteps, in a program's block."""
        return steps * self.images * (_LANES if self.channels_are_lanes else _ROWS)

    @property
    def steps(self) -> range:
        """Timesteps of the inputs."""
        return range(self.shape[0])

    @property
    def channels_are_lanes(self) -> bool:
        """Whether lanes are channels, and rows images."""
        return self.shape[-1] % _LANES == 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and lanes of a tile."""
        return _ROWS, _LANES if self.channels_are_lanes else min(_LANES, self.images)

    @property
    def grid(self) -> tuple[int, ...]:
        """Numbers of blocks: of channels, of positions down and across, and of images."""
        _, images, height, width, channels = self.shape
        block = _LANES if self.channels_are_lanes else _ROWS
        return channels // block, height // self.block[0], width // self.block[1], images // self.images

    def rows(self, x: jax.Array) -> jax.Array:
        """An activation as kernels read it."""
        if self.channels_are_lanes:
            return x.transpose(2, 3, 0, 1, 4)
        # as convolutions have it: the compiler sees that nothing moves only where T and B stay together
        return x.reshape(-1, *x.shape[2:]).transpose(1, 2, 3, 0)

    def whole(self, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """An activation as it was, from what kernels wrote."""
        if self.channels_are_lanes:
            return rows.transpose(2, 3, 0, 1, 4)
        return rows.transpose(3, 0, 1, 2).reshape(shape)

    def lines(self, values: jax.Array) -> jax.Array:
        """Values `[rows, C]` of the channels as kernels read them."""
        return values if self.channels_are_lanes else values.T

    def parts(self, dtype: Any, number: int) -> jax.ShapeDtypeStruct:
        """Sums of all programs, `number` values for each timestep and channel."""
        steps, *_, channels = self.shape
        shape = (number * steps, channels) if self.channels_are_lanes else (channels, number * steps)
        return jax.ShapeDtypeStruct(shape, dtype)

    def joined(self, parts: jax.Array, number: int) -> jax.Array:
        """Sums that kernels wrote, as `[1, number, T, C]`."""
        steps, *_, channels = self.shape
        return (parts if self.channels_are_lanes else parts.T).reshape(1, number, steps, channels)

    def program(self) -> "Program":
        """The program that runs."""
        return Program(self)

    def call(self, kernel: Callable[..., None], outputs: Any, interpret: bool) -> Any:
        """The kernel as a function of arrays."""
        adds = any(len(array.shape) == 2 for array in jax.tree.leaves(outputs))
        others: Any = ("arbitrary" if adds else "parallel",) * 3  # to the two cores of a v4 or v5p
        parameters = plt.CompilerParams(dimension_semantics=("parallel", *others))

        def called(*args: Any) -> Any:
            return pl.pallas_call(
                kernel,
                grid=self.grid,
                in_specs=jax.tree.map(self._spec, args),
                out_specs=jax.tree.map(self._spec, outputs),
                out_shape=outputs,
                compiler_params=parameters,
                interpret=interpret,
            )(*args)

        return called

    def _spec(self, array: Any) -> pl.BlockSpec:
        """The block of an array that a program has: of an activation, a line for each channel, or parts."""
        shape, lanes = array.shape, self.channels_are_lanes
        block = _LANES if lanes else _ROWS
        if len(shape) == 2 and lanes:
            return pl.BlockSpec((shape[0], block), lambda c, *_: (0, c))
        if len(shape) == 2:
            return pl.BlockSpec((block, shape[1]), lambda c, *_: (c, 0))
        positions = tuple(n // (self.shape[2] // shape[0]) for n in self.block)
        if lanes:
            return pl.BlockSpec(
                (*positions, shape[2], self.images, block), lambda c, h, w, b: (h, w, 0, b, c)
            )
        return pl.BlockSpec((*positions, block, shape[3]), lambda c, h, w, b: (h, w, c, 0))


class Program(NamedTuple):
    """A program of a kernel, as it runs."""

    plan: Plan

    def over_tiles(self, body: Callable[["Tile", Any], Any], carry: Any) -> Any:
        """Take the tiles in turn."""
        plan = self.plan
        side = 2 if plan.pool else 1
        down, across = (n // side for n in plan.block)
        chunks = plan.images // (_ROWS if plan.channels_are_lanes else plan.size[1])

        def turn(index: Any, carry: Any) -> Any:
            position, chunk = index // chunks, index % chunks
            return body(Tile(plan, (position // across, position % across), chunk), carry)

        return jax.lax.fori_loop(np.int32(0), np.int32(down * across * chunks), turn, carry)

    def load(self, ref: Any, row: int) -> Any:
        """Entries of a line, which broadcast to a tile."""
        return ref[row : row + 1, :] if self.plan.channels_are_lanes else ref[:, row : row + 1]

    def total(self, values: jax.Array) -> jax.Array:
        """Sums over the images of a tile."""
        return values.sum(0 if self.plan.channels_are_lanes else 1, keepdims=True)

    def store(self, ref: Any, index: tuple[int, int], total: jax.Array) -> None:
        """Add to a part."""
        row = index[0] * self.plan.shape[0] + index[1]
        line = slice(row, row + 1)
        at = (line, slice(None)) if self.plan.channels_are_lanes else (slice(None), line)
        first = functools.reduce(jnp.logical_and, (pl.program_id(axis) == 0 for axis in (1, 2, 3)))
        ref[at] = total + jnp.where(first, 0, ref[at])


class Tile(NamedTuple):
    """The window of a tile, by its position in a program's block of outputs, and its images."""

    plan: Plan
    window: tuple[Any, Any]
    chunk: Any

    @property
    def exists(self) -> None:
        """The entries of the tile that exist: all."""

    @property
    def corners(self) -> list[tuple[Any, Any]]:
        """Positions of the window's corners in the program's block of inputs, in row-major order."""
        if not self.plan.pool:
            return [self.window]
        h, w = self.window
        return [(2 * h + i, 2 * w + j) for i in (0, 1) for j in (0, 1)]

    def load(self, ref: Any, step: int, position: tuple[Any, Any], dtype: Any) -> Any:
        return ref[self._at(step, position)].astype(dtype)

    def store(self, ref: Any, step: int, position: tuple[Any, Any], value: jax.Array) -> None:
        ref[self._at(step, position)] = value.astype(ref.dtype)

    def _at(self, step: int, position: tuple[Any, Any]) -> tuple[Any, ...]:
        if self.plan.channels_are_lanes:
            return (*position, step, pl.ds(pl.multiple_of(self.chunk * _ROWS, _ROWS), _ROWS), slice(None))
        first: Any = step * self.plan.images
        if self.plan.images > _LANES:
            first = pl.multiple_of(first + self.chunk * _LANES, _LANES)
        return (*position, slice(None), pl.ds(first, self.plan.size[1]))


def _divisor(number: int, most: int, step: int) -> int:
    """The largest divisor of a number, up to `most`, that is a multiple of `step`, or `step`."""
    divisors = [n for n in range(step, min(number, most) + 1, step) if number % n == 0]
    return divisors[-1] if divisors else step
