r"""Convolutions with kernels of 3x3 by minimal filtering: 16 products where the definition has 36.

The images are cut into overlapping tiles d of 4x4 pixels; each tile makes 2x2 pixels of the output:

.. math:: Y = A^T \left[ (G g G^T) \odot (B^T d B) \right] A

for a kernel g (Winograd 1980; Lavin and Gray 2016 call it F(2x2, 3x3)). Summed over channels, the elementwise
products are 16 products of matrices. They are the same sums in another order; in float32 the results differ
by less than 1e-6 of the largest. The code takes some images at a time, so that their tiles stay in the
processor's cache.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["chunks", "conv", "fits", "grad_kernel", "grad_x"]

_A = ((1, 0), (1, 1), (1, -1), (0, -1))
_B = ((1, 0, 0, 0), (0, 1, -1, 1), (-1, 1, 1, 0), (0, 0, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_CACHE = 12 * 2**20  # bytes of tiles at a time

Shape = tuple[int, ...]
Matrix = Sequence[Sequence[float]]
T = TypeVar("T")


def fits(images: Shape, kernel: Shape, dtype: Any, channels: int, tiles: int) -> bool:
    """Whether images divide into at least `tiles` tiles, numbers are precise and `channels` are reached."""
    whole = kernel[:2] == (3, 3) and images[1] % 2 == images[2] % 2 == 0
    precise = dtype in (jnp.float32, jnp.float64)
    return whole and precise and min(kernel[2:]) >= channels and math.prod(images[:3]) >= 4 * tiles


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[N, H, W, C]` with `[3, 3, C, K]`, stride 1, a border of zeros: `[N, H, W, K]`."""
    weights = _transform(_G, [list(row) for row in kernel])
    return _conv(x, max(kernel.shape[2:]), lambda tile, i, j: jnp.dot(tile, weights[i][j]))


def grad_x(kernel: jax.Array, grad: jax.Array) -> jax.Array:
    """The gradient of the images `[N, H, W, C]`, from that of the output `[N, H, W, K]`."""
    weights = _transform(_G, [list(row) for row in kernel])
    turned = (3, 1, 2, 0)  # the rows of G for a kernel read from its other end

    def product(tile: jax.Array, i: int, j: int) -> jax.Array:
        return jnp.tensordot(tile, weights[turned[i]][turned[j]], (-1, 1))

    return _conv(grad, max(kernel.shape[2:]), product)


def _conv(x: jax.Array, channels: int, product: Callable[[jax.Array, int, int], jax.Array]) -> jax.Array:
    def chunk_output(x: jax.Array) -> jax.Array:
        tiles = _input_tiles(x)
        products = [[product(tiles[i][j], i, j) for j in range(4)] for i in range(4)]
        pixels = _transform(_transposed(_A), products)
        # n, H / 2, 2, W / 2, 2, K
        return jnp.stack([jnp.stack(row, 3) for row in pixels], 2).reshape(*x.shape[:3], -1)

    output: jax.Array = lax.map(chunk_output, chunks(x, _tile_bytes(x, channels), _CACHE))
    return output.reshape(-1, *output.shape[2:])[: len(x)]


def grad_kernel(x: jax.Array, grad: jax.Array) -> jax.Array:
    """The gradient of the kernel `[3, 3, C, K]`, from that of the output `[N, H, W, K]`."""

    def add(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        # stacked, since XLA has no better product of two matrices that are read by columns
        tiles, grads = (_stacked(part) for part in (_input_tiles(images[0]), _output_tiles(images[1])))
        return total + lax.dot_general(tiles, grads, (([1], [1]), ([0], [0]))), None

    channels = x.shape[-1], grad.shape[-1]
    per_image = _tile_bytes(x, sum(channels))
    total = jnp.zeros_like(x, shape=(16, *channels))
    total, _ = lax.scan(add, total, (chunks(x, per_image, _CACHE), chunks(grad, per_image, _CACHE)))
    rows = _transform(_transposed(_G), [[total[4 * i + j] for j in range(4)] for i in range(4)])
    return jnp.stack([jnp.stack(row) for row in rows])


def chunks(x: jax.Array, per_image: int, cache: int) -> jax.Array:
    """Images `[N, ...]` as chunks `[n, size, ...]` that fit into the cache, at `per_image` bytes an image.

    All chunks have the same size. If no size from half of the largest to the largest divides N, images of
    zeros fill the last chunk, which costs a copy.
    """
    most = min(len(x), max(1, cache // per_image))
    size = max(n for n in range(1, most + 1) if len(x) % n == 0)
    if 2 * size < most:
        size = -(-len(x) // -(-len(x) // most))
    if missing := -len(x) % size:
        x = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, size, *x.shape[1:])


def _tile_bytes(x: jax.Array, channels: int) -> int:
    """Bytes of the tiles of an image with this number of channels."""
    return 4 * x.dtype.itemsize * math.prod(x.shape[1:3]) * channels


def _input_tiles(x: jax.Array) -> list[list[jax.Array]]:
    """4x4 arrays `[n, H / 2, W / 2, C]`: the transformed tiles, each two pixels from the next."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(n, height // 2 + 1, 2, width // 2 + 1, 2, channels)

    def pixel(i: int, j: int) -> jax.Array:
        return x[:, i // 2 : i // 2 + height // 2, i % 2, j // 2 : j // 2 + width // 2, j % 2]

    return _transform(_transposed(_B), [[pixel(i, j) for j in range(4)] for i in range(4)])


def _output_tiles(grad: jax.Array) -> list[list[jax.Array]]:
    """4x4 arrays `[n, H / 2, W / 2, K]`: the gradients of the 16 products from those of 2x2 pixels."""
    n, height, width, channels = grad.shape
    grad = grad.reshape(n, height // 2, 2, width // 2, 2, channels)
    return _transform(_A, [[grad[:, :, i, :, j] for j in range(2)] for i in range(2)])


def _stacked(grid: list[list[jax.Array]]) -> jax.Array:
    return jnp.stack([part.reshape(-1, part.shape[-1]) for row in grid for part in row])


def _transform(matrix: Matrix, grid: Sequence[Sequence[jax.Array]]) -> list[list[jax.Array]]:
    """matrix @ grid @ matrix.T, for a grid of arrays; most entries are 0, 1 or -1, and no products."""
    columns = [[_combination(row, column) for row in matrix] for column in _transposed(grid)]
    return [[_combination(row, parts) for row in matrix] for parts in _transposed(columns)]


def _combination(weights: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    (first, weight), *others = ((part, w) for part, w in zip(parts, weights, strict=True) if w)
    total = first if weight == 1 else weight * first
    for part, weight in others:
        total = total - part if weight == -1 else total + (part if weight == 1 else weight * part)
    return total


def _transposed(grid: Sequence[Sequence[T]]) -> list[tuple[T, ...]]:
    return list(zip(*grid, strict=True))
