"""Import paths of the last release: they work for one more, with a warning that names the new path."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

__all__ = ["MOVED", "TOP_LEVEL", "install"]

MOVED = {
    f"snnlth_jax.{old}": f"snnlth_jax.{new}"
    for old, new in {
        "training": "train",
        "optimizers": "train.optimizers",
        "cost": "analysis.flops",
        "selection": "_selection",
        "sharding": "machine.sharding",
        "hosts": "machine.hosts",
        "signals": "machine.signals",
        "compilation": "machine.compile_cache",
        "doctor": "machine.doctor",
        "topology": "machine.aot",
        "checkpoints": "run.checkpoints",
        "records": "run.metrics",
        "tensorboard": "run.tensorboard",
        "tables": "run.tables",
        "validation": "configs",
        "ledger": "search.ledger",
        "search.networks": "search.programs",
        "analysis.record": "search.measure",
        "analysis.summary": "report.analyse",
        "models.convolution": "models._conv_cpu",
        "models.winograd": "models._winograd",
        "data.datasets": "data.dataset",
        "data.prepared": "data.tfds",
    }.items()
}
TOP_LEVEL = [name.partition(".")[2] for name in MOVED if name.count(".") == 1]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name: it is the one of the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MOVED:
            return None
        message = f"{fullname} has moved to {MOVED[fullname]}; the old name will go with the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(MOVED[spec.name])
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system has just replaced


def install() -> None:
    """Have old import paths work; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
