"""Compiled programs kept on disk, so that a resumed run need not compile them again."""

import contextlib
import hashlib
import logging
import platform
import tempfile
from pathlib import Path

import jax

from snnlth_jax.data import cache

__all__ = ["directory", "keep_programs"]

log = logging.getLogger(__name__)
MOST_BYTES = 4 * 2**30


def directory() -> Path:
    """Directory of compiled programs, one for each kind of processor: code for one may fail on another."""
    return cache.directory() / f"programs-{_processor()}"


def keep_programs() -> None:
    """Have JAX keep compiled programs in `directory()`, or in the directory that the user set.

    `$JAX_COMPILATION_CACHE_DIR` and `$JAX_ENABLE_COMPILATION_CACHE` are respected; a directory that cannot be
    written is a warning, and none is used. On a GPU the kernels that XLA chose by timing them are kept too: a
    resumed run computes with the kernels with which it started.

    >>> keep_programs()
    >>> jax.config.values["jax_compilation_cache_dir"] is not None
    True
    """
    own = jax.config.values["jax_compilation_cache_dir"]
    if own and "://" in own:
        return
    programs = Path(own or directory())
    try:
        programs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=programs):
            pass
    except OSError as error:
        log.warning("compiled programs are not kept (%s)", error)
        jax.config.update("jax_compilation_cache_dir", None)  # JAX would warn of each program
    else:
        if not own:
            _forget_oldest(programs)
            jax.config.update("jax_compilation_cache_dir", str(programs))


def _forget_oldest(programs: Path, most: int = MOST_BYTES) -> None:
    """Remove the oldest programs until no more than `most` bytes are left."""
    files = []
    for path in programs.iterdir():
        with contextlib.suppress(OSError):  # another process removes it
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    size = sum(length for _, length, _ in files)
    for _, length, path in sorted(files):
        if size <= most:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        size -= length


def _processor() -> str:
    """A name that processors share only if they have the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    except OSError:
        facts = {platform.node()}
    return hashlib.sha256("\n".join([platform.machine(), *sorted(facts)]).encode()).hexdigest()[:12]
