"""Batch norm of networks that run through time: three answers to what its statistics are taken over.

    timestep   statistics of each timestep, shared running statistics   the paper's
    tdbn       statistics over all timesteps together, and an output as   Zheng et al. 2021
               wide as the threshold
    bntt       statistics and scale of each timestep, no bias           Kim and Panda 2020

Activations are `[T, B, ..., C]`; a leading axis of 1 stands for an input that is the same at every timestep.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._constants import promoted

__all__ = [
    "NAMES",
    "BatchNormThroughTime",
    "Name",
    "ThresholdBatchNorm",
    "TimestepBatchNorm",
    "Waiting",
    "at_least_float32",
    "maker",
    "normalised",
    "statistics",
]

Name = Literal["timestep", "tdbn", "bntt"]
NAMES: tuple[str, ...] = get_args(Name)


def maker(
    name: str, num_timesteps: int, most_timesteps: int, v_threshold: Any, paths: int = 1
) -> Callable[..., nn.Module]:
    """The class of a batch norm by its name, with what it must know of its network.

    Args:
      name: one of `NAMES`.
      num_timesteps: T of this call of the network.
      most_timesteps: largest T of the network, the number of rows of the parameters of "bntt".
      v_threshold: threshold of its neurons, for "tdbn".
      paths: number of paths whose sum charges the neurons behind it; "tdbn" divides by its root.

    Returns:
      A function of `axis_name`, `dtype`, `param_dtype` and `name` that makes a module.

    >>> maker("tdbn", 4, 4, v_threshold=2.0, paths=4)().gain
    1.0
    """
    if name == "tdbn":
        return partial(ThresholdBatchNorm, gain=v_threshold / math.sqrt(paths))
    if name == "bntt":
        return partial(BatchNormThroughTime, num_timesteps=num_timesteps, most_timesteps=most_timesteps)
    return TimestepBatchNorm


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 if it is float64.

    >>> import jax.numpy as jnp
    >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(promoted(x, jnp.float32))


class Waiting(NamedTuple):
    """The input of a `TimestepBatchNorm` that the layer of neurons behind it normalises, see `norm_fire`.

    Attributes:
      x: `[T, B, ..., C]`.
      scale: gamma.
      bias: beta.
      epsilon: added to the variance.
      axis_name: mapped axis to average statistics over.
      dtype: of the normalised input.
      record: function of mean and variance, both `[T, C]`, that updates the running statistics.
    """

    x: jax.Array
    scale: jax.Array
    bias: jax.Array
    epsilon: float
    axis_name: str | None
    dtype: Any
    record: Callable[[jax.Array, jax.Array], None]


class TimestepBatchNorm(nn.Module):
    r"""Batch norm with separate statistics for each timestep, and one set of running statistics.

    .. math::
        y_t &= \gamma (x_t - \mu_t) / \sqrt{\sigma_t^2 + \epsilon} + \beta  \\
        r_T &= m^T r_0 + (1 - m) \sum_{t=1}^{T} m^{T-t} s_t

    where :math:`\mu_t, \sigma_t^2` are the mean and (biased) variance of timestep t over all axes except T
    and C, and :math:`s_t` the mean or unbiased variance that updates the running value r: T updates in order,
    as in the authors' code, in closed form. Evaluation uses r for every t. `init` leaves r at 0 and 1.

    Input `[T, B, ..., C]`, output the same shape. Parameters `scale`, `bias` and `batch_stats` `mean`, `var`
    are `[C]`, in `param_dtype`; statistics are computed in at least float32. Fewer axes, and training on a
    single value per channel and timestep, raise ValueError. With `late`, in training, the output is the input
    as it waits for its norm, a `Waiting`.

    Attributes:
      momentum: m, share of the old running value kept in one update.
      epsilon: added to the variance.
      axis_name: mapped axis to average statistics over, so that several devices equal one.
      dtype: of the output; None promotes input and parameters.
      param_dtype: of parameters and running statistics at `init`.

    >>> import jax, jax.numpy as jnp
    >>> norm, x = TimestepBatchNorm(), jnp.arange(12.0).reshape(2, 3, 2)
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    >>> [f"{value:.2f}" for value in y[1, :, 0]]
    ['-1.22', '0.00', '1.22']
    >>> [f"{mean:.2f}" for mean in updates["batch_stats"]["mean"]]  # 0.1 (0.9 * 2 + 8), 0.1 (0.9 * 3 + 9)
    ['0.98', '1.17']
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, late: bool = False) -> jax.Array | Waiting:
        check_axes(x)
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        dtype = self.dtype or promoted(x, scale, bias)
        if not train or self.is_initializing():
            mean, var = (r.value.reshape((1,) * (x.ndim - 1) + channels) for r in (running_mean, running_var))
            return normalised(at_least_float32(x), mean, var, scale, bias, self.epsilon).astype(dtype)
        count = count_values(x, self.axis_name)
        check_enough(count, x)

        def record(mean: jax.Array, var: jax.Array) -> None:
            for running, batch in (running_mean, mean), (running_var, var * (count / (count - 1))):
                running.value = _running_update(running.value, batch, self.momentum)

        if late:
            return Waiting(x, scale, bias, self.epsilon, self.axis_name, dtype, record)
        x = at_least_float32(x)
        mean, var = statistics(x, self.axis_name)
        record(mean, var)
        return normalised(x, mean, var, scale, bias, self.epsilon).astype(dtype)


