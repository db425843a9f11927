"""Small faults in the source, one at a time, that tests must notice: `python tests/mutants.py --sample 200`.

A comparison, an operator, a condition, a number, a truth value or a returned value of `masks/`, `pruning/`,
`search/rewinding.py` or `run/checkpoints.py` is changed in a copy of the tree, and the tests of that file
run, up to the first that fails. It prints the faults that no test noticed, and how many were noticed. Each
fault has a number: `--only 17,40` repeats these.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = {
    "snnlth_jax/masks": ["test_masks", "test_frozen_state", "test_any_pytree", "test_placement"],
    "snnlth_jax/pruning": ["test_pruning", "test_methods", "test_any_pytree", "test_placement"],
    "snnlth_jax/search/rewinding.py": ["test_imp", "test_discrepancies"],
    "snnlth_jax/run/checkpoints.py": ["test_faults", "test_resume"],
}
LONGEST = 600  # seconds of the tests of a fault; more counts as noticed
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub,
    ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Changes(ast.NodeTransformer):
    """Changes the place with a number; without one it counts them, and notes line and text of each."""

    def __init__(self, number: int | None = None):
        self.number, self.places = number, []

    def _at(self, before: ast.AST, after: ast.AST) -> ast.AST:
        self.places.append((before.lineno, f"{ast.unparse(before)}  ->  {ast.unparse(after)}"))
        return after if len(self.places) - 1 == self.number else before

    def visit(self, node: ast.AST) -> ast.AST:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():  # not its annotations, nor its decorators
                node.args.defaults = [self.visit(value) for value in node.args.defaults]
                node.body = [self.visit(statement) for statement in node.body]
                return node
            case ast.AnnAssign():
                node.value = node.value and self.visit(node.value)
                return node
            case ast.Raise() | ast.Assert():  # texts of errors
                return node
        node = self.generic_visit(node)
        changed = copy.copy(node)
        match node:
            case ast.Compare(ops=[op, *more]) if type(op) in OTHER:
                changed.ops = [OTHER[type(op)](), *more]
            case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in OTHER:
                changed.op = OTHER[type(op)]()
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                changed = operand
            case ast.Constant(value=bool()):
                changed.value = not node.value
            case ast.Constant(value=int() | float()):
                changed.value = node.value + 1
            case ast.If() | ast.IfExp():
                self.places.append((node.lineno, f"if {ast.unparse(node.test)}  ->  if not"))
                if len(self.places) - 1 == self.number:
                    node.test = ast.UnaryOp(ast.Not(), node.test)
                return node
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                changed.value = ast.Constant(None)
            case _:
                return node
        return self._at(node, changed)


def faults() -> list[tuple[str, int, int, str]]:
    """File, number within it, line and text of each fault."""
    found = []
    for place in TESTS:
        path = ROOT / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            changes = Changes()
            changes.visit(ast.parse(file.read_text()))
            name = str(file.relative_to(ROOT))
            found += [(name, number, *where) for number, where in enumerate(changes.places)]
    return found


def place(name: str) -> str:
    """Which of `TESTS` a file belongs to."""
    return next(place for place in TESTS if name.startswith(place))


def tested(tree: Path, names: list[str]) -> int:
    """Status of the tests of a tree, in a process of their own."""
    os.chdir(tree)
    if (log := os.environ.get("MUTANTS_LOG", os.devnull)) != "-":
        nowhere = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    sys.path[:0] = [str(tree), str(tree / "tests")]
    quick = ["-m", "not slow and not subprocess and not multihost"]
    files = [f"tests/{name}.py" for name in names]
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *quick, *files])


def noticed(tree: Path, name: str, number: int | None) -> bool:
    """Whether a test fails with this fault in the tree."""
    source = (ROOT / name).read_text()
    if number is not None:
        (tree / name).write_text(
            ast.unparse(ast.fix_missing_locations(Changes(number).visit(ast.parse(source))))
        )
    child = os.fork()
    if not child:
        status = 1
        try:
            status = int(tested(tree, TESTS[place(name)]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    until = time.monotonic() + LONGEST
    try:
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status != 0
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True
            time.sleep(0.05)
    finally:
        (tree / name).write_text(source)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, help="number of faults, drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", help="numbers of faults")
    parser.add_argument("--list", action="store_true", help="only print all faults")
    options = parser.parse_args()
    numbered = list(enumerate(faults()))
    if options.list:
        print(*(f"{number}: {name}:{line}: {text}" for number, (name, _, line, text) in numbered), sep="\n")
        return 0
    if options.only:
        numbered = [numbered[int(number)] for number in options.only.split(",")]
    elif options.sample:
        numbered = sorted(random.Random(options.seed).sample(numbered, options.sample))
    import haiku, flax, jax, optax, orbax.checkpoint, sklearn.datasets  # noqa: E401, F401, I001

    tally: Counter = Counter()
    with tempfile.TemporaryDirectory(prefix="snnlth_mutants_") as root:
        tree = Path(root)
        for part in ("snnlth_jax", "tests", "experiments", "docs"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        for name in {place(name): name for _, (name, *_) in numbered}.values():
            assert not noticed(tree, name, None), f"the tests of {name} fail as it is"
        for number, (name, within, line, text) in numbered:
            alive = not noticed(tree, name, within)
            tally[name, alive] += 1
            if alive:
                print(f"{number}: {name}:{line}: {text}", flush=True)
    for name in sorted({name for name, _ in tally}):
        print(f"{name:36} {tally[name, False]:4} noticed, {tally[name, True]:3} not")
    killed, every = sum(count for (_, alive), count in tally.items() if not alive), sum(tally.values())
    print(f"{killed} of {every} faults noticed, {100 * killed / every:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
