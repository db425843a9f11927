"""The authors' behaviours as options: each against its steps computed another way."""

import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest
import small
from plain import Plain, cosine

from snnlth_jax import configs, masks, pruning, tickets, train
from snnlth_jax.search import early_bird, imp, programs, transfer
from snnlth_jax.train import optimizers

IMP = configs.ImpConfig(**small.EACH_EPOCH | {"epochs": 4}, num_timesteps=2, rounds=3, rewind_epoch=1)


def rates(run, kind, number):
    lines = [line for line in small.lines(run) if (line["kind"], line["round"]) == (kind, number)]
    return [line["learning_rate"] for line in lines]


# --- the schedule at a rewind


@pytest.mark.parametrize("method", ["imp", "transfer"])
def test_a_resumed_schedule_goes_on_at_the_rewind_epoch(method, tmp_path):
    fields = dataclasses.asdict(IMP) | {"schedule_on_rewind": "resume", "controls": ("random", "redrawn")}
    if method == "imp":
        config, module = configs.ImpConfig(**fields), imp
    else:
        known = {field.name for field in dataclasses.fields(configs.TransferConfig)}
        config, module = configs.TransferConfig(**{k: v for k, v in fields.items() if k in known}), transfer
    _, run, _ = small.run(module, config, tmp_path)
    whole = [cosine(0.1, 0, 4)(epoch) for epoch in range(4)]
    np.testing.assert_allclose(rates(run, "round", 0), whole)
    np.testing.assert_allclose(rates(run, "round", 1), whole[1:])
    np.testing.assert_allclose(rates(run, "random", 2), whole[1:])
    np.testing.assert_allclose(rates(run, "redrawn", 2), whole)  # from new weights
    if method == "transfer":
        np.testing.assert_allclose(rates(run, "ticket", 2), whole[1:])


# --- biases at a rewind


def biases(tree):
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if path[-1].key == "bias"
    }


def with_biases(params, own):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: own.get(jax.tree_util.keystr(path), leaf), params
    )


def test_kept_biases_carry_over_from_the_second_pruned_round_on(tmp_path):
    """As in code whose rounds share the arrays of the rewind point: round 1 has those of the rewind epoch."""
    _, run, _ = small.run(imp, IMP, tmp_path, biases_on_rewind="keep", rounds=4)
    script, trained = Plain(configs.resolve(IMP)), cosine(0.1, 0, 4)
    states, _ = script.train(script.begin(), 2, ("round", 0), trained, 0, 4)
    point, last, again = states[0], states[-1], cosine(0.1, 1, 4)
    shared = {name: np.array(leaf) for name, leaf in biases(point.params).items()}  # trained in place
    for number in (1, 2, 3):
        kept = pruning.prune(pruning.magnitude(last.params), last.masks, 0.25)
        params = with_biases(point.params, shared)
        start = script.rewound(point._replace(params=params), kept)
        ticket = tickets.load(run.ticket(number))
        chex.assert_trees_all_equal(ticket.params, params)
        chex.assert_trees_all_equal(ticket.masks, jax.device_get(kept))
        after, losses = script.train(start, 2, ("round", number), again, 1, 4)
        found = [x["train_loss"] for x in small.lines(run) if (x["kind"], x["round"]) == ("round", number)]
        assert found == losses
        last, shared = after[-1], biases(after[-1].params)
    first, second = (biases(tickets.load(run.ticket(number)).params) for number in (1, 2))
    assert not all(np.array_equal(first[name], second[name]) for name in first)


# --- the loss at T' timesteps


def test_the_factor_is_on_the_gradient_and_not_on_the_weight_decay():
    script = Plain(configs.resolve(IMP))
    tx = optimizers.create("sgd", momentum=0.9, weight_decay=0.05)
    state = train.init_state(script.init_key, small.MODEL, tx, script.sample)
    batch = train.Batch(script.dataset.train.images[:8] / np.float32(255), script.dataset.train.labels[:8])
    step = jax.jit(train.train_step, static_argnames=("model", "tx", "num_timesteps", "loss_factor"))
    arguments = {"model": small.MODEL, "tx": tx, "learning_rate": 0.1, "num_timesteps": 3}
    got, metrics = step(state, batch, **arguments, loss_factor=3 / 5)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = small.MODEL.apply(
            variables, batch.images, num_timesteps=3, train=True, mutable=["batch_stats"]
        )
        by_timestep = jax.vmap(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, batch.labels))(
            logits
        )
        return by_timestep.sum(axis=0).mean() / 5  # the authors': over the T' outputs, divided by T

    gradient = jax.jit(jax.grad(loss))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.05 * p), state.params, gradient)
    chex.assert_trees_all_close(got.params, expected, rtol=1e-5, atol=1e-7)
    _, plain = step(state, batch, **arguments)
    assert metrics.loss == plain.loss


def test_a_search_at_fewer_timesteps_has_the_factor_and_no_other_training_run(tmp_path):
    changes = {"num_timesteps": 4, "early_time": True, "early_time_timesteps": 3}
    config = dataclasses.replace(IMP, rounds=2, early_time_loss="over-t", **changes)
    _, run, _ = small.run(imp, config, tmp_path)
    config = configs.resolve(config)
    script = Plain(config)
    program = train.compile_program(
        small.MODEL,
        script.tx,
        script.begin(),
        script.dataset.train,
        script.dataset.test,
        augmentation=script.dataset.augmentation,
        batch_size=48,
        num_timesteps=3,
        loss_factor=0.75,
    )
    script.program = lambda state, steps: program
    _, losses = script.train(script.begin(), 3, ("round", 0), cosine(0.1, 0, 4), 0, 4)
    assert [x["train_loss"] for x in small.lines(run) if x["kind"] == "round"][:4] == losses
    variants = programs.Variants(config, script.dataset, small.MODEL)
    assert variants.loss_factor(programs.Variant("lif", 4)) == 1.0


# --- the schedule of Early-Bird's ticket


def test_a_cosine_with_two_steps_each_epoch_comes_back(tmp_path):
    config = configs.EbConfig(**small.EACH_EPOCH | {"epochs": 4}, num_timesteps=2, queue=2, tau=1.0)
    flags = {"ticket_schedule": "cosine-twice", "controls": ("random", "redrawn", "dense")}
    _, run, _ = small.run(early_bird, config, tmp_path, **flags)
    for kind in ("ticket", "random", "redrawn"):
        np.testing.assert_allclose(rates(run, kind, 1), [0.1, 0.05, 0.0, 0.05], atol=1e-12)
    np.testing.assert_allclose(rates(run, "search", 0)[:1], [0.2])
    assert rates(run, "dense", 1)[2] > 0.04


def test_the_masks_decide_what_is_left(tmp_path):
    """None of the options changes a count."""
    options = {"schedule_on_rewind": "resume", "biases_on_rewind": "keep"}
    result, run, _ = small.run(imp, IMP, tmp_path, **options)
    assert [row["kept"] for row in result["rounds"]] == [429, 322, 242]
    assert masks.count(tickets.load(run.ticket(2)).masks) == (242, 429)
