"""Programs compiled by one process serve the next, where the user wants; nothing there stops a run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from snnlth_jax.machine import compile_cache

pytestmark = pytest.mark.subprocess

PROGRAM = """
import jax, logging
from snnlth_jax.machine import compile_cache
logging.basicConfig(format="%(message)s")
compile_cache.keep_programs()
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((3, 3))))
"""


def run(**settings):
    without = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment = without | {name: str(value) for name, value in settings.items()}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "27.0\n"), done.stderr
    return done.stderr


def programs(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*-cache")}


def test_kept_and_used_and_damage_is_survived(tmp_path):
    assert run(SNNLTH_CACHE_DIR=tmp_path) == ""
    kept = programs(tmp_path)
    assert kept
    assert run(SNNLTH_CACHE_DIR=tmp_path) == ""
    assert programs(tmp_path) == kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])  # as a killed process or a full disk leaves it
    for _ in range(2):  # JAX leaves a damaged file where it is
        assert "compilation cache" in run(SNNLTH_CACHE_DIR=tmp_path)
    for path in kept:
        path.unlink()
    assert run(SNNLTH_CACHE_DIR=tmp_path) == ""


def test_a_user_without_a_home_has_a_cache_too(tmp_path, monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SNNLTH_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert compile_cache.directory().parent == tmp_path / f"snnlth_jax-{os.getuid()}"


def test_the_user_decides(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    run(SNNLTH_CACHE_DIR=ours, JAX_COMPILATION_CACHE_DIR=theirs)
    assert programs(theirs)
    assert not ours.exists()
    run(SNNLTH_CACHE_DIR=ours, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not programs(ours)


def test_where_nothing_can_be_kept_it_is_said(tmp_path):
    (tmp_path / "file").touch()
    for setting in ("SNNLTH_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"):
        said = run(**{setting: tmp_path / "file" / "below"})
        assert said.startswith("compiled programs are not kept (")
        assert said.count("\n") == 1
