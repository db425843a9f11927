"""Every search resumes where it stopped, to the same bits: at each write of stub searches, and in real ones.

Whole processes are killed in test_stopping.
"""

import dataclasses
import functools
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
import stub

from snnlth_jax import __version__, configs, networks, tickets
from snnlth_jax.errors import InputError
from snnlth_jax.run import checkpoints, results
from snnlth_jax.run import directory as rundir
from snnlth_jax.run.metrics import Recorder
from snnlth_jax.search import (
    dynamic,
    early_bird,
    early_time,
    imp,
    one_shot,
    replicates,
    retrain,
    stability,
    transfer,
)

SHORT = small.NETWORK | {"epochs": 4, "checkpoint_every": 2, "eval_every": 2}
SEARCHES = {
    "eb+et": (
        early_bird,
        configs.EbConfig(
            **SHORT, num_timesteps=4, early_time=True, early_time_lambda=1.0, queue=4, controls=("redrawn",)
        ),
    ),
    "one-shot": (one_shot, configs.OneShotConfig(**SHORT, num_timesteps=2, controls=("dense",))),
    "transfer": (
        transfer,
        configs.TransferConfig(**SHORT, num_timesteps=2, rounds=3, rewind_epoch=1, controls=("random",)),
    ),
}


# whatever writes into a run directory
WRITES = [(checkpoints, "save"), (rundir, "write_json"), (rundir, "write_bits"), (results, "write")]
WRITES += [(tickets, "save"), (networks, "save"), (Recorder, "record")]


PROGRAMS = stub.StubPrograms()

TINY = small.EACH_EPOCH | {"epochs": 2, "rewind_epoch": 1}
EARLY_TIME = {"num_timesteps": 3, "early_time": True, "early_time_lambda": 1.0, "early_time_epochs": 1}
STUBS = {
    "imp+et": (
        imp,
        configs.ImpConfig(**TINY | EARLY_TIME, rounds=2, controls=("random",)),
    ),
    "imp, fine-tune": (imp, configs.ImpConfig(**TINY, num_timesteps=2, rounds=3, rewinding="fine-tune")),
    "eb+et": (early_bird, configs.EbConfig(**TINY | EARLY_TIME | {"epochs": 3}, queue=2)),
    "one-shot": (one_shot, configs.OneShotConfig(**small.EACH_EPOCH, num_timesteps=2, controls=("dense",))),
    "dynamic": (dynamic, configs.DynamicConfig(**small.EACH_EPOCH, num_timesteps=2, sparsity=0.5)),
    "probe": (early_time, configs.ProbeConfig(**small.EACH_EPOCH, num_timesteps=3, early_time_epochs=3)),
    "stability": (
        stability,
        configs.StabilityConfig(
            **small.EACH_EPOCH, num_timesteps=2, stability_epochs=(0, 2), stability_points=3
        ),
    ),
    "transfer": (
        transfer,
        configs.TransferConfig(**TINY, num_timesteps=2, rounds=2, controls=("redrawn", "dense")),
    ),
    "retrain": (retrain, configs.RetrainConfig(**TINY | {"epochs": 4}, num_timesteps=2, shuffle=True)),
}


@pytest.mark.parametrize("name", STUBS)
def test_killed_before_every_write(name, tmp_path, monkeypatch):
    """A process killed before a write is continued: before each in imp+et, every third in the others."""
    module, config = STUBS[name]
    if module is retrain:
        _, paths, _ = small.run(*STUBS["one-shot"], tmp_path / "search", programs=PROGRAMS)
        config = dataclasses.replace(config, ticket=str(paths.ticket(1)))
    copies = []

    def copied_before(write):
        def copy_and_write(*args, **kwargs):
            copies.append(tmp_path / f"{len(copies)}")
            small.copy_in_use(tmp_path / "undisturbed", copies[-1])
            return write(*args, **kwargs)

        return copy_and_write

    with monkeypatch.context() as patch:
        for owner, function in WRITES:
            patch.setattr(owner, function, copied_before(getattr(owner, function)))
        _, undisturbed, _ = small.run(module, config, tmp_path / "undisturbed", programs=PROGRAMS)
    assert len(copies) > 10
    for copy in copies if name == "imp+et" else copies[::3]:
        recorded = seconds(copy / "result.json")
        result, run, _ = small.run(module, config, copy, programs=PROGRAMS)
        assert result["finished"]
        small.same_outcome(run, undisturbed)
        assert recorded.items() <= seconds(run.result).items()


