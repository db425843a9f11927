"""Masks: which weights of a network are kept.

A *mask* is a boolean array of the shape of its weight, True = kept. *Masks* are a pytree with the structure
of the parameters they belong to, holding a mask for every prunable leaf and None for the rest. They work
on any pytree of arrays (Flax, Equinox, Haiku, plain dicts), under `jit`, `vmap`, `shard_map` and `pmap`.

    masks = make(params)                                   # everything kept
    tx = freeze_pruned(optax.sgd(0.1))                     # an optimiser that leaves removed weights at zero
    updates, opt_state = tx.update(grads, opt_state, params, masks=masks)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

PyTree = Any
Masks = Any

__all__ = [
    "apply",
    "by_layer",
    "count",
    "distance",
    "freeze_pruned",
    "is_subset",
    "is_weight",
    "make",
    "overlap",
    "pack",
    "sparsity",
    "table",
    "tree_map",
    "unpack",
]


def tree_map(f: Callable[..., Any], masks: Masks, *rest: PyTree) -> PyTree:
    """`jax.tree.map` over masks that keeps None where a leaf is not prunable.

    `rest` are trees of the structure of the parameters; `f(mask, *leaves)` is called for prunable leaves.
    """
    return jax.tree.map(
        lambda m, *leaves: None if m is None else f(m, *leaves), masks, *rest, is_leaf=lambda m: m is None
    )


# --- making and applying


def is_weight(name: str, leaf: Any) -> bool:
    """Whether a leaf is prunable by default: a floating-point array of two or more axes, no bias or scale.

    Convolution and linear weights are prunable, the classifier's included; batch-norm parameters and biases
    are not (the authors' rule), whatever their number of axes.
    """
    if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
        return False
    # flax.nnx puts a trailing "value" behind each parameter's name
    own_name = name.removesuffix("/value").rsplit("/", 1)[-1]
    return len(leaf.shape) >= 2 and own_name not in ("bias", "b", "scale", "offset")


def make(params: PyTree, prunable: Callable[[str, Any], bool] = is_weight) -> Masks:
    """Masks that keep everything: all True for each prunable leaf, None for the rest.

    Args:
      params: any pytree of arrays, or of `jax.ShapeDtypeStruct`.
      prunable: `(name, leaf) -> bool`, where a name reads like `"layer01/conv/kernel"`.

    >>> import jax.numpy as jnp
    >>> masks = make({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    >>> masks["bias"] is None, masks["kernel"].shape
    (True, (2, 3))
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones(leaf.shape, bool) if prunable(_name(path), leaf) else None, params
    )


def apply(params: PyTree, masks: Masks) -> PyTree:
    """The parameters with removed weights at exactly 0; gradients do not pass through those.

    >>> import jax.numpy as jnp
    >>> apply({"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[True, False]])})["w"].tolist()
    [[1.0, 0.0]]
    """
    return jax.tree.map(
        lambda m, p: p if m is None else jnp.where(m, p, jnp.zeros((), p.dtype)),
        masks,
        params,
        is_leaf=lambda m: m is None,
    )


def freeze_pruned(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""An optimiser under which removed weights are exactly 0 after every step.

    With the masks :math:`m`, gradients :math:`g` and parameters :math:`w`, the inner optimiser sees
    :math:`m \odot g` and :math:`m \odot w`, so its state holds nothing of removed weights, and its updates
    :math:`u` become :math:`u` where kept and :math:`-w` where removed. Removed weights stay 0 under momentum,
    weight decay and Adam; the first step sets (finite) weights to 0 that were not 0 before.

    Args:
      tx: any optax optimiser; further keyword arguments of `update` are passed on to it if it takes some.

    Returns:
      A transformation whose `update(grads, state, params, masks=masks)` needs `params` and `masks`.

    >>> import jax.numpy as jnp, optax
    >>> params, masks = {"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[True, False]])}
    >>> tx = freeze_pruned(optax.sgd(0.5))
    >>> updates, _ = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params, masks=masks)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.5, 0.0]]
    """
    inner = optax.with_extra_args_support(tx)

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, *, masks: Masks, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("freeze_pruned needs the parameters: update(grads, state, params, masks=masks)")
        updates, state = inner.update(apply(updates, masks), state, apply(params, masks), **extra)
        updates = jax.tree.map(
            lambda m, u, p: u if m is None else jnp.where(m, u, -p),
            masks,
            updates,
            params,
            is_leaf=lambda m: m is None,
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


# --- counting


def count(masks: Masks) -> tuple[int | jax.Array, int]:
    """`(kept, total)` prunable weights; `kept` is an int, or an array where the masks are traced.

    >>> import jax.numpy as jnp
    >>> count({"w": jnp.array([[True, False, True]]), "b": None})
    (2, 3)
    """
    leaves = jax.tree.leaves(masks)
    total = sum(leaf.size for leaf in leaves)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return sum(jnp.sum(leaf, dtype=jnp.uint32) for leaf in leaves), total
    return sum(int(np.count_nonzero(leaf)) for leaf in leaves), total


def sparsity(masks: Masks) -> float | jax.Array:
    """The fraction of prunable weights that is removed, in [0, 1]; 0 where nothing is prunable.

    >>> import jax.numpy as jnp
    >>> sparsity({"w": jnp.array([[True, False, False, False]])})
    0.75
    """
    kept, total = count(masks)
    return (total - kept) / total if total else 0.0


def by_layer(masks: Masks) -> dict[str, tuple[int, int]]:
    """`{name: (kept, total)}` for each prunable leaf, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    return {_name(path): (int(np.count_nonzero(leaf)), leaf.size) for path, leaf in leaves}


def table(masks: Masks) -> str:
    """Kept weights and sparsity of each layer and of all, as text to print.

    >>> import jax.numpy as jnp
    >>> print(table({"conv": {"kernel": jnp.array([[True, False]])}}))
    layer              kept        total  sparsity
    conv/kernel           1            2   50.00 %
    all                   1            2   50.00 %
    """
    rows = [*by_layer(masks).items(), ("all", count(masks))]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'layer':{width}} {'kept':>11} {'total':>12}  sparsity"]
    for name, (kept, total) in rows:
        removed = 100 * (1 - kept / total) if total else 0.0
        lines.append(f"{name:{width}} {kept:11,} {total:12,}  {removed:6.2f} %")
    return "\n".join(lines)


