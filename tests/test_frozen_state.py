"""Optimisers under which removed weights stay removed: their state, and masks that live in it."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from snnlth_jax import masks, pruning

OPTIMISERS = {
    "adam": optax.adam(1e-2),
    "adabelief": optax.adabelief(1e-2),
    "amsgrad": optax.amsgrad(1e-2),
    "lamb": optax.lamb(1e-2),
    "lion": optax.lion(1e-2),
    "muon": optax.contrib.muon(1e-2),
    "rmsprop with momentum": optax.rmsprop(1e-2, momentum=0.9),
    "adafactor": optax.adafactor(1e-2),
    "accumulated": optax.MultiSteps(optax.adam(1e-2), every_k_schedule=2),
    "schedule-free": optax.contrib.schedule_free(optax.sgd(1e-2), 1e-2, b1=0.9),
    "injected": optax.inject_hyperparams(optax.adamw)(1e-2),
    "lbfgs memory": optax.scale_by_lbfgs(3),
}


def weights():
    return {
        "a": {"kernel": jax.random.normal(jax.random.key(0), (6, 8)), "bias": jnp.ones(8)},
        "b": {"kernel": jax.random.normal(jax.random.key(1), (8, 3)), "bias": jnp.ones(3)},
    }


def gradients(params, seed):
    """Gradients of a quadratic, with noise: they reach removed weights too."""
    noise = jax.random.normal(jax.random.key(seed), (12, 8))
    return jax.tree.map(lambda w: w + noise.ravel()[: w.size].reshape(w.shape), params)


def in_shape_of(weight, tree):
    return [
        x
        for x in jax.tree.leaves(tree)
        if x.shape[-2:] == weight.shape and jnp.issubdtype(x.dtype, jnp.inexact)
    ]


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("place", ["in the call", "in the state"])
def test_nothing_of_removed_weights_is_left_in_the_state(name, place):
    """Masks shrink in the middle of training; kept weights go on as if the others had never been."""
    params = weights()
    dense = masks.make(params)
    sparse = pruning.prune(pruning.magnitude(params), dense, 0.6)
    tx = masks.freeze_pruned(OPTIMISERS[name], *[dense] * (place == "in the state"))
    state = tx.init(params)
    steps = {True: jax.jit(tx.update), False: jax.jit(lambda g, s, p, m: tx.update(g, s, p, masks=m))}

    def step(params, state, kept, seed):
        in_state = place == "in the state"
        more = () if in_state else (kept,)
        updates, state = steps[in_state](gradients(params, seed), state, params, *more)
        return optax.apply_updates(params, updates), state

    for seed in range(3):
        params, state = step(params, state, dense, seed)
    if place == "in the state":
        state = masks.replace_masks(state, sparse)
    for seed in range(3):
        params, state = step(params, state, sparse, seed)
        masks.tree_map(
            lambda m, w: np.testing.assert_array_equal(np.asarray(w)[~np.asarray(m)], 0), sparse, params
        )
        inner = state.inner if place == "in the state" else state
        for layer in ("a", "b"):
            removed = ~np.asarray(sparse[layer]["kernel"])
            for leaf in in_shape_of(params[layer]["kernel"], inner):
                np.testing.assert_array_equal(np.asarray(leaf)[..., removed], 0)
    if name == "schedule-free":
        evaluated = optax.contrib.schedule_free_eval_params(inner, params)
        masks.tree_map(
            lambda m, w: np.testing.assert_array_equal(np.asarray(w)[~np.asarray(m)], 0), sparse, evaluated
        )


@pytest.mark.parametrize("name", ["lamb", "muon", "adam"])
def test_kept_weights_move_as_in_a_network_without_the_others(name):
    """Whole columns are removed: the rest is a smaller network, in which the optimiser does the same."""
    big = {"w": jax.random.normal(jax.random.key(0), (12, 8))}
    kept = {"w": jnp.tile(jnp.arange(8) < 5, (12, 1))}
    tx = OPTIMISERS[name]
    frozen = masks.freeze_pruned(tx)
    state = frozen.init(big)
    for seed in range(2):  # dense
        updates, state = frozen.update(gradients(big, seed), state, big, masks=masks.make(big))
        big = optax.apply_updates(big, updates)
    # the smaller network takes over its part of the state
    own = jax.tree.map(lambda x: x[:, :5] if jnp.shape(x) == (12, 8) else x, state)
    small = {"w": big["w"][:, :5]}
    for seed in range(5):
        g = gradients(big, seed)
        updates, state = frozen.update(g, state, big, masks=kept)
        big = optax.apply_updates(big, updates)
        updates, own = tx.update({"w": g["w"][:, :5]}, own, small)
        small = optax.apply_updates(small, updates)
        np.testing.assert_allclose(big["w"][:, :5], small["w"], rtol=2e-5, atol=1e-6)
        assert not big["w"][:, 5:].any()


def test_lookahead():
    tx = masks.freeze_pruned(optax.lookahead(optax.adam(0.1), sync_period=2, slow_step_size=0.5))
    params = optax.LookaheadParams.init_synced(weights())
    kept = pruning.prune(pruning.magnitude(weights()), masks.make(weights()), 0.5)
    state = tx.init(params)
    for seed in range(5):
        updates, state = tx.update(gradients(params.fast, seed), state, params, masks=kept)
        params = optax.apply_updates(params, updates)
    for tree in params:
        masks.tree_map(lambda m, w: np.testing.assert_array_equal(np.asarray(w) != 0, m), kept, tree)


def test_flax_train_state_needs_no_change():
    model = nn.Dense(3)
    params = model.init(jax.random.key(0), jnp.ones((1, 8)))["params"]
    kept = pruning.prune(pruning.magnitude(params), masks.make(params), 0.5)
    state = TrainState.create(
        apply_fn=model.apply, params=params, tx=masks.freeze_pruned(optax.adam(0.1), kept)
    )

    @jax.jit
    def step(state):
        loss = lambda p: jnp.sum((state.apply_fn({"params": p}, jnp.ones((2, 8))) - 1) ** 2)  # noqa: E731
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    state = step(step(state))
    programs = step._cache_size()
    np.testing.assert_array_equal(state.params["kernel"] != 0, kept["kernel"])
    fewer = pruning.prune(pruning.magnitude(state.params), kept, 0.5)
    state = step(state.replace(opt_state=masks.replace_masks(state.opt_state, fewer)))
    np.testing.assert_array_equal(state.params["kernel"] != 0, fewer["kernel"])
    assert step._cache_size() == programs


def test_nnx_optimizer_needs_no_change():
    model = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    kept = pruning.prune(pruning.magnitude(params), masks.make(params), 0.5)
    optimizer = nnx.Optimizer(model, masks.freeze_pruned(optax.adam(0.1), kept), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.sum((model(jnp.ones((2, 8))) - 1) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(3):
        step(model, optimizer)
    np.testing.assert_array_equal(model.kernel[...] != 0, jax.tree.leaves(kept)[0])
    fewer = pruning.prune(pruning.magnitude(nnx.state(model, nnx.Param)), kept, 0.5)
    optimizer.opt_state = masks.replace_masks(optimizer.opt_state, fewer)
    step(model, optimizer)
    np.testing.assert_array_equal(model.kernel[...] != 0, jax.tree.leaves(fewer)[0])


@pytest.mark.parametrize("place", ["in the call", "in the state"])
def test_inside_multi_transform(place):
    params = weights()
    kept = pruning.prune(pruning.magnitude(params), masks.make(params), 0.5)
    own = [kept] * (place == "in the state")
    tx = optax.multi_transform(
        {
            "a": masks.freeze_pruned(optax.adam(0.1), *own),
            "b": masks.freeze_pruned(optax.sgd(0.1, momentum=0.9), *own),
        },
        {"a": "a", "b": "b"},
    )
    state = tx.init(params)
    more = {} if own else {"masks": kept}
    for seed in range(3):
        updates, state = tx.update(gradients(params, seed), state, params, **more)
        params = optax.apply_updates(params, updates)
    masks.tree_map(lambda m, w: np.testing.assert_array_equal(np.asarray(w) != 0, m), kept, params)
    if own:
        fewer = pruning.prune(pruning.magnitude(params), kept, 0.5)
        state = masks.replace_masks(state, fewer)
        updates, state = tx.update(gradients(params, 9), state, params)
        params = optax.apply_updates(params, updates)
        masks.tree_map(lambda m, w: np.testing.assert_array_equal(np.asarray(w) != 0, m), fewer, params)


def test_masks_of_the_call_win_and_stay():
    params = {"w": jnp.ones((2, 2))}
    everything, half = masks.make(params), {"w": jnp.array([[True, False], [False, True]])}
    tx = masks.freeze_pruned(optax.sgd(0.1), everything)
    updates, state = tx.update(params, tx.init(params), params, masks=half)
    params = optax.apply_updates(params, updates)
    assert (params["w"] != 0).tolist() == half["w"].tolist()
    updates, state = tx.update(params, state, params)
    assert (optax.apply_updates(params, updates)["w"] != 0).tolist() == half["w"].tolist()


def test_the_masks_need_not_be_set_before_the_first_step():
    """In the state from the beginning, also parameters that are nowhere zero are."""
    params = weights()
    kept = pruning.prune(pruning.magnitude(params), masks.make(params), 0.5)
    tx = masks.freeze_pruned(OPTIMISERS["schedule-free"], kept)
    state = tx.init(params)
    np.testing.assert_array_equal(state.inner.z["a"]["kernel"] != 0, kept["a"]["kernel"])


def with_and_without(transformation, steps, loss, weights, **extra):
    """Kept weights of an array of ten after some steps, and weights of a network of these seven alone."""
    kept = jnp.arange(10) % 4 != 1
    frozen = masks.freeze_pruned(transformation)
    params = jnp.where(kept, weights, 0.0)
    few = weights[kept]
    state, small = frozen.init(params), transformation.init(few)

    def lean(p):
        return loss(jnp.zeros(10).at[kept].set(p))

    for _ in range(steps):
        for_all = {name: make(jax.grad(loss)) for name, make in extra.items()}
        for_few = {name: make(jax.grad(lean)) for name, make in extra.items()}
        updates, state = frozen.update(jax.grad(loss)(params), state, params, masks=kept, **for_all)
        params = optax.apply_updates(params, updates)
        updates, small = transformation.update(jax.grad(lean)(few), small, few, **for_few)
        few = optax.apply_updates(few, updates)
        assert not params[~kept].any()
    return params[kept], few


def quadratic(p):
    return (jnp.linspace(1, 10, 10) * (p - 1) ** 2).sum() + p.sum() ** 2 / 5


@pytest.mark.parametrize("memory", [9, 10])
def test_a_memory_as_long_as_the_weights_is_no_moment_of_them(memory):
    """L-BFGS on one array: its list of past weights has as many numbers as it remembers steps."""
    lbfgs = optax.chain(optax.scale_by_lbfgs(memory_size=memory), optax.scale(-0.5))
    frozen, alone = with_and_without(lbfgs, 8, quadratic, jnp.linspace(-1, 1, 10))
    np.testing.assert_allclose(frozen, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("period", [2, 3])
def test_gradients_that_the_optimiser_takes_itself_are_masked(period):
    inner = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))
    sam = optax.contrib.sam(inner, optax.sgd(0.05), sync_period=period, opaque_mode=True)
    taken = {"grad_fn": lambda gradient: lambda params, _: gradient(params)}
    frozen, alone = with_and_without(sam, 3, quadratic, jnp.linspace(-1, 1, 10), **taken)
    np.testing.assert_allclose(frozen, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrap", [lambda p: [p, p], lambda p: (p, p), lambda p: {"a": p, "b": p}, lambda p: p]
)
def test_complex_parameters_keep_no_momentum_in_any_container(wrap):
    params = wrap(jnp.array([1 + 1j, 2 - 1j, 3j]))
    tx = masks.freeze_pruned(optax.contrib.split_real_and_imaginary(optax.trace(0.9)))
    state = tx.init(params)
    for kept in (jnp.ones(3, bool), jnp.array([True, False, True])):
        _, state = tx.update(params, state, params, masks=wrap(kept))
    for momentum in jax.tree.leaves(state):
        assert momentum[1] == 0
        assert momentum.any()


def test_a_tuple_of_states_is_no_tuple_of_parameters():
    """Complex ones of one shape, each in a place of its own, under a chain of two."""
    split = optax.contrib.split_real_and_imaginary
    tx = masks.freeze_pruned(optax.chain(split(optax.trace(0.9)), split(optax.sgd(0.1, momentum=0.9))))
    ones = jnp.ones(3, complex)
    kept = jnp.array([False, True, True]), jnp.array([True, True, False])
    results = []
    for wrap in (tuple, list, lambda pair: dict(zip("ab", pair, strict=True))):
        params = wrap((ones, ones))
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(wrap((ones, ones)), state, params, masks=wrap(kept))
            params = optax.apply_updates(params, updates)
        results.append(jax.tree.leaves(params))
    chex.assert_trees_all_close(results[0], results[2])
    chex.assert_trees_all_close(results[1], results[2])


@pytest.mark.parametrize("kind", ["anchor", "values", "late"])
def test_a_transformation_of_ones_own_over_one_array(kind):
    anchor = jnp.arange(3.0)

    def init(params):
        if kind == "values":
            return {"m": jnp.full(3, float(params.sum()))}
        return {"m": params - anchor if kind == "anchor" else None}

    def update(updates, state, params=None):
        return updates, {"m": params - anchor + 1}

    tx = masks.freeze_pruned(optax.GradientTransformation(init, update))
    params, kept = jnp.ones(3), jnp.array([True, False, True])
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(jnp.ones(3), state, params, masks=kept)
    assert state["m"].tolist() == [2.0, 0.0, 0.0]
    assert updates.tolist() == [1.0, -1.0, 1.0]


def test_what_does_not_fit_is_refused():
    params = weights()
    kept = masks.make(params)
    tx = masks.freeze_pruned(optax.adam(0.1))
    narrow = kept | {"a": {"kernel": kept["a"]["kernel"][:, :1], "bias": None}}
    with pytest.raises(ValueError, match=r"a/kernel: the mask has shape \(6, 1\), params \(6, 8\)"):
        tx.update(params, tx.init(params), params, masks=narrow)
    with pytest.raises(ValueError, match="in the masks"):
        tx.update(params, tx.init(params), params, masks={"params": kept})
    with pytest.raises(ValueError, match="a/kernel: a mask must be a bool array, got uint8"):
        masks.freeze_pruned(optax.adam(0.1), jax.tree.map(lambda m: m.astype(jnp.uint8), kept))
    with pytest.raises(ValueError, match="the optimiser state holds no masks"):
        masks.replace_masks(tx.init(params), kept)
    state = masks.freeze_pruned(optax.adam(0.1), kept).init(params)
    with pytest.raises(ValueError, match="b/kernel"):
        masks.replace_masks(state, {"a": kept["a"]})
    with pytest.raises(ValueError, match="a/bias: a new mask"):
        masks.replace_masks(state, kept | {"a": kept["a"] | {"bias": jnp.ones(8, bool)}})
    chex.assert_trees_all_equal(masks.replace_masks(state, kept), state)


def test_masks_that_are_given_stay_the_callers():
    """The state has copies, so that a step that consumes the state leaves the caller's masks alone."""
    params = weights()
    dense = masks.make(params)
    sparse = pruning.prune(pruning.magnitude(params), dense, 0.6)
    tx = masks.freeze_pruned(optax.sgd(0.1), dense)
    state = tx.init(params)
    _, given = tx.update(params, state, params, masks=sparse)
    _, kept = tx.update(params, given, params)
    assert kept.masks["a"]["kernel"] is given.masks["a"]["kernel"]  # nothing is copied in each step
    for consumed in (state, given):
        jax.tree.map(lambda x: x.delete(), consumed.masks)
    assert masks.count(dense) == (72, 72)
    assert masks.count(sparse) == (29, 72)


