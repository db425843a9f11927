"""Norm, fire and pool as four kernels for GPUs, written in Pallas (Triton).

All timesteps of a tile (`_tiles`) stay in registers, so that a kernel reads and writes each array once:

    1. statistics   x            mean and M2, the sum of squared deviations, of the program's rows
    2. forward      x        ->  spikes
    3. sums         x, ds        sum dy, sum dy (x - mean), over the program's rows
    4. gradient     x, ds    ->  dx = slope dy + a (x - mean) + b

y = slope x + shift are the currents. Kernels 3 and 4 compute them and the spikes again; dy comes from
`jax.vjp` of the function that kernel 2 computes, for any neuron. Where it moves fewer bytes (`_kept`), kernel
3 writes dy and kernel 4 reads it: mostly where a current is the same at every timestep, and where inputs are
not normalised, whose gradient dy is. `norm_fire` adds up the programs' parts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from snnlth_jax.models._tiles import LEAST_TILES, Plan, Program, Tile, Windows

__all__ = ["Currents", "How", "Layer", "Normed", "forward", "gradient", "statistics", "sums"]

Layer = Callable[[list[list[jax.Array]]], Sequence[jax.Array]]
"""Outputs by timestep, from currents by corner and timestep."""


class Normed(NamedTuple):
    """An input that is normalised; in a kernel, references to these arrays.

    Attributes:
      x: `[T, B, H, W, C]`.
      scale: gamma, `[C]`.
      bias: beta, `[C]`.
      mean: `[T, C]`.
      var: `[T, C]`.
    """

    x: Any
    scale: Any
    bias: Any
    mean: Any
    var: Any


class Currents(NamedTuple):
    """Inputs whose sum is the current of a layer: those that are normalised, and those that are not."""

    normed: tuple[Normed, ...]
    others: tuple[Any, ...]


class How(NamedTuple):
    """Treatment of its currents by a layer.

    Attributes:
      layer: function of the currents.
      pool: whether a window is 2x2 rows.
      epsilon: added to variances.
      interpret: whether kernels are emulated.
    """

    layer: Layer
    pool: bool
    epsilon: float
    interpret: bool


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
        program.store(mean, (step,), merged)
        program.store(m2, (step,), (m2_of_rows + between).sum(0))

    means, m2s = plan.call(kernel, (plan.parts(dtype),) * 2, interpret, steps)(_rows(x))
    return means, m2s, plan.counts()


def forward(currents: Currents, how: How, like: Any) -> jax.Array:
    """Outputs of a layer.

    Args:
      currents: its currents.
      how: what it does with them.
      like: shape and dtype of the output, `[T, B, H, W, C]`.
    """
    plan = _plan(currents, how)

    def kernel(currents: Currents, outputs: Any) -> None:
        program = Program.of(plan)
        reader = _Reader.of(currents, how, program)

        def fire(tile: Tile, carry: Any) -> Any:
            outputs_by_step = how.layer(reader.currents_of(reader.normed(tile), tile))
            for step, output in enumerate(outputs_by_step):
                tile.store(outputs, step, tile.window, output)
            return carry

        program.over_tiles(fire, ())

    flat = jax.ShapeDtypeStruct((len(like), plan.windows.number, like.shape[-1]), like.dtype)
    output: jax.Array = plan.call(kernel, flat, how.interpret)(_flat(currents))
    return output.reshape(like.shape)


def sums(currents: Currents, how: How, grads: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array | None]:
    """Sums over the rows of each program, `[programs, 1 + n, T, C]`: of dy, and for n `Normed` dy (x - mean).

    Args:
      currents: currents of the layer.
      how: what it does with them.
      grads: cotangents of the output, one for each reader, which are added.

    Returns:
      The sums; and dy as `[T, M, C]`, where it costs less to keep it than to compute it again.
    """
    plan, dtype = _plan(currents, how, LEAST_TILES), currents.normed[0].mean.dtype
    steps, number = range(plan.windows.shape[0]), 1 + len(currents.normed)
    kept = _kept(currents, grads)

    def kernel(currents: Currents, grads: Any, parts: Any, *dy: Any) -> None:
        program = Program.of(plan)
        reader = _Reader.of(currents, how, program)

        def add(tile: Tile, totals: Any) -> Any:
            xs = reader.normed(tile)
            dys = _pulled_back(how.layer, reader.currents_of(xs, tile), grads, tile)
            for ref in dy:
                for corner, row in zip(dys, _corner_rows(plan, tile), strict=True):
                    for t in steps:
                        tile.store(ref, t, row, corner[t])
            terms = [dys]
            for x, mean in zip(xs, reader.means, strict=True):
                corners = zip(dys, x, strict=True)
                terms.append([[dy[step] * (at[step] - mean[step]) for step in steps] for dy, at in corners])
            return [
                [sum((corner[step] for corner in term), start=total[step]) for step in steps]
                for total, term in zip(totals, terms, strict=True)
            ]

        zeros = jnp.zeros(plan.size, dtype)
        totals = program.over_tiles(add, [[zeros for _ in steps] for _ in range(number)])
        for index, total in enumerate(totals):
            for step in steps:
                program.store(parts, (index, step), total[step].sum(0))

    outputs = (plan.parts(dtype, number), *kept)
    parts, *dy = plan.call(kernel, outputs, how.interpret)(_flat(currents), tuple(map(_rows, grads)))
    return parts, dy[0] if dy else None


def gradient(
    currents: Currents, how: How, grads: Sequence[jax.Array], dy: jax.Array | None, lines: Any
) -> tuple[Any, Any]:
    """Gradients of inputs: slope dy + a (x - mean) + b for each `Normed`, and dy for each of the others.

    Args:
      currents: currents of the layer.
      how: what it does with them.
      grads: cotangents of the output, one for each reader, which are added.
      dy: what `sums` has kept.
      lines: a and b, `[T, C]`, for each `Normed`.
    """
    shape, others = currents.normed[0].x.shape, currents.others
    if dy is None:
        plan, given = _plan(currents, how), tuple(map(_rows, grads))
    else:
        plan, given = Plan.of(Windows(shape, pool=False), "layer"), (dy,)
        currents = currents._replace(others=())
    steps = range(plan.windows.shape[0])

    def kernel(currents: Currents, given: Any, lines: Any, dxs: Any, dothers: Any) -> None:
        program = Program.of(plan)
        reader = _Reader.of(currents, how, program)
        loaded = [[[program.load(ref, step) for step in steps] for ref in line] for line in lines]

        def write(tile: Tile, carry: Any) -> Any:
            xs, rows = reader.normed(tile), _corner_rows(plan, tile)
            if dy is None:
                dys = _pulled_back(how.layer, reader.currents_of(xs, tile), given, tile)
            else:
                dys = [reader.load(given[0], tile, row) for row in rows]
            for corner, (own, row) in enumerate(zip(dys, rows, strict=True)):
                for ref, x, slope, mean, (a, b) in zip(
                    dxs, xs, reader.slopes, reader.means, loaded, strict=True
                ):
                    for t in steps:
                        centred = x[corner][t] - mean[t]
                        tile.store(ref, t, row, slope[t] * own[t] + a[t] * centred + b[t])
                for ref in dothers:
                    for t in steps:
                        tile.store(ref, t, row, own[t])
            return carry

        program.over_tiles(write, ())

    flat = _flat(currents)
    inputs = tuple(term.x for term in flat.normed), flat.others
    outputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    dxs, dothers = plan.call(kernel, outputs, how.interpret)(flat, given, lines)
    if dy is not None:
        dothers = (dy,) * len(others)
    shaped: tuple[Any, Any] = jax.tree.map(lambda x: x.reshape(shape), (dxs, dothers))
    return shaped


# --- what they share


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1, x.shape[-1])


def _kept(currents: Currents, grads: Sequence[jax.Array]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """dy, if all inputs have one dtype and fewer bytes are moved with it.

    With it: one write, one read. Without: cotangents and other inputs are read again, and gradients of the
    others are written.
    """
    inputs = [*(term.x for term in currents.normed), *currents.others]
    dy = jax.ShapeDtypeStruct(_rows(inputs[0]).shape, inputs[0].dtype)
    if any(x.dtype != dy.dtype for x in inputs):
        return ()
    without = sum(_bytes(grad) for grad in grads) + sum(2 * _bytes(other) for other in currents.others)
    return (dy,) if 2 * _bytes(dy) < without else ()


def _bytes(array: Any) -> int:
    return int(array.size * array.dtype.itemsize)


def _plan(currents: Currents, how: How, least_turns: int = 1) -> Plan:
    windows = Windows(currents.normed[0].x.shape, how.pool)
    return Plan.of(windows, "pooled" if how.pool else "layer", least_turns)


def _flat(currents: Currents) -> Currents:
    normed = [
        term._replace(x=_rows(term.x), scale=term.scale[None], bias=term.bias[None])
        for term in currents.normed
    ]
    return Currents(tuple(normed), tuple(map(_rows, currents.others)))


def _corner_rows(plan: Plan, tile: Tile) -> list[jax.Array]:
    return [plan.windows.first_row(tile.window) + corner for corner in plan.windows.corners]


class _Reader(NamedTuple):
    """The currents of a program: `sum_i slope_i x_i + shift + sum_j other_j`.

    Attributes:
      currents: references.
      program: the program.
      means: `[1, channels]`, by input and timestep.
      slopes: the same.
      shift: by timestep.
    """

    currents: Currents
    program: Program
    means: list[list[jax.Array]]
    slopes: list[list[jax.Array]]
    shift: list[jax.Array]

    @classmethod
    def of(cls, currents: Currents, how: How, program: Program) -> "_Reader":
        steps = range(program.plan.windows.shape[0])
        means, slopes, shifts = [], [], []
        for term in currents.normed:
            dtype = term.mean.dtype
            scale, bias = (program.load(ref, 0).astype(dtype) for ref in (term.scale, term.bias))
            mean, var = ([program.load(ref, step) for step in steps] for ref in (term.mean, term.var))
            slope = [scale * jax.lax.rsqrt(var[step] + how.epsilon) for step in steps]
            shifts.append([bias - mean[step] * slope[step] for step in steps])
            means.append(mean)
            slopes.append(slope)
        return cls(
            currents, program, means, slopes, [sum(rest, start=s) for s, *rest in zip(*shifts, strict=True)]
        )

    def load(self, ref: Any, tile: Tile, row: jax.Array) -> list[jax.Array]:
        """Entries of a corner, by timestep."""
        return [tile.load(ref, step, row, self.shift[0].dtype) for step in range(len(self.shift))]

    def normed(self, tile: Tile) -> list[list[list[jax.Array]]]:
        """Normalised currents, by input, corner and timestep."""
        rows = _corner_rows(self.program.plan, tile)
        return [[self.load(term.x, tile, row) for row in rows] for term in self.currents.normed]

    def currents_of(self, xs: list[list[list[jax.Array]]], tile: Tile) -> list[list[jax.Array]]:
        """The currents, by corner and timestep."""
        rows = _corner_rows(self.program.plan, tile)
        others = [[self.load(ref, tile, row) for row in rows] for ref in self.currents.others]

        def current(corner: int, step: int) -> jax.Array:
            terms = [x[corner][step] * slope[step] for x, slope in zip(xs, self.slopes, strict=True)]
            terms += [other[corner][step] for other in others]
            return sum(terms, start=self.shift[step])

        return [[current(corner, step) for step in range(len(self.shift))] for corner in range(len(rows))]


def _pulled_back(
    layer: Layer, ys: list[list[jax.Array]], grads: Sequence[Any], tile: Tile
) -> list[list[jax.Array]]:
    """Gradients of the currents, by corner and timestep."""
    outputs, pull_back = jax.vjp(layer, ys)
    dtype, exists = ys[0][0].dtype, tile.exists

    def cotangent(step: int) -> jax.Array:
        first, *more = (tile.load(grad, step, tile.window, dtype) for grad in grads)
        return sum(more, start=first)

    dys: list[list[jax.Array]]
    (dys,) = pull_back([cotangent(step) for step in range(len(outputs))])
    if exists is None:
        return dys
    return [[jnp.where(exists, dy, 0) for dy in corner] for corner in dys]
