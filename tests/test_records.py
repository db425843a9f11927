"""What people and programs are told."""

import io
import json

import pytest
from etils import epath
from rich.console import Console

from snnlth_jax.run.metrics import Recorder

FIELDS = {"train_loss": 0.5, "train_accuracy": 0.75, "test_accuracy": 0.625}


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path / "metrics.jsonl")


def recorder(path, **console):
    return Recorder(path, console=Console(file=io.StringIO(), width=150, **console))


def text(recorder):
    return recorder._console.file.getvalue()


def test_a_plain_line_per_epoch_where_there_is_no_terminal(path):
    with recorder(path) as records:
        records.resume(4)
        records.show("round 1", 5.0, 0.5, 0.75, 1234.0)
        records.line("round 1 epoch 2/4", FIELDS, 1234.0)
    (line,) = text(records).splitlines()
    for part in ("round 1 epoch 2/4", "loss 0.5000", "train 0.7500", "test 0.6250", "1,234 images/s", "left"):
        assert part in line


def test_a_bar_on_a_terminal(path):
    with recorder(path, force_terminal=True) as records:
        records.show("round 1/3 epoch 2/4", 5.5, 0.5, 0.75, 1234.0)
        records._progress.refresh()
        records.line("round 1 epoch 2/4", FIELDS, 1234.0)
        records.say("round 1: done")
    shown = text(records)
    for part in (
        "round 1/3 epoch 2/4",
        "loss 0.500",
        "accuracy 0.750",
        "1,234 images/s",
        "left",
        "round 1: done",
    ):
        assert part in shown
    assert "train 0.7500" not in shown


def test_truncate_forgets_what_came_after_a_checkpoint(path):
    with recorder(path) as records:
        assert records.size() == 0
        records.truncate(0)  # nothing there yet
        records.write("epoch", epoch=1)
        size = records.size()
        records.write("epoch", epoch=2)
        records.truncate(size)
        records.write("epoch", epoch=3)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 3]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]