def seconds(path):
    """The seconds of each row that a result.json has."""
    if not path.exists():
        return {}
    result = small.json_of(path)
    parts = ("preparations", "rounds", "tickets", "controls")
    return {(part, row["kind"], row["round"]): row["seconds"] for part in parts for row in result[part]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eb+et", "transfer"])
def test_interrupted_again_and_again(name, tmp_path, monkeypatch):
    """A real search, cut off before the third checkpoint or result of each process, while it has one."""
    module, config = SEARCHES[name]
    _, undisturbed, _ = small.run(module, config, tmp_path / "undisturbed")
    attempts = 0
    while True:
        attempts += 1
        with monkeypatch.context() as patch:
            small.cut_off_before(patch, [(checkpoints, "save"), (results, "write")], 3)
            try:
                result, run, text = small.run(module, config, tmp_path / "run")
                break
            except small.Interrupted:
                continue
    assert attempts >= 3
    assert result["finished"]
    assert "resuming after" in text
    small.same_outcome(run, undisturbed)


def test_a_run_of_the_last_release_resumes(tmp_path):
    """A directory written before the types of its files were redesigned, stopped in its second round."""
    with tarfile.open(Path(__file__).parent / "samples" / "run_before.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    before = small.lines(rundir.paths(tmp_path / "stopped"))
    config = small.EACH_EPOCH | {"num_timesteps": 3, "rounds": 3, "rewind_epoch": 1}
    config |= {"early_time": True, "early_time_lambda": 1.0, "controls": ("random", "dense")}
    with pytest.raises(InputError, match="early_time_start restart there, continue now"):
        small.run(imp, configs.ImpConfig(**config), tmp_path / "stopped", model=None)
    config |= {"early_time_start": "restart"}  # Early-Time had the search begin anew
    result, run, text = small.run(imp, configs.ImpConfig(**config), tmp_path / "stopped", model=None)
    assert "resuming after round 1, epoch 2" in text
    assert result["finished"]
    assert small.lines(run)[: len(before) - 1] == before[:-1]  # the last epoch had no checkpoint yet
    whole = small.json_of(tmp_path / "whole" / "result.json")
    for part in ("preparations", "rounds", "tickets", "controls"):
        for row, expected in zip(result[part], whole[part], strict=True):
            same = ("kind", "round", "kept", "epochs", "train_flops", "network", "ticket")
            assert [row[name] for name in same] == [expected[name] for name in same]
    # the masks were drawn from weights of another machine; on one of its kind the files are equal too
    first = tickets.load(run.ticket(1)).provenance
    before = tickets.load(tmp_path / "whole" / "tickets" / "round_01.safetensors").provenance
    assert first.pop("versions")["snnlth_jax"] == __version__
    assert before.pop("versions")["snnlth_jax"] == "0.1.0"
    assert first == before


def test_the_next_api_of_orbax_reads_a_checkpoint_of_the_last_release(tmp_path):
    """Bit for bit; it becomes the default with Orbax 1.0."""
    v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
    with tarfile.open(Path(__file__).parent / "samples" / "run_before.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    paths = rundir.paths(tmp_path / "stopped")
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with v1.training.Checkpointer(paths.checkpoints) as reader:
        (number,) = [checkpoint.step for checkpoint in reader.checkpoints]
        shapes = reader.checkpointables_metadata(number).metadata["arrays"]
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
        read = reader.load_checkpointables(number, {"arrays": like, "progress": None})
    with checkpoints.manager(paths) as manager:
        args = {"arrays": ocp.args.StandardRestore(like), "progress": ocp.args.JsonRestore()}
        ours = manager.restore(number, args=ocp.args.Composite(**args))
    assert len(jax.tree.leaves(ours.arrays)) == 80
    assert read["progress"] == ours.progress
    jax.tree.map(np.testing.assert_array_equal, read["arrays"], ours.arrays)


def test_what_is_said_to_be_done_is_in_a_checkpoint(tmp_path, monkeypatch):
    """They are written in the background: killed before that, a finished search would lack its weights."""
    saved, written = [], []
    save, write = checkpoints.save, results.write

    def write_down(manager, number, *args):
        saved.append(number)
        save(manager, number, *args)

    def look(path, result):
        written.append(result)
        assert (path.parent / "checkpoints" / str(saved[-1])).exists()
        write(path, result)

    monkeypatch.setattr(checkpoints, "save", write_down)
    monkeypatch.setattr(results, "write", look)
    small.run(*SEARCHES["transfer"], tmp_path, programs=PROGRAMS)
    assert written[-1].finished


OVERRIDDEN = configs.ImpConfig(**SHORT, num_timesteps=2, rounds=2, rewind_epoch=1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Before the third checkpoint, which is in the second round."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 3)
        with pytest.raises(small.Interrupted):
            small.run(imp, OVERRIDDEN, directory, programs=PROGRAMS)
    return directory


def test_another_configuration_is_refused(stopped):
    with pytest.raises(InputError, match=r"learning_rate 0\.1 there, 0\.05 now") as refused:
        small.run(imp, OVERRIDDEN, stopped, programs=PROGRAMS, learning_rate=0.05)
    assert "override to resume with this one" in str(refused.value)


def test_override_goes_on_with_another_configuration(stopped, tmp_path):
    """From where the run is: what is behind stays, what comes is as asked; and it is written down."""
    shutil.copytree(stopped, tmp_path / "run")
    result, run, text = small.run(
        imp, OVERRIDDEN, tmp_path / "run", programs=PROGRAMS, learning_rate=0.05, override=True
    )
    assert "resuming after round 0, epoch 4" in text
    assert result["finished"]
    assert result["config"]["learning_rate"] == 0.05
    assert rundir.read_json(run.config)["learning_rate"] == 0.05
    assert small.lines(run, "override")[0]["changed"] == "--learning-rate 0.1 there, 0.05 now"
    assert result["overrides"] == ["--learning-rate 0.1 there, 0.05 now"]
    rates = [(line["round"], line["learning_rate"]) for line in small.lines(run)]
    assert rates[0] == (0, 0.1)
    assert max(rate for number, rate in rates if number == 1) <= 0.05
    # from now on it is that configuration's directory
    assert small.run(imp, OVERRIDDEN, tmp_path / "run", programs=PROGRAMS, learning_rate=0.05)[0]["finished"]
    with pytest.raises(InputError, match=r"learning_rate 0\.05 there, 0\.1 now"):
        small.run(imp, OVERRIDDEN, tmp_path / "run", programs=PROGRAMS)


@pytest.mark.parametrize(
    "changes", [{"epochs": 9}, {"rewind_epoch": 2}, {"batch_size": 24}, {"optimizer": "adam"}, {"width": 0.2}]
)
def test_what_cannot_change_on_the_way_is_refused(changes, stopped):
    with pytest.raises(InputError, match=r"override: .*; allowed: to change learning_rate"):
        small.run(imp, OVERRIDDEN, stopped, programs=PROGRAMS, override=True, **changes)


def test_there_must_be_something_left_to_override(tmp_path):
    small.run(imp, OVERRIDDEN, tmp_path, programs=PROGRAMS)
    with pytest.raises(InputError, match="while there is something left to train"):
        small.run(imp, OVERRIDDEN, tmp_path, programs=PROGRAMS, learning_rate=0.05, override=True)
    assert small.run(imp, OVERRIDDEN, tmp_path, programs=PROGRAMS)[0]["config"]["learning_rate"] == 0.1


def test_an_override_is_remembered_whatever_happens(stopped, tmp_path, monkeypatch):
    """Killed right after it, and gone on without the flag."""
    shutil.copytree(stopped, tmp_path / "run")
    with monkeypatch.context() as patch:
        small.cut_off_before(patch, [(checkpoints, "save"), (rundir, "write_json")], 3)
        with pytest.raises(small.Interrupted):
            small.run(imp, OVERRIDDEN, tmp_path / "run", programs=PROGRAMS, learning_rate=0.05, override=True)
    result, run, _ = small.run(imp, OVERRIDDEN, tmp_path / "run", programs=PROGRAMS, learning_rate=0.05)
    assert len(result["overrides"]) == len(small.lines(run, "override")) == 1


def test_two_that_begin_at_once_do_not_mix(tmp_path, monkeypatch):
    """One writes its configuration after the other looked, and before that has the directory."""
    hold = rundir.hold

    def slow(run):
        rundir.write_json(run.config, rundir.read_json(run.config) | {"learning_rate": 0.7})
        return hold(run)

    monkeypatch.setattr(rundir, "hold", slow)
    with pytest.raises(InputError, match=r"learning_rate 0\.7 there, 0\.1 now"):
        small.run(imp, OVERRIDDEN, tmp_path / "run", programs=PROGRAMS)


def test_a_seed_that_stopped_half_way_goes_on(tmp_path, monkeypatch):
    module, config = SEARCHES["one-shot"]

    def run(directory):
        seeds = configs.resolve(
            configs.OneShotConfig(**{**vars(config), "workdir": str(directory), "seeds": (1, 2)})
        )
        return replicates.run(functools.partial(module.search, programs=PROGRAMS), seeds)

    undisturbed = run(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 6)  # in the second seed
        with pytest.raises(small.Interrupted):
            run(tmp_path / "run")
    assert (tmp_path / "run" / "seed2").exists()
    summary = run(tmp_path / "run")
    assert summary.tickets[0].final_test_accuracy == undisturbed.tickets[0].final_test_accuracy
    for seed in ("seed1", "seed2"):
        small.same_outcome(
            rundir.paths(tmp_path / "run" / seed), rundir.paths(tmp_path / "undisturbed" / seed)
        )
