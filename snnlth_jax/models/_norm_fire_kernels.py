"""Norm, fire and pool as four kernels for GPUs, or three for TPUs, written in Pallas.

All timesteps of a tile (`_tiles_gpu`, `_tiles_tpu`) stay in registers, so that a kernel reads and writes each
array once:

    1. statistics   x            mean and M2, the sum of squared deviations, of the program's rows (a GPU's,
                                 `_statistics_gpu`)
    2. forward      x        ->  spikes
    3. sums         x, ds        sum dy, sum dy (x - mean), over the program's rows
    4. gradient     x, ds    ->  dx = slope dy + a (x - mean) + b

y = slope x + shift are the currents. Kernels 3 and 4 compute them and the spikes again; dy comes from
`jax.vjp` of the function that kernel 2 computes, for any neuron. Where it moves fewer bytes (`_kept`), kernel
3 writes dy and kernel 4 reads it: mostly where a current is the same at every timestep, and where inputs are
not normalised, whose gradient dy is. `norm_fire` adds up the programs' parts. On TPUs there is no kernel 1:
XLA computes the mean with the convolution that x comes from.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Currents", "How", "Layer", "Normed", "forward", "gradient", "sums"]

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
      timesteps: T of the outputs.
      interpret: whether kernels are emulated.
      plan: `Plan.of` of `_tiles_gpu` or `_tiles_tpu`.
    """

    layer: Layer
    pool: bool
    epsilon: float
    timesteps: int
    interpret: bool
    plan: Callable[..., Any]


def forward(currents: Currents, how: How, like: Any) -> jax.Array:
    """Outputs of a layer.

    Args:
      currents: its currents.
      how: what it does with them.
      like: shape and dtype of the output, `[T, B, H, W, C]`.
    """
    plan = _plan(currents, how)

    def kernel(currents: Currents, outputs: Any) -> None:
        program = plan.program()
        reader = _Reader.of(currents, how, program)

        def fire(tile: Any, carry: Any) -> Any:
            outputs_by_step = how.layer(reader.currents_of(reader.normed(tile), tile))
            for step, output in enumerate(outputs_by_step):
                tile.store(outputs, step, tile.window, output)
            return carry

        program.over_tiles(fire, ())

    rows = jax.eval_shape(plan.rows, like)
    output: jax.Array = plan.whole(
        plan.call(kernel, rows, how.interpret)(_as_read(plan, currents)), like.shape
    )
    return output


def sums(currents: Currents, how: How, grads: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array | None]:
    """Sums over the rows of each program, `[programs, 1 + n, T, C]`: of dy, and for n `Normed` dy (x - mean).

    Args:
      currents: currents of the layer.
      how: what it does with them.
      grads: cotangents of the output, one for each reader, which are added.

    Returns:
      The sums; and dy, `[T, B, H, W, C]`, where it costs less to keep it than to compute it again.
    """
    plan, dtype = _plan(currents, how, sums=True), currents.normed[0].mean.dtype
    steps, number = plan.steps, 1 + len(currents.normed)
    kept = _kept(currents, grads)

    def kernel(currents: Currents, grads: Any, parts: Any, *dy: Any) -> None:
        program = plan.program()
        reader = _Reader.of(currents, how, program)

        def add(tile: Any, totals: Any) -> Any:
            xs = reader.normed(tile)
            dys = _pulled_back(how.layer, reader.currents_of(xs, tile), grads, tile)
            for ref in dy:
                for corner, row in zip(dys, tile.corners, strict=True):
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
                program.store(parts, (index, step), program.total(total[step]))

    outputs = (plan.parts(dtype, number), *(jax.eval_shape(plan.rows, dy) for dy in kept))
    call = plan.call(kernel, outputs, how.interpret)
    parts, *dys = call(_as_read(plan, currents), tuple(map(plan.rows, grads)))
    return plan.joined(parts, number), plan.whole(dys[0], kept[0].shape) if dys else None


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
        plan, given = _plan(currents, how), tuple(grads)
    else:
        plan, given = how.plan(shape), (dy,)
        currents = currents._replace(others=())
    steps = plan.steps

    def kernel(currents: Currents, given: Any, lines: Any, dxs: Any, dothers: Any) -> None:
        program = plan.program()
        reader = _Reader.of(currents, how, program)
        loaded = [[[program.load(ref, step) for step in steps] for ref in line] for line in lines]

        def write(tile: Any, carry: Any) -> Any:
            xs, rows = reader.normed(tile), tile.corners
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

    read, given = _as_read(plan, currents), tuple(map(plan.rows, given))
    inputs = tuple(term.x for term in read.normed), read.others
    outputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    written = plan.call(kernel, outputs, how.interpret)(read, given, jax.tree.map(plan.lines, lines))
    dxs, dothers = jax.tree.map(lambda rows: plan.whole(rows, shape), written)
    return dxs, dothers if dy is None else (dy,) * len(others)