class ThresholdBatchNorm(nn.Module):
    r"""Threshold-dependent batch norm (tdBN, Zheng et al. 2021): statistics over all timesteps together.

    .. math::
        y_t &= \gamma\, \alpha V_\text{th} (x_t - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta  \\
        r &\leftarrow m r + (1 - m) s

    where :math:`\mu, \sigma^2` are the mean and (biased) variance over all axes except C, T included, and s
    the mean or unbiased variance. Evaluation uses r. :math:`\alpha` is 1, and :math:`1 / \sqrt{n}` where n
    paths meet: the sum has the width of the threshold.

    Input, output, parameters, statistics, errors and other attributes are those of `TimestepBatchNorm`.

    Attributes:
      gain: alpha times the threshold.

    >>> import jax, jax.numpy as jnp
    >>> norm, x = ThresholdBatchNorm(gain=2.0), jnp.array([[[0.0], [2.0]], [[4.0], [6.0]]])
    >>> y, _ = norm.apply(norm.init(jax.random.key(0), x), x, train=True, mutable=["batch_stats"])
    >>> [f"{value:.2f}" for value in y[..., 0].reshape(-1)]
    ['-2.68', '-0.89', '0.89', '2.68']
    """

    gain: Any = 1.0
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        check_axes(x)
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        dtype = self.dtype or promoted(x, scale, bias)
        x = at_least_float32(x)
        if train and not self.is_initializing():
            together = x.reshape(1, -1, *x.shape[2:])
            count = count_values(together, self.axis_name)
            check_enough(count, x)
            mean, var = statistics(together, self.axis_name)
            mean, var = mean.reshape(channels), var.reshape(channels)
            for running, batch in (running_mean, mean), (running_var, var * (count / (count - 1))):
                new = self.momentum * running.value + (1 - self.momentum) * batch
                running.value = new.astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        slope: jax.Array = self.gain * scale * jax.lax.rsqrt(var + self.epsilon)
        slope, shift = (p.reshape((1,) * (x.ndim - 1) + channels) for p in (slope, bias - mean * slope))
        return (x * slope + shift).astype(dtype)


