"""A search that a program calls: it takes what it is given, or refuses it before anything is written."""

import dataclasses
import os
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from snnlth_jax import configs, data, models, networks, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.search import imp

IMAGES = np.random.default_rng(0).integers(0, 256, (72, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(72) % 5
MINE = data.Dataset.from_arrays("mine", IMAGES[:48], LABELS[:48], IMAGES[48:], LABELS[48:])
NETWORK = models.VGG((4, "M", 4, "M"), num_classes=5)
CONFIG = configs.ImpConfig(num_timesteps=2, epochs=1, rounds=2, batch_size=24, devices=1)


def search(directory, dataset=MINE, model=NETWORK, **changes):
    config = dataclasses.replace(CONFIG, **{"workdir": str(directory)} | changes)
    return imp.search(config, dataset, model, console=Console(quiet=True))


class VGG(models.VGG):
    """Another network with the name of one of this package."""

    @nn.compact
    def __call__(self, x, *, num_timesteps, train=False):
        return -super().__call__(x, num_timesteps=num_timesteps, train=train)


class Counting(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x, *, num_timesteps, train=False):
        if self.kind == "steps":
            self.param("steps", lambda key: jnp.zeros((), jnp.int32))
        if self.kind == "count":
            self.variable("batch_stats", "count", lambda: jnp.zeros((), jnp.int32))
        dtype = jnp.complex64 if self.kind == "complex" else jnp.float32
        x = nn.Dense(5, param_dtype=dtype)(x.reshape(len(x), -1)).real
        return jnp.broadcast_to(x, (num_timesteps, *x.shape))


class Activated(nn.Module):
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x, *, num_timesteps, train=False):
        x = self.activation(nn.Dense(5)(x.reshape(len(x), -1)))
        return jnp.broadcast_to(x, (num_timesteps, *x.shape))


TRAIN = MINE.train
REFUSED = {
    "a type that no file names": ({"model": NETWORK.clone(dtype=jnp.float16)}, "its dtype is float16"),
    "more classes": ({"model": NETWORK.clone(num_classes=9)}, "its logits are of shape (2, 2, 9)"),
    "fewer classes": ({"model": NETWORK.clone(num_classes=3)}, "its logits are of shape (2, 2, 3)"),
    "too few timesteps": ({"model": NETWORK.clone(norm="bntt", norm_timesteps=1)}, "norm_timesteps 1"),
    "a last batch of one": ({"model": NETWORK.clone(hidden=(4,)), "batch_size": 47}, "one value per channel"),
    "no layers": ({"model": models.VGG((), num_classes=5)}, "features must have an entry"),
    "a list": ({"model": models.VGG([4, "M"], num_classes=5)}, "has fields without a hash"),
    "a whole number to train": ({"model": Counting("steps")}, "its params/steps is int32"),
    "a whole number among statistics": ({"model": Counting("count")}, "its batch_stats/count is int32"),
    "complex weights": ({"model": Counting("complex")}, "is complex64"),
    "a function as activation": ({"model": Activated()}, "'str' object is not callable"),
    "too few labels": ({"train": {"labels": TRAIN.labels[:-3]}}, "train_labels: 45 labels"),
    "labels from 1": ({"train": {"labels": TRAIN.labels + 1}}, "train_labels: label 5 of image 4"),
    "images of floats": ({"train": {"images": IMAGES[:48] / np.float32(255)}}, "train_images float32"),
    "a path as name": ({"name": "../x"}, "name '../x'"),
    "no fingerprint": ({"fingerprint": ""}, "fingerprint ''"),
    "timesteps as a float": ({"num_timesteps": 2.0}, "num_timesteps 2.0: allowed: a whole number"),
    "an epoch as a float": ({"rewind_epoch": 0.0}, "rewind_epoch 0.0: allowed: a whole number"),
    "a rate as a text": ({"learning_rate": "0.1"}, "learning_rate '0.1': allowed: a number"),
    "True as a number": ({"epochs": True}, "epochs True: allowed: a whole number"),
    "a list of one": ({"learning_rate": [0.1]}, "learning_rate [0.1]: allowed: a number"),
    "a number in place of several": ({"final_rounds": 1}, "final_rounds 1: allowed: a tuple; in it a whole"),
    "a text among choices and numbers": ({"v_reset": "soft"}, "v_reset 'soft': allowed: a number or none"),
    "no number format": ({"model": NETWORK.clone(dtype="weird")}, "weird"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_search_cannot_take_is_one_line_and_nothing_is_written(case, tmp_path):
    given, expected = REFUSED[case]
    dataset = MINE._replace(**{name: given[name] for name in ("name", "fingerprint") if name in given})
    if "train" in given:
        dataset = dataset._replace(train=TRAIN._replace(**given["train"]))
    rest = {name: value for name, value in given.items() if name not in ("name", "fingerprint", "train")}
    with pytest.raises(InputError) as refusal:
        search(tmp_path / "run", dataset, **rest)
    assert expected in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_and_paths_are_taken(tmp_path):
    """As those of Python; the network file of a module with such fields is read too."""
    numbers = {"learning_rate": np.float64(0.1), "seed": np.int64(1), "epochs": np.int32(1)}
    numbers |= {"rounds": np.int64(2), "final_rounds": (np.int64(1),), "prune_fraction": np.float32(0.25)}
    model = models.VGG((np.int64(4), "M", 4, "M"), num_classes=np.int64(5), axis_name="mine")
    result = search(tmp_path / "numpy", model=model, workdir=tmp_path / "numpy", **numbers)
    expected = search(tmp_path / "python", seed=1, learning_rate=0.1)
    assert [row.final_test_accuracy for row in result.rounds] == [
        row.final_test_accuracy for row in expected.rounds
    ]
    names = [tmp_path / run / "networks" / "ticket_01.safetensors" for run in ("numpy", "python")]
    first, second = (networks.load(name) for name in names)
    assert first.recipe == second.recipe
    assert first.recipe.options["features"] == (4, "M", 4, "M")


def test_a_part_of_a_dataset_may_lack_a_class(tmp_path):
    few = data.load("digits", train_examples=9, seed=0)
    assert len(set(few.train.labels.tolist())) < 10
    for hidden in ((8,), ()):  # nor need there be a convolution, or a neuron
        model = models.VGG(("M",), num_classes=10, hidden=hidden)
        assert search(tmp_path / f"run{hidden}", few, model, batch_size=9).finished


def test_a_class_of_the_same_name_is_another_network(tmp_path):
    search(tmp_path / "run", model=VGG((4, "M", 4, "M"), num_classes=5))
    network = networks.load(tmp_path / "run" / "networks" / "ticket_01.safetensors")
    assert network.recipe.arch == f"{__name__}:VGG"
    with pytest.raises(InputError, match="is its author's own"):
        networks.classifier(network)


def test_a_replaced_file_keeps_its_permissions_and_a_link_its_file(tmp_path):
    """A device or a pipe is none that can be replaced."""
    ticket = tickets.Ticket({"w": np.ones((2, 2), bool)}, {"w": np.ones((2, 2), np.float32)}, {}, {})
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    tickets.save(file, ticket)
    file.chmod(0o600)
    link.symlink_to(file)
    content = file.read_bytes()
    file.write_bytes(b"before")
    tickets.save(link, ticket)
    assert link.is_symlink()
    assert file.read_bytes() == content
    assert file.stat().st_mode & 0o777 == 0o600
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="is no regular file"):
        tickets.save(pipe, ticket)
    assert Path(pipe).is_fifo()
