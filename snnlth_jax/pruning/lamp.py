"""LAMP: magnitudes that compare between layers (Lee et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax._axes import placed_like, unsharded
from snnlth_jax.masks import trees

PyTree = Any
Masks = Any

__all__ = ["lamp"]


def lamp(params: PyTree, masks: Masks) -> PyTree:
    r"""Layer-adaptive magnitude: the share of a weight in all weights of its layer that are no smaller.

    .. math:: s_u = \frac{w_u^2}{\sum_{v : |w_v| \ge |w_u|} w_v^2}

    Within a layer the order is that of the magnitudes, of equal ones (other than 0) the last is the larger,
    and the largest weight scores 1: no layer loses all of its weights to one threshold below. NaN stays NaN,
    and enters no sum. To first order the scores minimise the distortion that pruning adds to a layer's output
    (Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning").

    Args:
      params: parameters.
      masks: masks of the weights that are left; removed weights enter no sum and score 0.

    Returns:
      Scores where the masks have a leaf, None elsewhere; for `prune` with one threshold for all layers.

    Raises:
      ValueError: parameters and masks of other structures or shapes.

    >>> import jax.numpy as jnp
    >>> w, mask = {"w": jnp.array([[1.0, -2.0, 2.0, 3.0]])}, {"w": jnp.ones((1, 4), bool)}
    >>> [round(s, 4) for s in lamp(w, mask)["w"][0].tolist()]      # 1/18, 4/17, 4/13, 9/9
    [0.0556, 0.2353, 0.3077, 1.0]
    """
    trees.check(masks, params)
    return trees.tree_map(lambda mask, weight: _scores(mask, jnp.asarray(weight)), masks, params)


def _scores(mask: jax.Array, weight: jax.Array) -> jax.Array:
    wide = jnp.float64 if weight.dtype in (jnp.float64, jnp.complex128) else jnp.float32
    whole = unsharded(weight)
    magnitude = jnp.where(unsharded(mask), jnp.abs(whole).astype(wide), 0).reshape(-1)
    most = jnp.finfo(wide).max / 16  # whose reciprocal does not vanish
    known = jnp.where(jnp.isnan(magnitude), 0, jnp.minimum(magnitude, most))
    largest = known.max(initial=jnp.finfo(wide).tiny)
    squares = jnp.square(known / largest)  # neither overflows nor vanishes
    order = jnp.argsort(known)
    ascending = squares[order]
    sums = jnp.cumsum(ascending[::-1])[::-1]
    rising = _rising(ascending / jnp.where(sums > 0, sums, 1))
    shares = jnp.where(magnitude == 0, 0, jnp.zeros_like(squares).at[order].set(rising))
    shares = jnp.where(jnp.isnan(magnitude), jnp.nan, shares).reshape(weight.shape)
    return shares if whole is weight else placed_like(shares, weight, weight)


def _rising(x: jax.Array) -> jax.Array:
    """Numbers of at least 0, in order up to rounding, made to rise strictly by as little as possible.

    Their bits, read as integers, rise as they do.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int64 if x.dtype == jnp.float64 else jnp.int32)
    place = jnp.arange(x.size, dtype=bits.dtype)
    return jax.lax.bitcast_convert_type(jax.lax.cummax(bits - place) + place, x.dtype)
