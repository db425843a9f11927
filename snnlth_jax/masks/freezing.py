"""An optimiser under which removed weights stay removed, in the parameters and in its own state."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snnlth_jax.masks.trees import Masks, PyTree, check, flatten, keep, map_kept, name_of, tree_map

__all__ = ["FrozenState", "freeze_pruned", "replace_masks"]


class FrozenState(NamedTuple):
    """State of `freeze_pruned(tx, masks)`: the masks, and the state of `tx`."""

    masks: Masks
    inner: PyTree


def freeze_pruned(
    tx: optax.GradientTransformation, masks: Masks | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""An optimiser under which removed weights are exactly 0 after every step.

    With the masks :math:`m`, gradients :math:`g` and parameters :math:`w`, the inner optimiser sees
    :math:`m \odot g` and :math:`m \odot w`, its updates :math:`u` become :math:`u` where kept and :math:`-w`
    where removed, and whatever in its state has the shape of the parameters (momentum, averages) is 0 where
    removed, also after masks shrink in the middle of training: under optimisers that work weight by weight or
    with norms, kept weights move as in a network that never had the others. (What takes means over a layer,
    as `centralize` does, still counts removed weights as zeros; gradients of each example, as `dpsgd` takes
    them, are refused.) The first step sets (finite) weights to 0 that were not 0 before.

    The masks live in one of two places:

    * in the call, `update(grads, state, params, masks=masks)`: nothing is added to the state;
    * in the state, `freeze_pruned(tx, masks)`: `update(grads, state, params)` suffices, so that Flax's
      `TrainState`, `nnx.Optimizer` and other people's loops need no change. Between rounds, `replace_masks`
      exchanges them; `masks=` in a call wins, and stays in the state.

    It has to be the outermost transformation: what is chained after it changes :math:`-w` too, and
    `optax.chain(freeze_pruned(optax.sgd(1.0)), optax.scale(0.1))` takes a tenth of a removed weight away in
    each step. Write `freeze_pruned(optax.chain(...))`. Inside `optax.multi_transform` and `optax.masked` it
    freezes the leaves that it is given. State without the structure of the parameters (that of
    `optax.flatten`, the factored moments of `adafactor`) is left as it is. `optax.lookahead` has its fast and
    slow weights both frozen.

    Args:
      tx: any optax optimiser; further keyword arguments of `update` are passed on to it if it takes some.
      masks: masks of the parameters, to be kept in the state; None if each call brings its own.

    Returns:
      A transformation whose `update` needs `params`. With masks in the state, that is a `FrozenState`:
      functions that read the state of `tx`, such as `optax.contrib.schedule_free_eval_params`, take its
      `inner`.

    Raises:
      ValueError: no parameters, no masks, or masks that do not match the parameters (see `check`).

    >>> import jax.numpy as jnp, optax
    >>> params, masks = {"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[True, False]])}
    >>> tx = freeze_pruned(optax.sgd(0.5))
    >>> updates, _ = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params, masks=masks)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.5, 0.0]]

    The same with the masks in the state:

    >>> tx = freeze_pruned(optax.sgd(0.5), masks)
    >>> updates, _ = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.5, 0.0]]
    """
    inner = optax.with_extra_args_support(tx)
    if masks is not None:
        check(masks)
    own = masks

    def init(params: PyTree) -> PyTree:
        if own is None:
            return inner.init(params)
        kept = _present(own, params)
        return FrozenState(_owned(kept), inner.init(_apply(kept, params)))

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        masks: Masks | None = None,
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("freeze_pruned needs the parameters: update(grads, state, params)")
        if masks is None and own is None:
            raise ValueError(
                "freeze_pruned needs masks: update(grads, state, params, masks=masks), "
                "or freeze_pruned(tx, masks) to have them in its state"
            )
        if isinstance(state, FrozenState) != (own is not None):
            held, here = ("no masks", "has") if own is not None else ("masks", "has none")
            raise ValueError(f"the optimiser state holds {held}, but this freeze_pruned {here}")
        inner_state = state if own is None else state.inner
        kept = _present(state.masks if masks is None else masks, params)
        check(kept, updates.fast if isinstance(updates, optax.LookaheadParams) else updates, "gradients")
        if "grad_fn" in extra:  # with which `optax.contrib.sam` takes several gradients in one step
            extra["grad_fn"] = _masked_gradients(extra["grad_fn"], kept)
        freeze = _state_freezer(kept, params, inner.init)
        updates, inner_state = inner.update(
            _apply(kept, updates), freeze(inner_state), _apply(kept, params), **extra
        )
        inner_state = freeze(inner_state)
        updates = _map(_frozen, kept, updates, params)
        if own is None:
            return updates, inner_state
        return updates, FrozenState(kept if masks is None else _owned(kept), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def replace_masks(opt_state: PyTree, masks: Masks) -> PyTree:
    """The optimiser state with other masks, for `freeze_pruned(tx, masks)` between two rounds.

    Args:
      opt_state: state of any optimiser with such transformations inside, such as `TrainState.opt_state`.
      masks: the new masks, like those before; a transformation inside `multi_transform` takes its own leaves.

    Raises:
      ValueError: no masks are in the state, or others than those in structure, shape or dtype.

    >>> import jax.numpy as jnp, optax
    >>> state = freeze_pruned(optax.sgd(0.5), {"w": jnp.array([True, True])}).init({"w": jnp.ones(2)})
    >>> replace_masks(state, {"w": jnp.array([True, False])}).masks["w"].tolist()
    [True, False]
    """
    check(masks)
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(masks)]
    taken: set[str] = set()
    seen = False

    def replaced(state: Any) -> Any:
        nonlocal seen
        if not isinstance(state, FrozenState):
            return state
        seen, old = True, state.masks
        inner = jax.tree.map(replaced, state.inner, is_leaf=lambda x: isinstance(x, FrozenState))
        if _names(old) == _names(masks):  # nodes may be of another type: flax.nnx wraps them in its optimiser
            taken.update(names)
            new = jax.tree.unflatten(jax.tree.structure(old), jax.tree.leaves(masks))
            return FrozenState(_owned(new), inner)
        new = tree_map(lambda _, m: m, old, masks)
        check(old, new, "the new masks")
        taken.update(name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(old))
        return FrozenState(_owned(new), inner)

    result = jax.tree.map(replaced, opt_state, is_leaf=lambda x: isinstance(x, FrozenState))
    if not seen:
        raise ValueError("the optimiser state holds no masks: make it with freeze_pruned(tx, masks)")
    unknown = [name for name in names if name not in taken]
    if unknown and isinstance(opt_state, FrozenState):  # others may have parts that they do not freeze
        raise ValueError(f"{unknown[0]}: a new mask, but the optimiser state has none for it")
    return result


