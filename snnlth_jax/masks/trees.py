"""Masks as trees: their structure, which leaves they cover, and applying them."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._axes import vary_like

PyTree = Any
Masks = Any

__all__ = ["Leaf", "apply", "check", "explain", "is_weight", "make", "tree_map"]


# --- structure


def tree_map(f: Callable[..., Any], masks: Masks, *rest: PyTree) -> PyTree:
    """`jax.tree.map` over masks that keeps None where a leaf is not prunable.

    Args:
      f: called with a mask and the leaves of `rest` at its place.
      masks: masks, or any tree of their structure.
      *rest: trees of the structure of the masks; where these have None, `rest` may have anything.

    Raises:
      ValueError: a tree has another structure; the error names the first leaf that differs.

    >>> import jax.numpy as jnp
    >>> tree_map(lambda m: m.size, {"kernel": jnp.ones((2, 3), bool), "bias": None})
    {'bias': None, 'kernel': 6}
    """
    leaves, treedef = flatten(masks)
    columns = [_aligned(masks, tree, f"tree {i}") for i, tree in enumerate(rest, start=1)]
    rows = zip(leaves, *columns, strict=True)
    return treedef.unflatten([None if m is None else f(m, *others) for m, *others in rows])


def check(masks: Masks, tree: PyTree = None, name: str = "params") -> None:
    """Check that masks are boolean, and that a tree has their structure and shapes.

    All of it is static: under `jit` it costs nothing. Where the masks have None, the tree may have any leaf.

    Args:
      masks: the masks.
      tree: parameters, scores or gradients to compare with; None for the masks alone.
      name: name of the tree in the error.

    Raises:
      ValueError: with the name of the first leaf that differs, and both shapes.

    >>> import jax.numpy as jnp
    >>> check({"w": jnp.ones((3, 1), bool)}, {"w": jnp.ones((3, 8))})
    Traceback (most recent call last):
    ...
    ValueError: w: the mask has shape (3, 1), params (3, 8)
    """
    mine = jax.tree_util.tree_leaves_with_path(masks, is_leaf=_is_none)
    for path, mask in mine:
        array = isinstance(mask, jax.Array | np.ndarray | np.generic)
        if mask is not None and not (array and mask.dtype == np.dtype(bool)):
            kind = mask.dtype if array else type(mask).__name__
            raise ValueError(f"{name_of(path)}: a mask must be a bool array, got {kind}")
    if tree is None:
        return
    for (path, mask), leaf in zip(mine, _aligned(masks, tree, name), strict=True):
        if mask is None and not jax.tree_util.all_leaves([leaf]) and (inside := jax.tree.leaves(leaf)):
            place = name_of(path) or "the root"
            raise ValueError(f"{place}: None in the masks, but {name} has {len(inside)} leaves there")
        if mask is not None and np.shape(mask) != _shape(leaf):
            other = _shape(leaf)
            is_ = f"{name} {other}" if other is not None else f"{name} {type(leaf).__name__}"
            raise ValueError(f"{name_of(path)}: the mask has shape {np.shape(mask)}, {is_}")


def check_structure(masks: Masks, tree: PyTree, name: str) -> None:
    """Check that a tree has the structure of masks; else a ValueError with the name of a leaf."""
    _aligned(masks, tree, name)


def check_pair(a: Masks, b: Masks) -> None:
    """Check that two trees of masks cover the same leaves in the same shapes, as `check` does."""
    check(a)
    check(b)
    check(a, b, "the other mask")
    mine = jax.tree_util.tree_leaves_with_path(a, is_leaf=_is_none)
    for (path, mask), other in zip(mine, _aligned(a, b, "the other mask"), strict=True):
        if mask is None and jax.tree.leaves(other):
            raise ValueError(f"{name_of(path)}: one of the masks is None, the other is not")


def flatten(masks: Masks) -> tuple[list[Any], Any]:
    """The leaves of masks, with None for those that are not prunable, and their structure."""
    leaves, treedef = jax.tree.flatten(masks, is_leaf=_is_none)
    return leaves, treedef


def flatten_kept(masks: Masks) -> tuple[list[jax.Array], Any]:
    """The masks of a tree, without None, and its structure."""
    leaves, treedef = jax.tree.flatten(masks)
    return leaves, treedef


def _aligned(masks: Masks, tree: PyTree, name: str) -> list[Any]:
    """Parts of a tree at each leaf of the masks, None included."""
    try:
        leaves: list[Any] = flatten(masks)[1].flatten_up_to(tree)
    except (ValueError, TypeError) as error:
        raise ValueError(_difference(masks, tree, name, error)) from None
    return leaves


def _difference(masks: Masks, tree: PyTree, name: str, error: Exception) -> str:
    mine, others = (
        {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(t, is_leaf=_is_none)}
        for t in (masks, tree)
    )
    for leaf in sorted(mine, key=lambda leaf: mine[leaf] is None):  # masks before None
        if leaf not in others:
            shape = getattr(mine[leaf], "shape", None)
            return f"{leaf or 'the root'}: in the masks (shape {shape}), but not in {name}"
    for leaf in others:
        if leaf not in mine:
            return f"{leaf or 'the root'}: in {name} (shape {_shape(others[leaf])}), but not in the masks"
    return f"the masks and {name} are trees of different kinds of nodes: {error}"


def _shape(leaf: Any) -> tuple[int, ...] | None:
    shape = getattr(leaf, "shape", None)
    return shape if isinstance(shape, tuple) else None


def _is_none(x: Any) -> bool:
    return x is None


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a leaf, such as "layer01/conv/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


# --- making


def _rule(name: str, leaf: Any) -> tuple[bool, str]:
    """Whether a leaf is prunable by default, and the reason."""
    dtype, shape = getattr(leaf, "dtype", None), _shape(leaf)
    if dtype is None or shape is None:
        return False, "no array"
    if not jnp.issubdtype(dtype, jnp.inexact):
        return False, "not floating point"
    # flax.nnx puts a trailing "value" behind each parameter's name
    *modules, own_name = name.removesuffix("/value").split("/")
    if len(shape) < 2:
        return False, "fewer than two axes"
    words = re.findall("[a-z]+", own_name.lower())
    if vectors := [word for word in words if word in _VECTORS]:
        return False, f"named {vectors[0]}"
    # "b" is a bias in Haiku, and a matrix elsewhere: only a bias has a single axis that is longer than 1
    if words[:1] == ["b"] and sum(extent != 1 for extent in shape) < 2:
        return False, "named b, with one axis longer than 1"
    parts = [part for module in modules for part in re.findall("[a-z]+", module.lower())]
    if own_name != "kernel" and any(part in ("ln", "bn") or re.search("norms?$", part) for part in parts):
        return False, "in a norm"
    return True, "two or more axes"


# biases, scales, and constants of neurons, which may be stacked or broadcast
_VECTORS = {"bias", "scale", "offset", "tau", "threshold", "thresh", "th", "vth", "reset", "decay", "leak"}
_VECTORS |= {"alpha", "beta", "gamma", "slope", "gain", "mean", "var"}


def is_weight(name: str, leaf: Any) -> bool:
    """Whether a leaf is prunable by default; `explain` lists what the rule does to a tree, and why.

    Prunable are floating-point (or complex) arrays of two or more axes: convolution, linear and embedding
    weights, the classifier's included (the authors' rule). Not prunable, whatever their number of axes: what
    has one of the words bias, scale or offset in its name, or one of a constant of neurons (tau_mem,
    v_threshold, decay, beta ...), and what belongs to a module called a norm.
    """
    return _rule(name, leaf)[0]


def make(params: PyTree, prunable: Callable[[str, Any], bool] = is_weight, *, batch_axes: int = 0) -> Masks:
    """Masks that keep everything: all True for each prunable leaf, None for the rest.

    Args:
      params: any pytree of arrays, or of `jax.ShapeDtypeStruct`; other leaves (functions, random keys) are
        not prunable.
      prunable: `(name, leaf) -> bool`, where a name reads like `"layer01/conv/kernel"`.
      batch_axes: number of leading axes that stack networks (an ensemble by `vmap`) or layers (a scan over
        blocks). `prunable` sees leaves without them, so that a stack of biases is not taken for a matrix; a
        leaf with fewer axes is not prunable.

    Raises:
      ValueError: a negative `batch_axes`; a prunable leaf that is no array.

    >>> import jax.numpy as jnp
    >>> masks = make({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    >>> masks["bias"] is None, masks["kernel"].shape
    (True, (2, 3))
    >>> make({"shift": jnp.ones((5, 3))}, batch_axes=1)  # five networks with a vector each
    {'shift': None}
    """

    def whole(path: tuple[Any, ...], leaf: Any) -> jax.Array | None:
        name, own = name_of(path), _unbatched(leaf, batch_axes)
        if own is _TOO_FEW_AXES or not prunable(name, own):
            return None
        if _shape(leaf) is None or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise ValueError(f"{name}: prunable must be an array, got {type(leaf).__name__}")
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            return jnp.ones_like(leaf, dtype=bool)  # placed on devices as the leaf is
        mask = jnp.ones(leaf.shape, bool)
        return vary_like(mask, leaf) if isinstance(leaf, jax.core.Tracer) else mask

    return jax.tree_util.tree_map_with_path(whole, params)


class Leaf(NamedTuple):
    """A leaf of the parameters, as `explain` lists it; shape and dtype are None for what is no array."""

    name: str
    shape: tuple[int, ...] | None
    dtype: Any
    prunable: bool
    rule: str


def explain(
    params: PyTree, prunable: Callable[[str, Any], bool] = is_weight, *, batch_axes: int = 0
) -> list[Leaf]:
    """Every leaf of the parameters, prunable or not, with the rule that decided: what `make` does.

    Args:
      params: as for `make`.
      prunable: as for `make`.
      batch_axes: as for `make`.

    >>> import jax.numpy as jnp
    >>> for leaf in explain({"norm": {"weight": jnp.ones((4, 8))}, "dense": {"kernel": jnp.ones((8, 3))}}):
    ...     print(leaf.name, leaf.shape, leaf.prunable, leaf.rule)
    dense/kernel (8, 3) True two or more axes
    norm/weight (4, 8) False in a norm
    """
    leaves = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, own = name_of(path), _unbatched(leaf, batch_axes)
        if own is _TOO_FEW_AXES:
            taken, rule = False, "fewer axes than batch_axes"
        elif prunable is is_weight:
            taken, rule = _rule(name, own)
        else:
            taken, rule = bool(prunable(name, own)), getattr(prunable, "__name__", "prunable")
        leaves.append(Leaf(name, _shape(leaf), getattr(leaf, "dtype", None), taken, rule))
    return leaves


_TOO_FEW_AXES = object()


def _unbatched(leaf: Any, batch_axes: int) -> Any:
    """A leaf as `prunable` sees it: without the axes that stack networks."""
    if batch_axes < 0:
        raise ValueError(f"batch_axes must be 0 or more, got {batch_axes}")
    shape = _shape(leaf)
    if not batch_axes or shape is None:
        return leaf
    if len(shape) < batch_axes:
        return _TOO_FEW_AXES
    return jax.ShapeDtypeStruct(shape[batch_axes:], leaf.dtype)


# --- applying


def apply(params: PyTree, masks: Masks) -> PyTree:
    """The parameters with removed weights at exactly 0; gradients do not pass through those.

    Raises:
      ValueError: masks of another structure, shape or dtype, see `check`.

    >>> import jax.numpy as jnp
    >>> apply({"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[True, False]])})["w"].tolist()
    [[1.0, 0.0]]
    """
    check(masks, params)
    return map_kept(keep, masks, params)


def map_kept(f: Callable[..., Any], masks: Masks, tree: PyTree, *rest: PyTree) -> PyTree:
    """`f(mask, leaf, *leaves)` where there is a mask, else the leaf of `tree`."""
    leaves, treedef = flatten(masks)
    rows = zip(leaves, *(treedef.flatten_up_to(t) for t in (tree, *rest)), strict=True)
    return treedef.unflatten(
        [leaf if mask is None else f(mask, leaf, *others) for mask, leaf, *others in rows]
    )


def keep(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """The leaf where the mask keeps it, else 0."""
    leaf = jnp.asarray(leaf)  # NumPy's double precision may not be JAX's
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))
