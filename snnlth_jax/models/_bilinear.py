"""Functions of two arrays, linear in each, that a CPU computes in a way of its own.

Such a function is a primitive of JAX: a derivative needs its name only, so that what computes it is traced
and lowered once for each shape of a program, and not for each of its derivatives on each platform.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from snnlth_jax._axes import is_explicit

__all__ = ["Bilinear", "are_derivatives"]

Shape = tuple[int, ...]


class Bilinear(Primitive):
    """A bilinear function of arrays of one type.

    Called with two arrays, the shape of its output and a stride. Of arrays that are divided over an explicit
    mesh it is computed by the definition, which says how the output is divided.

    Attributes:
      definition: the function, of two arrays and the parameters of the primitive.
    """

    def __init__(
        self, name: str, definition: Callable[..., jax.Array], cpu: Callable[..., jax.Array], rows: int
    ):
        """Define the primitive.

        Args:
          name: its name in traced programs.
          definition: the function of two arrays, `stride` and the `shape` of the output; JAX knows its
            derivatives.
          cpu: what computes it on CPUs.
          rows: the one array, 0 or 1, whose first axis the output has too; -1 for none.
        """
        super().__init__(name)
        self.definition, self._rows = functools.partial(_over_maps, definition), rows
        Primitive.def_impl(
            self,
            jax.jit(functools.partial(Primitive.bind, self), static_argnames=("stride", "shape", "maps")),
        )
        Primitive.def_abstract_eval(
            self, lambda a, b, *, shape, maps, **_: a.update(shape=(*a.shape[:maps], *shape))
        )
        batching.primitive_batchers[self] = self._mapped
        for function, platform in ((self.definition, None), (functools.partial(_over_maps, cpu), "cpu")):
            mlir.register_lowering(self, mlir.lower_fun(function, multiple_results=False), platform)

    def __call__(self, a: jax.Array, b: jax.Array, *, stride: int, shape: Shape, maps: int = 0) -> jax.Array:
        """The output `[*maps, *shape]`; arrays may have leading axes of maps, over which it is mapped."""
        if is_explicit(a) or is_explicit(b):
            return self.definition(a, b, stride=stride, shape=shape, maps=maps)
        return cast(jax.Array, Primitive.bind(self, a, b, stride=stride, shape=tuple(shape), maps=maps))

    def _mapped(
        self, arrays: Any, axes: Any, *, stride: int, shape: Shape, maps: int
    ) -> tuple[jax.Array, int]:
        """Under `vmap` more rows, or a further map."""
        [size] = {a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None}
        rows = self._rows
        if rows >= 0 and axes[1 - rows] is None:
            long = jnp.moveaxis(arrays[rows], axes[rows], maps)
            long = long.reshape(*long.shape[:maps], -1, *long.shape[maps + 2 :])
            pair = (long, arrays[1]) if rows == 0 else (arrays[0], long)
            output = self(*pair, stride=stride, shape=(size * shape[0], *shape[1:]), maps=maps)
            return output.reshape(*output.shape[:maps], size, *shape), maps
        a, b = (
            jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(arrays, axes, strict=True)
        )
        return self(a, b, stride=stride, shape=shape, maps=maps + 1), 0


def _over_maps(
    function: Callable[..., jax.Array],
    a: jax.Array,
    b: jax.Array,
    *,
    stride: int,
    shape: Shape,
    maps: int = 0,
) -> jax.Array:
    mapped: Callable[..., jax.Array] = functools.partial(function, stride=stride, shape=shape)
    for _ in range(maps):
        mapped = jax.vmap(mapped)
    return mapped(a, b)


def are_derivatives(function: Bilinear, grad_a: Bilinear, grad_b: Bilinear) -> None:
    """Tell JAX that three functions are the partial derivatives of one form that is linear in three arrays.

    The form is `<function(a, b), c>`; `grad_a(b, c)` is its derivative by a, and `grad_b(a, c)` that by b. So
    the transpose of one of the three is another.
    """

    def transpose(kind: Bilinear, by: int, swapped: bool = False) -> Callable[..., jax.Array]:
        """By the first array (0) or the second (1): `kind` of the cotangent and the other array."""

        def rule(cotangent: jax.Array, *arrays: Any, stride: int, maps: int, **_: Any) -> jax.Array:
            a, b = cotangent, arrays[1 - by]
            pair, shape = (b, a) if swapped else (a, b), arrays[by].aval.shape[maps:]
            return kind(*pair, stride=stride, shape=shape, maps=maps)

        return rule

    ad.defbilinear(function, transpose(grad_a, 0, True), transpose(grad_b, 1, True))
    ad.defbilinear(grad_a, transpose(grad_b, 0), transpose(function, 1))
    ad.defbilinear(grad_b, transpose(grad_a, 0), transpose(function, 1, True))
