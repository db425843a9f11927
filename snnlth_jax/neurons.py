r"""The leaky integrate-and-fire neuron as a pure function of its state, and its scan over time.

Time comes first: inputs and spikes are `[T, ...]`. Nothing is hidden: the only state is the membrane
potential `v`, an argument and a result.

In one timestep (the paper's neuron; with its constants `v_charged = 0.25 v + 0.75 x`):

.. math::
    v &\leftarrow v + (x - (v - v_\text{reset})) / \tau      && \text{charge, input decaying} \\
    v &\leftarrow v - (v - v_\text{reset}) / \tau + x        && \text{charge, otherwise} \\
    s &= \Theta(v - v_\text{threshold})                      && \text{fire; } \Theta(0) = 1 \\
    v &\leftarrow (1 - s)\, v + s\, v_\text{reset}           && \text{hard reset} \\
    v &\leftarrow v - s\, v_\text{threshold}                 && \text{soft reset}

with `v_reset` read as 0 in the charge of a soft-reset neuron, and the `s` of the reset hidden from the
gradient where `detach_reset`.

A charge beyond the largest number of its dtype stays at that number, with the gradient of the equation, and
so does a potential that is given: an infinite current, potential or threshold makes no NaN, neither in this
timestep nor later. A neuron whose charge is NaN never fires again: NaN is not above a threshold.

Two relatives are the same equations: `IF` does not leak (tau infinite, the input not divided), and the tau of
a `PLIF` is learned.
"""

import dataclasses
import functools
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from snnlth_jax import _axes, surrogate
from snnlth_jax._constants import (
    STATIC,
    Constant,
    Constants,
    against,
    as_array,
    check,
    is_number,
    known,
    promoted,
)

__all__ = ["IF", "LIF", "NAMES", "PLIF", "Name", "check_neuron", "create", "lif_scan", "lif_step"]

Name = Literal["lif", "if", "plif"]
NAMES: tuple[str, ...] = get_args(Name)


