"""The library alone, without the packages of the extra `search`."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from snnlth_jax import _extra

ROOT = Path(__file__).parent.parent
BARE = """
import sys
REFUSED = {PACKAGES}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""
LIBRARY = """
import jax, jax.numpy as jnp, optax, snnlth_jax
from snnlth_jax import losses, masks, neurons, pruning, surrogate

params = {"in": jax.random.normal(jax.random.key(0), (8, 16)), "bias": jnp.zeros((1, 16))}
kept = pruning.prune(pruning.magnitude(params), masks.make(params), 0.5)
tx = masks.freeze_pruned(optax.adam(0.1), kept)
neuron = neurons.LIF(spike=surrogate.triangle())

def loss(params):
    spikes = neurons.lif_scan(neuron, jnp.ones((4, 2, 8)) @ params["in"] + params["bias"])[1]
    return losses.cross_entropy(spikes, jnp.array([0, 1])).mean()

updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params)
params = optax.apply_updates(params, updates)
assert ((params["in"] != 0) == kept["in"]).all() and masks.count(kept) == (64, 128)
"""
EXPERIMENT = """
import importlib, snnlth_jax
for name in NAMES:
    try:
        importlib.import_module(f"snnlth_jax.{name}")
    except ImportError as error:
        package, _, rest = str(error).partition(" needs ")
        assert package.startswith("snnlth_jax."), error
        missing, _, remedy = rest.partition(": ")
        assert missing in REFUSED and remedy == "pip install 'snnlth_jax[search]'", error
        assert error.name == missing
    else:
        raise AssertionError(name)
try:
    from snnlth_jax import tickets
except ImportError as error:
    assert "pip install 'snnlth_jax[search]'" in str(error)
import snnlth_jax.errors
assert not hasattr(snnlth_jax, "nothing")
"""


def without(packages, program, *arguments):
    bare = BARE.replace("{PACKAGES}", repr(packages))
    command = [sys.executable, "-W", "error", "-c", bare + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


ALL = [*_extra.PACKAGES, "array_record", "matplotlib", "sklearn"]


@pytest.mark.subprocess
def test_the_library_works_without_the_extra():
    done = without(ALL, LIBRARY)
    assert done.returncode == 0, done.stderr


@pytest.mark.subprocess
def test_the_experiment_names_the_extra():
    names = ["cli", "configs", "data", "models", "report", "tickets", "train", "models.vgg", "search.imp"]
    names += ["interop.torch", "run.results"]
    done = without(ALL, EXPERIMENT.replace("NAMES", str(names)))
    assert done.returncode == 0, done.stderr


@pytest.mark.subprocess
@pytest.mark.parametrize("arguments", [["--help"], [], ["imp", "--dataset", "digits"]], ids=" ".join)
def test_the_command_is_one_line_without_the_extra(arguments):
    done = without(ALL, "from snnlth_jax._extra import command; sys.exit(command())", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("snnlth: error: snnlth_jax.")
    assert line.endswith(": pip install 'snnlth_jax[search]'")


@pytest.mark.subprocess
def test_a_package_that_is_not_imported_is_not_asked_for():
    """Networks and tickets need no data."""
    done = without(
        ["tensorflow_datasets", "array_record", "tyro"],
        "from snnlth_jax import models, tickets, train",
    )
    assert done.returncode == 0, done.stderr


def test_another_missing_module_is_not_put_down_to_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "snnlth_jax.cli", None)
    with pytest.raises(ModuleNotFoundError):
        _extra.command()


def test_the_command_runs_with_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["snnlth", "imp", "--arch", "vgg99"])
    assert _extra.command() == 2
    assert capsys.readouterr().err.startswith("snnlth: error: --arch vgg99")


def test_the_packages_are_those_that_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {line.split(">")[0] for line in project["dependencies"]} == {"jax", "numpy", "optax"}
    extra = [line.split(">")[0].split("[")[0] for line in project["optional-dependencies"]["search"]]
    modules = {"orbax-checkpoint": "orbax", "pillow": "PIL"}
    declared = {modules.get(name, name.replace("-", "_")) for name in extra}
    assert declared == {*_extra.PACKAGES, "array_record"}  # that one is for Linux alone
    assert project["scripts"] == {"snnlth": "snnlth_jax._extra:command"}


def test_all_that_is_installed_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().split()
    }
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[>=<;\[ ]", line)[0].lower().replace("_", "-") for line in lines}
    assert names - {"snnlth-jax"} <= pinned
