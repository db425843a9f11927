"""Every test runs on several (forced CPU) devices, with strict promotion of ranks; warnings are errors."""

import ctypes
import gc
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # compile for less than half as long, for programs that run somewhat longer; at level 0 the bits of a
    # search depend on what ran before
    + " --xla_backend_optimization_level=1"
)
# later ones end the process at a flag that they no longer know
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SNNLTH_ONEDNN", "0")  # golden and documented numbers are those of XLA; see test_onednn
# what one test compiles the others need not, nor the next run, of this checkout or another one
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnlth_jax" / "tests"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import psutil
import pytest

from snnlth_jax.report import theme
from snnlth_jax.search import programs

theme.STYLE["pdf.fonttype"] = 3  # cutting the fonts of PDFs to size takes half of the time of a report
jax.config.update("jax_numpy_rank_promotion", "raise")
MOST_MEMORY = 3 * 2**30
MOST_ON_DISK = 2 * 2**30
programs.SHARED.most = 1000
gc.set_threshold(50_000, 20, 50)  # tracing makes many objects and few circles


def _refuse_deprecated(event: str, **_: object) -> None:
    """Orbax counts the use of what it deprecates, and warns of none."""
    assert "/deprecation/" not in event, event


jax.monitoring.register_event_listener(_refuse_deprecated)


def pytest_configure(config):
    """Begin with an empty disk cache when it has grown large; before the processes of the suite start."""
    compiled = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if not hasattr(config, "workerinput") and compiled.exists():
        size = sum(path.stat().st_size for path in compiled.iterdir())
        if size > MOST_ON_DISK:
            shutil.rmtree(compiled)


def pytest_collection_modifyitems(items):
    """Files that take long come first, or one of two processes would be left with them at the end."""
    marks = ("multihost", "slow", "subprocess")
    long = [{item.path for item in items if item.get_closest_marker(name)} for name in marks]
    items.sort(key=lambda item: [item.path not in paths for paths in long])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    gc.freeze()  # what is there already, or each collection, as of a leak check, would walk over it
    return (yield)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs go after each module of tests that leaves a process large; the disk keeps them."""
    yield
    if psutil.Process().memory_info().rss > MOST_MEMORY:
        programs.SHARED.clear()
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()
        if sys.platform == "linux":  # or the process stays large, and clears after every module
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


@pytest.fixture
def golden() -> Path:
    """Vectors computed in float64 with PyTorch and SpikingJelly, see tests/golden/README.md."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def x64():
    """Double precision, for this test alone."""
    with jax.enable_x64(True):
        yield
