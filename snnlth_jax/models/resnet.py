"""ResNet with spiking neurons: basic blocks whose sum of two paths is the input current of LIF neurons."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from snnlth_jax.models._checks import check_call, check_counts, check_sequence
from snnlth_jax.models.layers import ConvNorm, Neurons, at_least_float32, is_late
from snnlth_jax.models.norms import maker
from snnlth_jax.neurons import LIF

__all__ = ["Block", "ResNet", "blocks"]


class ResNet(nn.Module):
    """A stem, stages of basic blocks, global average pooling, a hidden spiking layer and a readout.

    The paper's ResNet19 by default, as in the authors' code. The first block of every stage halves the
    image, unless `strides` says otherwise. A block that changes the size or the number of channels has a
    shortcut of 1x1 convolution and batch norm; other shortcuts are the identity. Convolutions have no bias;
    weights, and the biases of the linear layers, are uniform in +-1 / sqrt(fan_in), PyTorch's default.

    Called with images `x` [B, H, W, C], already normalised, the number of timesteps T, and `train` (batch
    norm by batch statistics, which needs `mutable=["batch_stats"]`), it returns logits [T, B, num_classes]
    in at least float32. The stem runs once, for all timesteps; with images that change over
    time, `x` [T, B, H, W, C], at each. ValueError is raised for images with other
    axes, of integers or with other channels than the variables', and for a `num_timesteps` or another count
    that is no whole number of at least 1.

    Parameters sort by depth: `block0/{conv, norm}` is the stem, then `block1_1/{first, second, shortcut}/
    {conv, norm}` the first block of the first stage, …, `hidden/{kernel, bias}`, `readout/{kernel, bias}`;
    with a `PLIF` also `block0_neuron/tau_logit`, `block1_1/{first, second}_neuron/tau_logit`, ….
    With `mutable=["intermediates"]` it returns all spikes too, `[T, B, ...]` as `block0_spikes`,
    `block1_1/{first, second}_spikes` (of the sum), …, `hidden_spikes`; without, they cost nothing.

    Attributes:
      stage_sizes: number of blocks of each stage.
      widths: channels of each stage.
      stem: channels of the first convolution.
      hidden: neurons of the hidden layer; None for no such layer.
      num_classes: number of logits.
      neuron: constants of the neurons; the tau of a `PLIF` is a parameter of each layer.
      activation: "lif", or "relu" for the same network without time (then `num_timesteps` must be 1).
      dtype: of the computation; None promotes images and parameters.
      param_dtype: of parameters and running statistics at `init`.
      axis_name: mapped axis over which batch norm averages its statistics.
      strides: strides of the stem and of the first block of each stage; None for 1, then 2 for every stage.
      norm: batch norm, see `snnlth_jax.models.norms`: "timestep" (paper), "tdbn" or "bntt".
      norm_timesteps: largest T, for the parameters of "bntt".
      kernels: "auto" trains on a GPU or TPU with kernels that normalise, add and fire at once, see
        `norm_fire`; "plain" everywhere with JAX's own operations.

    >>> from functools import partial
    >>> import jax, jax.numpy as jnp
    >>> model = ResNet(stage_sizes=(1,), widths=(4,), stem=2, hidden=4, num_classes=3)
    >>> init = jax.jit(partial(model.init_with_output, num_timesteps=2))
    >>> logits, variables = init(jax.random.key(0), jnp.ones((3, 4, 4, 1)))
    >>> logits.shape, list(variables["params"])
    ((2, 3, 3), ['block0', 'block1_1', 'hidden', 'readout'])
    """

    stage_sizes: tuple[int, ...] = (3, 3, 2)
    widths: tuple[int, ...] = (128, 256, 512)
    stem: int = 64
    hidden: int | None = 256
    num_classes: int = 10
    neuron: LIF = LIF()
    activation: str = "lif"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    strides: tuple[int, ...] | None = None
    norm: str = "timestep"
    norm_timesteps: int | None = None
    kernels: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, num_timesteps: int, train: bool = False) -> jax.Array:
        check_counts(stem=self.stem, **({} if self.hidden is None else {"hidden": self.hidden}))
        check_sequence(stage_sizes=self.stage_sizes, widths=self.widths)
        if len(self.stage_sizes) != len(self.widths):
            raise ValueError(
                f"stage_sizes and widths must be of one length, got {self.stage_sizes} and {self.widths}"
            )
        for number, width in zip(self.stage_sizes, self.widths, strict=True):
            check_counts(stage_sizes=number, widths=width)
        if self.strides is not None:
            check_sequence(strides=self.strides)
            check_counts(**{f"strides[{i}]": stride for i, stride in enumerate(self.strides)})
            if len(self.strides) != len(self.widths) + 1:
                raise ValueError(
                    f"strides must be {len(self.widths) + 1}, of the stem and each stage, got {self.strides}"
                )
        x = check_call(self, x, num_timesteps, train, first="block0")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(maker, self.norm, num_timesteps, self.norm_timesteps or 1, self.neuron.v_threshold)
        common = {"kernel_init": _uniform_fan_in, "axis_name": self.axis_name, **dtypes}
        unit = partial(ConvNorm, batch_norm=norm(), **common)
        meeting = partial(ConvNorm, batch_norm=norm(paths=2), **common)
        active = partial(Neurons, num_timesteps, self.neuron, self.activation, self.param_dtype, self.kernels)
        late = is_late(self, train)

        stride = self.strides[0] if self.strides else 1
        current = unit(features=self.stem, stride=stride, name="block0")(x, train=train, late=late)
        every = list(blocks(self))
        readers = [*(2 for _ in every), 1]  # a block has two, its path and its shortcut
        outputs = active(name="block0_neuron")(current, readers=readers[0])
        self.sow("intermediates", "block0_spikes", outputs[0])
        for block, number in zip(every, readers[1:], strict=True):
            outputs = _Block(unit, meeting, active, block, name=block.name)(outputs, train, late, number)
        x = outputs[0].mean((-3, -2))
        if self.hidden is not None:
            (x,) = active(name="hidden_neuron")(_linear(self.hidden, x.shape[-1], "hidden", dtypes)(x))
            self.sow("intermediates", "hidden_spikes", x)
        x = _linear(self.num_classes, x.shape[-1], "readout", dtypes)(x)
        return at_least_float32(x)


class Block(NamedTuple):
    """A block: its name, its channels, the stride of its first convolution, the kind of its shortcut."""

    name: str
    width: int
    stride: int
    projects: bool
    """Whether the shortcut is a 1x1 convolution and batch norm, not the identity."""


def blocks(model: ResNet) -> Iterator[Block]:
    """Blocks of a network, in order.

    >>> for block in blocks(ResNet(stage_sizes=(1, 2), widths=(64, 128), strides=(2, 1, 2))):
    ...     print(*block)
    block1_1 64 1 False
    block2_1 128 2 True
    block2_2 128 1 False
    """
    strides, before = (model.strides or (1, *(2,) * len(model.widths)))[1:], model.stem
    stages = zip(model.stage_sizes, model.widths, strides, strict=True)
    for stage, (number, width, first_stride) in enumerate(stages, 1):
        for block in range(1, number + 1):
            stride = first_stride if block == 1 else 1
            yield Block(f"block{stage}_{block}", width, stride, stride != 1 or width != before)
            before = width


class _Block(nn.Module):
    """Two convolutions, and a shortcut around them, into one layer of neurons.

    Attributes:
      unit: makes a convolution and its batch norm.
      meeting: the same for one of two paths that meet.
      active: makes a layer of neurons.
      block: which block.
    """

    unit: Any
    meeting: Any
    active: Any
    block: Block

    @nn.compact
    def __call__(
        self, pair: tuple[jax.Array, ...], train: bool, late: bool, readers: int
    ) -> tuple[jax.Array, ...]:
        """`readers` copies of the output, for two of the input: one for the path, one for the shortcut."""
        x, shortcut = pair
        _, width, stride, projects = self.block
        how = {"train": train, "late": late}
        y = self.unit(features=width, stride=stride, name="first")(x, **how)
        (y,) = self.active(name="first_neuron")(y)
        self.sow("intermediates", "first_spikes", y)
        y = self.meeting(features=width, name="second")(y, **how)
        if projects:
            shortcut = self.meeting(features=width, size=1, stride=stride, name="shortcut")(shortcut, **how)
        outputs: tuple[jax.Array, ...] = self.active(name="second_neuron")(shortcut, y, readers=readers)
        self.sow("intermediates", "second_spikes", outputs[0])
        return outputs


# variance 1 / (3 fan_in), that is +-1 / sqrt(fan_in)
_uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _linear(features: int, fan_in: int, name: str, dtypes: dict[str, Any]) -> nn.Dense:
    def bias_init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, kernel_init=_uniform_fan_in, bias_init=bias_init, name=name, **dtypes)
