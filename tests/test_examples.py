"""The examples run as they are: one a framework, and the notebook."""

import json
import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def test_there_is_an_example_of_each_framework():
    assert [path.stem for path in SCRIPTS] == ["equinox_mlp", "haiku_mlp", "linen", "nnx", "plain"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_finds_a_ticket(path, capsys):
    assert len(path.read_text().splitlines()) < 60
    runpy.run_path(str(path), run_name="__main__")
    (line,) = capsys.readouterr().out.splitlines()
    dense, ticket, sparsity = map(float, re.findall(r"\d\.\d+", line))
    assert dense > 0.85
    assert ticket > dense - 0.06
    assert sparsity == 0.822
