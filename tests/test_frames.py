"""Images that change over time: networks against stepping through time, data, augmentation, searches."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from snnlth_jax import configs, data, evaluation, models, networks
from snnlth_jax.data.augment import Augmentation, augment
from snnlth_jax.data.frames import as_input
from snnlth_jax.errors import InputError
from snnlth_jax.models.layers import max_pool
from snnlth_jax.neurons import LIF, lif_step
from snnlth_jax.search import early_bird, imp, one_shot, transfer

T, SHAPE = 3, (8, 8, 2)


def frames(count, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = rng.integers(0, 60, (count, 4, *SHAPE), dtype=np.uint8)
    for i, label in enumerate(labels):  # a bar that moves left, right, up or down
        for t in range(4):
            at = 2 * (t if label % 2 else 3 - t)
            images[(i, t, slice(at, at + 2)) if label < 2 else (i, t, slice(None), slice(at, at + 2))] = 255
    return images, labels


DATASET = data.Dataset.from_arrays("bars", *frames(80), *frames(40, seed=1), augment=("crop", "flip"))


def stepped(model, variables, x):
    """A VGG with running statistics, one timestep after the other."""
    params, stats = variables["params"], variables["batch_stats"]
    potentials, logits = {}, []
    for image in x:
        depth = 0
        for entry in model.features:
            if entry == "M":
                image = max_pool(image)
                continue
            depth += 1
            name = f"layer{depth:02}"
            conv, norm, running = params[name]["conv"], params[name]["norm"], stats[name]["norm"]
            y = jax.lax.conv_general_dilated(
                image, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            y = y + conv["bias"].reshape(1, 1, 1, -1)
            mean, var = (running[k].reshape(1, 1, 1, -1) for k in ("mean", "var"))
            scale, bias = (norm[k].reshape(1, 1, 1, -1) for k in ("scale", "bias"))
            y = (y - mean) / jnp.sqrt(var + 1e-5) * scale + bias
            potential, image = lif_step(LIF(), potentials.get(name, jnp.zeros(y.shape)), y)
            potentials[name] = potential
        readout = params["readout"]
        logits.append(image.reshape(len(image), -1) @ readout["kernel"] + readout["bias"][None])
    return jnp.stack(logits)


@pytest.fixture(scope="module")
def network():
    model = models.VGG((4, "M", 6), num_classes=3)
    x = jax.random.normal(jax.random.key(1), (T, 5, *SHAPE)) * 2
    variables = jax.jit(partial(model.init, num_timesteps=T))(jax.random.key(0), x)
    noise = jax.random.key(2)
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.uniform(noise, leaf.shape), variables)
    return model, variables, x


def test_a_network_equals_its_steps_through_time(network):
    model, variables, x = network
    logits, sown = model.apply(variables, x, num_timesteps=T, mutable=["intermediates"])
    assert float(sown["intermediates"]["layer02_spikes"][0].mean()) > 0.02
    assert jnp.allclose(logits, stepped(model, variables, x), atol=1e-5)


def test_frames_that_do_not_change_are_an_image(network):
    model, variables, x = network
    still = jnp.broadcast_to(x[:1], x.shape)
    assert jnp.array_equal(
        model.apply(variables, still, num_timesteps=T), model.apply(variables, x[0], num_timesteps=T)
    )


@pytest.mark.parametrize("name", ["vgg5", "resnet7"])
def test_the_first_frames_are_a_shorter_run(name):
    model = models.create(name, 4, width=0.05)
    apply = jax.jit(model.apply, static_argnames="num_timesteps")
    x = jax.random.normal(jax.random.key(1), (4, 2, 16, 16, 2))
    variables = jax.jit(partial(model.init, num_timesteps=1))(jax.random.key(0), x[:1])
    logits = apply(variables, x, num_timesteps=4)
    assert logits.shape == (4, 2, 4)
    assert jnp.allclose(apply(variables, x[:2], num_timesteps=2), logits[:2], atol=1e-5)
    with pytest.raises(ValueError, match="must be of 3 timesteps, got 4"):
        model.apply(variables, x, num_timesteps=3)


def test_training_takes_the_statistics_of_each_frame():
    """The running mean of the first norm follows T updates, as that of all others."""
    model = models.VGG((3, "M"), num_classes=2)
    x = jax.random.normal(jax.random.key(1), (T, 4, *SHAPE)) * jnp.arange(1.0, T + 1).reshape(-1, 1, 1, 1, 1)
    variables = model.init(jax.random.key(0), x, num_timesteps=T)
    _, updates = model.apply(variables, x, num_timesteps=T, train=True, mutable=["batch_stats"])
    kernel = variables["params"]["layer01"]["conv"]["kernel"]
    running = np.ones(3)
    for frame in x:
        y = jax.lax.conv_general_dilated(
            frame, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        running = 0.9 * running + 0.1 * np.var(np.asarray(y, np.float64), (0, 1, 2), ddof=1)
    assert np.allclose(updates["batch_stats"]["layer01"]["norm"]["var"], running, rtol=1e-5)


def test_all_frames_of_an_image_move_alike():
    moves = Augmentation((0.1, 0.2), (0.3, 0.4), crop_padding=2, flip=True, cutout=3)
    images = jnp.asarray(frames(6)[0])
    moved = augment(jax.random.key(0), images, moves)
    assert moved.shape == images.shape
    for t in range(4):  # the same key draws the same for images of one frame
        assert jnp.array_equal(moved[:, t], augment(jax.random.key(0), images[:, t], moves))


def test_a_network_without_time_sees_the_mean():
    images = jnp.asarray(frames(2)[0], jnp.float32)
    assert jnp.allclose(as_input(models.VGG(activation="relu"), images, 1), images.mean(1))
    assert as_input(models.VGG(), images, 2).shape == (2, 2, *SHAPE)


# --- data and searches


def test_frames_in_an_npz_file(tmp_path):
    file = tmp_path / "bars.npz"
    (train, labels), (test, test_labels) = frames(8), frames(4)
    np.savez(file, train_images=train, train_labels=labels, test_images=test, test_labels=test_labels)
    config = configs.resolve(configs.ImpConfig(dataset=str(file)))
    assert (config.num_timesteps, config.arch) == (4, "vgg5")
    loaded = data.load(str(file))
    assert loaded.image_shape == (4, *SHAPE)
    assert np.array_equal(loaded.train.images, train)
    assert "4 frames of 8x8x2" in data.describe(loaded)
    with pytest.raises(InputError, match="num_timesteps 5: allowed: 1 to 4, the frames of an image"):
        configs.resolve(configs.ImpConfig(dataset=str(file), num_timesteps=5))


BASE = {"epochs": 3, "batch_size": 40, "devices": 1, "learning_rate": 0.1, "num_timesteps": 3}
MODEL = models.VGG((4, "M", 4, "M"), num_classes=4)


@pytest.mark.parametrize(
    ("search", "config"),
    [
        (imp, configs.ImpConfig(**BASE, rounds=2, early_time=True, early_time_timesteps=2)),
        (early_bird, configs.EbConfig(**BASE, sparsity=0.5, queue=2, tau=1.0)),
        (one_shot, configs.OneShotConfig(**BASE, sparsity=0.5)),
        (one_shot, configs.OneShotConfig(**BASE, sparsity=0.5, criterion="synflow", synflow_iterations=2)),
        (transfer, configs.TransferConfig(**BASE, rounds=2)),
    ],
    ids=["imp+et", "eb", "snip", "synflow", "transfer"],
)
def test_all_searches_take_frames(tmp_path, search, config):
    result = search.search(dataclasses.replace(config, workdir=str(tmp_path)), dataset=DATASET, model=MODEL)
    assert result.finished
    assert result.flops_per_image.once == 0
    row = (*result.tickets, *result.rounds)[0]
    macs = row.layers[0].macs_per_image
    assert len(set(macs)) == 1
    assert macs[0] > 0  # the first layer runs at every timestep
    name = "ticket_01" if result.tickets else "dense"
    network = networks.classifier(tmp_path / "networks" / f"{name}.safetensors")
    trained = result.tickets[-1] if result.tickets else result.rounds[0]
    correct = np.asarray(network(DATASET.test.images)).argmax(-1) == DATASET.test.labels
    assert correct.mean() == trained.final_test_accuracy
    assert evaluation.evaluate(network, DATASET).layers == trained.layers


def test_too_few_frames_are_refused_before_anything_is_written(tmp_path):
    config = configs.ImpConfig(**BASE | {"num_timesteps": 9}, rounds=2, workdir=str(tmp_path / "run"))
    with pytest.raises(InputError, match="num_timesteps 9: allowed: 1 to 4, the frames"):
        imp.search(config, dataset=DATASET, model=MODEL)
    assert not (tmp_path / "run").exists()


def test_divided_frames_give_the_numbers_of_whole_ones(tmp_path):
    numbers = []
    for divided in ("no", "yes"):
        config = configs.ImpConfig(
            **BASE | {"devices": 2, "epochs": 2},
            rounds=1,
            shard_data=divided,
            workdir=str(tmp_path / divided),
        )
        result = imp.search(config, dataset=DATASET, model=MODEL)
        numbers.append(small.lines(small.rundir.paths(config.workdir))[-1]["train_loss"])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
    assert result.finished
