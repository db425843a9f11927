"""Scores of weights: higher is more worth keeping. Leaves that cannot have a score (no floats) get None."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any

__all__ = ["grasp", "magnitude", "random", "snip", "synflow"]


def _scored(params: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree], Callable[[list[Any]], PyTree]]:
    """The leaves that can have a score, and two functions of such leaves: scores, and whole parameters."""
    leaves, treedef = _flatten(params)
    places = [i for i, x in enumerate(leaves) if jnp.issubdtype(getattr(x, "dtype", bool), jnp.inexact)]

    def filled(scored: list[Any], rest: list[Any]) -> PyTree:
        rest = list(rest)
        for i, leaf in zip(places, scored, strict=True):
            rest[i] = leaf
        return treedef.unflatten(rest)

    nothing = [None] * len(leaves)
    return [leaves[i] for i in places], lambda x: filled(x, nothing), lambda x: filled(x, leaves)


def _flatten(params: PyTree) -> tuple[list[Any], Any]:
    leaves, treedef = jax.tree.flatten(params)
    return leaves, treedef


def magnitude(params: PyTree) -> PyTree:
    """|w|, the criterion of iterative magnitude pruning.

    >>> import jax.numpy as jnp
    >>> magnitude({"w": jnp.array([-2.0, 1.0])})["w"].tolist()
    [2.0, 1.0]
    """
    weights, as_scores, _ = _scored(params)
    return as_scores([jnp.abs(w) for w in weights])


def random(key: jax.Array, params: PyTree) -> PyTree:
    """Uniform random scores: the baseline that a criterion has to beat.

    >>> import jax, jax.numpy as jnp
    >>> random(jax.random.key(0), {"w": jnp.zeros((2, 3))})["w"].shape
    (2, 3)
    """
    leaves, treedef = _flatten(params)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [
            jax.random.uniform(k, x.shape) if jnp.issubdtype(getattr(x, "dtype", bool), jnp.inexact) else None
            for k, x in zip(keys, leaves, strict=True)
        ]
    )


def snip(loss: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    r"""SNIP's connection sensitivity, :math:`|w \odot \partial L / \partial w|` (Lee et al. 2019).

    A score is, to first order, the change of the loss when the weight is removed. It is a baseline of the
    paper (Fig. 9).

    Args:
      loss: scalar function of the parameters, on the examples that decide.
      params: parameters at initialisation.

    >>> import jax.numpy as jnp
    >>> snip(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.array([1.0, -3.0])})["w"].tolist()
    [2.0, 18.0]
    """
    weights, as_scores, as_params = _scored(params)
    gradient = jax.grad(lambda weights: loss(as_params(weights)))(weights)
    return as_scores([jnp.abs(w * g) for w, g in zip(weights, gradient, strict=True)])


def grasp(loss: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    r"""GraSP's scores, :math:`w \odot H g` with the gradient g and the Hessian H (Wang et al. 2020).

    Removing weights of low (negative) score raises the norm of the gradient most.

    Args:
      loss: scalar function of the parameters.
      params: parameters at initialisation.

    >>> import jax.numpy as jnp
    >>> grasp(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.array([1.0, -3.0])})["w"].tolist()
    [4.0, 36.0]
    """
    weights, as_scores, as_params = _scored(params)
    slope = jax.grad(lambda weights: loss(as_params(weights)))
    gradient = jax.lax.stop_gradient(slope(weights))

    def along_gradient(weights: list[jax.Array]) -> jax.Array | int:
        return sum(_dot(g, h) for g, h in zip(gradient, slope(weights), strict=True))

    products = jax.grad(along_gradient)(weights)
    return as_scores([w * hg for w, hg in zip(weights, products, strict=True)])


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The real part of a sum of products; float32 suits leaves of any width and leaves gradients exact."""
    return jnp.sum(jnp.real(a * b).astype(jnp.float32))


def synflow(flow: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    r"""SynFlow's scores, :math:`|w| \odot \partial R / \partial |w|` at :math:`|w|` (Tanaka et al. 2020).

    It needs no data: R is the summed output for an input of ones. In a linear or ReLU network without biases
    the scores of each layer add up to R. It is meant to be iterated, with a little pruned in each step:
    `masks = keep_top(synflow(flow, masks_lib.apply(params, masks)), masks, density ** (i / n))`.

    Args:
      flow: R as a function of the parameters.
      params: parameters at initialisation.

    >>> import jax.numpy as jnp
    >>> synflow(lambda p: jnp.sum(jnp.ones(2) @ p["w"]), {"w": jnp.array([[1.0], [-3.0]])})["w"].tolist()
    [[1.0], [3.0]]
    """
    weights, as_scores, as_params = _scored(params)
    magnitudes = [jnp.abs(w) for w in weights]
    gradient = jax.grad(lambda weights: flow(as_params(weights)))(magnitudes)
    return as_scores([w * g for w, g in zip(magnitudes, gradient, strict=True)])
