"""Several hosts: real processes that compute in step, over the loopback interface, each with two devices."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import host_loss
import numpy as np
import pytest
import small

from snnlth_jax import configs
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import results
from snnlth_jax.search import early_bird, stability

pytestmark = pytest.mark.multihost

CONFIG = {
    "num_timesteps": 2,
    "queue": 2,
    "tau": 1e-12,
    "epochs": 4,
    "width": 0.1,
    "train_examples": 96,
    "batch_size": 48,
}
SEARCH = ["eb", "--controls", "redrawn"]
for name, value in CONFIG.items():
    SEARCH += [f"--{name.replace('_', '-')}", str(value)]


def start(workdir, *more, command=("-m", "snnlth_jax.cli", *SEARCH), second=()):
    """The command on two hosts; the second may be given more flags."""
    command = [sys.executable, *command, "--distributed", "--workdir", str(workdir), *more]
    return [
        subprocess.Popen(
            [*command, *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for flags, environment in zip(((), second), host_loss.environments(devices=2), strict=True)
    ]


def finish(processes):
    """Their statuses, and what they printed."""
    told = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], told


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = rundir.paths(tmp_path_factory.mktemp("hosts") / "run")
    statuses, told = finish(start(run.config.parent))
    assert statuses == [0, 0], told
    return run, told


def test_the_first_host_alone_tells_and_writes(undisturbed):
    run, (first, second) = undisturbed
    assert "eb on digits" in first[0]
    assert "epoch" not in second[0]
    numbers = [(line["kind"], line["round"], line["epoch"]) for line in small.lines(run)]
    assert len(set(numbers)) == len(numbers)
    result = json.loads(run.result.read_text())
    assert result["finished"]
    assert result["devices"]["count"] == 4


def test_hosts_give_the_numbers_of_one(undisturbed, tmp_path):
    run, _ = undisturbed
    config = configs.EbConfig(**CONFIG, controls=("redrawn",), devices=4)
    _, alone, _ = small.run(early_bird, config, tmp_path / "alone", model=None)
    assert small.json_of(alone.config) == small.json_of(run.config)
    losses = [[line["train_loss"] for line in small.lines(paths)] for paths in (run, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_hosts_measure_stability_as_one(tmp_path):
    """Weights are written by one and read by both; the line is evaluated by all devices."""
    flags = {"num_timesteps": 2, "epochs": 2, "width": 0.1, "train_examples": 96, "batch_size": 48}
    flags |= {"stability_points": 3}
    command = ["-m", "snnlth_jax.cli", "stability", "--stability-epochs", "0,1"]
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    statuses, told = finish(start(tmp_path / "run", command=command))
    assert statuses == [0, 0], told
    assert "error barriers" in told[0][0]
    assert "epoch" not in told[1][0]
    config = configs.StabilityConfig(**flags, stability_epochs=(0, 1), devices=4)
    _, alone, _ = small.run(stability, config, tmp_path / "alone", model=None)
    run = rundir.paths(tmp_path / "run")
    assert small.json_of(alone.config) == small.json_of(run.config)
    pairs = [results.read(paths.result).stability.interpolations for paths in (run, alone)]
    for one, two in zip(*pairs, strict=True):
        np.testing.assert_allclose(two.train_losses, one.train_losses, rtol=1e-2)


def test_stopped_lost_and_killed_they_resume_bit_for_bit(undisturbed, tmp_path):
    """One is asked to stop, and both do; one is killed, and both start again; so they do when both are."""
    expected, _ = undisturbed
    processes = start(tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text(), processes)
    processes[1].send_signal(signal.SIGINT)
    statuses, outputs = finish(processes)
    assert statuses == [75, 75], outputs
    assert "stopped by SIGTERM; the same command resumes" in outputs[0][1]
    with host_loss.hosts(tmp_path / "run", SEARCH, heartbeat=60, pause=2, devices=2) as both:
        begun = both.epochs()

        def in_step(epochs):
            wait_for(
                lambda: both.epochs() >= epochs and both.process(0) and both.process(1), both.supervisors
            )

        in_step(begun + 1)
        _, (line, *again) = both.lose(0)
        assert line == host_loss.LINE
        assert all(line.startswith("again: ended with status 69, ") for line in again)
        in_step(begun + 2)
        for process in (both.process(0), both.process(1)):
            process.kill()
        assert both.wait() == [0, 0], both.logs[0].read_text()
        small.same_outcome(both.run, expected)


def wait_for(event, processes):
    """Wait until it has come; the processes must still run then."""
    deadline = time.monotonic() + 300
    while not event():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.005)


ABORT = """
import os, sys
from snnlth_jax.machine import host_loss
host_loss.answer()
os.write(2, sys.argv[1].encode())
print("printed by Python", file=sys.stderr)
os.abort()
"""


@pytest.mark.parametrize(
    ("printed", "status", "err"),
    [
        (
            "E1127 10:00:00.1 7 other.cc:1] why\n",
            -6,
            ["E1127 10:00:00.1 7 other.cc:1] why", "printed by Python"],
        ),
        (
            "W1127 10:00:00.1 7 preemption_sync_manager.cc:1] a notice\nof two lines\n"
            "E1127 10:00:00.1 7 coordination_service_agent.cc:289] Polled an error\nof two lines\n"
            "F1127 10:00:00.1 7 client.h:75] Terminating\n    @ 0x7f trace\n",
            69,
            ["printed by Python", host_loss.LINE],
        ),
    ],
    ids=["an abort of another kind", "a lost host"],
)
def test_of_aborts_only_that_of_a_lost_host_is_answered(printed, status, err):
    done = subprocess.run([sys.executable, "-c", ABORT, printed], capture_output=True, text=True)
    assert done.returncode == status
    assert sorted(done.stderr.splitlines()) == sorted(err)


@pytest.mark.parametrize(
    ("statuses", "status", "starts"),
    [("69 75 137 0", 0, 4), ("69 2", 2, 2), ("69 69 69 69", 69, 3), ("75 3", 3, 2)],
)
def test_a_supervisor_repeats_what_can_be_repeated(statuses, status, starts, tmp_path):
    (tmp_path / "statuses").write_text("\n".join(statuses.split()) + "\n")
    command = (
        "echo x >> starts; s=$(head -n 1 statuses); sed -i 1d statuses; [ $s != 137 ] || kill -9 $$; exit $s"
    )
    environment = os.environ | {"AGAIN_SECONDS": "0.1", "AGAIN_ATTEMPTS": "3" if "69 69" in statuses else "9"}
    done = subprocess.run(
        [str(host_loss.AGAIN), "bash", "-c", command],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    assert done.returncode == status
    assert len((tmp_path / "starts").read_text().split()) == starts


EXPERIMENT = """
import sys
import grid
train = {"num_timesteps": 3, "width": 0.1, "train_examples": 96, "batch_size": 40, "epochs": 1}
grid.SCALES["paper"] = grid.Scale(train, {"rounds": 2, "rewind_epoch": 0})
def cells(scale, **where):
    tiny = grid.scale(scale, **where)
    bad = tiny.one_shot(0.9, "random", learning_rate=1e30)
    return {"probe": tiny.probe(), "random_0.9": bad}
