"""Mean and squared deviations of an activation in one pass; a GPU's kernel in Pallas (Triton)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from snnlth_jax.models._tiles_gpu import LEAST_TILES, Plan, Tile, Windows

__all__ = ["statistics"]


def statistics(x: jax.Array, dtype: Any, interpret: bool) -> tuple[jax.Array, jax.Array, Any]:
    """Means and M2 over the rows of each program, `[programs, T, C]`, and the number of rows `[programs]`.

    Each row of a tile has a running mean of its own (Welford 1962); they are merged at the end (Chan 1979).

    Args:
      x: `[T, B, H, W, C]`.
      dtype: of the statistics.
      interpret: whether the kernel is emulated.
    """
    steps = len(x)
    plan = Plan.sized(Windows(x.shape, pool=False), "statistics", LEAST_TILES, steps)

    def kernel(x: Any, mean: Any, m2: Any) -> None:
        program, step = plan.program(), pl.program_id(2)

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
        merged = program.total(number * mean_of_rows) / jnp.maximum(program.total(number), 1)
        between = number * (mean_of_rows - merged[None]) ** 2
        program.store(mean, (step,), merged)
        program.store(m2, (step,), program.total(m2_of_rows + between))

    means, m2s = plan.call(kernel, (plan.parts(dtype),) * 2, interpret, steps)(plan.rows(x))
    return means, m2s, plan.counts()
