"""Packed masks: eight weights a byte."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax._axes import unsharded
from snnlth_jax.masks.trees import Masks, PyTree, check, tree_map

__all__ = ["PackedMask", "pack", "unpack"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A mask as bits: `bits` uint8 `[ceil(size / 8)]`, high bit first; `shape` is the shape of the mask.

    Under `vmap`, and after it, `bits` has leading axes that `shape` has not.
    """

    bits: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def pack(masks: Masks) -> PyTree:
    """The same masks in an eighth of the memory: a tree of `PackedMask` (and None).

    Weights that are sharded over an Explicit mesh give bits that are replicated.

    >>> import jax.numpy as jnp
    >>> pack({"w": jnp.array([[True, False, True]])})["w"].bits.tolist()
    [160]
    """
    check(masks)
    return tree_map(lambda m: PackedMask(jnp.packbits(unsharded(m).reshape(-1)), m.shape), masks)


def unpack(packed: PyTree) -> Masks:
    """The inverse of `pack`; packed under `vmap`, masks have their leading axes back.

    >>> import jax.numpy as jnp
    >>> unpack(pack({"w": jnp.array([[True, False, True]])}))["w"].tolist()
    [[True, False, True]]
    """

    def unpack_leaf(p: Any) -> Any:
        if not isinstance(p, PackedMask):
            raise ValueError(f"unpack takes what pack gives, got a leaf of type {type(p).__name__}")
        bytes_ = -(-math.prod(p.shape) // 8)
        if p.bits.dtype != jnp.uint8 or p.bits.ndim == 0 or p.bits.shape[-1] != bytes_:
            raise ValueError(
                f"a mask of shape {p.shape} has bits uint8 [..., {bytes_}], "
                f"got {p.bits.dtype} {p.bits.shape}: axes of vmap come first"
            )
        bits = jnp.unpackbits(unsharded(p.bits), axis=-1, count=math.prod(p.shape))
        return bits.reshape(*p.bits.shape[:-1], *p.shape).astype(bool)

    return jax.tree.map(unpack_leaf, packed, is_leaf=lambda p: isinstance(p, PackedMask))