def _names(masks: Masks) -> list[tuple[str, tuple[int, ...]]]:
    leaves = jax.tree_util.tree_leaves_with_path(masks)
    return [(name_of(path).removesuffix("/value"), leaf.shape) for path, leaf in leaves]


# --- trees of which parts are somebody else's


def _absent(x: Any) -> bool:
    """None, and what `multi_transform` puts in place of leaves that are not for this transformation."""
    return x is None or isinstance(x, optax.MaskedNode)


def _present(masks: Masks, params: PyTree) -> Masks:
    """Masks for the leaves that the parameters have, after `check` of these."""
    if isinstance(params, optax.LookaheadParams):
        return _present(masks, params.fast)
    elsewhere = {
        path
        for path, p in jax.tree_util.tree_leaves_with_path(params, is_leaf=_absent)
        if isinstance(p, optax.MaskedNode)
    }
    kept = jax.tree_util.tree_map_with_path(
        lambda path, m: None if path in elsewhere else m,
        masks,
        is_leaf=lambda path, m: m is None or path in elsewhere,
        is_leaf_takes_path=True,
    )
    check(kept, params)
    return kept


def _map(f: Any, masks: Masks, tree: PyTree, *rest: PyTree) -> PyTree:
    """`map_kept`, for fast and slow weights alike."""
    if isinstance(tree, optax.LookaheadParams):
        fast = _map(f, masks, tree.fast, *(other.fast for other in rest))
        return optax.LookaheadParams(fast, _map(f, masks, tree.slow, *(other.slow for other in rest)))
    return map_kept(f, masks, tree, *rest)


def _owned(masks: Masks) -> Masks:
    """Copies, since a loop that donates its optimiser state deletes what is in it."""
    return jax.tree.map(jnp.array, masks)


