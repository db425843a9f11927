"""A convolution that is fast on every platform: XLA's own, except where its CPU backend is slow.

In a compiled loop XLA's CPU backend computes the gradients of a convolution sixteen to a hundred times slower
than outside of one. Convolutions of images of 2x2 pixels take some eighty times longer than the same sums as
a matrix product, anywhere (docs/performance.md). On CPUs, and only there, the gradient of the input is
therefore written out as the convolution that it is, and the others as products of patches and matrices;
with enough channels, both use minimal filtering (`_winograd`), and where oneDNN is installed, it computes
what that does not (`_onednn`). The results are the same up to the order of summation.
"""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from snnlth_jax._axes import vary_like
from snnlth_jax._constants import promoted
from snnlth_jax.models import _onednn, _winograd
from snnlth_jax.models._linear import linear

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
    # in shard_map both vary over the devices, since all branches below must have gradients of one type
    return _conv(vary_like(x, kernel), vary_like(kernel, x), stride)


def _plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


# --- on a CPU


def _cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if stride == 1 and _winograd.fits(x, kernel, channels=_many(x, kernel), tiles=64):
        return _winograd.conv(x, kernel)
    if _onednn.takes(x, kernel):
        return _onednn.conv(x, kernel, stride)
    if stride == 1 and (len(kernel) == 1 or max(x.shape[1:3]) > _TINY):
        return _plain(x, kernel, stride)
    return jnp.tensordot(_patches(x, len(kernel), stride), kernel.reshape(-1, kernel.shape[-1]), 1)


def _many(x: jax.Array, kernel: jax.Array) -> int:
    """Channels from which minimal filtering is the fastest: of oneDNN and it, or of XLA's own and it."""
    return 128 if _onednn.takes(x, kernel) else 64


def _cpu_grad_x(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    if stride == 1 and _winograd.fits(grad, kernel, channels=_many(x, kernel), tiles=64):
        return _winograd.grad_x(kernel, grad)
    if _onednn.takes(x, kernel):
        return _onednn.grad_x(x, kernel, stride, grad)
    if stride == 1:
        return _cpu(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), stride)
    (grad_x,) = jax.vjp(lambda x: _cpu(x, kernel, stride), x)[1](grad)
    return cast(jax.Array, grad_x)


def _cpu_grad_kernel(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    """Multiply patches by the gradient, some images at a time, so that their patches stay in the cache."""
    if stride == 1 and _winograd.fits(x, kernel, channels=128, tiles=max(kernel.shape)):
        return _winograd.grad_kernel(x, kernel, grad)
    if _onednn.takes(x, kernel):
        return _onednn.grad_kernel(x, kernel, stride, grad)
    inputs, outputs = kernel.size // kernel.shape[-1], kernel.shape[-1]
    per_image = x.dtype.itemsize * inputs * math.prod(grad.shape[1:3])
    total = jnp.zeros_like(kernel, promoted(kernel, jnp.float32)).reshape(outputs, inputs)

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


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    on_cpu, plain = functools.partial(_cpu, stride=stride), functools.partial(_plain, stride=stride)
    output: jax.Array = lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)
    return output


_traced_once = jax.jit(_conv, static_argnums=2)  # for the several places of it in a tangent


def _tangent(
    stride: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    """The convolution and its change: a linear function of the image's change, plus one of the kernel's."""
    (x, kernel), (dx, dkernel) = primals, tangents
    output = _conv(x, kernel, stride)

    def by_x(dx: jax.Array) -> jax.Array:
        return cast(jax.Array, _traced_once(dx, kernel, stride))

    def by_kernel(dkernel: jax.Array) -> jax.Array:
        return cast(jax.Array, _traced_once(x, dkernel, stride))

    grad_x, grad_kernel = (functools.partial(grad, x, kernel, stride) for grad in (_grad_x, _grad_kernel))
    terms = ((by_x, grad_x, dx), (by_kernel, grad_kernel, dkernel))
    changes = [linear(fun, grad, d, output) for fun, grad, d in terms if not isinstance(d, SymbolicZero)]
    return output, functools.reduce(jnp.add, changes) if changes else jnp.zeros_like(output)


_conv.defjvp(_tangent, symbolic_zeros=True)


def _grad_x(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    def on_cpu(kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return _cpu_grad_x(x, kernel, stride, grad)

    def plain(kernel: jax.Array, grad: jax.Array) -> jax.Array:
        (grad_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)(grad)
        return cast(jax.Array, grad_x)

    result: jax.Array = lax.platform_dependent(kernel, grad, cpu=on_cpu, default=plain)
    return result


def _grad_kernel(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    def on_cpu(x: jax.Array, grad: jax.Array) -> jax.Array:
        return _cpu_grad_kernel(x, kernel, stride, grad)

    def plain(x: jax.Array, grad: jax.Array) -> jax.Array:
        (grad_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, stride), kernel)(grad)
        return cast(jax.Array, grad_kernel)

    result: jax.Array = lax.platform_dependent(x, grad, cpu=on_cpu, default=plain)
    return result
