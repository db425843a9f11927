"""Compiled programs kept on disk, so that a resumed run need not compile them again."""

import hashlib
import logging
import platform
import tempfile
from pathlib import Path

import jax

from snnlth_jax.data import cache

__all__ = ["directory", "keep_programs"]

log = logging.getLogger(__name__)


def directory() -> Path:
    """The directory of compiled programs, one for each processor: code for one may fail on another."""
    return cache.directory() / f"programs-{_processor()}"


def keep_programs() -> None:
    """Have JAX keep what it compiles in `directory()`, or where the user has said.

    `$JAX_COMPILATION_CACHE_DIR` and `$JAX_ENABLE_COMPILATION_CACHE` are respected. On a GPU the kernels that
    XLA chose by timing them are kept too, and a resumed run computes with the kernels it began with.

    >>> keep_programs()
    >>> jax.config.values["jax_compilation_cache_dir"] is not None
    True
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory()):
            pass
    except OSError as error:
        log.warning("compiled programs are not kept (%s)", error)
    else:
        jax.config.update("jax_compilation_cache_dir", str(directory()))


def _processor() -> str:
    """A name that processors share only if they have the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    except OSError:
        said = {platform.node()}
    return hashlib.sha256("\n".join([platform.machine(), *sorted(said)]).encode()).hexdigest()[:12]
