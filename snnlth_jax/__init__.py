"""Lottery tickets of deep spiking neural networks, in JAX.

The library is `surrogate`, `neurons`, `masks`, `pruning` and `losses`; it needs jax, numpy and optax alone.
The experiment on top of it is `models`, `data`, `train`, `search`, `tickets`, `networks`, `interop`, `report`
and their neighbours; Python imports them on first use. `load` makes a function of a network file. They need
the extra: `pip install 'snnlth_jax[search]'`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from snnlth_jax import _extra, _moved

if TYPE_CHECKING:
    from snnlth_jax import losses, masks, neurons, pruning, surrogate

__version__ = "0.2.0"

_LIBRARY = ("losses", "masks", "neurons", "pruning", "surrogate")
_LAZY = ("errors", *_LIBRARY, *_extra.EXPERIMENT)

__all__ = ["__version__", "losses", "masks", "neurons", "pruning", "surrogate"]  # and those of _LAZY

_extra.install()
_moved.install()


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("snnlth_jax.networks").classifier
    if name in _LAZY or name in _moved.TOP_LEVEL:
        return importlib.import_module(f"snnlth_jax.{name}")
    raise AttributeError(f"module 'snnlth_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "load"})
