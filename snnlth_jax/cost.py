"""What a network costs: multiply-accumulates counted in its own program, and from them training FLOPs."""

import math
from typing import Any

import jax
import jax.extend.core

__all__ = ["macs", "train_flops"]


def macs(fn, *args, **kwargs) -> int:
    """Multiply-accumulates of the convolutions and matrix products in one call of `fn`.

    Counted in the traced program, loops as often as they run: every output element costs the size of its
    window (the zeros of the padding included, as the literature counts), everything else is left out.

    Args:
      fn: any traceable function.
      *args, **kwargs: what it is called with; arrays or `jax.ShapeDtypeStruct`.

    >>> import jax.numpy as jnp
    >>> macs(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5)))
    30
    """
    return _count(jax.make_jaxpr(lambda *a: fn(*a, **kwargs))(*args).jaxpr)


def train_flops(forward_macs: int, images: int) -> int:
    """FLOPs of training on `images` images: two per multiply-accumulate, forward, and twice that backward.

    The paper's networks so cost 468 TFLOP (VGG16) and 831 TFLOP (ResNet19) per CIFAR epoch at T = 5.

    >>> train_flops(forward_macs=1_558_800_000, images=50_000) / 1e12
    467.64
    """
    return 6 * forward_macs * images


def _count(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            kernel, dims = eqn.invars[1].aval, eqn.params["dimension_numbers"]
            window = kernel.size // kernel.shape[dims.rhs_spec[0]]
            total += eqn.outvars[0].aval.size * window
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif eqn.primitive.name == "cond":  # one branch runs, such as the one for this platform
            total += max(_count(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            total += times * sum(_count(inner) for inner in jax.extend.core.jaxprs_in_params(eqn.params))
    return total
