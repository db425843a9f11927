"""The layers of the networks: convolution, batch norm, max pooling, and neurons.

Activations are `[T, B, H, W, C]`. The image is the same input at every timestep, so the first convolution and
its norm, which depend on it alone, have a leading axis of 1; `fire` repeats it over time.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from snnlth_jax.models import norm_fire
from snnlth_jax.models._checks import check_time
from snnlth_jax.models._conv_cpu import conv
from snnlth_jax.models.firing import fire, max_pool
from snnlth_jax.models.norms import TimestepBatchNorm, Waiting, at_least_float32
from snnlth_jax.neurons import LIF, PLIF

__all__ = [
    "ConvNorm",
    "LinearNorm",
    "Neurons",
    "TimestepBatchNorm",
    "at_least_float32",
    "check_time",
    "fire",
    "is_late",
    "max_pool",
]


def is_late(model: Any, train: bool) -> bool:
    """Whether a network leaves batch norm to its neurons, which do both at once (`norm_fire`).

    Args:
      model: the bound module: a `VGG` or a `ResNet`.
      train: whether it trains.
    """
    return (
        train
        and model.norm == "timestep"
        and not model.is_initializing()
        and not model.is_mutable_collection("intermediates")
        and norm_fire.takes(model.neuron, model.kernels)
    )


class Neurons(nn.Module):
    """A layer of neurons: `fire`, with the parameter w of a `PLIF` among the parameters, as `tau_logit`.

    Called with one current or more, which add up, it returns a tuple of `readers` copies of its output, or
    with `pool` of the `max_pool` of that: one for each layer that reads it, see `norm_fire`. Currents may
    wait for their batch norm, see `norms.Waiting`; their running statistics are updated here. w is a
    parameter of a ReLU twin too, which has the same parameters and does not use it. A layer of other neurons
    has no parameters.

    Attributes:
      num_timesteps: T.
      neuron: the constants of the neurons.
      activation: "lif" or "relu".
      param_dtype: of w at `init`.
      kernels: what computes a layer whose currents wait for their norm, see `norm_fire`.

    >>> import jax, jax.numpy as jnp
    >>> layer = Neurons(4, PLIF(tau=2.0), "lif")
    >>> (spikes,), variables = layer.init_with_output(jax.random.key(0), jnp.full((1, 1), 1.5))
    >>> spikes[:, 0].tolist(), variables["params"]["tau_logit"].tolist()
    ([0.0, 1.0, 0.0, 1.0], 0.0)
    """

    num_timesteps: int
    neuron: LIF
    activation: str
    param_dtype: Any = jnp.float32
    kernels: str = "auto"

    @nn.compact
    def __call__(
        self, *currents: jax.Array | Waiting, pool: bool = False, readers: int = 1
    ) -> tuple[jax.Array, ...]:
        waiting = [current for current in currents if isinstance(current, Waiting)]
        if waiting:
            return self._normed(currents, waiting, pool, readers)
        x: Any = functools.reduce(operator.add, currents)
        neuron = self.neuron
        if isinstance(neuron, PLIF):
            w = self.param("tau_logit", nn.initializers.constant(neuron.initial), (), self.param_dtype)
            neuron = neuron.at(w.astype(x.dtype))
        x = fire(x, self.num_timesteps, neuron, self.activation)
        return (max_pool(x) if pool else x,) * readers

    def _normed(
        self, currents: tuple[Any, ...], waiting: list[Waiting], pool: bool, readers: int
    ) -> tuple[jax.Array, ...]:
        outputs, statistics = norm_fire.norm_fire(
            [norm_fire.Normed(x.x, x.scale, x.bias) if isinstance(x, Waiting) else x for x in currents],
            self.neuron,
            self.num_timesteps,
            activation=self.activation,
            pool=pool,
            epsilon=waiting[0].epsilon,
            axis_name=waiting[0].axis_name,
            dtype=waiting[0].dtype,
            kernels=self.kernels,
            readers=readers,
        )
        for current, (mean, var) in zip(waiting, statistics, strict=True):
            current.record(mean, var)
        return outputs


class ConvNorm(nn.Module):
    """A convolution and its batch norm, the unit all the networks are made of.

    Zero padding keeps the image size (up to the stride). Input `[T, B, H, W, C]`, output
    `[T, B, ceil(H / stride), ceil(W / stride), features]`; ValueError for other axes, except that T and B may
    be one without training, when all timesteps are normalised alike. The one place where a convolution is
    computed. With `late`, see `is_late`, the output waits for its norm, and is without the bias of the
    convolution, which only shifts the mean.

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
    def __call__(self, x: jax.Array, *, train: bool = False, late: bool = False) -> jax.Array | Waiting:
        if x.ndim != 5 and (train or x.ndim != 4):
            raise ValueError(f"x must be [T, B, H, W, C], got shape {x.shape}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        convolution = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            use_bias=self.use_bias and not late,
            kernel_init=self.kernel_init,
            conv_general_dilated=conv,
            name="conv",
            **dtypes,
        )
        batch_norm = self.batch_norm(axis_name=self.axis_name, name="norm", **dtypes)
        x = convolution(x)
        if not late:
            y: jax.Array = batch_norm(x, train=train)
            return y
        waiting: Waiting = batch_norm(x, train=train, late=True)
        if not self.use_bias:
            return waiting
        bias: jax.Array = convolution.get_variable("params", "bias")
        return waiting._replace(record=lambda mean, var: waiting.record(mean + bias[None], var))


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
