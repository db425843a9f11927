"""The promises about the package itself: what imports what, and that the documents say what is so."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from snnlth_jax import configs
from snnlth_jax.run import results

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "snnlth_jax"
LIBRARY = ["surrogate", "neurons", "masks", "_axes", "_constants", "_selection", "pruning", "losses"]


def order():
    """The modules and packages as CONTRIBUTING.md lists them, from the bottom up."""
    listing = re.search(r"```\n(errors\.py.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S).group(1)
    names = [line.split()[0] for line in listing.splitlines() if line[:1].strip()]
    return [name.removesuffix(".py").removesuffix("/") for name in names]


def dotted(path):
    """snnlth_jax/models/vgg.py -> models.vgg; of a package its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in PACKAGE.rglob("*.py")}


def imports():
    """Imports of each module, wherever in it: within functions and below TYPE_CHECKING too."""
    graph = {}
    for module, path in MODULES.items():
        graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = (node.module or "").removeprefix("snnlth_jax").removeprefix(".")
                if node.level or (node.module or "").split(".")[0] != "snnlth_jax":
                    assert not node.level, f"{path}: a relative import"
                    continue
                for alias in node.names:
                    name = f"{base}.{alias.name}".strip(".")
                    graph[module].add(name if name in MODULES else base)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("snnlth_jax."):
                        graph[module].add(alias.name.removeprefix("snnlth_jax."))
    return graph


def test_files_import_only_from_packages_above():
    packages = order()
    assert {module.split(".")[0] for module in MODULES if module} == set(packages)
    for module, imported in imports().items():
        if module in ("", "_moved"):  # which know all names, and import them when they are asked for
            continue
        for name in imported - {""}:
            above = packages.index(name.split(".")[0]) <= packages.index(module.split(".")[0])
            assert above, f"{module} imports {name}"


def test_there_are_no_circles():
    graph = imports()
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            path.append(module)
            for name in graph.get(module, ()):
                if name:  # the package itself imports its library part
                    visit(name)
            done.add(path.pop())

    for module in graph:
        visit(module)


def keys_of_results():
    """The fields of what is in result.json, without those that a configuration has too."""
    kinds = [kind for kind in vars(results).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, results.Record)]
    names = {name for kind in kinds for name in kind.__struct_encode_fields__}
    names -= {"format", "versions", "devices", "ticket", "name"}  # which other files have too
    commands = [getattr(configs, name) for name in configs.__all__ if name.endswith("Config")]
    return names - {field.name for command in commands for field in dataclasses.fields(command)}


def test_only_one_file_spells_the_keys_of_a_result():
    names = keys_of_results()
    assert len(names) > 50
    scripts = [*PACKAGE.rglob("*.py"), *ROOT.glob("experiments/*.py")]
    for path in scripts:
        if path == PACKAGE / "run" / "results.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            key = None
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                key = node.slice.value
            elif (
                isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("get", "pop") and node.args
            ):
                key = getattr(node.args[0], "value", None)
            assert key not in names, f"{path.name}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.subprocess
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


OLD = ["training", "optimizers", "cost", "sharding", "checkpoints", "search.networks", "data.datasets"]


@pytest.mark.subprocess
@pytest.mark.parametrize("name", OLD)
def test_old_import_paths_work_and_name_the_new_one(name):
    program = f"""
import importlib, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    old = importlib.import_module("snnlth_jax.{name}")
(warning,) = [w for w in caught if "has moved" in str(w.message)]
assert warning.category is DeprecationWarning
new = str(warning.message).split("has moved to ")[1].split(";")[0]
assert importlib.import_module(new) is old and old.__spec__.name == new, new
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


@pytest.mark.subprocess
def test_packages_are_attributes_and_load_when_they_are_asked_for():
    program = """
import sys, snnlth_jax
assert snnlth_jax.__version__ and not {"flax", "orbax", "msgspec"} & {*sys.modules}
assert snnlth_jax.models.names() and "flax" in sys.modules
assert {"search", "models", "train"} <= {*dir(snnlth_jax)}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.subprocess
def test_a_report_loads_no_checkpoints_and_no_networks():
    program = """
import sys, snnlth_jax.report
assert not {"flax", "orbax", "tensorstore"} & {name.split(".")[0] for name in sys.modules}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"], ids=lambda p: p.stem
)
def test_public_functions_are_documented(path):
    for node in ast.parse(path.read_text()).body:
        overload = "overload" in map(ast.unparse, getattr(node, "decorator_list", ()))
        if (
            isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and not node.name.startswith("_")
            and not overload
        ):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_docstrings_begin_with_their_noun_or_verb():
    """The thing first: no docstring begins with a pronoun or a preposition."""
    for path in (
        path
        for name in ("snnlth_jax", "experiments", "benchmarks", "tests")
        for path in (ROOT / name).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
                begin = (ast.get_docstring(node) or "").split(" ")[0]
                assert begin not in ("Of", "That", "Those", "What", "How"), (
                    f"{path}: {ast.get_docstring(node)}"
                )


def test_the_documented_flags_exist():
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(configs.ImpConfig)}
    table = (ROOT / "docs" / "flags.md").read_text().split("| authors' | here |")[1].split("\n\n")[0]
    named = {
        flag.removeprefix("no-")
        for row in table.splitlines()[2:]
        for flag in re.findall(r"`--([a-z-]+)", row.split("|")[2])
    }
    assert len(named) > 20
    assert named == fields


def test_every_flag_is_in_a_document():
    text = (ROOT / "docs" / "flags.md").read_text() + (ROOT / "docs" / "method.md").read_text()
    named = {flag.removeprefix("no-") for flag in re.findall(r"--([a-z-]+)", text)}
    commands = [getattr(configs, name) for name in configs.__all__ if name.endswith("Config")]
    assert len(commands) == 9
    for command in commands:
        assert {field.name.replace("_", "-") for field in dataclasses.fields(command)} <= named


def test_documents_link_to_files_that_exist():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"
