"""The extra `search`: the packages that the commands and the experiment need besides jax, numpy and optax."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["EXPERIMENT", "PACKAGES", "command", "install", "missing"]

PACKAGES = (
    *("PIL", "chex", "etils", "flax", "importlib_resources", "msgspec", "orbax", "rich", "safetensors"),
    *("tensorflow_datasets", "tyro"),
)
EXPERIMENT = (
    *("analysis", "cli", "configs", "data", "files", "interop", "machine", "models", "report", "run"),
    *("search", "tickets", "train"),
)


def missing() -> list[str]:
    """The packages of the extra that cannot be imported."""
    return [name for name in PACKAGES if name not in sys.modules and not _exists(name)]


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # another finder refuses it
        return False


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing; refuses the experiment, in one line, where the extra is missing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package == "snnlth_jax" and name in EXPERIMENT and (names := missing()):
            raise ModuleNotFoundError(
                f"{fullname} needs {', '.join(names)}: pip install 'snnlth_jax[search]'", name=names[0]
            )
        return None


def install() -> None:
    """Have the experiment refused where the extra is missing; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def command() -> int:
    """The `snnlth` command; without the extra an error of one line, and status 2."""
    try:
        from snnlth_jax.cli import main
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        print(f"snnlth: error: {error}", file=sys.stderr)
        return 2
    return main()
