"""Every operation of the library on the parameters of every framework; docs/library.md has the table."""

import functools
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from frameworks import BLOCKS, CLASSES, FRAMEWORKS, NUM_INPUTS, WIDTH

from snnlth_jax import masks, pruning, tickets

WEIGHTS = NUM_INPUTS * WIDTH + WIDTH * CLASSES


@functools.cache
def network(name):
    """Parameters, masks of everything, and masks of half."""
    params = FRAMEWORKS[name].init(jax.random.key(0))
    kept = masks.make(params)
    return params, kept, pruning.prune(pruning.magnitude(params), kept, 0.5)


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]


def assert_same(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def assert_zero_where_removed(params, kept):
    masks.tree_map(lambda m, w: np.testing.assert_array_equal(np.asarray(w) != 0, m), kept, params)


def make(framework, name):
    params, kept, _ = network(name)
    assert masks.count(kept) == (WEIGHTS, WEIGHTS)
    leaves = masks.explain(params)
    assert [leaf.name for leaf in leaves if leaf.prunable] == [*masks.by_layer(kept)]
    assert sum(leaf.rule == "fewer than two axes" for leaf in leaves) == 2
    masks.check(kept, params)


def prune(framework, name):
    params, kept, half = network(name)
    assert masks.count(half)[0] == WEIGHTS - WEIGHTS // 2
    removed, left = (
        np.concatenate([np.abs(w)[m] for w, m in zip(weights(params, kept), arrays(tree), strict=True)])
        for tree in (masks.tree_map(lambda m: ~m, half), half)
    )
    assert removed.max() <= left.min()


def weights(params, kept):
    found = []
    masks.tree_map(lambda m, w: found.append(np.asarray(w)), kept, params)
    return found


def train(framework, params, tx, **more):
    state = framework.start(params, tx)
    for _ in range(3):
        state = framework.step(state, **more)
    return state


def freeze_in_the_call(framework, name):
    params, _, half = network(name)
    state = train(framework, params, masks.freeze_pruned(optax.adam(0.1)), masks=half)
    called = framework.params(state)
    assert_zero_where_removed(called, half)
    in_state = train(framework, params, masks.freeze_pruned(optax.adam(0.1), half))
    assert_same(called, framework.params(in_state), rtol=1e-6)


def freeze_in_the_state(framework, name):
    params, _, half = network(name)
    state = train(framework, params, masks.freeze_pruned(optax.adam(0.1), half))
    assert_zero_where_removed(framework.params(state), half)
    assert framework.loss(framework.params(state)) < framework.loss(masks.apply(params, half))


def replace_masks(framework, name):
    params, _, half = network(name)
    state = train(framework, params, masks.freeze_pruned(optax.adam(0.1), half))
    fewer = pruning.prune(pruning.magnitude(framework.params(state)), half, 0.5)
    state = framework.step(framework.replace_masks(state, fewer))
    assert_zero_where_removed(framework.params(state), fewer)


def shuffle(framework, name):
    _, _, half = network(name)
    random = pruning.shuffle(jax.random.key(1), half)
    assert masks.by_layer(random) == masks.by_layer(half)
    assert jax.tree.structure(random) == jax.tree.structure(half)
    assert 0 < masks.distance(random, half) < 1


def pack(framework, name):
    _, _, half = network(name)
    packed = masks.pack(half)
    assert sum(bits.size for bits in arrays(packed)) == WEIGHTS // 8
    assert_same(masks.unpack(packed), half)


def ticket(framework, name, path):
    params, _, half = network(name)
    tickets.save(path, tickets.Ticket(half, params, {}, {"framework": name}))
    read = tickets.load(path, like=params)
    assert_same(read.masks, half)
    assert_same(read.params, params)
    assert read.provenance == {"framework": name}
    assert_same(framework.logits(jax.tree.map(as_jax, read.params)), framework.logits(params))


def as_jax(leaf):
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def jit(framework, name):
    params, kept, half = network(name)

    @framework.jit
    def one_shot(params, kept):
        return pruning.prune(pruning.magnitude(params), kept, 0.5)

    assert_same(one_shot(params, kept), half)
    assert_same(framework.jit(masks.apply)(params, half), masks.apply(params, half))


def vmap(framework, name):
    keys = jax.random.split(jax.random.key(2), 3)
    ensemble = framework.vmap(framework.init)(keys)
    kept = masks.make(ensemble, batch_axes=1)
    assert masks.count(kept) == (3 * WEIGHTS, 3 * WEIGHTS)
    half = framework.vmap(lambda params, kept: pruning.prune(pruning.magnitude(params), kept, 0.5))(
        ensemble, kept
    )
    for i in range(3):
        alone = jax.tree.map(lambda x, i=i: x[i] if hasattr(x, "dtype") else x, ensemble)
        expected = pruning.prune(pruning.magnitude(alone), masks.make(alone), 0.5)
        for one, all_ in zip(arrays(expected), arrays(half), strict=True):
            np.testing.assert_array_equal(one, all_[i])


def stacked(framework, name):
    params = framework.init_stacked(jax.random.key(3))
    kept = masks.make(params, batch_axes=1)
    assert [m.shape for m in arrays(kept)] == [(BLOCKS, WIDTH, WIDTH)]
    half = pruning.prune(pruning.magnitude(params), kept, 0.5)
    tx = masks.freeze_pruned(optax.sgd(0.1, momentum=0.9), half)
    own = eqx.filter(params, eqx.is_array)
    state = tx.init(own)
    for _ in range(2):
        grads = jax.grad(lambda own: framework.sum_of_stacked(eqx.combine(own, params)))(own)
        updates, state = tx.update(grads, state, own)
        own = optax.apply_updates(own, updates)
    assert_zero_where_removed(own, half)


OPERATIONS = {
    "`make`, `explain`": make,
    "`prune`": prune,
    "`freeze_pruned`, masks in the call": freeze_in_the_call,
    "`freeze_pruned`, masks in the state": freeze_in_the_state,
    "`replace_masks`": replace_masks,
    "`shuffle`": shuffle,
    "`pack`, `unpack`": pack,
    "`tickets.save`, `load`": ticket,
    "`jit`": jit,
    "an ensemble by `vmap`": vmap,
    "layers stacked for a scan": stacked,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_operation_in_a_framework(name, operation, tmp_path):
    more = {"path": tmp_path / "ticket.safetensors"} if operation is ticket else {}
    operation(FRAMEWORKS[name], name, **more)


def test_the_table_of_the_document_is_what_is_tested():
    text = (Path(__file__).parent.parent / "docs" / "library.md").read_text()
    (table,) = re.findall(r"^\| operation \|.*(?:\n\|.*)+", text, re.M)
    header, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert header == ["operation", *FRAMEWORKS]
    assert rows == [[operation, *["yes"] * len(FRAMEWORKS)] for operation in OPERATIONS]
