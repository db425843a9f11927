"""A convolution that is fast on every platform: XLA's own, except where its CPU backend is slow.

In a compiled loop XLA's CPU backend computes the gradients of a convolution sixteen to a hundred times slower
than outside of one. Convolutions of images of 2x2 pixels take some eighty times longer than the same sums as
a matrix product, anywhere (docs/performance.md). On CPUs, and only there, the gradient of the input is
therefore written out as the convolution that it is, and the others as products of patches and matrices, for
the smallest images of one matrix (`_dense`); with enough channels, both use minimal filtering (`_winograd`),
and where oneDNN is installed, it computes the rest (`_onednn`). The results are the same up to the order of
summation.
"""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from snnlth_jax._axes import vary_like
from snnlth_jax._constants import promoted
from snnlth_jax.models import _dense, _onednn, _winograd
from snnlth_jax.models._bilinear import Bilinear, are_derivatives

__all__ = ["conv"]

# layouts of flax and of this package: images N H W C, kernels H W I O
_LAYOUT = ("NHWC", "HWIO", "NHWC")
Shape = tuple[int, ...]
_CACHE = 6 * 2**20  # bytes of patches at a time


def conv(
    x: jax.Array, kernel: jax.Array, window_strides: tuple[int, int], padding: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated` for the arguments of `flax.linen.Conv`.

    Args:
      x: `[N, H, W, C]`.
      kernel: `[size, size, C, features]`, size odd.
      window_strides: strides, equal in both directions.
      padding: `[(size // 2, size // 2)] * 2`.
      **options: further arguments of flax, which must have their defaults.

    Returns:
      `[N, ceil(H / stride), ceil(W / stride), features]`; differentiable in both modes, repeatedly.

    Raises:
      NotImplementedError: other arguments, which `lax.conv_general_dilated` may take.
    """
    (size, width), (stride, stride_x) = kernel.shape[:2], window_strides
    if width != size or size % 2 == 0 or stride_x != stride or padding != [(size // 2, size // 2)] * 2:
        raise NotImplementedError(
            f"kernel {kernel.shape[:2]}, window_strides {window_strides}, padding {padding}"
        )
    for name in ("lhs_dilation", "rhs_dilation", "feature_group_count", "precision"):
        if options.get(name) not in (None, 1, (1, 1)):
            raise NotImplementedError(f"{name} {options[name]}")
    height, width = (-(-extent // stride) for extent in x.shape[1:3])
    # in shard_map both vary over the devices, as both of their gradients do
    pair = vary_like(x, kernel), vary_like(kernel, x)
    return _CONV(*pair, stride=stride, shape=(len(x), height, width, kernel.shape[-1]))


# --- the definition: of the convolution, the gradient of its images, and that of its kernel


def _conv(x: jax.Array, kernel: jax.Array, *, stride: int, shape: Shape) -> jax.Array:
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


def _grad_x(kernel: jax.Array, grad: jax.Array, *, stride: int, shape: Shape) -> jax.Array:
    convolve = functools.partial(_conv, stride=stride, shape=grad.shape)
    (grad_x,) = jax.linear_transpose(lambda x: convolve(x, kernel), jnp.empty_like(grad, shape=shape))(grad)
    return cast(jax.Array, grad_x)


def _grad_kernel(x: jax.Array, grad: jax.Array, *, stride: int, shape: Shape) -> jax.Array:
    convolve = functools.partial(_conv, stride=stride, shape=grad.shape)
    (grad_kernel,) = jax.linear_transpose(lambda kernel: convolve(x, kernel), jnp.empty_like(x, shape=shape))(
        grad
    )
    return cast(jax.Array, grad_kernel)


# --- on a CPU


def _cpu(x: jax.Array, kernel: jax.Array, *, stride: int, shape: Shape) -> jax.Array:
    if _dense.fits(x.shape, kernel.shape):
        return _dense.conv(x, kernel, stride)
    if _filtered(x.shape, kernel.shape, stride, x.dtype):
        return _winograd.conv(x, kernel)
    if _onednn.takes(x, kernel):
        return _onednn.conv(x, kernel, stride, shape)
    if stride == 1:
        return _conv(x, kernel, stride=stride, shape=shape)
    return jnp.tensordot(_patches(x, len(kernel), stride), kernel.reshape(-1, kernel.shape[-1]), 1)


def _cpu_grad_x(kernel: jax.Array, grad: jax.Array, *, stride: int, shape: Shape) -> jax.Array:
    if _dense.fits(shape, kernel.shape):
        return _dense.grad_x(kernel, grad, stride, shape)
    if _filtered(shape, kernel.shape, stride, kernel.dtype):
        return _winograd.grad_x(kernel, grad)
    if _onednn.takes(kernel, grad):
        return _onednn.grad_x(kernel, grad, stride, shape)
    if stride == 1:
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _cpu(grad, turned, stride=stride, shape=shape)
    pullback = jax.linear_transpose(
        lambda x: _cpu(x, kernel, stride=stride, shape=grad.shape), jnp.empty_like(grad, shape=shape)
    )
    (grad_x,) = pullback(grad)
    return cast(jax.Array, grad_x)


def _filtered(images: Shape, kernel: Shape, stride: int, dtype: Any) -> bool:
    """Whether minimal filtering is the fastest, and worth its compilation beside oneDNN or XLA's own."""
    channels = 256 if _onednn.takes_type(dtype) else 64
    return stride == 1 and _winograd.fits(images, kernel, dtype, channels=channels, tiles=64)


def _cpu_grad_kernel(x: jax.Array, grad: jax.Array, *, stride: int, shape: Shape) -> jax.Array:
    """Multiply patches by the gradient, some images at a time, so that their patches stay in the cache."""
    if _dense.fits(x.shape, shape):
        return _dense.grad_kernel(x, grad, stride, shape)
    by_library = _onednn.takes(x, grad)
    narrow = not (by_library and _onednn.library().wide)  # with AVX-512 the library's is as fast
    if stride == 1 and narrow and _winograd.fits(x.shape, shape, x.dtype, channels=128, tiles=max(shape)):
        return _winograd.grad_kernel(x, grad)
    if by_library:
        return _onednn.grad_kernel(x, grad, stride, shape)
    size, outputs = shape[0], shape[-1]
    inputs = math.prod(shape[:-1])
    per_image = x.dtype.itemsize * inputs * math.prod(grad.shape[1:3])
    total = jnp.zeros_like(x, promoted(x, jnp.float32), shape=(outputs, inputs))

    def add(total: jax.Array, images: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, grad = images
        patches = _patches(x, size, stride).reshape(-1, inputs)
        grad = grad.reshape(-1, outputs)
        if inputs > outputs:  # columns are slow to read, and these would be read more than once
            grad = lax.optimization_barrier(grad.T).T
        return total + jnp.tensordot(grad, patches, (0, 0), preferred_element_type=total.dtype), None

    total, _ = lax.scan(add, total, tuple(_winograd.chunks(a, per_image, _CACHE) for a in (x, grad)))
    return total.T.reshape(shape).astype(x.dtype)


def _patches(x: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """`[N, H', W', size * size * C]`: the window of each output pixel, in the order of the kernel."""
    height, width = (-(-extent // stride) for extent in x.shape[1:3])
    border = (size // 2, size // 2)
    x = jnp.pad(x, ((0, 0), border, border, (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    windows = [
        x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)
    ]
    return jnp.concatenate(windows, axis=-1)


_CONV = Bilinear("convolution", _conv, _cpu, rows=0)
_GRAD_X = Bilinear("convolution_grad_x", _grad_x, _cpu_grad_x, rows=1)
_GRAD_KERNEL = Bilinear("convolution_grad_kernel", _grad_kernel, _cpu_grad_kernel, rows=-1)
are_derivatives(_CONV, _GRAD_X, _GRAD_KERNEL)
