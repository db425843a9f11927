"""Layers without parameters: neurons over time, max pooling.

Activations are `[T, B, H, W, C]`.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from snnlth_jax.models._checks import check_activation, check_counts
from snnlth_jax.neurons import LIF, lif_scan

__all__ = ["MAX_UNROLL", "fire", "first_maximum", "max_pool"]

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
    *rest, height, width, channels = x.shape
    shape = (*rest, height // 2, width // 2, channels)
    windows = x[..., : height // 2 * 2, : width // 2 * 2, :].reshape(*shape[:-2], 2, shape[-2], 2, channels)
    # split, since the gradients of parts are joined, and those of slices are padded and added
    rows = jax.lax.split(windows, (1, 1), axis=windows.ndim - 4)
    corners = [part.reshape(shape) for row in rows for part in jax.lax.split(row, (1, 1), axis=row.ndim - 2)]
    return first_maximum(corners)


def first_maximum(corners: Sequence[jax.Array]) -> jax.Array:
    """The maximum of arrays, with the gradient to the first: a later one wins only if strictly larger."""
    return functools.reduce(lambda best, corner: jnp.where(corner > best, corner, best), corners)
