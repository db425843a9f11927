"""Every search goes on where it stopped, to the same bits: writes are cut off here, processes in test_imp."""

import itertools
import shutil

import pytest
import small

from snnlth_jax import configs
from snnlth_jax.errors import InputError
from snnlth_jax.run import checkpoints
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import early_bird, imp, one_shot, replicates, transfer

SHORT = small.NETWORK | {"epochs": 4, "checkpoint_every": 2, "eval_every": 2}
SEARCHES = {
    "eb+et": (
        early_bird,
        configs.EbConfig(
            **SHORT, num_timesteps=4, early_time=True, early_time_lambda=1.0, queue=3, controls=("redrawn",)
        ),
    ),
    "one-shot": (one_shot, configs.OneShotConfig(**SHORT, num_timesteps=2, controls=("dense",))),
    "transfer": (
        transfer,
        configs.TransferConfig(**SHORT, num_timesteps=2, rounds=3, rewind_epoch=1, controls=("random",)),
    ),
}


def interrupt(monkeypatch, times):
    """Before that many writes of checkpoints, configuration or results."""
    count = itertools.count(1)

    def cut_off(write):
        def interrupted(*args, **kwargs):
            if next(count) == times:
                raise small.Interrupted
            return write(*args, **kwargs)

        return interrupted

    for name in ("save", "write_json"):
        monkeypatch.setattr(checkpoints, name, cut_off(getattr(checkpoints, name)))


@pytest.mark.parametrize("name", SEARCHES)
def test_interrupted_again_and_again(name, tmp_path, monkeypatch):
    """Before the third write of each process, until one has no third: checkpoints and results in between."""
    module, config = SEARCHES[name]
    _, undisturbed, _ = small.run(module, config, tmp_path / "undisturbed")
    attempts = 0
    while True:
        attempts += 1
        with monkeypatch.context() as patch:
            interrupt(patch, 3)
            try:
                result, run, text = small.run(module, config, tmp_path / "run")
                break
            except small.Interrupted:
                continue
    assert attempts >= 3
    assert result["finished"]
    assert "going on after" in text
    small.same_outcome(run, undisturbed)


def test_what_is_said_to_be_done_is_in_a_checkpoint(tmp_path, monkeypatch):
    """They are written in the background: killed before that, a finished search would lack its weights."""
    saved, results = [], []
    save, write_json = checkpoints.save, rundir.write_json

    def write_down(manager, number, *args):
        saved.append(number)
        save(manager, number, *args)

    def look(path, value):
        if path.name == "result.json":
            results.append(value)
            assert (path.parent / "checkpoints" / str(saved[-1])).exists()
        write_json(path, value)

    monkeypatch.setattr(checkpoints, "save", write_down)
    monkeypatch.setattr(rundir, "write_json", look)
    small.run(*SEARCHES["transfer"], tmp_path)
    assert results[-1]["finished"]


