"""A linear function with a transpose of its own, for both modes of differentiation.

`jax.custom_vjp` gives up the forward mode. Reverse mode is the transposed tangent: where the linear functions
of a tangent know their transposes, it serves both modes. JAX takes transposes in `linear_call`, which knows
no `vmap`; `jax.lax.custom_linear_solve` does, and the solution of the transposed equation is given to it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["linear"]

Arrays = Any  # a pytree of arrays, each with an axis or more
Linear = Callable[[Arrays], Arrays]


def linear(fun: Linear, transpose: Linear, x: Arrays, like: Arrays) -> Any:
    r"""`fun(x)`, which reverse mode transposes by `transpose`.

    It solves

    .. math:: \begin{pmatrix} 1 & 0 \\ -f & 1 \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix}
              = \begin{pmatrix} x \\ 0 \end{pmatrix}

    by :math:`a = x, b = f(x)`. Derivatives with respect to what else `fun` depends on are those of the
    equation, and so those of `fun`.

    Args:
      fun: a linear function of a pytree of arrays, or of one.
      transpose: its transpose, from the cotangent of the output to that of `x`.
      x: its argument.
      like: arrays with the structure, shapes and dtypes of its output.

    >>> import jax, jax.numpy as jnp
    >>> weights = jnp.array([[1.0, 2.0]])
    >>> f = lambda x: linear(lambda x: weights @ x, lambda y: 10 * weights.T @ y, x, jnp.ones((1, 1)))
    >>> x = jnp.array([[1.0], [1.0]])
    >>> f(x).tolist(), jax.grad(lambda x: f(x).sum())(x).tolist()
    ([[3.0]], [[10.0], [20.0]])
    """

    def equation(pair: tuple[Arrays, Arrays]) -> tuple[Arrays, Arrays]:
        x, y = _entangled(pair)
        entangled: tuple[Arrays, Arrays] = _entangled((x, jax.tree.map(jnp.subtract, y, fun(x))))
        return entangled

    def solve(_: object, pair: tuple[Arrays, Arrays]) -> tuple[Arrays, Arrays]:
        x, y = pair
        return x, jax.tree.map(jnp.add, y, fun(x))

    def solve_transposed(_: object, pair: tuple[Arrays, Arrays]) -> tuple[Arrays, Arrays]:
        x, y = pair
        return jax.tree.map(jnp.add, x, transpose(y)), y

    right = _entangled((x, jax.tree.map(jnp.zeros_like, like)))
    return _entangled(lax.custom_linear_solve(equation, right, solve, solve_transposed))[1]


def _entangled(arrays: Arrays) -> Arrays:
    """Arrays, each of which depends on whatever one of them depends on, as `custom_linear_solve` assumes.

    The sum of no entries of each of them is added to all, which compilers remove.
    """
    nothing = [jnp.sum(x[:0]) for x in jax.tree.leaves(arrays)]
    return jax.tree.map(lambda x: sum((zero.astype(x.dtype) for zero in nothing), start=x), arrays)
