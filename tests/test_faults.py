"""Files come to harm, disks fill up: a search goes on from what is good, or stops with one line."""

import json
import os
import shutil
import subprocess
import sys

import damage
import orbax.checkpoint as ocp
import pytest
import small
import stub

from snnlth_jax import configs, tickets
from snnlth_jax.errors import InputError, StorageError
from snnlth_jax.run import checkpoints
from snnlth_jax.run import directory as rundir
from snnlth_jax.search import imp

PROGRAMS = stub.StubPrograms()
CONFIG = configs.ImpConfig(
    **small.EACH_EPOCH, num_timesteps=2, rounds=2, rewind_epoch=1, controls=("random",)
)


# what Orbax leaves behind of reads and writes that failed
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return small.run(imp, CONFIG, tmp_path_factory.mktemp("undisturbed") / "run", programs=PROGRAMS)[1]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed in its second round, with three checkpoints."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        small.cut_off(patch, checkpoints, "save", 5)
        with pytest.raises(small.Interrupted):
            small.run(imp, CONFIG, directory, programs=PROGRAMS)
    assert len(list((directory / "checkpoints").iterdir())) == 3
    return directory


@pytest.mark.parametrize("way", damage.WAYS)
def test_a_damaged_newest_checkpoint_is_passed_over(way, stopped, undisturbed, tmp_path, caplog):
    """Said, and without a trace in the result."""
    shutil.copytree(stopped, tmp_path / "run")
    newest = damage.newest(tmp_path / "run" / "checkpoints")
    damage.WAYS[way](newest)
    _, run, text = small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    assert f"checkpoint {newest.name} cannot be read" in caplog.text
    assert "resuming after round 0, epoch 3" in text  # the newest was one epoch later
    small.same_outcome(run, undisturbed)


def test_with_no_good_checkpoint_nothing_is_made_up_or_lost(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    directories = (tmp_path / "run" / "checkpoints").iterdir()
    for directory, way in zip(directories, damage.WAYS.values(), strict=False):
        way(directory)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"none of the checkpoints \[.*\] can be read"):
        small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    assert contents(tmp_path / "run") == before


LOST = {
    "checkpoints": ("its checkpoints are gone", lambda run: shutil.rmtree(run.checkpoints)),
    "metrics": ("lines of its metrics.jsonl are gone", lambda run: run.metrics.unlink()),
    "some metrics": (
        "lines of its metrics.jsonl are gone",
        lambda run: run.metrics.write_text("".join(run.metrics.read_text().splitlines(True)[:2])),
    ),
    "config": ("its config.json is damaged", lambda run: run.config.write_text("")),
    "directory": (
        "its checkpoints is damaged",
        lambda run: (shutil.rmtree(run.checkpoints), run.checkpoints.write_text("")),
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_files_that_are_gone_are_missed(what, stopped, tmp_path):
    """It does not begin anew over what is left."""
    message, lose = LOST[what]
    shutil.copytree(stopped, tmp_path / "run")
    lose(rundir.paths(tmp_path / "run"))
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    assert contents(tmp_path / "run") == before


def test_a_file_system_that_fails_once_is_asked_again(stopped, undisturbed, tmp_path, monkeypatch, caplog):
    shutil.copytree(stopped, tmp_path / "run")
    restore, failures = ocp.CheckpointManager.restore, iter([OSError("stale file handle")])

    def once(*args, **kwargs):
        for failure in failures:
            raise failure
        return restore(*args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", once)
    _, run, _ = small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    assert "cannot be read" not in caplog.text
    small.same_outcome(run, undisturbed)


def test_a_checkpoint_that_was_never_finished_does_not_count(stopped, undisturbed, tmp_path, caplog):
    shutil.copytree(stopped, tmp_path / "run")
    newest = damage.newest(tmp_path / "run" / "checkpoints")
    newest.rename(newest.with_name(f"{newest.name}.orbax-checkpoint-tmp"))
    _, run, _ = small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    assert "cannot be read" not in caplog.text
    small.same_outcome(run, undisturbed)


def test_a_ticket_that_was_cut_short_stops_the_search(stopped, undisturbed, tmp_path):
    """The control starts from the ticket's file, which the next process writes again from its checkpoint."""
    shutil.copytree(stopped, tmp_path / "run")
    run = rundir.paths(tmp_path / "run")
    save = tickets.save

    def cut_short(path, ticket):
        save(path, ticket)
        path.write_bytes(path.read_bytes()[:-9])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tickets, "save", cut_short)
        with pytest.raises(InputError, match=r"round_01.safetensors: not a ticket file, or cut short"):
            small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    assert not json.loads(run.result.read_text())["finished"]
    small.run(imp, CONFIG, tmp_path / "run", programs=PROGRAMS)
    small.same_outcome(run, undisturbed)


def mounted(directory, options):
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(directory)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    return directory


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte: three checkpoints fit, and not much else."""
    disk = mounted(tmp_path / "disk", "size=1m")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.subprocess
def test_a_full_disk_stops_the_search_and_loses_nothing(small_disk, undisturbed):
    """It fills up at different moments; with room again the search goes on to the same result."""
    messages = []
    for room in (0, 30_000, 90_000, 180_000, 300_000, 400_000):
        ballast = small_disk / "ballast"
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(max(0, free - room)))
        try:
            small.run(imp, CONFIG, small_disk / "run", programs=PROGRAMS)
        except (StorageError, InputError) as error:
            messages.append(str(error))
        ballast.unlink()
    assert len(messages) >= 3
    for message in messages:
        assert "No space left on device" in message
        assert len(message.splitlines()) == 1
    _, run, _ = small.run(imp, CONFIG, small_disk / "run", programs=PROGRAMS)
    small.same_outcome(run, undisturbed)


@pytest.mark.subprocess
def test_a_read_only_directory_is_one_line(small_disk, stopped):
    shutil.copytree(stopped, small_disk / "run")
    before = contents(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = ["imp", "--rounds", "2", "--workdir", str(small_disk / "new")]
    done = subprocess.run([sys.executable, "-m", "snnlth_jax.cli", *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"snnlth: error: --workdir {small_disk}/new: ")
    assert "Read-only file system" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(InputError, match="Read-only file system"):
        small.run(imp, CONFIG, small_disk / "run", programs=PROGRAMS)
    assert contents(small_disk) == before
