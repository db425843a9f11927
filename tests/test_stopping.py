"""Being asked to stop: a checkpoint, a status of its own, and nothing lost, not even within an epoch."""

import functools
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest
import small
import stub

from snnlth_jax import cli, configs
from snnlth_jax.errors import InputError
from snnlth_jax.machine import signals
from snnlth_jax.machine.signals import Stopped
from snnlth_jax.run import checkpoints
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import early_bird, imp, session

IMP = configs.ImpConfig(**small.EACH_EPOCH, num_timesteps=2, rounds=2, rewind_epoch=1, controls=("random",))
EB = configs.EbConfig(**small.EACH_EPOCH | {"epochs": 4}, num_timesteps=2, queue=2, tau=0.0)


@pytest.fixture(autouse=True)
def handlers():
    """As in a program that begins; asyncio leaves one of its own behind where a test broke it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_noted_and_the_second_is_as_ever():
    with signals.watch() as asked:
        assert asked(1) is None
        signal.raise_signal(signal.SIGINT)
        assert asked(2) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("module", "config", "times"),
    [(imp, IMP, 1), (imp, IMP, 4), (early_bird, EB, 3)],
    ids=["imp", "imp", "eb"],
)
def test_checkpoints_within_an_epoch_lose_nothing(module, config, times, tmp_path, monkeypatch):
    """One after each step, as for epochs of hours: cut off before one, the search goes on within an epoch."""
    stubs = {"programs": stub.StubPrograms()}
    _, undisturbed, _ = small.run(module, config, tmp_path / "undisturbed", **stubs)
    monkeypatch.setattr(session, "fit", functools.partial(session.fit, seconds_per_call=0.0))
    flags = stubs | {"checkpoint_minutes": 0.0}
    with monkeypatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", times + 1)
        with pytest.raises(small.Interrupted):
            small.run(module, config, tmp_path / "run", **flags)
    _, run, text = small.run(module, config, tmp_path / "run", **flags)
    # two steps an epoch: every other checkpoint is within one
    assert ("step 1 of the next" in text) == (times % 2 == 1)
    small.same_outcome(run, undisturbed)


class Signalled(stub.StubPrograms):
    """Stubs that ask the process to stop while the n-th chunk of steps is computed."""

    def __init__(self, n):
        super().__init__()
        self.chunks = itertools.count(1)
        self.n = n

    def get(self, key, compile_program):
        program, seconds = super().get(key, compile_program)
        if key[0] != "train":
            return program, seconds

        def train(*args):
            if next(self.chunks) == self.n:
                signal.raise_signal(signal.SIGTERM)
            return program.train(*args)

        return program._replace(train=train), seconds


def test_a_stopped_search_raises_and_goes_on(tmp_path):
    """In Python, asked to stop in the middle of the third chunk that each call computes."""
    _, undisturbed, _ = small.run(imp, IMP, tmp_path / "undisturbed", programs=stub.StubPrograms())
    stops = 0
    while True:
        try:
            _, run, _ = small.run(imp, IMP, tmp_path / "run", programs=Signalled(3))
            break
        except Stopped:
            stops += 1
    assert stops >= 2
    small.same_outcome(run, undisturbed)


def test_two_processes_do_not_share_a_directory(tmp_path, monkeypatch):
    programs = stub.StubPrograms()
    with monkeypatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 1)
        with pytest.raises(small.Interrupted):
            small.run(imp, IMP, tmp_path / "run", programs=programs)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with (
        rundir.hold(rundir.paths(tmp_path / "run")),
        pytest.raises(InputError, match="another process is at it"),
    ):
        small.run(imp, IMP, tmp_path / "run", programs=programs)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert small.run(imp, IMP, tmp_path / "run", programs=programs)[0]["finished"]  # it was let go


SEARCH = {
    "width": 0.1,
    "num_timesteps": 2,
    "train_examples": 96,
    "batch_size": 48,
    "epochs": 4,
    "rounds": 3,
    "rewind_epoch": 1,
    "controls": ("random",),
    "devices": 1,
}
COMMAND = ["imp"]
for name, value in SEARCH.items():
    COMMAND += [f"--{name.replace('_', '-')}", ",".join(value) if name == "controls" else str(value)]


def start(workdir):
    return subprocess.Popen(
        [sys.executable, "-m", "snnlth_jax.cli", *COMMAND, "--workdir", str(workdir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def number_of_epochs(run):
    return run.metrics.read_text().count('"event": "epoch"') if run.metrics.exists() else 0


def test_a_signal_is_answered_in_time_whatever_is_computed():
    """A handler of Python's waits for the end of the loop, and so cannot say that it takes too long."""
    loop = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: jnp.cos(x), jnp.ones(1000)).sum())

    def seconds(n):
        begun = time.monotonic()
        loop(n).block_until_ready()
        return time.monotonic() - begun

    seconds(1)
    two_seconds, answers = int(2 / seconds(20_000) * 20_000), []
    with signals.watch() as asked, signals.answered_within(0.1, answers.append):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert seconds(two_seconds) > 0.5
        assert asked(1) == signal.SIGTERM
    assert answers == [signal.SIGTERM]


def test_a_signal_that_is_answered_is_left_at_that():
    answers = []
    with signals.watch(), signals.answered_within(0.2, answers.append):
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.4)
    assert not answers


@pytest.mark.subprocess
def test_a_search_stopped_while_it_compiles_ends_in_time(tmp_path):
    """With status 75, as if there had been time for a checkpoint; there is nothing to lose yet."""
    command = [*COMMAND, "--workdir", str(tmp_path)]
    patient = "import sys; from snnlth_jax.cli import main; from snnlth_jax.commands import searches; "
    patient += f"searches.PATIENCE = 0.1; sys.exit(main({command}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-u", "-c", patient], **pipes)
    assert any("compiling" in line for line in process.stdout)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.splitlines()[-1] == (
        "snnlth: error: stopped by SIGTERM in the middle; the same command resumes after the last checkpoint"
    )


@pytest.mark.subprocess
def test_killed_and_stopped_processes_go_on_bit_for_bit(tmp_path):
    """Within the rewind epoch, a later round and the control; in three ways."""
    config = configs.ImpConfig(**SEARCH)
    _, undisturbed, _ = small.run(imp, config, tmp_path / "undisturbed", model=None)
    disturbed = rundir.paths(tmp_path / "run")
    for epochs, number in ((1, signal.SIGKILL), (6, signal.SIGTERM), (11, signal.SIGINT)):
        process = start(tmp_path / "run")
        deadline = time.monotonic() + 300
        while number_of_epochs(disturbed) < epochs:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == 75
            assert err.splitlines()[-1] == (
                f"snnlth: error: stopped by {number.name}; the same command resumes"
            )
        assert not disturbed.result.exists() or not small.json_of(disturbed.result)["finished"]
    process = start(tmp_path / "run")
    process.communicate(timeout=300)
    assert process.returncode == 0
    small.same_outcome(disturbed, undisturbed)
    assert disturbed.ticket(2).exists()


def test_a_signal_within_a_callback_of_the_collector_is_not_lost(monkeypatch, capfd):
    """Python drops what is raised there."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # which the command replaces

    def callback(phase, info):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)

    def action():
        gc.callbacks.append(callback)
        gc.collect()
        time.sleep(60)

    assert cli.exit_status(action) == 75
    assert capfd.readouterr().err == "snnlth: error: stopped by SIGTERM; the same command resumes\n"
