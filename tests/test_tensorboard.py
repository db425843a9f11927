"""Events for TensorBoard: each number of metrics.jsonl once, whatever happened to the search."""

import io
import json
import struct
import sys
from pathlib import Path

import pytest
import small
from etils import epath
from rich.console import Console
from tensorboardX.proto import event_pb2

from snnlth_jax import configs
from snnlth_jax.cli import main
from snnlth_jax.run import checkpoints, events, tensorboard
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.events import EarlyTimeEvent, EpochEvent, RoundEvent, StartEvent
from snnlth_jax.run.metrics import Recorder
from snnlth_jax.search import imp


def points(directory):
    """The scalars in event files, and how often each run is begun: [(run, tag, step, value)], [run]."""
    found, begun = [], []
    for path in sorted(Path(directory).glob("*/*tfevents*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("Q", content[:8])
            event, content = event_pb2.Event.FromString(content[12 : 12 + length]), content[16 + length :]
            run = path.parent.name
            if event.HasField("session_log"):
                begun.append(run)
            found += [(run, value.tag, event.step, value.simple_value) for value in event.summary.value]
    return sorted(found), sorted(begun)


def expected(metrics):
    """All scalars of all events, in float32."""
    every = [scalar for event in events.read(metrics) for scalar in tensorboard.scalars(event)]
    return sorted((s.run, s.tag, s.step, struct.unpack("f", struct.pack("f", s.value))[0]) for s in every)


def epoch(number, loss, round_number=0):
    measured = {"train_loss": loss, "train_accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 1.0}
    return EpochEvent(kind="round", round=round_number, epoch=number, **measured, seconds=2.0)


def end(number, kept):
    row = {"kept": kept, "total": 4, "network": "lif T=2", "num_timesteps": 2, "epochs": 2, "ticket": "x"}
    return RoundEvent(kind="round", round=number, **row)


def test_what_is_trained_again_is_there_once(tmp_path):
    path, directory = epath.Path(tmp_path / "metrics.jsonl"), tmp_path / "tensorboard"

    def recorder():
        return Recorder(path, Console(file=io.StringIO()), epath.Path(directory))

    with recorder() as records:
        records.truncate(0)
        records.record(StartEvent(time=1000.0))
        records.record(epoch(1, 0.5))
        checkpoint = records.size()
        records.record(epoch(2, 0.25))
        # while the search goes on
        assert points(directory)[0] == expected(path)
    with recorder() as records:
        records.truncate(checkpoint)
        records.record(epoch(2, 0.375))
        records.record(end(0, kept=4))
        records.record(epoch(1, 0.75, round_number=1))
        records.record(end(1, kept=3))
        divergences = {"divergences": {2: 0.5}, "normalised": {2: 1.0}}
        records.record(EarlyTimeEvent(epoch=2, num_timesteps=3, threshold=0.6, **divergences))
    found, begun = points(directory)
    assert found == expected(path)
    assert [p for p in found if p[:2] == ("round_00", "train_loss")] == [
        ("round_00", "train_loss", 1, 0.5),
        ("round_00", "train_loss", 2, 0.375),
    ]
    assert ("early_time", "normalised/2", 2, 1.0) in found
    assert {p[1:] for p in found if p[:2] == ("round", "sparsity")} == {
        ("sparsity", 0, 0.0),
        ("sparsity", 1, 0.25),
    }
    assert begun == ["early_time", "round", "round_00", "round_01"]  # each run is one file


def test_a_search_that_is_interrupted(tmp_path, monkeypatch):
    config = configs.ImpConfig(**small.EACH_EPOCH, num_timesteps=2, rounds=2, tensorboard=True)
    run = rundir.paths(tmp_path / "run")
    with monkeypatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 2)
        with pytest.raises(small.Interrupted):
            small.run(imp, config, tmp_path / "run")
    assert points(run.tensorboard)[0] == expected(run.metrics) != []
    small.run(imp, config, tmp_path / "run")
    whole = points(run.tensorboard)
    assert whole[0] == expected(run.metrics)
    assert len({p[:3] for p in whole[0]}) == len(whole[0])
    names = set(small.lines(run)[-1]) - {"event", "kind", "round", "epoch"}
    assert {p[1] for p in whole[0] if p[0] == "round_01"} == names
    # of a finished search, after the fact
    for path in (tmp_path / "run").rglob("*tfevents*"):
        path.unlink()
    small.run(imp, config, tmp_path / "run")
    assert points(run.tensorboard) == whole
    assert json.loads(run.config.read_text()).get("tensorboard") is None


def test_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["imp", "--tensorboard", "--workdir", "gs://bucket/run"]) == 2
    assert (
        "--workdir gs://bucket/run: allowed: a local directory, with --tensorboard" in capsys.readouterr().err
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert main(["imp", "--tensorboard"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("--tensorboard: allowed: after pip install 'snnlth_jax[tensorboard]'")
    assert list(tmp_path.iterdir()) == []