class BatchNormThroughTime(nn.Module):
    r"""Batch norm through time (BNTT, Kim and Panda 2020): scale and statistics of each timestep, no bias.

    .. math::
        y_t &= \gamma_t (x_t - \mu_t) / \sqrt{\sigma_t^2 + \epsilon}  \\
        r_t &\leftarrow m r_t + (1 - m) s_t

    where :math:`\mu_t, \sigma_t^2` are the mean and (biased) variance of timestep t over all axes except T
    and C, and :math:`s_t` the mean or unbiased variance. Evaluation uses :math:`r_t`.

    Parameter `scale` and `batch_stats` `mean`, `var` are `[most_timesteps, C]`: a network that runs for
    fewer timesteps has the first of these rows, and leaves the others as they are.

    Input is `[num_timesteps, B, ..., C]`, or `[1, B, ..., C]` if it is the same at every timestep; output is
    `[num_timesteps, B, ..., C]`. Errors and other attributes are those of `TimestepBatchNorm`; more timesteps
    than rows raise ValueError.

    Attributes:
      num_timesteps: T of this call.
      most_timesteps: largest T.

    >>> import jax, jax.numpy as jnp
    >>> norm = BatchNormThroughTime(num_timesteps=2, most_timesteps=5)
    >>> y, variables = norm.init_with_output(jax.random.key(0), jnp.ones((1, 3, 4)))
    >>> y.shape, variables["params"]["scale"].shape
    ((2, 3, 4), (5, 4))
    """

    num_timesteps: int = 1
    most_timesteps: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        check_axes(x)
        steps = self.num_timesteps
        if steps > self.most_timesteps or len(x) not in (1, steps):
            raise ValueError(
                f"batch norm through time for {self.most_timesteps} timesteps cannot run {steps} of them on "
                f"input {x.shape}"
            )
        shape = (self.most_timesteps, *x.shape[-1:])
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.param_dtype)

        def by_timestep(rows: jax.Array) -> jax.Array:
            return rows[:steps].reshape(steps, *(1,) * (x.ndim - 2), -1)

        dtype = self.dtype or promoted(x, scale)
        x = at_least_float32(x)
        if train and not self.is_initializing():
            count = count_values(x, self.axis_name)
            check_enough(count, x)
            mean, var = statistics(x, self.axis_name)
            for running, batch in (running_mean, mean), (running_var, var * (count / (count - 1))):
                old = running.value
                new = self.momentum * old[:steps] + (1 - self.momentum) * batch.reshape(len(x), -1)
                running.value = old.at[:steps].set(new.astype(old.dtype))
        else:
            mean, var = by_timestep(running_mean.value), by_timestep(running_var.value)
        slope = by_timestep(scale) * jax.lax.rsqrt(var + self.epsilon)
        return (x * slope - mean * slope).astype(dtype)


def check_axes(x: jax.Array) -> None:
    """Refuse input without the axes `[T, B, ..., C]`, with a ValueError."""
    if x.ndim < 3:
        raise ValueError(f"x must be [T, B, ..., C], got shape {x.shape}")


def check_enough(count: int, x: jax.Array) -> None:
    """Refuse to train on statistics of a single value, with a ValueError."""
    if count < 2:
        raise ValueError(
            f"batch norm cannot train on one value per channel and timestep, got input {x.shape}"
        )


def count_values(x: jax.Array, axis_name: str | None) -> int:
    """Number of values of a timestep and channel, those of all devices."""
    num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return int(num_devices) * math.prod(x.shape[1:-1])


def statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance per timestep and channel, `[T, 1, ..., 1, C]`."""

    def average(values: jax.Array) -> jax.Array:
        local = jnp.mean(values, tuple(range(1, x.ndim - 1)), keepdims=True)
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    mean = average(x)
    # E[x^2] - E[x]^2 would need one exchange between devices less, but cancels
    return mean, average((x - mean) ** 2)


def normalised(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """`(x - mean) / sqrt(var + epsilon) * scale + bias`, with `scale` and `bias` `[C]`."""
    scale, bias = (p.reshape((1,) * (x.ndim - 1) + p.shape) for p in (scale, bias))
    # as slope and intercept: half the passes over the gradients of (x - mean) * slope + bias
    slope = scale * jax.lax.rsqrt(var + epsilon)
    return x * slope + (bias - mean * slope)


def _running_update(running: jax.Array, batch: jax.Array, momentum: float) -> jax.Array:
    """One moving-average update per timestep of `batch` [T, 1, ..., 1, C], in order and at once."""
    num_timesteps = batch.shape[0]
    ages = np.arange(num_timesteps - 1, -1, -1)[:, None]
    weights = jnp.asarray((1 - momentum) * momentum**ages, batch.dtype)
    new = jnp.sum(weights * batch.reshape(num_timesteps, -1), axis=0)
    return (momentum**num_timesteps * running + new).astype(running.dtype)
