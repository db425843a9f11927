"""Spike functions: a Heaviside step forward, a smooth derivative backward.

A neuron fires when its membrane potential reaches the threshold; the derivative of that step is zero
almost everywhere, so training replaces it by the derivative of a smooth *surrogate*.
Each class below makes a `SpikeFn`: it takes `u = v - v_threshold`, of any shape, and returns 1 where
`u >= 0`, else 0 (also where u is NaN), in the dtype of `u`. It works under `jit`, `vmap`, `grad` and `jvp`,
repeatedly.

Its parameter is a number, or an array that broadcasts to `u`: traced, or one value per channel. A spike does
not depend on the parameter, its derivative does. A spike function is a pytree, and the parameter its leaf.
While that is a number, spike functions of the same class and number are equal, with the same hash: neurons
that hold them are cached by `jit` as static arguments. A parameter that is not positive raises ValueError,
wherever its value is known.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from snnlth_jax._axes import vary_like
from snnlth_jax._constants import Constant, Constants, against, as_array, check, is_number, known, promoted

SpikeFn = Callable[[jax.Array], jax.Array]

__all__ = ["SpikeFn", "atan", "fast_sigmoid", "heaviside", "rectangle", "sigmoid", "triangle"]


# Its value is its first operand. Not `jax.custom_jvp`, whose rule JAX loses where it differentiates a scan
# twice: it traces the known part of the loop's body once more, for what does not change, without rules.
_fired = Primitive("fired")
_fired.def_impl(lambda spikes, u, slope: spikes)
_fired.def_abstract_eval(lambda spikes, u, slope: spikes)
mlir.register_lowering(_fired, lambda context, spikes, u, slope: [spikes])
ad.defjvp(_fired, None, lambda du, spikes, u, slope: slope * du, None)


def _mapped(operands: Sequence[jax.Array], axes: Sequence[int | None]) -> tuple[jax.Array, int]:
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    first = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    return _fired.bind(*first), 0


batching.primitive_batchers[_fired] = _mapped


def heaviside(u: ArrayLike, slope: ArrayLike) -> jax.Array:
    r"""A step, 1 where `u >= 0` and else 0, that is differentiated as if it had a slope.

    .. math:: s = \Theta(u), \quad ds = \text{slope}\; du

    With it a spike function of your own is a line. Its derivatives are those of `slope`, where that is
    computed from `u`. A rule of `jax.custom_jvp` would do as well, except for second derivatives through a
    scan, such as `lif_scan`, in which JAX 0.10 loses such rules.

    Args:
      u: potentials above the threshold, any shape.
      slope: the derivative, an array of the shape of `u` or a number, without a gradient from the spikes.

    Returns:
      The dtype and shape of `u`.

    >>> import jax, jax.numpy as jnp
    >>> gaussian = lambda u: heaviside(u, jnp.exp(-(u**2)))
    >>> first, second = jax.grad(gaussian), jax.grad(jax.grad(gaussian))
    >>> float(gaussian(1.0)), round(float(first(1.0)), 4), round(float(second(1.0)), 4)
    (1.0, 0.3679, -0.7358)
    """
    u = jnp.asarray(u)
    slope = jnp.broadcast_to(jnp.asarray(slope, u.dtype), u.shape)
    u, slope = vary_like(u, slope), vary_like(slope, u)  # as their gradients do
    spikes: jax.Array = _fired.bind(jnp.asarray(u >= 0, u.dtype), u, slope)
    return spikes


class _Surrogate(Constants):
    """A spike function: its subclasses are dataclasses of one parameter, and define the derivative."""

    def __post_init__(self) -> None:
        values = known(*self._parameter())
        if values is not None:
            check(self._parameter()[0], values, values > 0, "must be positive")
            check(self._parameter()[0], values, np.isfinite(values), "must be finite")

    def __call__(self, u: jax.Array) -> jax.Array:
        u = as_array("v - v_threshold", u)
        return heaviside(u, self.slope_at(u))

    def slope_at(self, u: jax.Array) -> jax.Array:
        """The derivative at `u`, in its dtype."""
        name, parameter = self._parameter()
        dtype = promoted(u, parameter)
        value = against(name, parameter, "v - v_threshold", u.shape, dtype)
        slope: jax.Array
        if is_number(value):  # which stays a constant of the program
            if jnp.issubdtype(dtype, jnp.floating) and abs(value) > float(jnp.finfo(dtype).max):
                raise ValueError(f"{name} must be finite in {dtype}, got {parameter}")
            slope = self._derivative(u, value)
        else:
            slope = self._derivative(vary_like(u, value).astype(value.dtype), vary_like(value, u)).astype(
                u.dtype
            )
        return slope

    def _parameter(self) -> tuple[str, Constant]:
        return next(iter(vars(self).items()))

    @staticmethod
    def _derivative(u: jax.Array, parameter: Any) -> Any:
        raise NotImplementedError


def _where_finite(slope: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """A slope of x, and 0 where the square of x is infinite, with derivatives of 0 and no NaN."""
    far = x**2 == jnp.inf
    return jnp.where(far, 0, slope(jnp.where(far, 1, x)))


@dataclasses.dataclass(frozen=True, eq=False)
class atan(_Surrogate):
    r"""Derivative of a scaled arc tangent, the paper's choice (alpha = 2).

    .. math:: \frac{ds}{du} = \frac{\alpha / 2}{1 + (\pi \alpha u / 2)^2}

    Args:
      alpha: sharpness, > 0; the derivative at the threshold is alpha / 2.

    >>> import jax, jax.numpy as jnp
    >>> spike = atan()
    >>> spike
    atan(alpha=2.0)
    >>> spike(jnp.array([-0.1, 0.0, 0.1])).tolist()
    [0.0, 1.0, 1.0]
    >>> float(jax.grad(spike)(0.0))
    1.0
    """

    alpha: Constant = 2.0

    @staticmethod
    def _derivative(u: jax.Array, alpha: Any) -> Any:
        return _where_finite(lambda x: alpha / 2 / (1 + x**2), jnp.pi / 2 * alpha * u)


@dataclasses.dataclass(frozen=True, eq=False)
class sigmoid(_Surrogate):
    r"""Derivative of a logistic function, :math:`\alpha\,\sigma(\alpha u)\,(1 - \sigma(\alpha u))`.

    Args:
      alpha: sharpness, > 0; the derivative at the threshold is alpha / 4.

    >>> import jax
    >>> float(jax.grad(sigmoid())(0.0))
    1.0
    """

    alpha: Constant = 4.0

    @staticmethod
    def _derivative(u: jax.Array, alpha: Any) -> Any:
        s = jax.nn.sigmoid(alpha * u)
        return alpha * s * (1 - s)


@dataclasses.dataclass(frozen=True, eq=False)
class fast_sigmoid(_Surrogate):
    r"""SuperSpike's derivative, :math:`1 / (1 + k |u|)^2` (Zenke and Ganguli 2018).

    Args:
      slope: k, > 0; the derivative at the threshold is 1.

    >>> import jax
    >>> float(jax.grad(fast_sigmoid(1.0))(1.0))
    0.25
    """

    slope: Constant = 25.0

    @staticmethod
    def _derivative(u: jax.Array, slope: Any) -> Any:
        return _where_finite(lambda x: 1 / x**2, 1 + slope * jnp.abs(u))


@dataclasses.dataclass(frozen=True, eq=False)
class triangle(_Surrogate):
    r"""A triangle of height gamma, :math:`\gamma \max(0, 1 - |u|)` (Bellec et al. 2018).

    Args:
      gamma: height at the threshold, > 0.

    >>> import jax
    >>> float(jax.grad(triangle(0.5))(0.5))
    0.25
    """

    gamma: Constant = 1.0

    @staticmethod
    def _derivative(u: jax.Array, gamma: Any) -> Any:
        return gamma * jnp.maximum(0, 1 - jnp.abs(u))


@dataclasses.dataclass(frozen=True, eq=False)
class rectangle(_Surrogate):
    r"""A box of unit area, :math:`1 / w` where :math:`|u| < w / 2`, else 0 (Wu et al. 2018).

    Args:
      width: w, > 0.

    >>> import jax
    >>> [float(jax.grad(rectangle(2.0))(u)) for u in (0.0, 0.9, 1.1)]
    [0.5, 0.5, 0.0]
    """

    width: Constant = 1.0

    @staticmethod
    def _derivative(u: jax.Array, width: Any) -> Any:
        return jnp.asarray(jnp.abs(u) < width / 2, jnp.result_type(u)) / width


_BY_NAME: dict[str, type[Any]] = {
    "atan": atan,
    "sigmoid": sigmoid,
    "fast_sigmoid": fast_sigmoid,
    "triangle": triangle,
    "rectangle": rectangle,
}
NAMES = tuple(_BY_NAME)


def default_scale(name: str) -> float:
    """The default parameter of the spike function of a name.

    >>> default_scale("fast_sigmoid")
    25.0
    """
    (scale,) = vars(create(name)).values()
    return float(scale)


def create(name: str = "atan", scale: float | None = None) -> SpikeFn:
    """A spike function by its name.

    Args:
      name: one of `NAMES`.
      scale: its parameter: alpha, slope, gamma or width; None for its default.

    Raises:
      ValueError: unknown name, or a parameter that is not positive.

    >>> create("triangle", 0.5), create("sigmoid")
    (triangle(gamma=0.5), sigmoid(alpha=4.0))
    """
    if name not in NAMES:
        raise ValueError(f"surrogate must be one of {', '.join(NAMES)}; got {name!r}")
    spike: SpikeFn = _BY_NAME[name]() if scale is None else _BY_NAME[name](scale)
    return spike
