"""Norm, fire and pool as four kernels for GPUs, written in Pallas (Triton).

All timesteps of a tile (`_tiles`) stay in registers, so that a kernel reads and writes each array once:

    1. statistics   x            mean and M2, the sum of squared deviations, of the program's rows
    2. forward      x        ->  spikes
    3. sums         x, ds        sum dy, sum dy (x - mean), over the program's rows
    4. gradient     x, ds    ->  dx = slope dy + B x + C

y = slope x + shift are the currents. Kernels 3 and 4 compute them and the spikes again; dy comes from
`jax.vjp` of the function that kernel 2 computes, for any neuron. `norm_fire` adds up the programs' parts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from snnlth_jax.models._tiles import LEAST_TILES, Plan, Program, Tile, Windows

__all__ = ["Currents", "Layer", "forward", "gradient", "statistics", "sums"]

Layer = Callable[[list[list[jax.Array]]], Sequence[jax.Array]]
"""Outputs by timestep, from currents by corner and timestep."""


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


def statistics(x: jax.Array, dtype: Any, interpret: bool) -> tuple[jax.Array, jax.Array, Any]:
    """Means and M2 over the rows of each program, `[programs, T, C]`, and the number of rows `[programs]`.

    Each row of a tile has a running mean of its own (Welford 1962); they are merged at the end (Chan 1979).

    Args:
      x: `[T, B, H, W, C]`.
      dtype: of the statistics.
      interpret: whether the kernel is emulated.
    """
    steps = len(x)
    plan = Plan.of(Windows(x.shape, pool=False), "statistics", LEAST_TILES, steps)

    def kernel(x: Any, mean: Any, m2: Any) -> None:
        program, step = Program.of(plan), pl.program_id(2)

        def add(tile: Tile, sums: Any) -> Any:
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


def forward(currents: Currents, layer: Layer, pool: bool, like: Any, interpret: bool) -> jax.Array:
    """Outputs of a layer.

    Args:
      currents: its currents.
      layer: the function of them.
      pool: whether a window is 2x2 rows.
      like: shape and dtype of the output, `[T, B, H, W, C]`.
      interpret: whether the kernel is emulated.
    """
    plan = _plan(currents, pool)

    def kernel(currents: Currents, outputs: Any) -> None:
        program = Program.of(plan)
        read = _reader(currents, program)

        def fire(tile: Tile, carry: Any) -> Any:
            for step, output in enumerate(layer(read(tile)[1])):
                tile.store(outputs, step, tile.window, output)
            return carry

        program.over_tiles(fire, ())

    flat = jax.ShapeDtypeStruct((len(like), plan.windows.number, like.shape[-1]), like.dtype)
    output: jax.Array = plan.call(kernel, flat, interpret)(_flat(currents))
    return output.reshape(like.shape)


def sums(
    currents: Currents, means: Any, grad: jax.Array, layer: Layer, pool: bool, interpret: bool
) -> tuple[jax.Array, ...]:
    """Sums over the rows of each program, `[programs, T, C]`: of dy, and for each of `xs` of dy (x - mean).

    Args:
      currents: currents of the layer.
      means: `[T, C]`, one for each of `xs`.
      grad: cotangent of the output.
      layer: the function of the currents.
      pool: whether a window is 2x2 rows.
      interpret: whether the kernel is emulated.
    """
    plan, dtype = _plan(currents, pool, LEAST_TILES), currents.shift.dtype
    steps = range(plan.windows.shape[0])

    def kernel(currents: Currents, means: Any, grad: Any, *parts: Any) -> None:
        program = Program.of(plan)
        read = _reader(currents, program)
        centres = [[program.load(mean, step) for step in steps] for mean in means]

        def add(tile: Tile, totals: Any) -> Any:
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
    pool: bool,
    interpret: bool,
) -> tuple[Any, Any]:
    """Gradients of the inputs: slope dy + of_x x + constant for each of `xs`, and dy for each of `others`.

    Args:
      currents: currents of the layer.
      of_x: `[T, C]`, one for each of `xs`.
      constant: `[T, C]`, one for each of `xs`.
      grad: cotangent of the output.
      layer: the function of the currents.
      pool: whether a window is 2x2 rows.
      interpret: whether the kernel is emulated.
    """
    plan = _plan(currents, pool)
    steps = range(plan.windows.shape[0])

    def kernel(currents: Currents, of_x: Any, constant: Any, grad: Any, dxs: Any, dothers: Any) -> None:
        program = Program.of(plan)
        read = _reader(currents, program)
        lines = [
            [[program.load(ref, step) for step in steps] for ref in refs]
            for refs in (currents.slopes, of_x, constant)
        ]

        def write(tile: Tile, carry: Any) -> Any:
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
    shaped: tuple[Any, Any] = jax.tree.map(lambda x: x.reshape(plan.windows.shape), grads)
    return shaped


# --- what they share


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1, x.shape[-1])


def _plan(currents: Currents, pool: bool, least_turns: int = 1) -> Plan:
    return Plan.of(Windows(currents.xs[0].shape, pool), "pooled" if pool else "layer", least_turns)


def _flat(currents: Currents) -> Currents:
    return currents._replace(xs=tuple(map(_rows, currents.xs)), others=tuple(map(_rows, currents.others)))


def _corner_rows(plan: Plan, tile: Tile) -> list[jax.Array]:
    return [plan.windows.first_row(tile.window) + corner for corner in plan.windows.corners]


def _reader(currents: Currents, program: Program) -> Callable[[Tile], tuple[Any, list[list[jax.Array]]]]:
    """A function of a tile: `xs`, by input, corner and timestep, and currents, by corner and timestep."""
    steps, dtype = range(program.plan.windows.shape[0]), currents.shift.dtype
    slopes = [[program.load(slope, step) for step in steps] for slope in currents.slopes]
    shift = [program.load(currents.shift, step) for step in steps]

    def read(tile: Tile) -> tuple[Any, list[list[jax.Array]]]:
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


def _pulled_back(layer: Layer, ys: list[list[jax.Array]], grad: Any, tile: Tile) -> list[list[jax.Array]]:
    """Gradients of the currents, by corner and timestep."""
    outputs, pull_back = jax.vjp(layer, ys)
    dtype, exists = ys[0][0].dtype, tile.exists
    dys: list[list[jax.Array]]
    (dys,) = pull_back([tile.load(grad, step, tile.window, dtype) for step in range(len(outputs))])
    if exists is None:
        return dys
    return [[jnp.where(exists, dy, 0) for dy in corner] for corner in dys]
