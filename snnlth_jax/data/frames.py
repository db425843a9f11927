"""Images that change over time, such as frames of events: `[N, T, H, W, C]` in a dataset.

A network takes them as `[T, B, H, W, C]`, one frame a timestep: its first layer then runs at every timestep.
With fewer timesteps than frames it sees the first ones, so that a search by Early-Time has the first T'.
"""

from typing import Any

import jax

__all__ = ["as_input", "split_shape"]


def as_input(model: Any, images: jax.Array, num_timesteps: int) -> jax.Array:
    """The input of a network for a batch of images.

    Args:
      model: the network; one without time (`activation` "relu") sees the mean of all frames.
      images: normalised, `[B, H, W, C]`, or frames `[B, F, H, W, C]`.
      num_timesteps: T, at most F.

    Returns:
      Images as they are; of frames the first T, `[T, B, H, W, C]`, or their mean `[B, H, W, C]`.

    >>> import jax.numpy as jnp
    >>> as_input(None, jnp.zeros((2, 5, 8, 8, 1)), 3).shape, as_input(None, jnp.zeros((2, 8, 8, 1)), 3).shape
    ((3, 2, 8, 8, 1), (2, 8, 8, 1))
    """
    if images.ndim < 5:
        return images
    if getattr(model, "activation", "lif") == "relu":
        return images.mean(1)
    return images[:, :num_timesteps].swapaxes(0, 1)


def split_shape(image_shape: tuple[int, ...]) -> tuple[int | None, tuple[int, ...]]:
    """The number of frames of an image, None if it does not change, and the shape of each, `[H, W, C]`.

    >>> split_shape((10, 8, 8, 2)), split_shape((8, 8, 1))
    ((10, (8, 8, 2)), (None, (8, 8, 1)))
    """
    *frames, height, width, channels = image_shape
    return (frames[0] if frames else None), (height, width, channels)
