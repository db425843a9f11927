"""Every search goes on where it stopped, to the same bits: writes are cut off here, processes in test_imp."""

import itertools

import pytest
import small

from snnlth_jax import checkpoints, configs
from snnlth_jax.search import early_bird, one_shot, replicates, transfer

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
            checkpoints.paths(tmp_path / "run" / seed), checkpoints.paths(tmp_path / "undisturbed" / seed)
        )