# --- what they share


def _kept(currents: Currents, grads: Sequence[jax.Array]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """dy, if all inputs have one dtype and fewer bytes are moved with it.

    With it: one write, one read. Without: cotangents and other inputs are read again, and gradients of the
    others are written.
    """
    inputs = [*(term.x for term in currents.normed), *currents.others]
    dy = jax.ShapeDtypeStruct(inputs[0].shape, inputs[0].dtype)
    if any(x.dtype != dy.dtype for x in inputs):
        return ()
    without = sum(_bytes(grad) for grad in grads) + sum(2 * _bytes(other) for other in currents.others)
    return (dy,) if 2 * _bytes(dy) < without else ()


def _bytes(array: Any) -> int:
    return int(array.size * array.dtype.itemsize)


def _plan(currents: Currents, how: How, sums: bool = False) -> Any:
    return how.plan(currents.normed[0].x.shape, how.pool, how.timesteps, sums)


def _as_read(plan: Any, currents: Currents) -> Currents:
    def normed(term: Normed) -> Normed:
        of_channels = (term.scale[None], term.bias[None], term.mean, term.var)
        return Normed(plan.rows(term.x), *map(plan.lines, of_channels))

    return Currents(tuple(map(normed, currents.normed)), tuple(map(plan.rows, currents.others)))


class _Reader(NamedTuple):
    """The currents of a program: `sum_i slope_i x_i + shift + sum_j other_j`.

    Attributes:
      currents: references.
      program: the program.
      means: one for each channel, which broadcast to a tile; by input and timestep.
      slopes: the same.
      shift: by timestep.
    """

    currents: Currents
    program: Any
    means: list[list[jax.Array]]
    slopes: list[list[jax.Array]]
    shift: list[jax.Array]

    @classmethod
    def of(cls, currents: Currents, how: How, program: Any) -> "_Reader":
        steps = program.plan.steps
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

    def load(self, ref: Any, tile: Any, row: jax.Array) -> list[jax.Array]:
        """Entries of a corner, by timestep."""
        return [tile.load(ref, step, row, self.shift[0].dtype) for step in range(len(self.shift))]

    def normed(self, tile: Any) -> list[list[list[jax.Array]]]:
        """Normalised currents, by input, corner and timestep."""
        return [[self.load(term.x, tile, row) for row in tile.corners] for term in self.currents.normed]

    def currents_of(self, xs: list[list[list[jax.Array]]], tile: Any) -> list[list[jax.Array]]:
        """The currents, by corner and timestep."""
        others = [[self.load(ref, tile, row) for row in tile.corners] for ref in self.currents.others]

        def current(corner: int, step: int) -> Any:
            terms = [x[corner][step] * slope[step] for x, slope in zip(xs, self.slopes, strict=True)]
            terms += [other[corner][step] for other in others]
            return sum(terms, start=self.shift[step])

        return [
            [current(corner, step) for step in range(len(self.shift))] for corner in range(len(tile.corners))
        ]


def _pulled_back(
    layer: Layer, ys: list[list[jax.Array]], grads: Sequence[Any], tile: Any
) -> list[list[jax.Array]]:
    """Gradients of the currents, by corner and timestep."""
    outputs, pull_back = jax.vjp(layer, ys)
    dtype, exists = ys[0][0].dtype, tile.exists

    def cotangent(step: int) -> Any:
        first, *more = (tile.load(grad, step, tile.window, dtype) for grad in grads)
        return sum(more, start=first)

    dys: list[list[jax.Array]]
    (dys,) = pull_back([cotangent(step) for step in range(len(outputs))])
    if exists is None:
        return dys
    return [[jnp.where(exists, dy, 0) for dy in corner] for corner in dys]
