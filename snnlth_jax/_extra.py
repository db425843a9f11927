"""The extra `search`: the packages that the commands and the experiment need besides jax, numpy and optax."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["EXPERIMENT", "PACKAGES", "MissingExtra", "command", "install"]

PACKAGES = (
    *("PIL", "chex", "etils", "flax", "importlib_resources", "msgspec", "orbax", "rich", "safetensors"),
    *("tensorflow_datasets", "tyro"),
)
EXPERIMENT = (
    *("analysis", "cli", "commands", "configs", "data", "evaluation", "files", "interop", "machine"),
    *("models", "networks", "report", "run", "search", "tickets", "train"),
)


class MissingExtra(ModuleNotFoundError):
    """A module of this package imports a package of the extra, which is not there."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Names the extra when a package of it is missing that the module imports."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            if name not in PACKAGES or isinstance(error, MissingExtra):
                raise
            problem = f"{self.name} needs {name}: pip install 'snnlth_jax[search]'"
            raise MissingExtra(problem, name=name) from error


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of this package where Python does, with that loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("snnlth_jax."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Have imports of this package name the extra where they fail for it; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def command() -> int:
    """The `snnlth` command; without the extra an error of one line, and status 2."""
    try:
        from snnlth_jax.cli import main
    except MissingExtra as error:
        print(f"snnlth: error: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, RuntimeError) as error:  # such as a variable that JAX cannot read
        print(f"snnlth: error: JAX cannot be imported ({' '.join(str(error).split())})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return main()