OVERRIDDEN = configs.ImpConfig(**SHORT, num_timesteps=2, rounds=2, rewind_epoch=1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Before the third checkpoint, which is in the second round."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        count, save = itertools.count(1), checkpoints.save

        def cut_off(*args):
            if next(count) == 3:
                raise small.Interrupted
            save(*args)

        patch.setattr(checkpoints, "save", cut_off)
        with pytest.raises(small.Interrupted):
            small.run(imp, OVERRIDDEN, directory)
    return directory


def test_another_configuration_is_refused(stopped):
    with pytest.raises(InputError, match=r"learning_rate 0\.1 there, 0\.05 now") as refused:
        small.run(imp, OVERRIDDEN, stopped, learning_rate=0.05)
    assert "override to resume with this one" in str(refused.value)


def test_override_goes_on_with_another_configuration(stopped, tmp_path):
    """From where the run is: what is behind stays, what comes is as asked; and it is written down."""
    shutil.copytree(stopped, tmp_path / "run")
    result, run, text = small.run(imp, OVERRIDDEN, tmp_path / "run", learning_rate=0.05, override=True)
    assert "going on after round 0, epoch 4" in text
    assert result["finished"]
    assert result["config"]["learning_rate"] == 0.05
    assert rundir.read_json(run.config)["learning_rate"] == 0.05
    assert small.lines(run, "override")[0]["changed"] == "--learning-rate 0.1 there, 0.05 now"
    assert result["overrides"] == ["--learning-rate 0.1 there, 0.05 now"]
    rates = [(line["round"], line["learning_rate"]) for line in small.lines(run)]
    assert rates[0] == (0, 0.1)
    assert max(rate for number, rate in rates if number == 1) <= 0.05
    # from now on it is that configuration's directory
    assert small.run(imp, OVERRIDDEN, tmp_path / "run", learning_rate=0.05)[0]["finished"]
    with pytest.raises(InputError, match=r"learning_rate 0\.05 there, 0\.1 now"):
        small.run(imp, OVERRIDDEN, tmp_path / "run")


@pytest.mark.parametrize(
    "changes", [{"epochs": 9}, {"rewind_epoch": 2}, {"batch_size": 24}, {"optimizer": "adam"}, {"width": 0.2}]
)
def test_what_cannot_change_on_the_way_is_refused(changes, stopped):
    with pytest.raises(InputError, match=r"override: .*; allowed: to change learning_rate"):
        small.run(imp, OVERRIDDEN, stopped, override=True, **changes)


def test_there_must_be_something_left_to_override(tmp_path):
    small.run(imp, OVERRIDDEN, tmp_path)
    with pytest.raises(InputError, match="while there is something left to train"):
        small.run(imp, OVERRIDDEN, tmp_path, learning_rate=0.05, override=True)
    assert small.run(imp, OVERRIDDEN, tmp_path)[0]["config"]["learning_rate"] == 0.1


def test_an_override_is_remembered_whatever_happens(stopped, tmp_path, monkeypatch):
    """Killed right after it, and gone on without the flag."""
    shutil.copytree(stopped, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)  # after the checkpoint and the configuration
        with pytest.raises(small.Interrupted):
            small.run(imp, OVERRIDDEN, tmp_path / "run", learning_rate=0.05, override=True)
    result, run, _ = small.run(imp, OVERRIDDEN, tmp_path / "run", learning_rate=0.05)
    assert len(result["overrides"]) == len(small.lines(run, "override")) == 1


def test_two_that_begin_at_once_do_not_mix(tmp_path, monkeypatch):
    """One writes its configuration after the other looked, and before that has the directory."""
    hold = rundir.hold

    def slow(run):
        rundir.write_json(run.config, rundir.read_json(run.config) | {"learning_rate": 0.7})
        return hold(run)

    monkeypatch.setattr(rundir, "hold", slow)
    with pytest.raises(InputError, match=r"learning_rate 0\.7 there, 0\.1 now"):
        small.run(imp, OVERRIDDEN, tmp_path / "run")


def test_a_seed_that_stopped_half_way_goes_on(tmp_path, monkeypatch):
    module, config = SEARCHES["one-shot"]

    def run(directory):
        seeds = configs.resolve(
            configs.OneShotConfig(**{**vars(config), "workdir": str(directory), "seeds": (1, 2)})
        )
        return replicates.run(module.search, seeds)

    undisturbed = run(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        interrupt(patch, 10)  # in the second seed
        with pytest.raises(small.Interrupted):
            run(tmp_path / "run")
    assert (tmp_path / "run" / "seed2").exists()
    assert (
        small.timeless(run(tmp_path / "run")["tickets"][0]["final_test_accuracy"])
        == (undisturbed["tickets"][0]["final_test_accuracy"])
    )
    for seed in ("seed1", "seed2"):
        small.same_outcome(
            rundir.paths(tmp_path / "run" / seed), rundir.paths(tmp_path / "undisturbed" / seed)
        )
