"""Cost of a network: multiply-accumulates counted in its own program, and from them training FLOPs."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import numpy as np

__all__ = ["macs", "train_flops"]


def macs(fn: Callable[..., Any], *args: Any, padding: bool = True) -> int:
    """Multiply-accumulates of the convolutions and matrix products in one call of `fn`.

    The function counts in the traced program: every output element costs the size of its window; operations
    other than convolutions and matrix products cost nothing. Loops of a fixed length (`scan`) count as often
    as they run, others (`while_loop`) once; of the branches of a `cond` the most expensive counts, and in
    `shard_map` each device. Convolutions count as such, however this platform computes them.

    Args:
      fn: any traceable function.
      *args: its arguments; arrays or `jax.ShapeDtypeStruct`.
      padding: count products with the zeros around an image too, as the literature does; XLA's own count
        leaves them out.

    >>> import jax.numpy as jnp
    >>> macs(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5)))
    30
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr, padding)


def train_flops(forward_flops: int) -> int:
    """FLOPs of training, forward and backward: three times those of the forward pass.

    The backward pass computes each product twice, for the gradient of either factor.

    >>> train_flops(2 * 1_558_800_000 * 50_000) / 1e12      # VGG16, T = 5, an epoch of CIFAR
    467.64
    """
    return 3 * forward_flops


def _count(jaxpr: Any, padding: bool) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            total += _convolution(eqn, padding)
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif definition := getattr(eqn.primitive, "definition", None):  # CPUs compute it otherwise
            traced = jax.make_jaxpr(functools.partial(definition, **eqn.params))
            total += _count(traced(*(x.aval for x in eqn.invars)).jaxpr, padding)
        elif eqn.primitive.name == "custom_linear_solve":  # the other programs in it do not run
            total += _count(eqn.params["jaxprs"].solve.jaxpr, padding)
        elif eqn.primitive.name == "cond":
            branches = [_count(branch.jaxpr, padding) for branch in eqn.params["branches"]]
            by_platform = eqn.params.get("branches_platforms")  # of which the default is last
            total += branches[-1] if by_platform else max(branches)
        else:
            inner = jax.extend.core.jaxprs_in_params(eqn.params)
            total += _times(eqn) * sum(_count(jaxpr, padding) for jaxpr in inner)
    return total


def _times(eqn: Any) -> int:
    """Number of times that a program within an operation runs: timesteps of a loop, devices of a mesh."""
    if eqn.primitive.name == "scan":
        return int(eqn.params["length"])
    if eqn.primitive.name == "shard_map":
        sizes = eqn.params["mesh"].shape
        return math.prod(sizes[axis] for axis in eqn.params.get("newly_manual_axes", sizes))
    return 1


def _convolution(eqn: Any, padding: bool) -> int:
    """Output elements times window; without padding, only the pairs that lie within the image."""
    dims, strides = eqn.params["dimension_numbers"], eqn.params["window_strides"]
    (image, kernel), out = (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    pairs = 1
    for axis, (before, _) in enumerate(eqn.params["padding"]):
        size, window, outputs = (
            shape[spec[2 + axis]]
            for shape, spec in ((image, dims.lhs_spec), (kernel, dims.rhs_spec), (out, dims.out_spec))
        )
        dilation, gap = eqn.params["lhs_dilation"][axis], eqn.params["rhs_dilation"][axis]
        inputs = strides[axis] * np.arange(outputs)[:, None] + gap * np.arange(window) - before
        inside = (inputs >= 0) & (inputs <= dilation * (size - 1)) & (inputs % dilation == 0)
        pairs *= inside.size if padding else int(inside.sum())
    channels = kernel[dims.rhs_spec[1]]  # in one group
    products: int = out[dims.out_spec[0]] * out[dims.out_spec[1]] * channels * pairs
    return products