sys.exit(grid.main(cells, [], [], []))
"""


def test_an_experiment_runs_its_cells_on_all_of_them(tmp_path, monkeypatch):
    """One cell fails on every host; the other, which measures the divergences of timesteps, is run."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent / "experiments"), prepend=os.pathsep)
    script = tmp_path / "script.py"
    script.write_text(EXPERIMENT)
    statuses, (first, second) = finish(start(tmp_path / "cells", command=[str(script)]))
    assert statuses == [1, 1], (first, second)
    assert "cell 2 of 2: " in first[0]
    assert first[1].startswith("failed: random_0.9, seed 0: ")
    assert "the loss or a weight is not finite" in first[1]
    assert "cell" not in second[0]
    assert second[1] == ""
    results = [json.loads(path.read_text()) for path in (tmp_path / "cells").rglob("result.json")]
    assert [each["devices"]["count"] for each in results if each["finished"]] == [4]


COMMANDS = """
import json, sys
from snnlth_jax import cli
from snnlth_jax.machine import hosts
hosts.connect()
hosts.connect = lambda: None
for arguments in json.loads(sys.argv[-1]):
    print("status", cli.main(arguments), flush=True)
"""


def test_bad_input_ends_all_of_them(tmp_path):
    """Also where one host alone finds it bad, or the two were started differently."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"epochs": 5}')
    here, there = ([*SEARCH, "--distributed", "--workdir", str(tmp_path / name)] for name in ("run", "other"))
    flags = ([*here, "--parallel", "pmap"], [*here, "--learning-rate", "0.3"])
    first, second = json.dumps([here, here, there]), json.dumps([*flags, there])
    statuses, told = finish(start(tmp_path, first, command=["-c", COMMANDS], second=(second,)))
    assert statuses == [0, 0], told
    different = "the hosts have different configurations"
    expected = (
        ["refused on another host", different, "--epochs 5 there, 4 now"],
        ["--parallel pmap: allowed: shard_map, on several hosts", different, "--epochs 5 there, 4 now"],
    )
    for problems, (out, err) in zip(expected, told, strict=True):
        assert re.findall(r"status (\d+)", out) == ["2"] * 3  # Gloo prints too, numbers on their own lines
        for problem, line in zip(problems, err.splitlines(), strict=True):
            assert problem in line
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module", autouse=True)
def to_nobody(tmp_path_factory):
    """A search that waits for a host that does not come: a while, beside the other tests."""
    run = tmp_path_factory.mktemp("nobody") / "run"
    command = [sys.executable, "-m", "snnlth_jax.cli", *SEARCH, "--distributed", "--workdir", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process, run
        process.kill()


def test_connecting_to_nobody_is_one_line(to_nobody):
    process, run = to_nobody
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.startswith("snnlth: error: --distributed: ")
    assert len(err.splitlines()) == 1
    assert not run.exists()
