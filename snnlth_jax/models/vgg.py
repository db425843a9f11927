"""VGG and AlexNet with spiking neurons: convolutions, max pooling of spikes, linear layers, a readout."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from snnlth_jax.models._checks import check_call, check_counts, check_inputs, check_sequence
from snnlth_jax.models.layers import ConvNorm, LinearNorm, Neurons, at_least_float32, is_late, max_pool
from snnlth_jax.models.norms import maker
from snnlth_jax.neurons import LIF

__all__ = ["VGG", "least_side"]

Features = tuple[int | Literal["M"], ...]

VGG16: Features = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class VGG(nn.Module):
    """[3x3 convolution, batch norm, LIF] for each number, 2x2 max pooling for each "M", and a readout.

    The paper's VGG16 by default, as in the authors' code: convolutions with bias, kernels from
    N(0, 2 / fan_out), the readout from N(0, 0.01^2), biases 0. With `stride` and `hidden` it is AlexNet too:
    the hidden layers are [linear, batch norm, LIF], between the last pooling and the readout, with the
    initial values of the convolutions. Without batch norm they would hardly spike at first.

    Called with images `x` [B, H, W, C], already normalised, the number of timesteps T, and `train` (batch
    norm by batch statistics, which needs `mutable=["batch_stats"]`), it returns logits [T, B, num_classes]
    in at least float32. The first convolution and its norm run once, for all timesteps; with images that
    change over time, `x` [T, B, H, W, C], they run at each. ValueError is raised
    for images with other axes, of integers, too small for the poolings, or of other channels or another
    number of pixels than the variables', and for a `num_timesteps` or another count that is no whole number
    of at least 1. Hidden layers need two images or more to train on.

    Parameters sort by depth: `layer01/conv/{kernel, bias}`, `layer01/norm/{scale, bias}`, …, those of hidden
    layers with `linear` in place of `conv`, `readout/{kernel, bias}`; with a `PLIF` also
    `layer01_neuron/tau_logit`, …. With `mutable=["intermediates"]` it
    returns all spikes too, `[T, B, H, W, C]` or `[T, B, C]` as `layer01_spikes`, …; without, they cost
    nothing.

    Attributes:
      features: output channels of each convolution, or "M".
      num_classes: number of logits.
      neuron: constants of the neurons; the tau of a `PLIF` is a parameter of each layer.
      activation: "lif", or "relu" for the same network without time (then `num_timesteps` must be 1).
      dtype: of the computation; None promotes images and parameters.
      param_dtype: of parameters and running statistics at `init`.
      axis_name: mapped axis over which batch norm averages its statistics.
      stride: stride of the first convolution.
      hidden: neurons of each hidden layer.
      norm: batch norm, see `snnlth_jax.models.norms`: "timestep" (paper), "tdbn" or "bntt".
      norm_timesteps: largest T, for the parameters of "bntt".
      kernels: "auto" trains on a GPU or TPU with kernels that normalise, fire and pool at once, see
        `norm_fire`; "plain" everywhere with JAX's own operations.

    >>> from functools import partial
    >>> import jax, jax.numpy as jnp
    >>> model = VGG((4, "M", 8, "M"), num_classes=3)
    >>> init = jax.jit(partial(model.init_with_output, num_timesteps=2))
    >>> logits, variables = init(jax.random.key(0), jnp.ones((3, 4, 4, 1)))
    >>> logits.shape, variables["params"]["readout"]["kernel"].shape
    ((2, 3, 3), (8, 3))
    """

    features: Features = VGG16
    num_classes: int = 10
    neuron: LIF = LIF()
    activation: str = "lif"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    stride: int = 1
    hidden: tuple[int, ...] = ()
    norm: str = "timestep"
    norm_timesteps: int | None = None
    kernels: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, num_timesteps: int, train: bool = False) -> jax.Array:
        check_sequence(features=self.features, hidden=self.hidden)
        check_counts(**{f"features[{i}]": entry for i, entry in enumerate(self.features) if entry != "M"})
        if not self.features:
            raise ValueError("features must have an entry, the channels of a convolution or M for a pool")
        check_counts(stride=self.stride, **{f"hidden[{i}]": entry for i, entry in enumerate(self.hidden)})
        x = check_call(self, x, num_timesteps, train, first="layer01")
        _check_size(x.shape[-3:-1], self.features.count("M"), self.stride)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        batch_norm = maker(self.norm, num_timesteps, self.norm_timesteps or 1, self.neuron.v_threshold)
        common = {"kernel_init": kernel_init, "axis_name": self.axis_name, "batch_norm": batch_norm, **dtypes}
        active = partial(Neurons, num_timesteps, self.neuron, self.activation, self.param_dtype, self.kernels)
        unit = partial(ConvNorm, use_bias=True, **common)
        late, pooled, depth = is_late(self, train), False, 0
        for entry, following in zip(self.features, (*self.features[1:], None), strict=True):
            if entry == "M":
                x, pooled = x if pooled else max_pool(x), False
            else:
                depth += 1
                name, stride = f"layer{depth:02}", self.stride if depth == 1 else 1
                pooled = late and following == "M"
                current = unit(features=entry, stride=stride, name=name)(x, train=train, late=late)
                (x,) = active(name=f"{name}_neuron")(current, pool=pooled)
                self.sow("intermediates", f"{name}_spikes", x)
        size, x = x.shape, x.reshape(*x.shape[:2], -1)
        first = (f"layer{depth + 1:02}", "linear") if self.hidden else ("readout",)
        check_inputs(self, (*first, "kernel"), x.shape[-1], f"features of the last layer, {size[2:]}")
        for width in self.hidden:
            depth += 1
            name = f"layer{depth:02}"
            x = LinearNorm(width, name=name, **common)(x, train=train)
            (x,) = active(name=f"{name}_neuron")(x)
            self.sow("intermediates", f"{name}_spikes", x)
        readout = nn.Dense(
            self.num_classes, kernel_init=nn.initializers.normal(0.01), name="readout", **dtypes
        )
        logits = at_least_float32(readout(x))
        return jnp.broadcast_to(logits, (num_timesteps, *logits.shape[1:]))  # alike where no neuron has time


def least_side(poolings: int, stride: int = 1) -> int:
    """Smallest side in pixels that is left with a pixel after the first convolution and the poolings.

    >>> least_side(5), least_side(3, stride=2)  # the convolution leaves 8 of 15
    (32, 15)
    """
    return stride * ((1 << poolings) - 1) + 1


def _check_size(size: tuple[int, ...], poolings: int, stride: int) -> None:
    least = least_side(poolings, stride)
    if min(size) < least:
        raise ValueError(
            f"images of {size[0]} x {size[1]} pixels are too small for {poolings} poolings: "
            f"each side must be at least {least}"
        )
