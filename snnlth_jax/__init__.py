"""Lottery tickets of deep spiking neural networks, in JAX.

The library: `surrogate`, `neurons`, `masks`, `pruning`, `losses`, which need jax, numpy and optax alone. The
experiment on top of it: `models`, `data`, `train`, `search`, `tickets`, `interop`, `report` and their
neighbours, which are imported when they are first asked for.
"""

import importlib
from typing import Any

from snnlth_jax import _moved, losses, masks, neurons, pruning, surrogate

__version__ = "0.1.0"

_LATER = (
    *("analysis", "cli", "configs", "data", "errors", "files", "interop", "machine", "models", "report"),
    *("run", "search", "tickets", "train"),
)

__all__ = ["__version__", "losses", "masks", "neurons", "pruning", "surrogate"]  # and those of _LATER

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _LATER or name in _moved.TOP_LEVEL:
        return importlib.import_module(f"snnlth_jax.{name}")
    raise AttributeError(f"module 'snnlth_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
