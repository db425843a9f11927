"""Spike functions: a Heaviside step forward, a smooth derivative backward.

A neuron fires when its membrane potential reaches the threshold; the derivative of that step is zero
almost everywhere, so training replaces it by the derivative of a smooth *surrogate*.
Each factory below returns a `SpikeFn`: it takes `u = v - v_threshold`, of any shape, and returns 1 where
`u >= 0`, else 0, in the dtype of `u`. It works under `jit`, `vmap`, `grad` and `jvp`.

Equal arguments return the same function object, so neurons that hold one compare equal and are cached
by `jit` as static arguments.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

SpikeFn = Callable[[jax.Array], jax.Array]

__all__ = ["SpikeFn", "atan", "fast_sigmoid", "rectangle", "sigmoid", "triangle"]


def _spike_function(name: str, derivative: Callable[[jax.Array], jax.Array]) -> SpikeFn:
    """A Heaviside step (1 at zero) whose derivative is `derivative`."""

    def step(u: jax.Array) -> jax.Array:
        return jnp.asarray(u >= 0, jnp.result_type(u))

    step.__name__ = step.__qualname__ = name
    spike = jax.custom_jvp(step)

    @spike.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (u,), (du,) = primals, tangents
        return spike(u), derivative(u) * du

    return spike


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


@lru_cache
def atan(alpha: float = 2.0) -> SpikeFn:
    r"""Derivative of a scaled arc tangent, the paper's choice (alpha = 2).

    .. math:: \frac{ds}{du} = \frac{\alpha / 2}{1 + (\pi \alpha u / 2)^2}

    Args:
      alpha: sharpness, > 0; the derivative at the threshold is alpha / 2.

    >>> import jax, jax.numpy as jnp
    >>> spike = atan()
    >>> spike(jnp.array([-0.1, 0.0, 0.1])).tolist()
    [0.0, 1.0, 1.0]
    >>> float(jax.grad(spike)(0.0))
    1.0
    """
    _positive("alpha", alpha)
    return _spike_function(f"atan({alpha})", lambda u: alpha / 2 / (1 + (jnp.pi / 2 * alpha * u) ** 2))


@lru_cache
def sigmoid(alpha: float = 4.0) -> SpikeFn:
    r"""Derivative of a logistic function, :math:`\alpha\,\sigma(\alpha u)\,(1 - \sigma(\alpha u))`.

    Args:
      alpha: sharpness, > 0; the derivative at the threshold is alpha / 4.

    >>> import jax
    >>> float(jax.grad(sigmoid())(0.0))
    1.0
    """
    _positive("alpha", alpha)

    def derivative(u: jax.Array) -> jax.Array:
        s = jax.nn.sigmoid(alpha * u)
        return alpha * s * (1 - s)

    return _spike_function(f"sigmoid({alpha})", derivative)


@lru_cache
def fast_sigmoid(slope: float = 25.0) -> SpikeFn:
    r"""SuperSpike's derivative, :math:`1 / (1 + k |u|)^2` (Zenke and Ganguli 2018).

    Args:
      slope: k, > 0; the derivative at the threshold is 1.

    >>> import jax
    >>> float(jax.grad(fast_sigmoid(1.0))(1.0))
    0.25
    """
    _positive("slope", slope)
    return _spike_function(f"fast_sigmoid({slope})", lambda u: 1 / (1 + slope * jnp.abs(u)) ** 2)


@lru_cache
def triangle(gamma: float = 1.0) -> SpikeFn:
    r"""A triangle of height gamma, :math:`\gamma \max(0, 1 - |u|)` (Bellec et al. 2018).

    Args:
      gamma: height at the threshold, > 0.

    >>> import jax
    >>> float(jax.grad(triangle(0.5))(0.5))
    0.25
    """
    _positive("gamma", gamma)
    return _spike_function(f"triangle({gamma})", lambda u: gamma * jnp.maximum(0, 1 - jnp.abs(u)))


@lru_cache
def rectangle(width: float = 1.0) -> SpikeFn:
    r"""A box of unit area, :math:`1 / w` where :math:`|u| < w / 2`, else 0 (Wu et al. 2018).

    Args:
      width: w, > 0.

    >>> import jax
    >>> [float(jax.grad(rectangle(2.0))(u)) for u in (0.0, 0.9, 1.1)]
    [0.5, 0.5, 0.0]
    """
    _positive("width", width)
    return _spike_function(
        f"rectangle({width})", lambda u: jnp.asarray(jnp.abs(u) < width / 2, jnp.result_type(u)) / width
    )
