"""The promises about the package itself: what imports what, and that the documents say what is so."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from snnlth_jax import configs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "snnlth_jax"
LIBRARY = ["surrogate", "neurons", "masks", "selection", "pruning", "losses"]


def order():
    """The modules as CONTRIBUTING.md lists them, from the bottom up."""
    listing = re.search(r"```\n(errors\.py.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S).group(1)
    return [line.split()[0].removesuffix(".py").removesuffix("/") for line in listing.splitlines()]


def top_level(name):
    """snnlth_jax.models.vgg -> models."""
    return name.split(".")[1] if name.startswith("snnlth_jax.") else None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "snnlth_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and top_level(node.module):
            yield top_level(node.module)
        elif isinstance(node, ast.Import):
            yield from filter(None, (top_level(alias.name) for alias in node.names))


def test_files_import_only_from_files_above():
    modules = order()
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files} == set(modules)
    for path in files:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for imported in imports_of(path):
            assert modules.index(imported) <= modules.index(own), f"{path} imports {imported}"


def test_the_library_needs_jax_numpy_and_optax_alone():
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        others = "flax orbax tensorflow_datasets etils tyro rich safetensors sklearn".split()
        if name.split(".")[0] in others:
            raise ImportError("the library must not import " + name)
sys.meta_path.insert(0, Refuse())
import snnlth_jax
from snnlth_jax import {", ".join(LIBRARY)}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"], ids=lambda p: p.stem
)
def test_public_functions_are_documented(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_the_readmes_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(example, "README.md", "exec"), {})
    kept = int(capsys.readouterr().out.splitlines()[-1].split()[1].replace(",", ""))
    total = 64 * 256 + 256 * 10
    for _ in range(3):
        total -= total // 4
    assert kept == total


def test_the_readmes_flags_exist():
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(configs.ImpConfig)}
    table = (ROOT / "README.md").read_text().split("| authors' | here |")[1].split("\n\n")[0]
    named = {
        flag.removeprefix("no-")
        for row in table.splitlines()[2:]
        for flag in re.findall(r"`--([a-z-]+)", row.split("|")[2])
    }
    assert len(named) > 20
    assert named == fields


def test_every_flag_is_in_a_document():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "method.md").read_text()
    named = {flag.removeprefix("no-") for flag in re.findall(r"--([a-z-]+)", text)}
    commands = [getattr(configs, name) for name in configs.__all__ if name.endswith("Config")]
    assert len(commands) == 6
    for command in commands:
        assert {field.name.replace("_", "-") for field in dataclasses.fields(command)} <= named


def test_documents_link_to_files_that_exist():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"
