"""The layers of the networks: convolution, batch norm per timestep, max pooling, and neurons.

Activations are `[T, B, H, W, C]`. The image is the same input at every timestep, so the first convolution and
its norm, which depend on it alone, have a leading axis of 1; `fire` repeats it over time.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._constants import promoted
from snnlth_jax.models._checks import check_activation, check_counts, check_time
from snnlth_jax.models._conv_cpu import conv
from snnlth_jax.neurons import LIF, lif_scan

__all__ = [
    "ConvNorm",
    "LinearNorm",
    "TimestepBatchNorm",
    "at_least_float32",
    "check_time",
    "fire",
    "max_pool",
]

# Laid out in a row the timesteps fuse with the norm before them; long scans would only compile for longer.
MAX_UNROLL = 5


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 if it is float64.

    >>> import jax.numpy as jnp
    >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(promoted(x, jnp.float32))


def fire(x: jax.Array, num_timesteps: int, neuron: LIF, activation: str) -> jax.Array:
    """Output of a layer for its input current: spikes of LIF neurons over time, or a ReLU.

    Args:
      x: input current `[T, ...]`, or `[1, ...]` if it is the same at every timestep.
      num_timesteps: T.
      neuron: the constants of the LIF neurons.
      activation: "lif" or "relu".

    Returns:
      `[T, ...]`; dtype of `x`, or that to which the neuron's constants promote it.

    Raises:
      ValueError: another activation, or currents of another number of timesteps.

    >>> import jax.numpy as jnp
    >>> fire(jnp.full((1, 1), 1.2), 4, LIF(), "lif")[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    check_activation(activation)
    check_counts(num_timesteps=num_timesteps)
    if x.shape[:1] not in ((1,), (num_timesteps,)):
        raise ValueError(f"x must be [{num_timesteps}, ...] or [1, ...], got shape {x.shape}")
    x = jnp.broadcast_to(x, (num_timesteps, *x.shape[1:]))
    if activation == "relu":
        return nn.relu(x)
    return lif_scan(neuron, x, unroll=bool(num_timesteps <= MAX_UNROLL))[1]


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling with stride 2; an odd last row or column is dropped.

    The gradient goes to the first maximum of a window in row-major order, as in the authors' code. Ties are
    the rule among binary spikes, so a shared gradient would be another method.

    Args:
      x: `[..., H, W, C]`, H and W at least 2.

    Returns:
      `[..., H // 2, W // 2, C]`.

    Raises:
      ValueError: other shapes.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[0.0, 1.0], [1.0, 1.0]])[..., None]
    >>> max_pool(x).tolist()
    [[[1.0]]]
    >>> jax.grad(lambda x: max_pool(x).sum())(x)[..., 0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    if x.ndim < 3 or min(x.shape[-3:-1]) < 2:
        raise ValueError(f"x must be [..., H, W, C], H and W at least 2, got shape {x.shape}")
    height, width = x.shape[-3] // 2 * 2, x.shape[-2] // 2 * 2
    corners = [x[..., i:height:2, j:width:2, :] for i in (0, 1) for j in (0, 1)]
    # a later corner wins only if strictly larger
    return functools.reduce(lambda best, corner: jnp.where(corner > best, corner, best), corners)


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
    single value per channel and timestep, raise ValueError.

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
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if x.ndim < 3:
            raise ValueError(f"x must be [T, B, ..., C], got shape {x.shape}")
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        dtype = self.dtype or promoted(x, scale, bias)
        x = at_least_float32(x)
        if train and not self.is_initializing():
            mean, var, count = _statistics(x, self.axis_name)
            if count < 2:
                raise ValueError(
                    f"batch norm cannot train on one value per channel and timestep, got input {x.shape}"
                )
            for running, batch in (running_mean, mean), (running_var, var * (count / (count - 1))):
                running.value = _running_update(running.value, batch, self.momentum)
        else:
            mean, var = (r.value.reshape((1,) * (x.ndim - 1) + channels) for r in (running_mean, running_var))
        scale, bias = (p.reshape((1,) * (x.ndim - 1) + channels) for p in (scale, bias))
        # as slope and intercept: half the passes over the gradients of (x - mean) * slope + bias
        slope = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * slope + (bias - mean * slope)).astype(dtype)


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, int]:
    """Mean and biased variance per timestep and channel, `[T, 1, ..., 1, C]`, and the number of values."""

    def average(values: jax.Array) -> jax.Array:
        local = jnp.mean(values, tuple(range(1, x.ndim - 1)), keepdims=True)
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    mean = average(x)
    # E[x^2] - E[x]^2 would need one exchange between devices less, but cancels
    return mean, average((x - mean) ** 2), num_devices * math.prod(x.shape[1:-1])


def _running_update(running: jax.Array, batch: jax.Array, momentum: float) -> jax.Array:
    """One moving-average update per timestep of `batch` [T, 1, ..., 1, C], in order and at once."""
    num_timesteps = batch.shape[0]
    ages = np.arange(num_timesteps - 1, -1, -1)[:, None]
    weights = jnp.asarray((1 - momentum) * momentum**ages, batch.dtype)
    new = jnp.sum(weights * batch.reshape(num_timesteps, -1), axis=0)
    return (momentum**num_timesteps * running + new).astype(running.dtype)


class ConvNorm(nn.Module):
    """A convolution and its `TimestepBatchNorm`, the unit all the networks are made of.

    Zero padding keeps the image size (up to the stride). Input `[T, B, H, W, C]`, output
    `[T, B, ceil(H / stride), ceil(W / stride), features]`; ValueError for other axes, except that T and B may
    be one without training, when all timesteps are normalised alike. The one place where a convolution is
    computed.

    Attributes:
      features: output channels.
      kernel_init: initialiser of the kernel `[size, size, C, features]`.
      size: side of the kernel, odd.
      stride: step of the window in both directions.
      use_bias: whether the convolution has a bias, 0 at first.

    >>> import jax, jax.numpy as jnp
    >>> unit = ConvNorm(8, nn.initializers.kaiming_normal(), stride=2)
    >>> y, variables = unit.init_with_output(jax.random.key(0), jnp.ones((1, 2, 5, 4, 3)))
    >>> y.shape, variables["params"]["conv"]["kernel"].shape
    ((1, 2, 3, 2, 8), (3, 3, 3, 8))
    """

    features: int
    kernel_init: nn.initializers.Initializer
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if x.ndim != 5 and (train or x.ndim != 4):
            raise ValueError(f"x must be [T, B, H, W, C], got shape {x.shape}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            conv_general_dilated=conv,
            name="conv",
            **dtypes,
        )(x)
        return TimestepBatchNorm(axis_name=self.axis_name, name="norm", **dtypes)(x, train=train)


class LinearNorm(nn.Module):
    """A linear layer with bias, 0 at first, and its `TimestepBatchNorm`: `[T, B, C]` to `[T, B, features]`.

    Attributes:
      features: number of outputs.
      kernel_init: initialiser of the kernel `[C, features]`.

    >>> import jax, jax.numpy as jnp
    >>> layer = LinearNorm(8, nn.initializers.kaiming_normal())
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((3, 2, 5)))
    >>> y.shape, variables["params"]["linear"]["kernel"].shape
    ((3, 2, 8), (5, 8))
    """

    features: int
    kernel_init: nn.initializers.Initializer
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(self.features, kernel_init=self.kernel_init, name="linear", **dtypes)(x)
        return TimestepBatchNorm(axis_name=self.axis_name, name="norm", **dtypes)(x, train=train)
