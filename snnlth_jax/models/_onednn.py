"""Convolutions on CPUs by oneDNN, the library that PyTorch uses, where it is installed.

`pip install 'snnlth_jax[cpu]'` brings the library. `_onednn.c` calls it from XLA's programs. The machine's C
compiler translates that file when a process first computes a convolution, in less than a second, against the
headers of the installed jaxlib: nothing that is compiled can be of another version. Without the library or a
compiler, `library` says why not, and XLA computes all; so it does with `SNNLTH_ONEDNN=0` in the environment.
"""

import contextlib
import contextvars
import ctypes
import ctypes.util
import functools
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Library", "conv", "grad_kernel", "grad_x", "library", "takes", "takes_type"]

log = logging.getLogger(__name__)

VARIABLE = "SNNLTH_ONEDNN"
Shape = tuple[int, ...]
_TARGET, _SOURCE = "snnlth_convolution", Path(__file__).with_name("_onednn.c")


class Library(NamedTuple):
    """oneDNN as this process found it.

    Attributes:
      file: path or name of the library, "" if there is none.
      version: its version, "" if it is not used.
      reason: why it is not used, "" if it is.
      wide: whether it computes with instructions of AVX-512.
    """

    file: str
    version: str = ""
    reason: str = ""
    wide: bool = False


@functools.cache
def library() -> Library:
    """Find oneDNN, load it, and make it known to XLA; once in a process.

    >>> found = library()
    >>> bool(found.version) != bool(found.reason)
    True
    """
    if os.environ.get(VARIABLE) == "0":
        return Library("", reason=f"{VARIABLE} is 0")
    outcomes = []
    for file in _candidates():
        outcomes.append(_opened(file))
        if outcomes[-1].version:
            return outcomes[-1]
        log.warning("oneDNN is not used (%s): %s", file, outcomes[-1].reason)
    return outcomes[0] if outcomes else Library("", reason="it is not installed")


def takes(a: jax.Array, b: jax.Array) -> bool:
    """Whether programs call it for these arrays: not for empty ones, and in float32 only."""
    return takes_type(a.dtype) and a.dtype == b.dtype and a.size > 0 and b.size > 0


def takes_type(dtype: Any) -> bool:
    """Whether this process has oneDNN, programs are for this machine, and the type is the one asked of it."""
    return dtype == jnp.float32 and not _elsewhere.get() and bool(library().version)


@contextlib.contextmanager
def absent() -> Iterator[None]:
    """Trace programs for other machines: without calls of this one's library."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)


_elsewhere = contextvars.ContextVar("_elsewhere", default=False)


def conv(x: jax.Array, kernel: jax.Array, stride: int, shape: Shape) -> jax.Array:
    """`[N, H, W, C]` with `[size, size, C, K]`, a border of zeros: `[N, ceil(H / stride), ..., K]`."""
    return _call(0, x, kernel, stride, shape)


def grad_x(kernel: jax.Array, grad: jax.Array, stride: int, shape: Shape) -> jax.Array:
    """The gradient of images of a shape `[N, H, W, C]`, from that of the output."""
    return _call(1, kernel, grad, stride, shape)


def grad_kernel(x: jax.Array, grad: jax.Array, stride: int, shape: Shape) -> jax.Array:
    """The gradient of a kernel of a shape `[size, size, C, K]`, from that of the output."""
    return _call(2, x, grad, stride, shape)


def _call(kind: int, a: jax.Array, b: jax.Array, stride: int, shape: Shape) -> jax.Array:
    output = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.ffi.ffi_call(_TARGET, output, vmap_method="sequential")
    result: jax.Array = call(a, b, kind=np.int64(kind), stride=np.int64(stride))
    return result


# --- finding it


def _candidates() -> Iterator[str]:
    """Files that may be it: of the wheel in this environment, then of the system."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("onednn-cpu-gomp") or ():
            if file.name == "libdnnl.so.3":
                yield str(Path(file.locate()).resolve())
    if system := ctypes.util.find_library("dnnl"):
        yield system


@contextlib.contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Have OpenMP's threads, if it is loaded in here, sleep between calls, when XLA needs the cores."""
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


@functools.cache
def _opened(file: str) -> Library:
    """Load a library and make it known to XLA, which takes that once."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if not shutil.which(compiler[0]):
        return Library(file, reason=f"there is no C compiler ({compiler[0]})")
    with tempfile.TemporaryDirectory() as directory:
        built = f"{directory}/onednn.so"
        sources, libraries = [f"-I{jax.ffi.include_dir()}", str(_SOURCE)], ["-lpthread", "-ldl"]
        command = [*compiler, "-O2", "-shared", "-fPIC", *sources, "-o", built, *libraries]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            calls = ctypes.CDLL(built)
        except (OSError, subprocess.SubprocessError) as error:
            message = getattr(error, "stderr", "") or str(error)
            return Library(file, reason=f"its calls cannot be compiled: {' '.join(message.split())[:200]}")
    numbers = (ctypes.c_int * 4)()
    calls.snnlth_open.restype = ctypes.c_char_p
    with _sleeping_threads():
        failed = calls.snnlth_open(file.encode(), numbers)
    if failed:
        return Library(file, reason=failed.decode())
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(calls.snnlth_convolution), platform="cpu")
    *version, wide = numbers
    return Library(file, version=".".join(map(str, version)), wide=bool(wide))
