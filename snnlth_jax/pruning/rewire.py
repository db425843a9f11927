"""One step of dynamic sparse training: drop the smallest weights of each layer, grow as many others."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax._selection import floor_of
from snnlth_jax.masks import trees
from snnlth_jax.pruning.distributions import share_digits
from snnlth_jax.pruning.removal import remove_lowest, scored_leaves
from snnlth_jax.pruning.scores import magnitude

PyTree = Any
Masks = Any

__all__ = ["drop_fraction", "rewire"]


def rewire(params: PyTree, masks: Masks, growth: PyTree, fraction: float | jax.Array) -> Masks:
    r"""Drop the share f of each layer's weights, smallest first, and grow as many of highest `growth`.

    Of the n kept weights of a layer :math:`\lfloor f n \rfloor` are dropped, and as many of those that are
    then absent are grown, dropped ones included: each layer keeps its number of weights exactly. `growth` is
    the magnitude of the dense gradient in RigL (Evci et al. 2020), random in SET (Mocanu et al. 2018).

    A grown weight begins at its value in `params`, which for masked parameters is 0, except that a dropped
    weight that is grown again at once keeps its own.

    Args:
      params: parameters.
      masks: masks of the weights that are kept.
      growth: scores by which absent weights are grown, a tree like the parameters.
      fraction: f, in [0, 1], read as the decimal number that it prints as, like that of `prune`; of a traced
        one the first seven decimal places.

    Raises:
      ValueError: trees of other structures or shapes; a known fraction that is not allowed.

    >>> import jax.numpy as jnp
    >>> w, kept = {"w": jnp.array([[3.0, 1.0, 0.0, 0.0]])}, {"w": jnp.array([[True, True, False, False]])}
    >>> rewire(w, kept, {"w": jnp.array([[9.0, 0.0, 1.0, 2.0]])}, 0.5)["w"].tolist()
    [[True, False, False, True]]
    """
    digits = share_digits(fraction)
    trees.check(masks, params)
    trees.check(masks, growth, "growth")
    scored_leaves(growth, masks)

    dropped = trees.tree_map(lambda mask: floor_of(digits, mask.sum(dtype=jnp.uint32)), masks)
    survivors = remove_lowest(magnitude(params), masks, dropped)
    absent = trees.tree_map(jnp.logical_not, survivors)
    stay = trees.tree_map(lambda mask, n: mask.sum(dtype=jnp.uint32) - n, absent, dropped)
    grown = remove_lowest(growth, absent, stay)
    return trees.tree_map(jnp.logical_or, survivors, grown)


def drop_fraction(epoch: int, last: int, first_fraction: float) -> float:
    r"""The share that is dropped after an epoch: :math:`\frac{\alpha}{2} (1 + \cos(\pi e / E))`, 0 from E on.

    It is the schedule of RigL (Evci et al. 2020, section 3).

    >>> drop_fraction(0, 10, 0.3), round(drop_fraction(5, 10, 0.3), 4), drop_fraction(10, 10, 0.3)
    (0.3, 0.15, 0.0)
    """
    return first_fraction / 2 * (1 + math.cos(math.pi * epoch / last)) if epoch < last else 0.0
