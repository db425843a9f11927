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
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from snnlth_jax._axes import is_explicit

__all__ = ["Library", "conv", "grad_kernel", "grad_x", "library", "takes"]

log = logging.getLogger(__name__)

VARIABLE = "SNNLTH_ONEDNN"
_TARGET, _SOURCE = "snnlth_convolution", Path(__file__).with_name("_onednn.c")


class Library(NamedTuple):
    """oneDNN as this process found it.

    Attributes:
      file: path or name of the library, "" if there is none.
      version: its version, "" if it is not used.
      reason: why it is not used, "" if it is.
    """

    file: str
    version: str = ""
    reason: str = ""


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


def takes(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether this process has oneDNN, and the arrays are of float32, the one precision that is asked of it.

    It takes no arrays that are divided over an explicit mesh: XLA divides calls of other libraries over none.
    """
    precise = x.dtype == kernel.dtype == jnp.float32 and x.size > 0 and kernel.size > 0
    ours = not (is_explicit(x) or is_explicit(kernel) or _elsewhere.get())
    return precise and ours and bool(library().version)


@contextlib.contextmanager
def absent() -> Iterator[None]:
    """Trace programs for other machines: without calls of this one's library."""
    token = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(token)


_elsewhere = contextvars.ContextVar("_elsewhere", default=False)


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`[N, H, W, C]` with `[size, size, C, K]`, a border of zeros: `[N, ceil(H / stride), ..., K]`."""
    height, width = (-(-extent // stride) for extent in x.shape[1:3])
    return _bind(_CONV, x, kernel, stride, (len(x), height, width, kernel.shape[-1]))


def grad_x(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    """The gradient of the images `[N, H, W, C]`, from that of the output; of `x` only the shape is used."""
    return _bind(_GRAD_X, kernel, grad, stride, x.shape)


def grad_kernel(x: jax.Array, kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    """The gradient of the kernel, from that of the output; of `kernel` only the shape is used."""
    return _bind(_GRAD_KERNEL, x, grad, stride, kernel.shape)


# --- what JAX must know
#
# <conv(x, kernel), grad> is linear in each of its three arrays. The three functions are its partial
# derivatives, linear in two arrays each, so that the transpose of one of them is another.

_CONV, _GRAD_X, _GRAD_KERNEL = (Primitive(f"onednn_{name}") for name in ("conv", "grad_x", "grad_kernel"))


def _bind(kind: Primitive, a: jax.Array, b: jax.Array, stride: int, shape: tuple[int, ...]) -> jax.Array:
    return cast(jax.Array, kind.bind(a, b, stride=stride, shape=tuple(shape)))


def _define(kind: Primitive, number: int) -> None:
    def evaluate(a: jax.Array, b: jax.Array, *, stride: int, shape: tuple[int, ...]) -> jax.Array:
        call = jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct(shape, jnp.float32))
        output: jax.Array = call(a, b, kind=np.int64(number), stride=np.int64(stride))
        return output

    def one_by_one(arrays: tuple[Any, ...], axes: tuple[Any, ...], **how: Any) -> tuple[jax.Array, int]:
        """Under `vmap`."""
        stacked = [
            None if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes, strict=True)
        ]

        def single(parts: list[Any]) -> jax.Array:
            given = [a if part is None else part for a, part in zip(arrays, parts, strict=True)]
            return cast(jax.Array, kind.bind(*given, **how))

        return lax.map(single, stacked), 0

    kind.def_abstract_eval(lambda a, b, *, stride, shape: a.update(shape=shape))
    kind.def_impl(jax.jit(evaluate, static_argnames=("stride", "shape")))
    mlir.register_lowering(kind, mlir.lower_fun(evaluate, multiple_results=False))
    batching.primitive_batchers[kind] = one_by_one


for _number, _kind in enumerate((_CONV, _GRAD_X, _GRAD_KERNEL)):
    _define(_kind, _number)


def _transpose(kind: Primitive, *, by: int, swapped: bool = False) -> Callable[..., jax.Array]:
    """The transpose by the first array (0) or second (1): `kind` of the cotangent and the other array."""

    def rule(cotangent: jax.Array, *arrays: Any, stride: int, **_: Any) -> jax.Array:
        other, shape = arrays[1 - by], arrays[by].aval.shape
        a, b = (other, cotangent) if swapped else (cotangent, other)
        return _bind(kind, a, b, stride, shape)

    return rule


# conv(x, kernel), grad_x(kernel, grad), grad_kernel(x, grad)
ad.defbilinear(_CONV, _transpose(_GRAD_X, by=0, swapped=True), _transpose(_GRAD_KERNEL, by=1, swapped=True))
ad.defbilinear(_GRAD_X, _transpose(_GRAD_KERNEL, by=0), _transpose(_CONV, by=1))
ad.defbilinear(_GRAD_KERNEL, _transpose(_GRAD_X, by=0), _transpose(_CONV, by=1, swapped=True))


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
            said = getattr(error, "stderr", "") or str(error)
            return Library(file, reason=f"its calls cannot be compiled: {' '.join(said.split())[:200]}")
    numbers = (ctypes.c_int * 3)()
    calls.snnlth_open.restype = ctypes.c_char_p
    with _sleeping_threads():
        failed = calls.snnlth_open(file.encode(), numbers)
    if failed:
        return Library(file, reason=failed.decode())
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(calls.snnlth_convolution), platform="cpu")
    return Library(file, version=".".join(map(str, numbers)))