@dataclasses.dataclass(frozen=True, eq=False)
class LIF(Constants):
    """Constants of a leaky integrate-and-fire neuron; the defaults are the paper's.

    A pytree. Its leaves are `tau`, `v_threshold`, `v_reset` and the parameter of `spike`: numbers, or arrays
    that broadcast to the currents of one timestep, such as one value per channel; they may be traced, trained
    and mapped over. While they are numbers, neurons are hashable and equal by value, so that one can be a
    static argument of `jit` and a field of a Flax module.

    Attributes:
      tau: membrane time constant in timesteps, >= 1 (1: no memory).
      v_threshold: potential at which the neuron fires, above `v_reset`; infinite: never.
      v_reset: potential after a spike and at the start, finite; None for a soft reset, which subtracts the
        threshold and starts at 0.
      decay_input: whether the input is divided by tau too.
      detach_reset: whether the gradient ignores the path through the reset.
      spike: the spike function, see `snnlth_jax.surrogate`, or any function of `v - v_threshold`.

    Raises:
      ValueError: a constant with a value that is not allowed, wherever the value is known. A neuron that JAX
        or an optimiser builds from leaves is not checked.

    >>> import jax, jax.numpy as jnp
    >>> neuron = LIF(tau=jnp.array([2.0, 4.0]))  # one tau per channel
    >>> rate = lambda neuron: lif_scan(neuron, jnp.full((4, 2), 1.5))[1].mean()
    >>> float(rate(neuron))
    0.375
    >>> (jax.grad(rate)(neuron).tau < 0).tolist()  # longer memory, fewer spikes
    [True, True]
    """

    tau: Constant = 4 / 3
    v_threshold: Constant = 1.0
    v_reset: Constant | None = 0.0
    decay_input: bool = dataclasses.field(default=True, metadata=STATIC)
    detach_reset: bool = dataclasses.field(default=True, metadata=STATIC)
    spike: surrogate.SpikeFn = surrogate.atan()

    def __post_init__(self) -> None:
        tau, v_threshold = known("tau", self.tau), known("v_threshold", self.v_threshold)
        v_reset = np.zeros(()) if self.v_reset is None else known("v_reset", self.v_reset)
        if tau is not None:
            check("tau", tau, tau >= 1, "must be at least 1 timestep")
        if v_reset is not None:
            check("v_reset", v_reset, np.isfinite(v_reset), "must be finite")
        if v_threshold is not None and v_reset is not None:
            v_threshold, v_reset = _paired(v_threshold, v_reset)
            above = v_threshold.astype(float) > v_reset.astype(float)
            rest = v_reset[~above][:1].tolist()  # where it is not, first
            check("v_threshold", v_threshold, above, f"must lie above v_reset ({', '.join(map(str, rest))})")
        for name in ("decay_input", "detach_reset"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not callable(self.spike) or isinstance(self.spike, type):
            raise ValueError(f"spike must be a function of v - v_threshold, got {self.spike!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class PLIF(LIF):
    r"""A `LIF` whose tau is learned with the weights, one for a layer (Fang et al. 2021).

    .. math:: 1 / \tau = \sigma(w), \quad \tau = 1 + e^{-w}

    The parameter w belongs to the network that has the neuron; `tau` here is its initial value, as a number.
    The networks of `snnlth_jax.models` have a w in each layer. As a constant of `lif_scan` a PLIF is the LIF
    of its initial tau.

    Attributes:
      tau: initial time constant, > 1 and finite: a number.

    Raises:
      ValueError: as `LIF`, and for another tau.

    >>> neuron = PLIF(tau=2.0)
    >>> neuron.initial, neuron.at(0.0).tau
    (0.0, 2.0)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.tau) or not 1 < self.tau < math.inf:
            allowed = "a Python number where it is learned, finite and above 1"
            raise ValueError(f"tau must be {allowed}, got {self.tau!r}")

    @property
    def initial(self) -> float:
        """w of the initial tau, -log(tau - 1)."""
        return -math.log(float(self.tau) - 1) + 0.0

    def at(self, w: Constant) -> LIF:
        """The neuron of a parameter w, which may be traced."""
        number = isinstance(w, float | int) and w > -700  # the exponential of less overflows in Python
        tau = 1 + (math.exp(-w) if number else jnp.exp(-jnp.asarray(w)))
        constants = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return LIF(**constants | {"tau": tau})


def IF(
    v_threshold: Constant = 1.0,
    v_reset: Constant | None = 0.0,
    detach_reset: bool = True,
    spike: surrogate.SpikeFn = surrogate.atan(),
) -> LIF:
    r"""An integrate-and-fire neuron, which does not leak: :math:`v \leftarrow v + x`.

    It is the `LIF` with an infinite tau whose input does not decay.

    Args:
      v_threshold: as of `LIF`.
      v_reset: as of `LIF`.
      detach_reset: as of `LIF`.
      spike: as of `LIF`.

    >>> import jax.numpy as jnp
    >>> lif_scan(IF(), jnp.full((4, 1), 0.4))[1][:, 0].tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    return LIF(math.inf, v_threshold, v_reset, False, detach_reset, spike)


def create(
    name: str = "lif",
    tau: float = 4 / 3,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    surrogate_name: str = "atan",
    surrogate_scale: float | None = None,
) -> LIF:
    """A neuron by names and numbers, such as those of a file; the defaults are the paper's.

    Args:
      name: "lif", "if" without a leak, or "plif" with a learned tau.
      tau: membrane time constant; of "plif" the initial one; "if" has none.
      v_threshold: threshold.
      v_reset: potential after a spike; None for a soft reset.
      surrogate_name: name of the spike function, see `surrogate.create`.
      surrogate_scale: its parameter; None for its default.

    Raises:
      ValueError: unknown names, or constants with a value that is not allowed.

    >>> create() == LIF(), create("plif", 2.0) == PLIF(2.0), create("if", v_reset=None) == IF(v_reset=None)
    (True, True, True)
    """
    if name not in NAMES:
        raise ValueError(f"neuron must be one of {', '.join(NAMES)}; got {name!r}")
    spike = surrogate.create(surrogate_name, surrogate_scale)
    if name == "if":
        return IF(v_threshold, v_reset, spike=spike)
    return (PLIF if name == "plif" else LIF)(tau, v_threshold, v_reset, spike=spike)


def _paired(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Both arrays, in one shape."""
    try:
        return np.broadcast_arrays(a, b)
    except ValueError as error:
        text = f"v_threshold of shape {a.shape} and v_reset of shape {b.shape} do not broadcast"
        raise ValueError(text) from error


def lif_step(neuron: LIF, v: ArrayLike, x: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """One timestep of a layer of neurons: charge, fire, reset (equations at the top of this module).

    Args:
      neuron: the constants; arrays among them broadcast to `x`.
      v: membrane potential before the timestep: a number, or an array that broadcasts to `x`.
      x: input current, any shape; a number is the current of each neuron of `v`.

    Returns:
      `(v, spikes)`: the potential after the reset, and 0 or 1 per neuron; of the shape of `x`, and of the
      floating-point dtype to which `x`, `v` and the constants promote.

    Raises:
      ValueError: a potential or a constant that does not broadcast to the current, complex numbers, or a
        spike function whose result has another shape than its argument.

    >>> import jax.numpy as jnp
    >>> v, spikes = lif_step(LIF(), jnp.zeros(2), jnp.array([1.0, 2.0]))
    >>> v.tolist(), spikes.tolist()
    ([0.75, 0.0], [0.0, 1.0])
    """
    check_neuron(neuron)
    x, v = as_array("x", x), v if is_number(v) else as_array("v", v)
    shape, dtype = x.shape or jnp.shape(v), _dtype(neuron, v, x)
    return _step(neuron, jnp.asarray(_bounded(_meeting("v", v, shape, dtype), dtype), dtype), x.astype(dtype))


def _step(neuron: LIF, before: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`lif_step` of arrays of one dtype, with a potential that is finite."""
    shape, dtype = x.shape or before.shape, x.dtype
    tau, threshold = (_meeting(name, getattr(neuron, name), shape, dtype) for name in ("tau", "v_threshold"))
    reset = (
        None if neuron.v_reset is None else _bounded(_meeting("v_reset", neuron.v_reset, shape, dtype), dtype)
    )
    rest = 0.0 if reset is None else reset

    if neuron.decay_input:
        charged = before + _divided(x - (before - rest), tau)
    else:
        charged = before - _divided(before - rest, tau) + x
    charged = _saturated(charged)
    spikes = jnp.asarray(neuron.spike(charged - threshold), dtype)
    if spikes.shape != charged.shape:
        shapes = f"{spikes.shape} for potentials of shape {charged.shape}"
        raise ValueError(f"spike must return an array of the shape of its argument, got {shapes}")
    fired = jax.lax.stop_gradient(spikes) if neuron.detach_reset else spikes
    if reset is None:
        return charged - fired * _finite(threshold, dtype), spikes
    kept = (1 - fired) * charged if neuron.detach_reset else _kept(fired, charged, charged - threshold)
    return kept + fired * reset, spikes


def lif_scan(
    neuron: LIF, xs: ArrayLike, v: ArrayLike | None = None, *, unroll: int | bool = 1
) -> tuple[jax.Array, jax.Array]:
    """Scan `lif_step` over the first axis: a layer of neurons over all timesteps.

    Args:
      neuron: the constants; arrays among them broadcast to the currents of one timestep.
      xs: input current per timestep, `[T, ...]`, T at least 1; integers count as floating-point numbers.
      v: potential before the first timestep: a number, or an array that broadcasts to `[...]`; by default
        `v_reset`, or 0 for a soft reset.
      unroll: number of timesteps that `jax.lax.scan` lays out in a row; True for all of them.

    Returns:
      `(v, spikes)`: the potential after the last timestep `[...]`, and the spikes `[T, ...]`; both of the
      floating-point dtype to which `xs`, `v` and the constants promote, from the first timestep on.

    Raises:
      ValueError: currents without timesteps, and what `lif_step` refuses.

    >>> import jax.numpy as jnp
    >>> v, spikes = lif_scan(LIF(), jnp.full((4, 1), 1.2))
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    check_neuron(neuron)
    xs = as_array("xs", xs)
    if not isinstance(unroll, int | np.integer) or unroll < 0:
        raise ValueError(f"unroll must be True or a whole number, 0 or more, got {unroll!r}")
    if xs.ndim == 0 or xs.shape[0] == 0:  # a symbol, in an export
        raise ValueError(f"xs must be currents [T, ...] of at least one timestep, got shape {xs.shape}")
    name = "v" if v is not None else "v_reset"
    if v is None:
        v = 0.0 if neuron.v_reset is None else neuron.v_reset
    v = v if is_number(v) else as_array(name, v)
    dtype = _dtype(neuron, v, xs)
    v, xs = _bounded(_meeting(name, v, xs.shape[1:], dtype), dtype), xs.astype(dtype)
    # full_like, so that the potential is placed as the currents are
    start = jnp.full_like(xs[0], v) if is_number(v) else jnp.zeros_like(xs[0]) + v
    arrays = [leaf for leaf in jax.tree.leaves(neuron) if isinstance(leaf, jax.Array)]
    # the carry of a loop varies, and is placed, as all that it meets
    start = functools.reduce(_axes.vary_like, arrays, start)
    if any(map(_axes.is_explicit, arrays)):
        start = _axes.placed_like(start, jax.eval_shape(lambda: _step(neuron, start, xs[0])[0]), *arrays)
    return jax.lax.scan(lambda v, x: _step(neuron, v, x), start, xs, unroll=unroll)


def check_neuron(neuron: LIF) -> None:
    """Refuse what is no neuron, with a ValueError."""
    if not isinstance(neuron, LIF):
        given = f"the class {neuron.__name__}" if isinstance(neuron, type) else f"a {type(neuron).__name__}"
        raise ValueError(f"neuron must be a LIF, such as LIF(), got {given}")


def _dtype(neuron: LIF, v: Any, x: jax.Array) -> Any:
    v_reset = 0.0 if neuron.v_reset is None else neuron.v_reset
    dtype = promoted(neuron.tau, neuron.v_threshold, v_reset, v, x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"currents, potentials and constants must be real numbers, got {dtype}")
    return dtype


def _meeting(name: str, constant: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return against(name, constant, "the currents of a timestep", shape, dtype)


def _largest(dtype: Any) -> float:
    return float(jnp.finfo(dtype).max)


@jax.custom_jvp
def _saturated(x: jax.Array) -> jax.Array:
    """`x` without infinities, with the gradient of `x`."""
    return jnp.clip(x, -_largest(x.dtype), _largest(x.dtype))


@_saturated.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _saturated(*primals), tangents[0]


def _bounded(x: Any, dtype: Any) -> Any:
    """A number or an array, within the numbers of the dtype."""
    return max(min(x, _largest(dtype)), -_largest(dtype)) if is_number(x) else _saturated(x)


def _finite(threshold: Any, dtype: Any) -> Any:
    """The threshold, and 0 where it is infinite: never reached, it is never subtracted."""
    if is_number(threshold):
        return threshold if threshold <= _largest(dtype) else 0.0
    return jnp.where(jnp.isfinite(threshold), threshold, 0)


def _divided(x: jax.Array, tau: Any) -> jax.Array:
    """`x / tau`, also where both are infinite."""
    quotient: jax.Array
    if is_number(tau) and tau <= _largest(x.dtype):
        quotient = x / tau
    else:
        quotient = _divided_by_array(_saturated(x), jnp.asarray(tau, x.dtype))
    return quotient


@jax.custom_jvp
def _divided_by_array(x: jax.Array, tau: jax.Array) -> jax.Array:
    """`x / tau`, with the gradient of that, except that tau has none where `x` is saturated."""
    return x / tau


@_divided_by_array.defjvp
def _(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, tau), (dx, dtau) = primals, tangents
    unsaturated = jnp.where(abs(x) < _largest(x.dtype), x, 0)
    return x / tau, dx / tau + -dtau * unsaturated * tau**-2


@jax.custom_jvp
def _kept(fired: jax.Array, charged: jax.Array, u: jax.Array) -> jax.Array:
    """`(1 - fired) * charged`, and its gradient.

    Except that spikes have none so far from the threshold that the surrogates are 0: there the product of
    `charged` and a gradient might overflow.
    """
    return (1 - fired) * charged


@_kept.defjvp
def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    (fired, charged, u), (dfired, dcharged, _) = primals, tangents
    near = jnp.where(abs(u) < 16 * _largest(u.dtype) ** 0.5, charged, 0)
    return (1 - fired) * charged, (1 - fired) * dcharged + -dfired * near
