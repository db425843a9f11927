"""The layers of the networks: convolution, batch norm, max pooling, and neurons.

Activations are `[T, B, H, W, C]`. The image is the same input at every timestep, so the first convolution and
its norm, which depend on it alone, have a leading axis of 1; `fire` repeats it over time.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from snnlth_jax.models._checks import check_activation, check_counts, check_time
from snnlth_jax.models._conv_cpu import conv
from snnlth_jax.models.norms import TimestepBatchNorm, at_least_float32
from snnlth_jax.neurons import LIF, PLIF, lif_scan

__all__ = [
    "ConvNorm",
    "LinearNorm",
    "Neurons",
    "TimestepBatchNorm",
    "at_least_float32",
    "check_time",
    "fire",
    "max_pool",
]

# Laid out in a row the timesteps fuse with the norm before them; long scans would only compile for longer.
MAX_UNROLL = 5


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


class Neurons(nn.Module):
    """A layer of neurons: `fire`, with the parameter w of a `PLIF` among the parameters, as `tau_logit`.

    w is a parameter of a ReLU twin too, which has the same parameters and does not use it. A layer of other
    neurons has no parameters.

    Attributes:
      num_timesteps: T.
      neuron: the constants of the neurons.
      activation: "lif" or "relu".
      param_dtype: of w at `init`.

    >>> import jax, jax.numpy as jnp
    >>> layer = Neurons(4, PLIF(tau=2.0), "lif")
    >>> spikes, variables = layer.init_with_output(jax.random.key(0), jnp.full((1, 1), 1.5))
    >>> spikes[:, 0].tolist(), variables["params"]["tau_logit"].tolist()
    ([0.0, 1.0, 0.0, 1.0], 0.0)
    """

    num_timesteps: int
    neuron: LIF
    activation: str
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        neuron = self.neuron
        if isinstance(neuron, PLIF):
            w = self.param("tau_logit", nn.initializers.constant(neuron.initial), (), self.param_dtype)
            neuron = neuron.at(w.astype(x.dtype))
        return fire(x, self.num_timesteps, neuron, self.activation)


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


class ConvNorm(nn.Module):
    """A convolution and its batch norm, the unit all the networks are made of.

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
      batch_norm: class of the batch norm, see `norms.maker`.

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
    batch_norm: Callable[..., nn.Module] = TimestepBatchNorm

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
        y: jax.Array = self.batch_norm(axis_name=self.axis_name, name="norm", **dtypes)(x, train=train)
        return y


class LinearNorm(nn.Module):
    """A linear layer with bias, 0 at first, and its batch norm: `[T, B, C]` to `[T, B, features]`.

    Attributes:
      features: number of outputs.
      kernel_init: initialiser of the kernel `[C, features]`.
      batch_norm: class of the batch norm, see `norms.maker`.

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
    batch_norm: Callable[..., nn.Module] = TimestepBatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(self.features, kernel_init=self.kernel_init, name="linear", **dtypes)(x)
        y: jax.Array = self.batch_norm(axis_name=self.axis_name, name="norm", **dtypes)(x, train=train)
        return y
