"""A convolution that is fast on every platform: XLA's own, except where its CPU backend is slow.

In a compiled loop XLA's CPU backend computes the gradients of a convolution sixteen to a hundred times slower
than outside of one. Convolutions of images of 2x2 pixels take some eighty times longer than the same sums as
a matrix product, anywhere (docs/performance.md). On CPUs, and only there, the gradient of the input is
therefore written out as the convolution that it is, and the others as products of patches and matrices;
with enough channels, both use minimal filtering (`_winograd`). The results are the same up to the order of
summation.
"""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from snnlth_jax.models import _winograd

__all__ = ["conv"]

# layouts of flax and of this package: images N H W C, kernels H W I O
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_TINY = 2  # pixels in a row of an image that is convolved as a matrix product
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
      `[N, ceil(H / stride), ceil(W / stride), features]`; differentiable in reverse mode, repeatedly.

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
    # in shard_map both vary over the devices, since all branches below must have gradients of one type
    varying = _varying(x) | _varying(kernel)
    return _conv(_vary(x, varying), _vary(kernel, varying), stride)


def _varying(x: jax.Array) -> frozenset[str]:
    """The mapped axes of `shard_map` over which an array varies; the attribute depends on the release."""
    aval: Any = jax.typeof(x)
    return aval.mat.varying if hasattr(aval, "mat") else getattr(aval, "vma", frozenset())


def _vary(x: jax.Array, over: frozenset[str]) -> jax.Array:
    missing = tuple(over - _varying(x))
    return lax.pcast(x, missing, to="varying") if missing else x


def _plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


# --- on a CPU


def _cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if stride == 1 and _winograd.fits(x, kernel, channels=64, tiles=64):
        return _winograd.conv(x, kernel)
    if stride == 1 and (len(kernel) == 1 or max(x.shape[1:3]) > _TINY):
        return _plain(x, kernel, stride)
    return jnp.tensordot(_patches(x, len(kernel), stride), kernel.reshape(-1, kernel.shape[-1]), 1)


def _cpu_grad_x(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    if stride == 1 and _winograd.fits(grad, kernel, channels=64, tiles=64):
        return _winograd.grad_x(kernel, grad)
    if stride == 1:
        return _cpu(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), stride)
    (grad_x,) = jax.vjp(lambda x: _cpu(x, kernel, stride), x)[1](grad)
    return cast(jax.Array, grad_x)


def _cpu_grad_kernel(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    """Multiply patches by the gradient, some images at a time, so that their patches stay in the cache."""
    if stride == 1 and _winograd.fits(x, kernel, channels=128, tiles=max(kernel.shape)):
        return _winograd.grad_kernel(x, kernel, grad)
    inputs, outputs = kernel.size // kernel.shape[-1], kernel.shape[-1]
    per_image = x.dtype.itemsize * inputs * math.prod(grad.shape[1:3])
    total = jnp.zeros_like(kernel, jnp.promote_types(kernel.dtype, jnp.float32)).reshape(outputs, inputs)

    def add(total: jax.Array, images: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, grad = images
        patches = _patches(x, len(kernel), stride).reshape(-1, inputs)
        grad = grad.reshape(-1, outputs)
        if inputs > outputs:  # columns are slow to read, and these would be read more than once
            grad = lax.optimization_barrier(grad.T).T
        return total + jnp.tensordot(grad, patches, (0, 0), preferred_element_type=total.dtype), None

    total, _ = lax.scan(add, total, tuple(_winograd.chunks(a, per_image, _CACHE) for a in (x, grad)))
    return total.T.reshape(kernel.shape).astype(kernel.dtype)


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


# --- with its gradients

_Pair = tuple[jax.Array, jax.Array]  # image and kernel, or their gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    on_cpu, plain = functools.partial(_cpu, stride=stride), functools.partial(_plain, stride=stride)
    output: jax.Array = lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)
    return output


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, _Pair]:
    return _conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: _Pair, grad: jax.Array) -> _Pair:
    def on_cpu(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> _Pair:
        return _cpu_grad_x(x, kernel, stride, grad), _cpu_grad_kernel(x, kernel, stride, grad)

    def transpose(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> _Pair:
        (grad_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)(grad)
        (grad_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, stride), kernel)(grad)
        return grad_x, grad_kernel

    grads: _Pair = lax.platform_dependent(*residuals, grad, cpu=on_cpu, default=transpose)
    return grads


_conv.defvjp(_forward, _backward)
