"""Networks by name: the paper's and those of its supplement, and smaller ones with the same layers."""

from typing import Any

import numpy as np

from snnlth_jax._constants import is_whole
from snnlth_jax.errors import InputError, not_one_of
from snnlth_jax.models import norms, own
from snnlth_jax.models._checks import KERNELS, is_floating
from snnlth_jax.models.resnet import ResNet
from snnlth_jax.models.vgg import VGG, VGG16, Features, least_side
from snnlth_jax.neurons import LIF

__all__ = ["VGG", "ResNet", "create", "min_batch_size", "min_image_size", "names"]

# vgg11 to vgg19 are named after Simonyan and Zisserman's networks, whose three linear layers are one here (as
# in the paper); the other names count weight layers, without shortcuts.
_VGG: dict[str, Features] = {
    "vgg5": (32, 32, "M", 64, 64, "M"),
    "vgg9": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M"),
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": VGG16,
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
}
# The paper gives no details of alexnet and resnet34. alexnet is Krizhevsky's in its usual form for images of
# 32x32 pixels: the first convolution is 3x3 with stride 2, three poolings are 2x2 (32 -> 16, 8, 4, 2), and
# 4096, 4096 and the readout follow. It has no dropout, and batch norm in all layers except the readout.
# resnet34 has the stages of He et al. for ImageNet: the first keeps the size of the image, the others halve
# it. Its stem, for 64x64 pixels, is a 3x3 convolution with stride 2, without pooling: 64 -> 32, 32, 16, 8, 4.
_NETWORKS: dict[str, dict[str, Any]] = {
    **{name: {"features": features} for name, features in _VGG.items()},
    "alexnet": {"features": (64, "M", 192, "M", 384, 256, 256, "M"), "stride": 2, "hidden": (4096, 4096)},
    # for CPUs: the first convolution leaves a quarter of the pixels, and most weights are in the hidden layer
    "convnet5": {"features": (32, 64, "M", 128, "M"), "stride": 2, "hidden": (1024,)},
    "resnet7": {"stage_sizes": (1, 1), "widths": (32, 64), "stem": 32, "hidden": 64},
    "resnet19": {"stage_sizes": (3, 3, 2), "widths": (128, 256, 512), "stem": 64, "hidden": 256},
    "resnet34": {
        "stage_sizes": (3, 4, 6, 3),
        "widths": (64, 128, 256, 512),
        "stem": 64,
        "hidden": None,
        "strides": (2, 1, 2, 2, 2),
    },
}
_SCALED = ("features", "hidden", "widths", "stem")  # by the width


def names() -> tuple[str, ...]:
    """Names of all networks, for `create`.

    >>> names()[6:]
    ('alexnet', 'convnet5', 'resnet7', 'resnet19', 'resnet34')
    """
    return tuple(_NETWORKS)


def create(
    name: str,
    num_classes: int,
    width: float = 1.0,
    neuron: LIF = LIF(),
    activation: str = "lif",
    dtype: Any = None,
    axis_name: str | None = None,
    norm: str = "timestep",
    norm_timesteps: int | None = None,
    kernels: str = "auto",
) -> VGG | ResNet:
    """A network by its name.

    Args:
      name: one of `names()`.
      num_classes: number of logits, at least 1.
      width: factor on the channels of every layer (rounded, at least 1 channel), > 0.
      neuron: constants of the neurons: a `LIF`, or a `PLIF` for a learned tau; see `neurons.create`.
      activation: "lif", or "relu" for the same network without time.
      dtype: of the computation, e.g. `jnp.bfloat16`; None promotes images and parameters.
      axis_name: mapped axis over which batch norm averages its statistics.
      norm: batch norm, see `snnlth_jax.models.norms`: "timestep", "tdbn" or "bntt".
      norm_timesteps: with "bntt", the largest number of timesteps that the network runs for; 1 or more.
      kernels: "auto" for a GPU's or TPU's own kernels of batch norm, neurons and pooling in training, see
        `norm_fire`; "plain" for JAX's own operations everywhere.

    Returns:
      A Flax linen module, see `VGG` and `ResNet` for how to call it.

    Raises:
      InputError: unknown name, activation, norm or kernels, no `norm_timesteps` with "bntt", a width that is
        not positive, a number of classes below 1, a neuron that is no `LIF`, or a dtype of integers.

    >>> create("vgg5", num_classes=10, width=0.25).features
    (8, 8, 'M', 16, 16, 'M')
    """
    _check_name(name)
    real = is_whole(width) or isinstance(width, float | np.floating)
    for argument, value, good, allowed in (
        ("`width`", width, real and 0 < width < float("inf"), "a positive number"),
        ("`num_classes`", num_classes, is_whole(num_classes) and num_classes >= 1, "1 or more"),
        ("`neuron`", neuron, isinstance(neuron, LIF), "a neurons.LIF"),
        ("`dtype`", dtype, is_floating(dtype), "a floating-point dtype"),
    ):
        if not good:
            raise InputError(argument, repr(value), allowed=allowed)
    for argument, value, names in (
        ("`activation`", activation, ("lif", "relu")),
        ("`norm`", norm, norms.NAMES),
        ("`kernels`", kernels, KERNELS),
    ):
        if value not in names:
            raise not_one_of(argument, value, names)
    if norm == "bntt" and (norm_timesteps is None or not is_whole(norm_timesteps) or norm_timesteps < 1):
        raise InputError("`norm_timesteps`", repr(norm_timesteps), allowed="1 or more, with `norm` bntt")

    def scaled(channels: Any) -> Any:
        if isinstance(channels, tuple):
            return tuple(map(scaled, channels))
        return channels if channels in ("M", None) else max(1, round(channels * width))

    common: dict[str, Any] = {
        "num_classes": num_classes,
        "neuron": neuron,
        "activation": activation,
        "dtype": dtype,
        "axis_name": axis_name,
        "norm": norm,
        "norm_timesteps": norm_timesteps if norm == "bntt" else None,
        "kernels": kernels,
    }
    fields = {k: scaled(v) if k in _SCALED else v for k, v in _NETWORKS[name].items()}
    return (VGG if "features" in fields else ResNet)(**fields, **common)


def min_image_size(name: str) -> int:
    """Smallest side in pixels of the images for the network `name`; InputError if the name is unknown.

    It is 1 for a user's own network, `module:function`, about which nothing is known.

    >>> min_image_size("vgg16"), min_image_size("alexnet"), min_image_size("resnet19")
    (32, 15, 1)
    """
    if own.is_own(name):
        return 1
    _check_name(name)
    fields = _NETWORKS[name]
    return least_side(fields.get("features", ()).count("M"), fields.get("stride", 1))


def min_batch_size(name: str) -> int:
    """Smallest number of images to train the network `name` on; InputError if the name is unknown.

    It is 1 for a user's own network, `module:function`, about which nothing is known.

    It is 2 where batch norm follows a linear layer, since one image has no variance there.

    >>> min_batch_size("vgg16"), min_batch_size("alexnet")
    (1, 2)
    """
    if own.is_own(name):
        return 1
    _check_name(name)
    fields = _NETWORKS[name]
    return 2 if "features" in fields and fields.get("hidden") else 1


def _check_name(name: str) -> None:
    if name not in names():
        raise not_one_of("`arch`", name, [*names(), "MODULE:FUNCTION of your own"])
