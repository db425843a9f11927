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
DATA = EXAMPLES / "moving_bars.py"  # a dataset, for --dataset
SCRIPTS = sorted({*EXAMPLES.glob("*.py")} - {DATA})
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


def test_moving_bars_are_told_by_their_direction():
    """Bars of opposite directions are the same ones backwards in time, with the two channels exchanged."""
    load = runpy.run_path(str(DATA))["load"]
    bars = load(train=400, test=80)
    assert bars.image_shape == (6, 16, 16, 2)
    assert np.array_equal(np.bincount(bars.train.labels), [50] * 8)
    assert bars.fingerprint == load(train=400, test=80).fingerprint
    events = bars.train.images.astype(float) / 255
    position = np.arange(16) - 7.5
    for label, (axis, sign) in {0: (3, 1), 2: (2, -1), 4: (3, -1), 6: (2, 1)}.items():
        brighter = events[bars.train.labels == label][..., 0].sum(tuple({0, 2, 3} - {axis}))  # [T, 16]
        mean = (brighter * position).sum(1) / brighter.sum(1)
        assert sign * (mean[-1] - mean[0]) > 2


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
