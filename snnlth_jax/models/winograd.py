r"""Convolutions with kernels of 3x3 by minimal filtering: 16 products where the definition has 36.

The images are cut into overlapping tiles d of 4x4 pixels, each of which makes 2x2 pixels of the output:

.. math:: Y = A^T \left[ (G g G^T) \odot (B^T d B) \right] A

for a kernel g (Winograd 1980; Lavin and Gray 2016 call it F(2x2, 3x3)). Summed over channels, the elementwise
products are 16 products of matrices. They are the same sums in another order; in float32 the results differ
by some 5e-7 of the largest. Some images at a time, so that their tiles stay in the processor's cache.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["applies", "conv", "grad_kernel"]

_A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])
_B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_CACHE = 12 * 2**20  # bytes of tiles at a time


def applies(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether there are whole tiles, precision to spare, and products enough to pay for the tiles."""
    height, width = x.shape[1:3]
    whole = height % 2 == width % 2 == 0 and min(height, width) >= 8
    enough = kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= 64
    return whole and enough and x.dtype == kernel.dtype and x.dtype in (jnp.float32, jnp.float64)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[N, H, W, C]` with `[3, 3, C, K]`, stride 1, a border of zeros: `[N, H, W, K]`."""
    ends = jnp.asarray(_G, kernel.dtype)
    weights = jnp.einsum("ai,bj,ijck->abck", ends, ends, kernel).reshape(16, *kernel.shape[2:])

    def some(x):
        products = _products(_input_tiles(x), weights, contract=(2, 1))
        shape = (len(x), x.shape[1] // 2, x.shape[2] // 2, kernel.shape[-1])
        rows = _transform(_A.T, [[products[4 * i + j].reshape(shape) for j in range(4)] for i in range(4)])
        pixels = jnp.stack([jnp.stack(row, 3) for row in rows], 2)  # n, H / 2, 2, W / 2, 2, K
        return pixels.reshape(*x.shape[:3], -1)

    return lax.map(some, _chunks(x, max(kernel.shape[2:]))).reshape(*x.shape[:3], -1)


def grad_kernel(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
    """The gradient of the kernel `[3, 3, C, K]`, from that of the output `[N, H, W, K]`."""

    def add(total, images):
        x, grad = images
        return total + _products(_input_tiles(x), _output_tiles(grad), contract=(1, 1)), None

    channels = sum(kernel.shape[2:])
    total = jnp.zeros_like(kernel, shape=(16, *kernel.shape[2:]))
    total, _ = lax.scan(add, total, (_chunks(x, channels), _chunks(grad, channels)))
    ends = jnp.asarray(_G, kernel.dtype)
    return jnp.einsum("ai,bj,abck->ijck", ends, ends, total.reshape(4, 4, *total.shape[1:]))


def _chunks(x: jax.Array, channels: int) -> jax.Array:
    """`[n, N / n, H, W, C]`: as many images at a time as have tiles of so many channels in the cache."""
    per_image = 4 * x.dtype.itemsize * math.prod(x.shape[1:3]) * channels
    size = max(n for n in range(1, len(x) + 1) if len(x) % n == 0 and (n == 1 or n * per_image <= _CACHE))
    return x.reshape(-1, size, *x.shape[1:])


def _products(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    return lax.dot_general(a, b, (([contract[0]], [contract[1]]), ([0], [0])))


def _input_tiles(x: jax.Array) -> jax.Array:
    """`[16, tiles, C]`: the transformed tiles, each two pixels from the next."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(n, height // 2 + 1, 2, width // 2 + 1, 2, channels)

    def pixel(i, j):
        return x[:, i // 2 : i // 2 + height // 2, i % 2, j // 2 : j // 2 + width // 2, j % 2]

    return _stacked(_transform(_B.T, [[pixel(i, j) for j in range(4)] for i in range(4)]))


def _output_tiles(grad: jax.Array) -> jax.Array:
    """`[16, tiles, K]`: what a gradient of the output's 2x2 pixels is for the 16 products."""
    n, height, width, channels = grad.shape
    grad = grad.reshape(n, height // 2, 2, width // 2, 2, channels)
    return _stacked(_transform(_A, [[grad[:, :, i, :, j] for j in range(2)] for i in range(2)]))


def _stacked(grid: list[list[jax.Array]]) -> jax.Array:
    return jnp.stack([part.reshape(-1, part.shape[-1]) for row in grid for part in row])


def _transform(matrix: np.ndarray, grid: Sequence[Sequence[jax.Array]]) -> list[list[jax.Array]]:
    """matrix @ grid @ matrix.T, for a grid of arrays and a matrix of 0, 1 and -1."""
    columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    def combination(row):
        first, *others = (i for i in range(len(parts)) if row[i])
        total = parts[first] if row[first] > 0 else -parts[first]
        for i in others:
            total = total + parts[i] if row[i] > 0 else total - parts[i]
        return total

    return [combination(row) for row in matrix]
