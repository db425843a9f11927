"""Records of a run under way: lines for people, events for programs."""

import io
import json

import pytest
from etils import epath
from rich.console import Console

from snnlth_jax.errors import InputError
from snnlth_jax.run import events
from snnlth_jax.run.events import EpochEvent, MaskEvent, RoundEvent, StabilityEvent, StartEvent
from snnlth_jax.run.metrics import Recorder
from snnlth_jax.run.results import Row
from snnlth_jax.run.tables import duration


def epoch(number, **fields):
    fields = {"train_loss": 0.5, "train_accuracy": 0.75, "images_per_second": 10.0} | fields
    return EpochEvent(kind="round", round=0, epoch=number, **fields, learning_rate=0.1, seconds=2.0)


EVENT = epoch(2, test_accuracy=0.625, images_per_second=1234.0)


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
        records.expect(10)
        records.epoch_line("round 1 epoch 2/4", 5, EVENT)
    (line,) = text(records).splitlines()
    assert line.endswith(f"{duration(5 * EVENT.seconds)} left")  # five epochs as long as the first
    for part in ("round 1 epoch 2/4", "loss 0.5000", "train 0.7500", "test 0.6250", "1,234 images/s", "left"):
        assert part in line


def test_a_bar_on_a_terminal(path):
    with recorder(path, force_terminal=True) as records:
        records.show("round 1/3 epoch 2/4", 5.5, 0.5, 0.75, 1234.0)
        records._progress.refresh()
        records.epoch_line("round 1 epoch 2/4", 5, EVENT)
        records.message("round 1: done")
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
        records.record(epoch(1))
        size = records.size()
        records.record(epoch(2))
        records.truncate(size)
        records.record(epoch(3))
        assert [event.epoch for event in records.events(EpochEvent)] == [1, 3]
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 3]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


ROW = Row(kind="probe", round=0, kept=3, total=4, network="lif T=2", num_timesteps=2, epochs=1, ticket=None)
LINES = {
    epoch(1): (
        '{"event": "epoch", "kind": "round", "round": 0, "epoch": 1, "train_loss": 0.5, '
        '"train_accuracy": 0.75, "learning_rate": 0.1, "images_per_second": 10.0, "seconds": 2.0}'
    ),
    MaskEvent(epoch=2, fired=False, hamming=(None, 0.5), overlap=(None, 0.25)): (
        '{"event": "mask", "epoch": 2, "fired": false, "hamming": [null, 0.5], "overlap": [null, 0.25]}'
    ),
    StabilityEvent(
        epoch=5,
        kept=3,
        total=4,
        alphas=(0.0, 0.5, 1.0),
        test_errors=(0.25, 0.75, 0.5),
        train_losses=(1.0, 3.0, 2.0),
        barrier=0.375,
    ): (
        '{"event": "stability", "epoch": 5, "ticket": null, "kept": 3, "total": 4, '
        '"alphas": [0.0, 0.5, 1.0], "test_errors": [0.25, 0.75, 0.5], "train_losses": [1.0, 3.0, 2.0], '
        '"barrier": 0.375}'
    ),
    RoundEvent.from_row(ROW): (
        '{"event": "round", "kind": "probe", "round": 0, "kept": 3, "total": 4, "sparsity": 0.25, '
        '"collapsed_layers": [], "network": "lif T=2", "num_timesteps": 2, "epochs": 1, "images": 0, '
        '"forward_flops": 0, "train_flops": 0, "device_seconds": 0.0, "seconds": 0.0, "ticket": null}'
    ),
}


def test_an_event_is_a_line_and_back(path):
    """With what was measured, and in this order; what was not measured is not there."""
    with recorder(path) as records:
        for event in LINES:
            records.record(event)
    assert path.read_text().splitlines() == list(LINES.values())
    assert events.read(path) == events.read_whole(path) == tuple(LINES)


def test_a_loss_may_be_no_number(path):
    with recorder(path) as records:
        records.record(epoch(1, test_loss=float("inf")))
        (event,) = records.events(EpochEvent)
    assert event.test_loss == float("inf")
    assert events.read_whole(path) == (event,)


def test_what_is_still_being_written_is_left_out(path):
    path.write_text('{"event": "start", "time": 1.0}\n{"event": "st')
    assert events.read(path) == events.read_whole(path) == (StartEvent(time=1.0),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"event": "epoch"}', "Object missing required field 'kind'"),
        ('{"event": "epo', "Unterminated string"),
        ('{"event": "song"}', "event: Invalid value 'song'"),
        ('{"event": "mask", "epoch": -1}', "epoch: Expected 'int' >= 0"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_line_is_named(path, line, message):
    path.write_text('{"event": "start"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"metrics.jsonl: line 2 is damaged \(") as error:
        events.read_whole(path)
    assert message in str(error.value)
    assert events.read(path) == (StartEvent(),)  # a search that resumes asks for the starts
