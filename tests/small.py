"""Searches small enough for a test, and what tests look at in their directories."""

import contextlib
import dataclasses
import io
import itertools
import json

import jax
import jax.numpy as jnp
from rich.console import Console

from snnlth_jax import configs, models
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.search.programs import SHARED, Programs

NETWORK = {
    "width": 0.1,
    "train_examples": 96,
    "validation_examples": 20,
    "batch_size": 48,
    "epochs": 3,
    "devices": 1,
    "checkpoint_every": 100,  # and after each phase
}
EACH_EPOCH = NETWORK | {"checkpoint_every": 1}  # for what stops, fails, and resumes
MODEL = models.VGG((3, "M", 6, "M"), num_classes=10)
WEIGHTS = 3 * 3 * 3 + 3 * 3 * 3 * 6 + 2 * 2 * 6 * 10  # of its kernels, for images of 8x8 pixels
CLOCK = ("seconds", "device_seconds", "compile_seconds", "images_per_second")


def run(module, config, directory, programs=None, model=MODEL, **changes):
    """Run the search of a module: its result as JSON, its paths, and what it printed.

    On the network that the configuration names if `model` is None or a change concerns it, else on this one.
    """
    if changes.keys() & {"arch", "width", "dtype"}:
        model = None
    config = configs.resolve(dataclasses.replace(config, workdir=str(directory), **changes))
    console = Console(file=io.StringIO(), width=200)
    result = module.search(config, model=model, programs=programs, console=console)
    return results.to_json(result), rundir.paths(config.workdir), console.file.getvalue()


class AsIfNew(Programs):
    """The programs of this process, in the ledger as if this search had compiled them."""

    def __init__(self):
        super().__init__()
        self.known = set()

    def get(self, key, compile_program):
        program, seconds = SHARED.get(key, compile_program)
        new, self.known = key not in self.known, self.known | {key}
        return program, max(seconds, 1e-3) if new else 0.0


def lines(paths, event="epoch"):
    return [
        line for line in map(json.loads, paths.metrics.read_text().splitlines()) if line["event"] == event
    ]


def json_of(path):
    return json.loads(path.read_text())


def timeless(line):
    """Without what a clock says, at any depth."""
    if isinstance(line, dict):
        return {k: timeless(v) for k, v in line.items() if k not in CLOCK}
    return line


def same_outcome(a, b):
    """The runs a and b ended alike, but for the clock."""
    for event in ("epoch", "mask", "early_time", "stability"):
        assert list(map(timeless, lines(a, event))) == list(map(timeless, lines(b, event)))
    results = [json.loads(paths.result.read_text()) for paths in (a, b)]
    assert results[0]["finished"]
    for part in ("early_time", "early_bird", "stability"):
        assert results[0][part] == results[1][part]
    for part in ("preparations", "rounds", "tickets", "controls"):
        rows = [list(map(timeless, result[part])) for result in results]
        assert rows[0] == rows[1]
    for directory, other in ((a.tickets, b.tickets), (a.networks, b.networks), (a.spikes, b.spikes)):
        names = sorted(path.name for path in directory.glob("*"))
        assert names == sorted(path.name for path in other.glob("*"))
        for name in names:
            assert (directory / name).read_bytes() == (other / name).read_bytes()


def initial_params(seed=0):
    """The weights that a run with this seed begins with."""
    init_key = jax.random.split(jax.random.key(seed), 4)[0]
    init = jax.jit(lambda key: MODEL.init(key, jnp.zeros((1, 8, 8, 1)), num_timesteps=1))
    return jax.device_get(init(init_key)["params"])


def copy_in_use(source, target):
    """Copy a directory in which another thread renames and deletes files; what vanishes is left out."""
    target.mkdir()
    for path in source.iterdir() if source.exists() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                copy_in_use(path, target / path.name)
            else:
                (target / path.name).write_bytes(path.read_bytes())


class Interrupted(Exception):
    """Stands for a process that is killed."""


def cut_off_before(patch, functions, n):
    """Interrupt whatever runs before the n-th call, counted from 1, of any of these (owner, name)."""
    count = itertools.count(1)

    def counted(function):
        def interrupted(*args, **kwargs):
            if next(count) == n:
                raise Interrupted
            return function(*args, **kwargs)

        return interrupted

    for owner, name in functions:
        patch.setattr(owner, name, counted(getattr(owner, name)))


def cut_off(patch, owner, name, n):
    """Interrupt whatever runs before the n-th call of `owner.name`, counted from 1."""
    cut_off_before(patch, [(owner, name)], n)
