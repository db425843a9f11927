"""The plan is what then happens: the same trainings, weights and FLOPs; planning leaves nothing behind."""

import dataclasses
import io

import pytest
import small
from rich.console import Console

from snnlth_jax import configs
from snnlth_jax.run import results
from snnlth_jax.search import early_bird, early_time, imp, one_shot, replicates, stability, transfer

ROUNDS = {"rounds": 3, "rewind_epoch": 1, "controls": ("random", "redrawn", "dense")}
SEARCHES = {
    "imp": (imp, configs.ImpConfig(**small.NETWORK, num_timesteps=2, prune_fraction=0.29, **ROUNDS)),
    "imp+et": (
        imp,
        # T' = T - 1 is what the plan takes for the most
        configs.ImpConfig(**small.NETWORK, num_timesteps=4, early_time=True, early_time_lambda=1.0, **ROUNDS),
    ),
    "eb": (early_bird, configs.EbConfig(**small.NETWORK, num_timesteps=2, tau=0.0, queue=2)),
    "transfer": (transfer, configs.TransferConfig(**small.NETWORK, num_timesteps=2, **ROUNDS)),
    "snip": (one_shot, configs.OneShotConfig(**small.NETWORK, num_timesteps=2, controls=("dense",))),
    "probe": (early_time, configs.ProbeConfig(**small.NETWORK, num_timesteps=3, early_time_epochs=2)),
    "stability": (
        stability,
        configs.StabilityConfig(
            **small.NETWORK, num_timesteps=2, stability_epochs=(0, 2), stability_points=3
        ),
    ),
}


def planned(name, workdir):
    module, config = SEARCHES[name]
    config = configs.resolve(dataclasses.replace(config, workdir=str(workdir), dry_run=True))
    console = Console(file=io.StringIO(), width=200)
    return module.search(
        config, model=small.MODEL, programs=small.AsIfNew(), console=console
    ), console.file.getvalue()


@pytest.mark.parametrize("name", SEARCHES)
def test_the_plan_is_what_happens(name, tmp_path):
    plan, text = planned(name, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "nothing was written" in text
    result, _, _ = small.run(*SEARCHES[name], tmp_path / "run", programs=small.AsIfNew())
    trained = {
        results.phase_name(row["kind"], row["round"]): row
        for part in ("preparations", "rounds", "tickets", "controls")
        for row in result[part]
    }
    assert {training.name for training in plan.trainings} == set(trained)
    evaluated, once = 360 + small.NETWORK["validation_examples"], result["flops_per_image"]
    for training in plan.trainings:
        row = trained[training.name]
        assert (training.variant, training.epochs) == (row["network"], row["epochs"])
        if training.name == "scores":  # its row has the masks that it drew
            continue
        assert training.sparsity == row["sparsity"]
        if training.name != "probe":  # which also measures
            forward = once["once"] + row["num_timesteps"] * once["per_timestep"]
            images = training.epochs * evaluated
            images += 3 * (2 * 96 + 360) if row["kind"] == "copy-b" else 0  # on the line to it
            assert training.flops == row["train_flops"] + images * forward
    assert plan.flops == sum(training.flops for training in plan.trainings)
    assert plan.seconds > 0
    full = f"lif T={SEARCHES[name][1].num_timesteps}"
    assert set(plan.programs) == ({full, "relu T=1"} if name == "transfer" else {full})
    assert all(program.memory > 10_000 for program in plan.programs.values())
    assert len(plan.compiled) == result["train_compilations"]


def test_the_plan_of_several_seeds_is_that_of_each(tmp_path):
    module, config = SEARCHES["eb"]
    config = configs.resolve(
        dataclasses.replace(config, workdir=str(tmp_path / "run"), dry_run=True, seeds=(1, 2))
    )
    console = Console(file=io.StringIO(), width=200)
    plan = replicates.run(module.search, config, console)
    assert [training.name for training in plan.trainings] == ["search", "ticket 1"]
    assert "each of 2 seeds" in console.file.getvalue()
    assert not (tmp_path / "run").exists()