def _apply(masks: Masks, tree: PyTree) -> PyTree:
    return _map(keep, masks, tree)


def _frozen(mask: jax.Array, update: jax.Array, weight: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):  # updates of mixed precision are wider than their weights
        return jnp.where(mask, update, -weight)


def _masked_gradients(grad_fn: Callable[..., PyTree], masks: Masks) -> Callable[..., PyTree]:
    """Gradients at masked parameters, 0 at removed weights."""

    def masked(params: PyTree, *args: Any) -> PyTree:
        return _apply(masks, grad_fn(_apply(masks, params), *args))

    return masked


def _state_freezer(
    masks: Masks, params: PyTree, init: Callable[[PyTree], PyTree]
) -> Callable[[PyTree], PyTree]:
    """Sets a state to 0 at removed weights, in every part that has structure and shapes of the parameters."""
    own = params.fast if isinstance(params, optax.LookaheadParams) else params
    # a mask or None for each leaf of the parameters
    leaves, treedef = flatten(masks)
    parts = zip(leaves, treedef.flatten_up_to(own), strict=True)
    flat = [m for m, part in parts for _ in jax.tree.leaves(part, is_leaf=_absent)]
    if jax.tree_util.all_leaves([own]):  # an array, whose structure every leaf has
        return partial(_masked_beside_array, flat[0], _longer_with(params, init))
    structure: Any = jax.tree.structure(own, is_leaf=_absent)

    def equal(x: Any) -> bool:
        return bool(jax.tree.structure(x, is_leaf=_absent) == structure)

    def spans(x: Any) -> bool:
        """Whether there is something in the place of each parameter, maybe several arrays."""
        try:
            structure.flatten_up_to(x)
        except (ValueError, TypeError):
            return False
        return True

    def like_params(x: Any) -> bool:
        if equal(x):
            return True
        if any(map(equal, jax.tree.leaves(x, is_leaf=equal))):
            return False
        if not spans(x):
            return False
        # a tuple of states is no tuple of parameters: it has such tuples inside
        places = structure.flatten_up_to(x)
        inner = (y for place in places for y in jax.tree.leaves(place, is_leaf=spans))
        fits = all(map(_fits, flat, places)) and not any(map(spans, inner))
        return fits or not isinstance(own, tuple | list)

    def masked(part: Any) -> Any:
        if not like_params(part):
            return part
        places = zip(flat, structure.flatten_up_to(part), strict=True)
        return structure.unflatten(
            [jax.tree.map(partial(_masked_leaf, m), x, is_leaf=_absent) for m, x in places]
        )

    return lambda state: jax.tree.map(masked, state, is_leaf=like_params)


def _longer_with(params: PyTree, init: Callable[[PyTree], PyTree]) -> list[bool] | None:
    """For each leaf of the first state whether it would be longer if the parameters were; None if unknown."""

    def shapes(more: int) -> list[tuple[int, ...]]:
        longer = jax.tree.map(lambda x: jax.ShapeDtypeStruct([n + more for n in x.shape], x.dtype), params)
        return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(init, longer))]

    try:
        return [a != b for a, b in zip(shapes(0), shapes(1), strict=True)]
    except Exception:  # a transformation of the user's own, which needs values or these shapes
        return None


def _masked_beside_array(mask: jax.Array | None, longer: list[bool] | None, state: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(state)
    if longer is None or len(longer) != len(leaves):
        longer = [True] * len(leaves)
    own = zip(leaves, longer, strict=True)
    return jax.tree.unflatten(structure, [_masked_leaf(mask, leaf) if part else leaf for leaf, part in own])


def _fits(mask: jax.Array | None, part: PyTree) -> bool:
    """Whether the arrays at a place, at least one, end in the axes of its mask."""
    if mask is None:
        return True
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(part)]
    return bool(shapes and mask.ndim) and all(shape[-mask.ndim :] == mask.shape for shape in shapes)


def _masked_leaf(mask: jax.Array | None, leaf: Any) -> Any:
    """The leaf of a state at a removed weight 0; leading axes (a memory of several steps) are allowed."""
    shape = getattr(leaf, "shape", None)
    if mask is None or shape is None or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    leading = len(shape) - len(mask.shape)
    if leading < 0 or shape[leading:] != mask.shape:
        return leaf
    return keep(jnp.expand_dims(mask, tuple(range(leading))), leaf)