CONTAINERS = {
    "dict": lambda kernel, other: {"kernel": kernel, "other": other},
    "tuple": lambda kernel, other: (kernel, other),
    "list": lambda kernel, other: [kernel, other],
    "array": lambda kernel, other: kernel,
    "dict of an array": lambda kernel, other: {"kernel": kernel},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ["adam", "rmsprop with momentum", "chain of two"])
def test_the_container_of_the_parameters_does_not_matter(name, container):
    """Also a tuple of as many parameters as the optimiser has states, and a single array."""
    two = optax.chain(optax.trace(0.9), optax.scale_by_adam())
    transformation = (OPTIMISERS | {"chain of two": two})[name]
    kernel, other = weights()["a"]["kernel"], weights()["b"]["kernel"]
    kept = kernel > 0.3, other > 0.3
    found = []
    for wrap in (CONTAINERS["dict"], CONTAINERS[container]):
        params, tx = wrap(kernel, other), masks.freeze_pruned(transformation)
        state = tx.init(params)
        for present in ((jnp.ones_like(m) for m in kept), kept):
            updates, state = tx.update(params, state, params, masks=wrap(*present))
        found.append((jax.tree.leaves(updates)[0], in_shape_of(kernel, state)))
    chex.assert_trees_all_close(*found, rtol=1e-6, atol=1e-7)
    assert found[0][1]
    for part in found[0][1]:
        assert not part[~kept[0]].any()
