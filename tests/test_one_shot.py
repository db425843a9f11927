"""Pruning at initialisation: exact counts, scores that are what they say, collapse named."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import stub

from snnlth_jax import configs, data, losses, masks, models, pruning, tickets
from snnlth_jax.data.augment import normalise
from snnlth_jax.errors import InputError
from snnlth_jax.search import one_shot
from snnlth_jax.search.programs import Programs

ONE_SHOT = configs.OneShotConfig(**small.NETWORK | {"epochs": 1}, num_timesteps=2)


class Scoring(stub.StubPrograms):
    """Real scores, of weights that are then not really trained."""

    def get(self, key, compile_program):
        return (Programs if key[0] == "scores" else stub.StubPrograms).get(self, key, compile_program)


SCORING = Scoring()


def initial(model, images):
    return jax.jit(functools.partial(model.init, num_timesteps=1))(jax.random.key(0), images)


def found(run):
    return masks.tree_map(jnp.asarray, tickets.load(run.ticket(1)).masks)


@pytest.mark.parametrize("criterion", ["magnitude", "random", "snip", "grasp", "synflow"])
def test_masks_have_the_exact_count_and_nest(criterion, tmp_path):
    """On the weights that the seed draws, whatever the sparsity: fewer are a part of more."""
    kept = {}
    for sparsity in (0.35, 0.95):
        result, run, _ = small.run(
            one_shot,
            ONE_SHOT,
            tmp_path / str(sparsity),
            SCORING,
            criterion=criterion,
            sparsity=sparsity,
            synflow_iterations=10,
            score_examples=50,
        )
        kept[sparsity] = found(run)
        assert masks.count(kept[sparsity])[0] == small.WEIGHTS - math.floor(
            round(100 * sparsity) * small.WEIGHTS / 100
        )
        assert result["tickets"][0]["kept"] == masks.count(kept[sparsity])[0]
        chex.assert_trees_all_equal(tickets.load(run.ticket(1)).params, small.initial_params())
        assert result["method"] == f"one-shot {criterion}"
    if criterion != "synflow":  # which scores anew on its way down
        assert masks.is_subset(kept[0.95], kept[0.35])


@pytest.mark.parametrize("scope", ["layer", "erk"])
def test_scopes(scope, tmp_path):
    _, run, _ = small.run(
        one_shot, ONE_SHOT, tmp_path, SCORING, criterion="random", sparsity=0.5, scope=scope
    )
    if scope == "layer":
        assert all(kept == total - total // 2 for kept, total in masks.by_layer(found(run)).values())
    else:
        assert masks.count(found(run))[0] == small.WEIGHTS - small.WEIGHTS // 2


def test_snip_judges_by_the_loss_on_the_training_images(tmp_path):
    """With all of them in one batch, the mask is that of |w dL/dw| of the plain training loss."""
    _, run, _ = small.run(
        one_shot,
        ONE_SHOT,
        tmp_path,
        SCORING,
        criterion="snip",
        sparsity=0.7,
        batch_size=96,
        score_examples=96,
    )
    dataset = data.load("digits", train_examples=96, validation_examples=20)
    model = small.MODEL
    variables = initial(model, jnp.zeros((1, 8, 8, 1)))
    images = normalise(jnp.asarray(dataset.train.images), dataset.augmentation)

    def loss(params):
        logits, _ = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            images,
            num_timesteps=2,
            train=True,
            mutable=["batch_stats"],
        )
        return losses.cross_entropy(logits, jnp.asarray(dataset.train.labels)).mean()

    params = jax.tree.map(jnp.asarray, small.initial_params())

    @jax.jit
    def scored(params):
        scores = pruning.magnitude(jax.tree.map(jnp.multiply, params, jax.grad(loss)(params)))
        return pruning.prune(scores, masks.make(params), 0.7)

    expected = scored(params)
    # the order of images within the batch differs, and so does rounding: a weight may change sides
    assert masks.distance(found(run), expected) <= 2 / small.WEIGHTS


def test_snips_batches_add_up_to_all_examples(tmp_path):
    """50 examples in batches of 48: scored by 48 and 2, and the ledger counts 50."""
    result, _, _ = small.run(one_shot, ONE_SHOT, tmp_path, SCORING, criterion="snip", score_examples=50)
    (row,) = result["preparations"]
    assert (row["kind"], row["images"], row["epochs"]) == ("scores", 50, 0)
    (ticket,) = result["tickets"]
    per_image = ticket["training"]["train_flops"] / 96
    # those of training on them, and the forward pass of each batch once more instead of keeping it all
    assert 50 * per_image < row["train_flops"] < 4 / 3 * 50 * per_image
    assert ticket["search"]["train_flops"] == row["train_flops"]


@pytest.mark.parametrize("arch", ["vgg5", "alexnet", "resnet7"])
def test_synflow_conserves_flow_through_the_network(arch, x64):
    """The scores of each layer of a chain add up to R (Tanaka et al. 2020, theorem 1)."""
    model = models.create(arch, 10, width=0.05 if arch == "alexnet" else 0.2, activation="relu")
    size = max(8, models.min_image_size(arch))
    images = jnp.ones((1, size, size, 1))
    variables = initial(model, images)
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
    params = variables["params"]
    total = jax.jit(one_shot.flow(model, variables["batch_stats"], images))
    through = float(total(pruning.magnitude(params)))
    scores = masks.tree_map(lambda m, s: float(s.sum()), masks.make(params), pruning.synflow(total, params))
    by_layer = {jax.tree_util.keystr(path): s for path, s in jax.tree_util.tree_leaves_with_path(scores)}
    for name, flow in by_layer.items():
        if arch != "resnet7" or name.startswith(("['block0']", "['readout']", "['hidden']")):
            assert flow == pytest.approx(through, rel=1e-9), name
        else:  # a part passes by, on the shortcut
            assert 0 < flow < (1 - 1e-6) * through, name


def test_synflow_keeps_every_layer_where_magnitude_empties_one(tmp_path):
    """Maximal critical compression, and a collapse reported by the name of the layer."""
    kinds = {}
    for criterion in ("synflow", "magnitude"):
        result, _, text = small.run(
            one_shot, ONE_SHOT, tmp_path / criterion, SCORING, criterion=criterion, sparsity=0.95
        )
        kinds[criterion] = result["tickets"][0]["collapsed_layers"], text
    assert kinds["synflow"][0] == []
    assert "layer collapse" not in kinds["synflow"][1]
    assert "readout/kernel" in kinds["magnitude"][0]  # drawn from N(0, 0.01^2)
    assert "layer collapse, nothing is left of" in kinds["magnitude"][1]
    assert "readout/kernel" in kinds["magnitude"][1]


def test_random_with_the_layer_counts_of_a_ticket(tmp_path):
    _, run, _ = small.run(one_shot, ONE_SHOT, tmp_path / "a", SCORING, criterion="magnitude", sparsity=0.5)
    path = str(run.ticket(1))
    _, other, _ = small.run(one_shot, ONE_SHOT, tmp_path / "b", SCORING, criterion="random", like=path)
    assert masks.by_layer(found(other)) == masks.by_layer(found(run))
    assert masks.distance(found(other), found(run)) > 0.1

    with pytest.raises(InputError, match=r"round_01.safetensors: a ticket of another network: layer01/conv/"):
        small.run(one_shot, ONE_SHOT, tmp_path / "c", SCORING, criterion="random", like=path, width=0.2)
    assert not (tmp_path / "c").exists()


def test_on_the_relu_twin(tmp_path):
    result, _, _ = small.run(
        one_shot, ONE_SHOT, tmp_path, criterion="snip", activation="relu", num_timesteps=None
    )
    assert [row["network"] for row in result["tickets"]] == ["relu T=1"]
    assert np.isfinite(result["tickets"][0]["final_test_accuracy"])
