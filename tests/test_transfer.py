"""Transferred tickets: found without time, trained with it."""

import chex
import jax
import jax.numpy as jnp
import pytest
import small

from snnlth_jax import configs, tickets
from snnlth_jax.analysis.flops import macs
from snnlth_jax.search import imp, transfer

ROUNDS = {"rounds": 3, "rewind_epoch": 1, "prune_fraction": 0.3, "final_rounds": (1, 2)}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    config = configs.TransferConfig(
        **small.NETWORK, **ROUNDS, num_timesteps=3, controls=("random",), search_learning_rate_factor=0.5
    )
    directory = tmp_path_factory.mktemp("transfer") / "run"
    return small.run(transfer, config, directory, programs=small.AsIfNew())


def test_the_search_is_imp_on_the_relu_twin(searched, tmp_path):
    result, run, _ = searched
    config = configs.ImpConfig(**small.NETWORK, **ROUNDS, activation="relu", learning_rate=0.05)
    twin, there, _ = small.run(imp, config, tmp_path)
    for number in range(3):
        ours, theirs = tickets.load(run.ticket(number)), tickets.load(there.ticket(number))
        chex.assert_trees_all_equal((ours.masks, ours.params), (theirs.masks, theirs.params))
    assert [r["final_test_accuracy"] for r in result["rounds"]] == [
        r["final_test_accuracy"] for r in twin["rounds"]
    ]


def test_its_tickets_are_trained_as_spiking_networks(searched):
    result, run, _ = searched
    assert [row["network"] for row in result["rounds"]] == ["relu T=1"] * 3
    assert [(row["network"], row["round"]) for row in result["tickets"]] == [("lif T=3", 1), ("lif T=3", 2)]
    assert [row["kept"] for row in result["tickets"]] == [row["kept"] for row in result["rounds"][1:]]
    assert [row["network"] for row in result["controls"]] == ["lif T=3"] * 2
    assert result["train_compilations"] == 2
    assert tickets.load(run.ticket(2)).provenance["searched_with"] == "relu T=1"


def test_the_search_costs_about_a_t_th(searched):
    """One timestep instead of three; the first convolution runs once in both."""
    result, _, _ = searched
    model, x = small.MODEL, jnp.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, num_timesteps=1))
    counted = [macs(lambda v, t=t: model.apply(v, x, num_timesteps=t), variables) for t in (1, 3)]
    for ticket in result["tickets"]:
        assert ticket["search_relative_to_imp"] == pytest.approx(counted[0] / counted[1], rel=1e-12)
    assert 1 / 3 < counted[0] / counted[1] < 0.5
