import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snnlth_jax.cli import main

SMALL = ["--width", "0.1", "--train-examples", "64", "--batch-size", "32", "--num-timesteps", "2"]
SMALL += ["--devices", "1"]


def files(directory):
    return {path: path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Each test in a directory of its own, leaving the logger as it was."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("snnlth_jax")
    level, handlers = logger.level, logger.handlers
    yield tmp_path
    logger.level, logger.handlers = level, handlers


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("imp --dataset imagenette", "--dataset imagenette: allowed: digits, cifar10"),
        ("imp --arch vgg99", "--arch vgg99: allowed: vgg5"),
        ("imp --dataset cifar", "tiny_imagenet; nearest: cifar10"),
        ("imp --schedule linear", "--schedule linear: allowed: cosine, step"),
        ("imp --schedule cosin", "--schedule cosin: allowed: cosine, step; nearest: cosine"),
        ("imp --scope rows", "--scope rows: allowed: global, layer"),
        ("imp --prune-fraction 1", "--prune-fraction 1.0: allowed: between 0 and 1"),
        ("imp --prune-fraction 0", "--prune-fraction 0.0: allowed: between 0 and 1"),
        ("imp --prune-fraction -0.5", "--prune-fraction -0.5: allowed: between 0 and 1"),
        ("imp --prune-fraction nan", "--prune-fraction nan: allowed: between 0 and 1"),
        ("imp --epochs 0", "--epochs 0: allowed: 1 or more"),
        ("imp --batch-size 0", "--batch-size 0: allowed: 1 or more"),
        ("imp --num-timesteps 0", "--num-timesteps 0: allowed: 1 to 1000"),
        ("imp --rounds 0", "--rounds 0: allowed: 1 or more"),
        ("imp --rewind-epoch 15", "--rewind-epoch 15: allowed: 0 to 14"),
        ("imp --epochs 3 --rewind-epoch 7", "--rewind-epoch 7: allowed: 0 to 2"),
        ("imp --rewind-epoch -1", "--rewind-epoch -1: allowed: 0"),
        ("imp --batch-size 2000", "--batch-size 2000: allowed: 1 to 1437"),
        ("imp --train-examples 100 --batch-size 104", "--batch-size 104: allowed: 1 to 100"),
        ("imp --train-examples 0", "--train-examples 0: allowed: 1"),
        ("imp --train-examples 99999", "--train-examples 99999: allowed: 1 to 1437"),
        ("imp --test-examples 361", "--test-examples 361: allowed: 1 to 360"),
        ("imp --validation-examples -1", "--validation-examples -1: allowed: 0"),
        ("imp --arch vgg16", "--arch vgg16: the 8x8 images of digits are too small for its pools"),
        ("imp --activation relu --num-timesteps 4", "--num-timesteps 4: allowed: 1"),
        ("imp --activation tanh", "--activation tanh: allowed: lif, relu"),
        ("imp --bn-on-rewind forget", "--bn-on-rewind forget: allowed: rewind, keep, reset"),
        ("imp --dtype float16", "--dtype float16: allowed: float32, bfloat16"),
        ("imp --learning-rate 0", "--learning-rate 0.0: allowed: a number above 0"),
        ("imp --learning-rate inf", "--learning-rate inf: allowed: a number above 0"),
        ("imp --width 0", "--width 0.0: allowed: a number above 0"),
        ("imp --momentum 1", "--momentum 1.0: allowed: 0 or more, below 1"),
        ("imp --weight-decay -1", "--weight-decay -1.0: allowed: 0 or more"),
        ("imp --seed -1", "--seed -1: allowed: 0 to 2^32 - 1"),
        ("imp --seed 9223372036854775808", "--seed 9223372036854775808: allowed: 0 to 2^32 - 1"),
        ("imp --learning-rate 1e39", "--learning-rate 1e+39: allowed: a number above 0, finite in float32"),
        ("imp --width 1e308", "--width 1e+308: allowed: a number above 0, at most 16"),
        ("imp --num-timesteps 1000000000", "--num-timesteps 1000000000: allowed: 1 to 1000"),
        ("imp --dataset cifar10 --data-dir nowhere", "--data-dir nowhere"),
        ("imp --dataset cifar10 --data-dir .", "--data-dir ."),
        ("imp --epochs many", "--epochs many: allowed: a whole number"),
        ("imp --neuron-tau 4/x", "--neuron-tau 4/x: allowed: a number"),
        ("imp --neuron-tau 4/3/2", "--neuron-tau 4/3/2: allowed: a number"),
        ("imp --neuron-tau 4/0", "--neuron-tau 4/0: allowed: a number"),
        ("imp --epochs", "Missing value for argument '--epochs' (see snnlth imp --help)"),
        ("imp --no-such-flag 3", "Unrecognized options: --no-such-flag, 3 (see snnlth imp --help)"),
        ("imp --workdir /dev/null/run", "--workdir /dev/null/run"),
        ("impp", "impp"),
        ("", "Expected one of {imp, eb,"),
        ("data", "Missing: action, name (see snnlth data --help)"),
        ("ticket look a", "snnlth ticket look: allowed: inspect, diff, combine, transplant, import, verify"),
        ("ticket", "Expected one of {inspect, diff, combine"),
        ("ticket --and", "Unrecognized options: --and (see snnlth ticket --help)"),
        ("ticket combine a b --output c", "--and, --or: neither is given; allowed: one of the two"),
        ("ticket combine a b --and --or --output c", "--and, --or: both are given"),
        ("ticket combine a b --and", "Missing: --output"),
        ("ticket combine a b --and --output .", "--output .: is a directory"),
        ("ticket transplant a b --output /dev/null/c", "--output /dev/null/c: /dev/null is not a directory"),
        ("ticket transplant a b --output c/d", "a: no such ticket"),
        ("ticket diff a b", "a: no such ticket"),
        ("ticket verify a", "a: no such ticket"),
        ("imp --early-time-timesteps 2", "--early-time-timesteps 2: allowed: with --early-time"),
        (
            "imp --shard-data yes --parallel pmap",
            "--parallel pmap: allowed: shard_map, with --shard-data yes",
        ),
        ("imp --early-time --num-timesteps 2", "--num-timesteps 2: allowed: 3 or more for Early-Time"),
        ("eb --early-time --activation relu", "--num-timesteps 1: allowed: 3 or more for Early-Time"),
        ("probe-timesteps --num-timesteps 2", "--num-timesteps 2: allowed: 3 or more for Early-Time"),
        ("imp --early-time --early-time-lambda 0", "--early-time-lambda 0.0: allowed: above 0, at most 1"),
        ("eb --early-time --early-time-lambda 1.1", "--early-time-lambda 1.1: allowed: above 0, at most 1"),
        ("imp --early-time-epochs 16", "--early-time-epochs 16: allowed: 1 to 15"),
        ("imp --early-time-direction up", "--early-time-direction up: allowed: forward, reverse"),
        ("imp --early-time-reduction max", "--early-time-reduction max: allowed: sum, mean"),
        ("imp --early-time-normalisation last", "--early-time-normalisation last: allowed: first, max"),
        ("imp --final-rounds 3,12", "--final-rounds 3,12: allowed: 1 to 11"),
        ("imp --final-rounds 0", "--final-rounds 0: allowed: 1 to 11"),
        ("imp --final-rounds 3,3", "--final-rounds 3,3: allowed: each once"),
        ("imp --controls random,none", "--controls none: allowed: random, redrawn, dense"),
        ("imp --rewinding nothing", "--rewinding nothing: allowed: weights, learning-rate, fine-tune"),
        ("imp --devices 0", "--devices 0: allowed: 1 to 8"),
        ("imp --devices 9", "--devices 9: allowed: 1 to 8"),
        ("imp --batch-size 60", "--batch-size 60: allowed: a multiple of 8, the devices"),
        ("imp --parallel vmap", "--parallel vmap: allowed: shard_map, pmap"),
        ("imp --seeds 0,x", "--seeds"),
        ("imp --seeds 0,0", "--seeds 0,0: allowed: each once"),
        ("imp --seeds 0,-1", "--seeds 0,-1: allowed: 0 to 2^32 - 1"),
        ("eb --queue 1", "--queue 1: allowed: 2 to 16"),
        ("eb --queue 17", "--queue 17: allowed: 2 to 16"),
        ("imp --early-time --rounds 1 --rewind-epoch 0", "--rounds 1: allowed: 2 or more, for a ticket"),
        ("imp --controls dense --rounds 1", "--rounds 1: allowed: 2 or more, for a ticket"),
        ("transfer --rounds 1", "--rounds 1: allowed: 2 or more, for a ticket"),
        ("transfer --final-rounds ,", "--final-rounds : allowed: one or more of 1 to 11"),
        ("eb --tau -0.1", "--tau -0.1: allowed: 0 to 1"),
        ("eb --tau nan", "--tau nan: allowed: 0 to 1"),
        ("eb --sparsity 1", "--sparsity 1.0: allowed: between 0 and 1"),
        ("eb --criterion snip", "--criterion snip: allowed: hamming, overlap"),
        (
            "eb --search-learning-rate-factor 0",
            "--search-learning-rate-factor 0.0: allowed: a number above 0",
        ),
        ("one-shot --sparsity 1", "--sparsity 1.0: allowed: between 0 and 1"),
        ("one-shot --sparsity 0", "--sparsity 0.0: allowed: between 0 and 1"),
        ("one-shot --criterion best", "--criterion best: allowed: magnitude, random, snip, grasp, synflow"),
        ("one-shot --score-examples 1438", "--score-examples 1438: allowed: 1 to 1437"),
        ("one-shot --synflow-iterations 0", "--synflow-iterations 0: allowed: 1 or more"),
        ("one-shot --like a.safetensors", "a.safetensors: no such ticket file"),
        ("one-shot --criterion snip --like a", "--criterion snip: allowed: random, with --like"),
        ("one-shot --criterion random --like a.safetensors", "a.safetensors: no such ticket file"),
        ("one-shot --criterion random --sparsity 0.5 --like a", "--sparsity 0.5: allowed: not with --like"),
        ("transfer --activation relu", "--activation relu: allowed: lif"),
        ("transfer --early-time", "--early-time"),
        ("data prepare imagenette", "data prepare imagenette: allowed: digits, cifar10"),
        ("ticket inspect nowhere.safetensors", "nowhere.safetensors: no such ticket file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, expected, capsys, empty_directory):
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("snnlth: error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert list(empty_directory.iterdir()) == []


def test_without_tyros_private_hook_its_box_is_shown(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro._errors", None)
    with pytest.raises(SystemExit) as stop:
        main(["imp", "--epochs", "many"])
    assert stop.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_another_configurations_run_is_refused_with_the_difference(capsys):
    command = ["imp", "--workdir", "run", "--rounds", "1", "--epochs", "1", "--rewind-epoch", "0", *SMALL]
    assert main(command) == 0
    before = files("run")
    capsys.readouterr()
    assert main([*command, "--seed", "3", "--learning-rate", "0.2"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--seed 0 there, 3 now" in err
    assert "--learning-rate 0.1 there, 0.2 now" in err
    assert files("run") == before
    # and the same one is finished
    assert main(command) == 0
    assert "this search is finished" in capsys.readouterr().out


def test_divergence_is_one_line_and_status_3(capsys):
    command = ["imp", "--workdir", "run", "--rounds", "2", "--epochs", "2", "--learning-rate", "1e38", *SMALL]
    assert main(command) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "round 0, epoch 1, step" in err
    assert not os.path.exists("run/result.json")


def test_help_names_defaults_and_sources(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["imp", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for flag in ("--rounds", "--prune-fraction", "--rewind-epoch", "--num-timesteps", "(paper"):
        assert flag in out


def test_a_ticket_of_another_network_is_refused(capsys, empty_directory):
    command = ["one-shot", "--criterion", "random", "--epochs", "1", *SMALL]
    assert main([*command, "--sparsity", "0.5", "--workdir", "run"]) == 0
    capsys.readouterr()
    for other in (["--arch", "resnet7"], ["--width", "0.2"]):
        like = ["--like", "run/tickets/round_01.safetensors", "--workdir", "other"]
        assert main([*command, *like, *other]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "round_01.safetensors: a ticket of another network: " in err
        assert err.endswith("; found with --arch vgg5 --width 0.1\n")
    assert not (empty_directory / "other").exists()


@pytest.mark.subprocess
def test_the_script_is_the_command(empty_directory):
    """`python experiments/imp.py` from anywhere, in a process of its own."""
    script = os.path.join(os.path.dirname(__file__), "..", "experiments", "imp.py")
    done = subprocess.run(
        [sys.executable, script, "--rounds", "0"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == "snnlth: error: --rounds 0: allowed: 1 or more\n"


def test_ticket_inspect(capsys):
    assert (
        main(["imp", "--workdir", "run", "--rounds", "2", "--epochs", "1", "--rewind-epoch", "0", *SMALL])
        == 0
    )
    capsys.readouterr()
    assert main(["ticket", "inspect", "run/tickets/round_01.safetensors"]) == 0
    out = capsys.readouterr().out
    row = json.loads(Path("run/result.json").read_text())["rounds"][1]
    assert f"kept: {row['kept']}" in out
    assert out.splitlines()[-1].split()[:2] == ["all", f"{row['kept']:,}"]
