"""Checks of the networks' input: one clear line instead of plausible numbers.

All checks are of shapes, dtypes and fields, when a program is traced; they cost nothing when it runs.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._axes import is_explicit
from snnlth_jax._constants import as_array, whole
from snnlth_jax.models import norms
from snnlth_jax.neurons import check_neuron

__all__ = [
    "KERNELS",
    "check_activation",
    "check_call",
    "check_counts",
    "check_floating",
    "check_images",
    "check_inputs",
    "check_kernels",
    "check_norm",
    "check_sequence",
    "check_time",
    "check_train",
    "is_floating",
]

KERNELS = ("auto", "plain", "interpret", "interpret-tpu")  # see `norm_fire`


def check_call(model: Any, x: Any, num_timesteps: int, train: bool, first: str) -> jax.Array:
    """Images of a call of a VGG or a ResNet, `[1, B, H, W, C]`, or `[T, B, H, W, C]` if they change.

    ValueError for fields and arguments that it cannot have.

    Args:
      model: the bound module.
      x: images.
      num_timesteps: T.
      train: whether batch norm uses the statistics of the batch.
      first: name of the layer that sees the images.
    """
    check_time(num_timesteps, model.activation)
    check_train(train)
    check_neuron(model.neuron)
    check_kernels(model.kernels)
    check_norm(model.norm, model.norm_timesteps, num_timesteps)
    check_counts(num_classes=model.num_classes)
    check_floating(dtype=model.dtype, param_dtype=model.param_dtype)
    images = check_images(x)
    if images.ndim == 5 and len(images) != num_timesteps:
        raise ValueError(f"images [T, B, H, W, C] must be of {num_timesteps} timesteps, got {len(images)}")
    check_inputs(model, (first, "conv", "kernel"), images.shape[-1], f"channels of images {images.shape}")
    return images if images.ndim == 5 else images[None]


def check_activation(activation: str) -> None:
    """Refuse other activation functions than those of the networks, with a ValueError."""
    if activation not in ("lif", "relu"):
        raise ValueError(f"activation must be 'lif' or 'relu', got {activation!r}")


def check_time(num_timesteps: int, activation: str) -> None:
    """Refuse timesteps that the activation function cannot have, with a ValueError.

    >>> check_time(5, "lif")
    >>> check_time(5, "relu")
    Traceback (most recent call last):
    ...
    ValueError: a network with activation 'relu' has no time: num_timesteps must be 1, got 5
    """
    check_activation(activation)
    whole("num_timesteps", num_timesteps)
    if activation == "relu" and num_timesteps != 1:
        raise ValueError(
            f"a network with activation 'relu' has no time: num_timesteps must be 1, got {num_timesteps}"
        )
    check_counts(num_timesteps=num_timesteps)


def check_norm(norm: str, norm_timesteps: int | None, num_timesteps: int) -> None:
    """Refuse other batch norms than those of the networks, and more timesteps than their parameters have.

    >>> check_norm("timestep", None, 5)
    >>> check_norm("bntt", 4, 5)
    Traceback (most recent call last):
    ...
    ValueError: num_timesteps must be at most norm_timesteps 4 with norm 'bntt', got 5
    """
    if norm not in norms.NAMES:
        raise ValueError(f"norm must be one of {', '.join(norms.NAMES)}; got {norm!r}")
    if norm != "bntt":
        return
    if norm_timesteps is None:
        raise ValueError("norm 'bntt' needs norm_timesteps, the largest number of timesteps")
    check_counts(norm_timesteps=norm_timesteps)
    if num_timesteps > norm_timesteps:
        most = f"at most norm_timesteps {norm_timesteps} with norm 'bntt'"
        raise ValueError(f"num_timesteps must be {most}, got {num_timesteps}")


def check_kernels(kernels: str) -> None:
    """Refuse another word for the kernels of a layer, with a ValueError."""
    if kernels not in KERNELS:
        raise ValueError(f"kernels must be one of {', '.join(KERNELS)}; got {kernels!r}")


def check_counts(**counts: int) -> None:
    """Refuse what is no whole number of at least 1, with a ValueError that names the argument.

    >>> check_counts(num_classes=10, stem=0)
    Traceback (most recent call last):
    ...
    ValueError: stem must be at least 1, got 0
    """
    for name, count in counts.items():
        whole(name, count)
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_sequence(**sequences: Any) -> None:
    """Refuse what is neither a tuple nor a list, with a ValueError that names the argument."""
    for name, value in sequences.items():
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name} must be a tuple, got {value!r}")


def check_train(train: bool) -> None:
    """Refuse what is neither True nor False when a program is traced, with a ValueError."""
    if not isinstance(train, bool | np.bool_):
        raise ValueError(f"train must be True or False, got {train!r}")


def check_floating(**dtypes: Any) -> None:
    """Refuse dtypes that would round parameters to integers, with a ValueError that names the argument.

    >>> check_floating(dtype=None, param_dtype=jnp.int32)
    Traceback (most recent call last):
    ...
    ValueError: param_dtype must be a floating-point dtype, got int32
    """
    for name, dtype in dtypes.items():
        if not is_floating(dtype):
            raise ValueError(f"{name} must be a floating-point dtype, got {_name_of(dtype)}")


def check_images(x: Any) -> jax.Array:
    """Images [B, H, W, C] or [T, B, H, W, C] of a network; ValueError for other shapes, and for integers.

    >>> check_images(jnp.ones((5, 8, 8)))
    Traceback (most recent call last):
    ...
    ValueError: images must be [B, H, W, C], got shape (5, 8, 8)
    """
    images = as_array("images", x, "floating-point numbers")
    if images.ndim not in (4, 5) or 0 in images.shape:
        axes = "[B, H, W, C]" if images.ndim < 5 else "[T, B, H, W, C]"
        raise ValueError(f"images must be {axes}, got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating-point numbers, normalised; got {images.dtype}")
    if is_explicit(images):
        raise ValueError(
            f"images divided over an Explicit mesh, {jax.typeof(images)}: put the call in "
            "jax.sharding.auto_axes, or use a mesh with Auto axes, or shard_map"
        )
    return images


def check_inputs(module: nn.Module, path: tuple[str, ...], inputs: int, what: str) -> None:
    """Refuse, with a ValueError, a kernel among the parameters for other inputs, or of integers."""
    kernel: Any = module.variables.get("params", {})
    for name in path:
        kernel = kernel.get(name, {}) if isinstance(kernel, Mapping) else kernel
    if not hasattr(kernel, "shape"):
        return
    if not is_floating(kernel.dtype):
        raise ValueError(f"the parameters must be floating-point numbers, {'/'.join(path)} is {kernel.dtype}")
    if kernel.shape[-2] != inputs:
        raise ValueError(f"{what}: the parameters {'/'.join(path)} are for {kernel.shape[-2]}, got {inputs}")


def is_floating(dtype: Any) -> bool:
    """Whether a dtype has room for fractions; None stands for the promoted dtype."""
    try:
        return dtype is None or bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:  # no dtype at all
        return False


def _name_of(dtype: Any) -> str:
    try:
        return str(jnp.dtype(dtype))
    except TypeError:  # no dtype at all
        return repr(dtype)
