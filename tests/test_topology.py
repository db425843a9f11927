"""Compiling for absent devices: bad input anywhere; the compiler of TPUs where libtpu is installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.subprocess

LIBTPU = importlib.util.find_spec("libtpu") is not None


def compiled(*flags, **environment):
    """In a process of its own, since libtpu stays loaded."""
    command = [sys.executable, "-m", "snnlth_jax.cli", "compile", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--topology", "v5e"],
            "--topology v5e: allowed: h100, a100, l4, rtx4090, or one of v3, v4, v5e, v5p, v6e, tpu7x,",
        ),
        (["--topology", "v9:2x2"], "--topology v9:2x2: allowed: h100, a100, l4, rtx4090, or one of v3"),
        (["--topology", "h100:2x2"], "--topology h100:2x2: allowed: h100, a100, l4, rtx4090, or one of v3"),
        (["--topology", "h10"], "--topology h10: allowed: h100, a100, l4, rtx4090, or one of v3"),
        (["--topology", "h100", "--epochs", "0"], "--epochs 0: allowed: "),
        (["--topology", "h100", "--rounds", "0"], "--rounds 0: allowed: "),
        (["--topology", "v5e:2x2", "--arch", "vgg"], "--arch vgg: allowed: vgg5"),
        (["--topology", "v5e:2x2", "--batch-size", "0"], "--batch-size 0: allowed: "),
    ],
)
def test_bad_input_is_one_line(flags, message):
    status, _, err = compiled(*flags)
    assert status == 2
    assert err.startswith(f"snnlth: error: {message}")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(LIBTPU, reason="libtpu is there")
def test_without_libtpu_it_says_how_to_get_it():
    status, _, err = compiled("--topology", "v5e:2x2")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "needs libtpu: pip install -r requirements-tpu.txt" in err


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is not None, reason="the compiler is there")
@pytest.mark.parametrize("topology", ["h100", "rtx4090"])
def test_without_the_compiler_of_gpus_it_says_how_to_get_it(topology):
    status, _, err = compiled("--topology", topology)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "needs NVIDIA's compiler: pip install -r requirements-gpu-compiler.txt" in err


needs_libtpu = pytest.mark.skipif(not LIBTPU, reason="needs an environment with requirements-tpu.txt")


@needs_libtpu
@pytest.mark.parametrize("arch", ["vgg16", "resnet19"])
@pytest.mark.parametrize(("topology", "count"), [("v5e:2x2", 4), ("v4:2x2x1", 4)])
def test_the_papers_networks_fit(topology, count, arch):
    """Compiled with least effort: five times faster, but for another program than a search would run."""
    effort = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1"}
    status, out, err = compiled("--topology", topology, "--arch", arch, **effort)
    assert status == 0, err
    assert f"{topology}: {count} x TPU" in out
    assert "and fits" in out


@needs_libtpu
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "32768"], "does not fit: Ran out of memory"),
        (["--batch-size", "130"], "allowed: a multiple of 4, the devices of v5e:2x2"),
    ],
)
def test_what_does_not_fit_is_one_line(flags, message):
    status, _, err = compiled("--topology", "v5e:2x2", "--arch", "vgg9", *flags)
    assert (status, len(err.splitlines())) == (2, 1)
    assert message in err
