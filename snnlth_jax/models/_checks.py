"""What the networks refuse: one clear line instead of plausible numbers.

All checks are of shapes, dtypes and fields, when a program is traced; they cost nothing when it runs.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "check_activation",
    "check_counts",
    "check_floating",
    "check_images",
    "check_inputs",
    "check_time",
    "check_train",
    "is_floating",
    "is_whole",
]


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
    _check_whole("num_timesteps", num_timesteps)
    if activation == "relu" and num_timesteps != 1:
        raise ValueError(
            f"a network with activation 'relu' has no time: num_timesteps must be 1, got {num_timesteps}"
        )
    check_counts(num_timesteps=num_timesteps)


def check_counts(**counts: int) -> None:
    """Refuse what is no whole number of at least 1, with a ValueError that names the argument.

    >>> check_counts(num_classes=10, stem=0)
    Traceback (most recent call last):
    ...
    ValueError: stem must be at least 1, got 0
    """
    for name, count in counts.items():
        _check_whole(name, count)
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


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
            raise ValueError(f"{name} must be a floating-point dtype, got {jnp.dtype(dtype)}")


def check_images(x: Any) -> jax.Array:
    """Images [B, H, W, C] of a network; ValueError for other shapes, and for integers.

    >>> check_images(jnp.ones((5, 8, 8)))
    Traceback (most recent call last):
    ...
    ValueError: images must be [B, H, W, C], got shape (5, 8, 8)
    """
    images = jnp.asarray(x)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be [B, H, W, C], got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating-point numbers, normalised; got {images.dtype}")
    return images


def check_inputs(module: nn.Module, path: tuple[str, ...], inputs: int, what: str) -> None:
    """Refuse, with a ValueError, inputs of another number than those of a kernel among the parameters."""
    kernel: Any = module.variables.get("params", {})
    for name in path:
        kernel = kernel.get(name, {}) if isinstance(kernel, Mapping) else kernel
    if hasattr(kernel, "shape") and kernel.shape[-2] != inputs:
        raise ValueError(f"{what}: the parameters {'/'.join(path)} are for {kernel.shape[-2]}, got {inputs}")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, known when a program is traced."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_floating(dtype: Any) -> bool:
    """Whether a dtype has room for fractions; None stands for the promoted dtype."""
    return dtype is None or bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))


def _check_whole(name: str, value: Any) -> None:
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
