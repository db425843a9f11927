"""Every test runs on several (forced CPU) devices, with strict promotion of ranks; warnings are errors."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # compile for less than half as long, for programs that run somewhat longer
    + " --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# what one test compiles the others need not, nor the next run; `make clean` removes it
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / "build" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import psutil
import pytest

from snnlth_jax.search import programs

jax.config.update("jax_numpy_rank_promotion", "raise")
MOST_MEMORY = 1.5 * 2**30


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs go after each module of tests that leaves a process large; the disk keeps them."""
    yield
    if psutil.Process().memory_info().rss > MOST_MEMORY:
        programs.SHARED.clear()
        jax.clear_caches()


@pytest.fixture
def golden() -> Path:
    """Vectors computed in float64 with PyTorch and SpikingJelly, see tests/golden/README.md."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def x64():
    """Double precision, for this test alone."""
    with jax.enable_x64(True):
        yield
