"""Controls: what they begin with is what sets them apart from the ticket."""

import chex
import jax
import numpy as np
import pytest
import small

from snnlth_jax import configs, masks, tickets
from snnlth_jax.search import imp
from snnlth_jax.search.session import Session

IMP = configs.ImpConfig(
    **small.NETWORK | {"epochs": 2}, num_timesteps=2, rounds=3, rewind_epoch=1, prune_fraction=0.3
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A search with all controls, and the state that each training began with."""
    starts = {}
    with pytest.MonkeyPatch.context() as patch:
        begin = Session.begin

        def spy(self, phase, start):
            begin(self, phase, start)
            starts[str(phase)] = jax.device_get(self.carry.state)

        patch.setattr(Session, "begin", spy)
        controls = ("random", "redrawn", "dense")
        result, run, _ = small.run(imp, IMP, tmp_path_factory.mktemp("controls") / "run", controls=controls)
    return result, tickets.load(run.ticket(2)), starts


def test_all_are_trained_for_the_last_round(trained):
    result, _, _ = trained
    assert [(r["kind"], r["round"], r["epochs"]) for r in result["controls"]] == [
        ("random", 2, 1),
        ("redrawn", 2, 2),
        ("dense", 2, 2 + 1 + 1),
    ]
    kept = result["rounds"][2]["kept"]
    assert [r["kept"] for r in result["controls"]] == [kept, kept, small.WEIGHTS]


def test_random_has_the_tickets_weights_and_other_masks(trained):
    _, ticket, starts = trained
    start = starts["random 2"]
    assert masks.by_layer(start.masks) == masks.by_layer(ticket.masks)
    assert masks.distance(start.masks, ticket.masks) > 0.1
    chex.assert_trees_all_equal(start.params, jax.device_get(masks.apply(ticket.params, start.masks)))
    chex.assert_trees_all_equal(start.batch_stats, ticket.batch_stats)


def test_redrawn_has_the_tickets_masks_and_other_weights(trained):
    _, ticket, starts = trained
    start = starts["redrawn 2"]
    chex.assert_trees_all_equal(start.masks, ticket.masks)
    kernel, kept = start.params["layer02"]["conv"]["kernel"], ticket.masks["layer02"]["conv"]["kernel"]
    assert not np.any(kernel[~kept])
    for other in (ticket.params, small.initial_params()):
        assert not np.isclose(kernel[kept], other["layer02"]["conv"]["kernel"][kept]).any()
    # of the same distribution: N(0, 2 / fan_out) with 3x3x3 outputs of 3 channels
    assert np.std(kernel[kept]) == pytest.approx(np.sqrt(2 / 27), rel=0.35)


def test_dense_has_all_weights_as_drawn_at_first(trained):
    _, _, starts = trained
    start = starts["dense 2"]
    assert masks.sparsity(start.masks) == 0
    chex.assert_trees_all_equal(start.params, small.initial_params())
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(start.opt_state))
