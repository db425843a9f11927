"""The quick suite on each Python that the package names and this machine has: `python tests/pythons.py`.

Each version has an environment below .venv-versions: the oldest one with the pinned releases, the others with
the newest that pyproject.toml allows. What starts processes or trains for long is left out: it asks the same
of each version, and takes most of the time. Arguments are versions, to run these alone, or go to pytest. It
ends with a line for each version, and with status 1 if one of them failed.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
VERSIONS = [name.split()[-1] for name in CLASSIFIERS if re.fullmatch(r"Programming .* :: 3\.\d+", name)]
QUICK = ["-n", "2", "--dist", "loadscope", "-m", "not slow and not subprocess and not multihost"]
SEEN = (
    "import sys, jax, flax; print('Python', sys.version.split()[0], 'jax', jax.__version__, 'flax', end=' ')"
)
SEEN += "; print(flax.__version__)"


def interpreter(version: str) -> str | None:
    """An interpreter of this version, on the path or of pyenv."""
    own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for python in [shutil.which(f"python{version}"), *map(str, own)]:
        found = python and subprocess.run([python, "--version"], capture_output=True, text=True)
        if found and found.stdout.startswith(f"Python {version}."):
            return python
    return None


def environment(version: str, python: str) -> str:
    """The interpreter of its environment, with what the suite needs."""
    path = ROOT / ".venv-versions" / version
    subprocess.run([python, "-m", "venv", path], check=True)
    pinned = ["-c", "constraints.txt"] if version == VERSIONS[0] else ["--upgrade"]
    install = [path / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *pinned, "-e", ".[search,demo,dev]"], check=True, cwd=ROOT)
    return str(path / "bin" / "python")


def outcomes(versions: list[str], arguments: list[str]) -> Iterator[tuple[str, bool]]:
    """The line of each version, and whether nothing failed."""
    for version in versions:
        python = interpreter(version)
        if python is None:
            yield f"Python {version}: not on this machine", True
            continue
        try:
            python = environment(version, python)
        except subprocess.CalledProcessError as error:
            yield f"Python {version}: no environment: {error}", False
            continue
        suite = subprocess.run([python, "-m", "pytest", *QUICK, *arguments], cwd=ROOT)
        seen = subprocess.run([python, "-c", SEEN], capture_output=True, text=True).stdout.strip()
        yield f"{seen}: {'passed' if suite.returncode == 0 else 'failed'}", suite.returncode == 0


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word not in VERSIONS]
    chosen = [version for version in VERSIONS if version in sys.argv[1:]]
    lines = list(outcomes(chosen or VERSIONS, arguments))
    print(*(line for line, _ in lines), sep="\n")
    sys.exit(not all(passed for _, passed in lines))