# --- comparing


def distance(a: Masks, b: Masks) -> float | jax.Array:
    """Normalised Hamming distance: the fraction of prunable weights kept by one of the two alone.

    This is the measure of the paper's Early-Bird search. At high sparsity it is small whatever the masks are:
    two masks that keep a fraction d of the weights differ in at most 2 d of them. `overlap` does not shrink.

    >>> import jax.numpy as jnp
    >>> distance({"w": jnp.array([True, False])}, {"w": jnp.array([True, True])})
    0.5
    """
    differing, total = count(tree_map(jnp.logical_xor, a, b))
    return differing / total if total else 0.0


def overlap(a: Masks, b: Masks) -> float | jax.Array:
    """Shared kept weights over kept weights (of the mask that keeps more), in [0, 1]; 1 for equal masks.

    >>> import jax.numpy as jnp
    >>> overlap({"w": jnp.array([True, True, False])}, {"w": jnp.array([False, True, True])})
    0.5
    """
    shared, _ = count(tree_map(jnp.logical_and, a, b))
    kept_a, kept_b = count(a)[0], count(b)[0]
    if isinstance(shared, int) and isinstance(kept_a, int) and isinstance(kept_b, int):
        return shared / max(kept_a, kept_b) if kept_a or kept_b else 1.0
    kept = jnp.maximum(kept_a, kept_b)
    return jnp.where(kept == 0, 1.0, shared / jnp.maximum(kept, 1))


def is_subset(inner: Masks, outer: Masks) -> bool | jax.Array:
    """Whether `outer` keeps everything that `inner` keeps.

    >>> import jax.numpy as jnp
    >>> is_subset({"w": jnp.array([True, False])}, {"w": jnp.array([True, True])})
    True
    """
    return count(tree_map(lambda i, o: i & ~o, inner, outer))[0] == 0


# --- packing, eight weights a byte


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A mask as bits: `bits` uint8 `[ceil(size / 8)]`, high bit first; `shape` is the shape of the mask."""

    bits: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def pack(masks: Masks) -> PyTree:
    """The same masks in an eighth of the memory: a tree of `PackedMask` (and None).

    >>> import jax.numpy as jnp
    >>> pack({"w": jnp.array([[True, False, True]])})["w"].bits.tolist()
    [160]
    """
    return tree_map(lambda m: PackedMask(jnp.packbits(m.reshape(-1)), m.shape), masks)


def unpack(packed: PyTree) -> Masks:
    """The inverse of `pack`.

    >>> import jax.numpy as jnp
    >>> unpack(pack({"w": jnp.array([[True, False, True]])}))["w"].tolist()
    [[True, False, True]]
    """

    def unpack_leaf(p: PackedMask) -> jax.Array:
        size = int(np.prod(p.shape))
        return jnp.unpackbits(p.bits, count=size).reshape(p.shape).astype(bool)

    return jax.tree.map(unpack_leaf, packed, is_leaf=lambda p: isinstance(p, PackedMask))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
