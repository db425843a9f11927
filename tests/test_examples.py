"""The examples run as they are: one a framework, and the notebook."""

import contextlib
import io
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NUMBER = r"\d+\.\d+"


def test_there_is_an_example_of_each_framework():
    assert [path.stem for path in SCRIPTS] == ["equinox_mlp", "haiku_mlp", "linen", "nnx", "plain"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_finds_a_ticket(path, capsys):
    assert len(path.read_text().splitlines()) < 60
    runpy.run_path(str(path), run_name="__main__")
    (line,) = capsys.readouterr().out.splitlines()
    dense, ticket, sparsity = map(float, re.findall(NUMBER, line))
    assert dense > 0.85
    assert ticket > dense - 0.06
    assert sparsity == 0.822


@pytest.mark.slow
def test_the_notebook_prints_what_it_shows():
    """Cells in order, in one name space; numbers may differ a little from machine to machine."""
    pyplot.switch_backend("agg")
    text = (EXAMPLES / "ticket.ipynb").read_text()
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    book = json.loads(text)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    names: dict = {}
    for cell in cells:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"cell {cell['execution_count']}", "exec"), names)
        shown = "".join(line for out in cell["outputs"] for line in out.get("text", []))
        texts = (printed.getvalue(), shown)
        ours, theirs = (re.sub(r"[\d,]+\.?\d*", "#", re.sub(" +", " ", text)) for text in texts)
        assert ours == theirs
        values = [np.array(re.findall(NUMBER, text), float) for text in texts]
        np.testing.assert_allclose(*values, atol=0.1)
        figures = sum("image/png" in out.get("data", {}) for out in cell["outputs"])
        assert len(pyplot.get_fignums()) == figures
        pyplot.close("all")
    assert names["rounds"][-1][1] > names["rounds"][-1][2] + 0.1  # the ticket, and the random mask
