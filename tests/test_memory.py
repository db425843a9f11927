"""A process that trains keeps the memory that its programs free."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from snnlth_jax.machine import memory
kept = memory.keep() if sys.argv[1] == "keep" else False
import jax, jax.numpy as jnp
twice = lambda x: jax.lax.fori_loop(0, 2, lambda i, y: jnp.roll(y * i, 7, 0), jnp.outer(x, x))
program = jax.jit(lambda x: twice(x).sum())
x = jnp.ones(3000)
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults))
"""


def outcome(how, **environment):
    """Whether memory is kept, and the pages that a call of a program asks for.

    The least of several, since a busy machine may take pages away between two calls.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.subprocess
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_a_call_asks_for_no_memory_again():
    """The program's arrays have 36 MB, 9,000 pages."""
    kept, faults = outcome("keep")
    assert kept
    assert faults < 500
    assert outcome("leave")[1] > 5000
    assert not outcome("keep", MALLOC_ARENA_MAX="4")[0]  # of the user
