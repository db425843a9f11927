"""A linear function with a transpose of its own, for both modes of differentiation.

`jax.custom_vjp` gives up the forward mode. Reverse mode is the transposed tangent: where the linear functions
of a tangent know their transposes, it serves both modes. JAX takes transposes in `linear_call`, which knows
no `vmap`; `jax.lax.custom_linear_solve` does, and the solution of the transposed equation is given to it.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["linear"]

Pair = tuple[jax.Array, jax.Array]
Linear = Callable[[jax.Array], jax.Array]


def linear(fun: Linear, transpose: Linear, x: jax.Array, like: jax.Array) -> jax.Array:
    r"""`fun(x)`, which reverse mode transposes by `transpose`.

    It solves

    .. math:: \begin{pmatrix} 1 & 0 \\ -f & 1 \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix}
              = \begin{pmatrix} x \\ 0 \end{pmatrix}

    by :math:`a = x, b = f(x)`. Derivatives with respect to what else `fun` depends on are those of the
    equation, and so those of `fun`.

    Args:
      fun: a linear function of one array.
      transpose: its transpose, from the cotangent of the output to that of `x`.
      x: its argument.
      like: an array with the shape and dtype of its output, and as many axes as `x`.

    >>> import jax, jax.numpy as jnp
    >>> weights = jnp.array([[1.0, 2.0]])
    >>> f = lambda x: linear(lambda x: weights @ x, lambda y: 10 * weights.T @ y, x, jnp.ones((1, 1)))
    >>> x = jnp.array([[1.0], [1.0]])
    >>> f(x).tolist(), jax.grad(lambda x: f(x).sum())(x).tolist()
    ([[3.0]], [[10.0], [20.0]])
    """

    # the zeros are there so that each part of a pair depends on whatever its other part depends on, as
    # `custom_linear_solve` assumes; compilers remove them
    def equation(pair: Pair) -> Pair:
        change = fun(pair[0] + _zeros(pair[1], pair[0]))
        return pair[0] + _zeros(change, pair[0]), pair[1] - change

    def solve(_: object, pair: Pair) -> Pair:
        change = fun(pair[0] + _zeros(pair[1], pair[0]))
        return pair[0] + _zeros(change, pair[0]), pair[1] + change

    def solve_transposed(_: object, pair: Pair) -> Pair:
        change = transpose(pair[1] + _zeros(pair[0], pair[1]))
        return pair[0] + change, pair[1] + _zeros(change, pair[1])

    a, b = lax.custom_linear_solve(equation, (x, _zeros(x, like)), solve, solve_transposed)
    return cast(jax.Array, b + _zeros(a, b))


def _zeros(x: jax.Array, like: jax.Array) -> jax.Array:
    """Zeros like an array, as a linear function of another with as many axes: none of it, padded."""
    sizes = zip((0, *x.shape[1:]), like.shape, strict=True)
    padding = [(0, wanted - size, 0) for size, wanted in sizes]
    return lax.pad(x[:0], jnp.zeros((), x.dtype), padding)
