"""Several devices: the same numbers as one, and a run goes from some to others."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from snnlth_jax import configs, data, masks, models, train
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.machine import sharding
from snnlth_jax.search import imp
from snnlth_jax.train import optimizers

# 44 images in batches of 16: the last one has 12, which 8 devices do not divide and 2 do
EXAMPLES, BATCH = 44, 16
NETWORKS = {
    "vgg": models.VGG((4, "M", 8, "M"), num_classes=10),
    "resnet": models.ResNet(stage_sizes=(1,), widths=(4,), stem=4, hidden=8, num_classes=10),
}
AUGMENTATION = Augmentation(mean=(0.5,), std=(0.25,), crop_padding=2, flip=True, cutout=3)


@functools.cache
def after_an_epoch(network, count, how="shard_map", divided=False):
    """State, training metrics and evaluation after an epoch on so many devices, images divided or whole."""
    tx = optimizers.create()
    rng = np.random.default_rng(0)
    split = data.Split(
        jnp.asarray(rng.integers(0, 256, (EXAMPLES, 8, 8, 1)), jnp.uint8), jnp.arange(EXAMPLES) % 10
    )
    model = NETWORKS[network]
    state = train.init_state(jax.random.key(0), model, tx, jnp.zeros((1, 8, 8, 1)))
    state = state._replace(masks=masks.tree_map(lambda m: m.at[..., :1].set(False), state.masks))
    devices = sharding.Devices.of(jax.devices()[:count], how)
    state, labels = sharding.replicate((state, split.labels), devices)
    split = data.Split((sharding.shard if divided else sharding.replicate)(split.images, devices), labels)
    program = train.compile_program(
        model,
        tx,
        state,
        split,
        split,
        augmentation=AUGMENTATION,
        batch_size=BATCH,
        num_timesteps=2,
        devices=devices,
    )
    (epoch,) = train.fit(
        program,
        state,
        split,
        key=jax.random.key(1),
        learning_rate=lambda epoch: 0.05,
        first_epoch=0,
        last_epoch=1,
    )
    return jax.device_get((epoch.state, epoch.metrics, program.evaluate(epoch.state, split)))


@pytest.mark.parametrize(
    ("network", "count", "how"),
    [
        *(("vgg", 2, "shard_map"), ("vgg", 8, "shard_map"), ("vgg", 8, "pmap")),
        *(("resnet", 2, "pmap"), ("resnet", 8, "shard_map")),
    ],
)
def test_devices_give_the_numbers_of_one(network, count, how):
    """Weights, momentum and running statistics after an epoch of augmented batches of all sizes."""
    expected, metrics, evaluated = after_an_epoch(network, 1)
    got, metrics_there, evaluated_there = after_an_epoch(network, count, how)
    (evaluated_there, correct), evaluated = evaluated_there, evaluated.metrics
    assert metrics_there.examples == metrics.examples == EXAMPLES
    assert evaluated_there.examples == evaluated.examples == EXAMPLES == len(correct)
    chex.assert_trees_all_equal(got.masks, expected.masks)
    chex.assert_trees_all_close(
        (got.params, got.batch_stats, got.opt_state),
        (expected.params, expected.batch_stats, expected.opt_state),
        rtol=1e-3,
        atol=2e-5,
    )
    np.testing.assert_allclose(metrics_there.loss, metrics.loss, rtol=1e-4)
    np.testing.assert_allclose(evaluated_there.loss, evaluated.loss, rtol=1e-4)
    assert abs(int(evaluated_there.correct) - int(evaluated.correct)) <= 1
    assert int(evaluated_there.correct) == correct.sum()


def test_shard_map_and_pmap_are_the_same_to_the_bit():
    first, second = (after_an_epoch("vgg", 8, how)[0] for how in sharding.HOW)
    chex.assert_trees_all_equal(first, second)


@pytest.mark.parametrize("count", [2, 8])
def test_divided_images_are_the_same_to_the_bit(count):
    """44 images on 8 devices are 6 on each, the last two with 2 and none."""
    whole, divided = (after_an_epoch("vgg", count, divided=divided) for divided in (False, True))
    chex.assert_trees_all_equal(whole, divided)


def test_a_search_with_divided_images(tmp_path):
    """Early-Time, whose measurement takes images of its own choice, and 20 and 18 images to evaluate, each 5
    on a device."""
    early_time = {"num_timesteps": 3, "early_time": True, "early_time_examples": 50}
    config = configs.ImpConfig(**small.NETWORK, **early_time, rounds=2, rewind_epoch=1, test_examples=18)
    runs = {
        choice: small.run(imp, config, tmp_path / choice, devices=4, shard_data=choice)[1]
        for choice in ("auto", "yes")
    }
    small.same_outcome(*runs.values())


def test_a_run_goes_from_two_devices_to_one_and_says_so(tmp_path, monkeypatch):
    from snnlth_jax.run import checkpoints

    config = configs.ImpConfig(**small.EACH_EPOCH, num_timesteps=2, rounds=2, rewind_epoch=1)
    with monkeypatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 3)
        with pytest.raises(small.Interrupted):
            small.run(imp, config, tmp_path / "run", devices=2)
    result, run, text = small.run(imp, config, tmp_path / "run", devices=1)
    assert "on 1 x cpu, not 2 x cpu: from here on equal up to rounding" in text
    _, undisturbed, _ = small.run(imp, config, tmp_path / "one")
    assert result["finished"]
    losses = [[line["train_loss"] for line in small.lines(paths)] for paths in (run, undisturbed)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert json.loads(run.config.read_text()) == json.loads(undisturbed.config.read_text())
