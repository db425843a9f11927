r"""Convolutions of images of at most 2x2 pixels as one product of matrices.

Every pixel of such an image is within reach of every output, so that the convolution is

.. math:: y_{nqk} = \sum_{pc} x_{npc} W_{pcqk}, \qquad W_{pcqk} = g_{t(p, q)ck}

for pixels p, outputs q, and the entry t of the kernel g that leads from p to q. With stride 1 these are 16
products for 2x2 pixels, where the definition, with its border of zeros, has 36.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from snnlth_jax._constants import promoted

__all__ = ["conv", "fits", "grad_kernel", "grad_x"]

Shape = tuple[int, ...]
Taps = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_SIDE = 2


def fits(images: Shape, kernel: Shape) -> bool:
    """Whether images `[N, H, W, C]` are that small, and a kernel `[size, size, C, K]` larger than a pixel."""
    return max(images[1:3]) <= _SIDE and kernel[0] > 1


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`[N, H, W, C]` with `[size, size, C, K]`, a border of zeros: `[N, ceil(H / stride), ..., K]`."""
    rows, columns = _taps(x.shape, len(kernel), stride)
    output = jnp.dot(_flat(x), _matrix(kernel, rows, columns))
    return output.reshape(len(x), rows.shape[1], columns.shape[1], kernel.shape[-1])


def grad_x(kernel: jax.Array, grad: jax.Array, stride: int, shape: Shape) -> jax.Array:
    """The gradient of images of a shape `[N, H, W, C]`, from that of the output."""
    matrix = _matrix(kernel, *_taps(shape, len(kernel), stride))
    return jnp.tensordot(_flat(grad), matrix, (1, 1)).reshape(shape)


def grad_kernel(x: jax.Array, grad: jax.Array, stride: int, shape: Shape) -> jax.Array:
    """The gradient of a kernel of a shape `[size, size, C, K]`, from that of the output."""
    taps, dtype = _taps(x.shape, shape[0], stride), promoted(x, jnp.float32)
    products = lax.dot_general(_flat(x), _flat(grad), (([0], [0]), ([], [])), preferred_element_type=dtype)
    products = products.reshape(*x.shape[1:], *grad.shape[1:])  # pixel, C, output, K

    def pairs(i: int, j: int) -> list[jax.Array]:
        rows, columns = (np.argwhere(tap == index) for tap, index in zip(taps, (i, j), strict=True))
        return [products[a, b, :, c, d] for (a, c), (b, d) in itertools.product(rows, columns)]

    nothing, size = jnp.zeros_like(products, shape=shape[2:]), range(shape[0])
    sums = [[functools.reduce(jnp.add, pairs(i, j) or [nothing]) for j in size] for i in size]
    return jnp.stack([jnp.stack(row) for row in sums]).astype(x.dtype)


def _matrix(kernel: jax.Array, rows: Taps, columns: Taps) -> jax.Array:
    """W, `[H W C, H' W' K]`."""
    taps = kernel[rows[:, None, :, None], columns[None, :, None, :]]  # pixel, output, C, K
    return taps.transpose(0, 1, 4, 2, 3, 5).reshape(rows.shape[0] * columns.shape[0] * kernel.shape[2], -1)


def _taps(images: Shape, size: int, stride: int) -> tuple[Taps, Taps]:
    """t for rows, `[H, H']`, and for columns, `[W, W']`."""

    def along(extent: int) -> Taps:
        outputs = np.arange(-(-extent // stride))
        return np.arange(extent)[:, None] - stride * outputs + size // 2

    return along(images[1]), along(images[2])


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))
