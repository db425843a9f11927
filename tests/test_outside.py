"""Input from outside of the program: files of any origin, streams that fail, settings of the machine."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
from etils import epath
from stub import StubPrograms

from snnlth_jax import configs, errors, files, networks, streams, tickets
from snnlth_jax.cli import exit_status, main
from snnlth_jax.commands import output
from snnlth_jax.errors import InputError, StorageError
from snnlth_jax.machine import compile_cache, numerics
from snnlth_jax.run import directory as rundir
from snnlth_jax.run import events, results, tables
from snnlth_jax.run.metrics import Recorder
from snnlth_jax.search import imp, session

NO_TEXTS = ["\x1b[31mred", "a\nb", "a\0b", "\ud800", "\x7f", "\x9b"]
CONFIG = {"dataset": "digits", "arch": "vgg5", "num_timesteps": 4, "seed": 0}
ROW = {"kind": "round", "round": 0, "kept": 3, "total": 4, "network": "lif T=4", "num_timesteps": 4}
ROW |= {"epochs": 1, "ticket": None}


def result(**changes):
    whole = {
        "method": "imp",
        "finished": True,
        "config": CONFIG,
        "rounds": [ROW],
        "tickets": [],
        "controls": [],
    }
    return whole | changes


# --- files


@pytest.mark.parametrize("path", ["/dev/zero", ".", "/dev/null/x", "nowhere", "a\0b", "\ud800", "a/" * 3000])
def test_only_regular_files_are_read(path):
    for read in (files.read, results.read, tickets.load, rundir.read_json, events.read_whole):
        try:
            assert not read(epath.Path(path))  # of read_json and read_whole
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "result.json")
    with pytest.raises(InputError, match="but a directory, a pipe or a device"):
        results.read(epath.Path(tmp_path / "result.json"))
    assert rundir.read_json(epath.Path(tmp_path / "result.json")) is None


def test_no_more_is_read_than_allowed(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"123")
    assert files.read(path, most=3) == b"123"
    with pytest.raises(InputError, match=r"large: more than 2 bytes, too many for a ticket file$"):
        files.read(path, "ticket file", most=2)


@pytest.mark.parametrize(
    "text", ["epochs = " + "9" * 5000, "a = " + "[" * 5000, "\0", "a = '" + "\xff" * 2**16, b"\xff"]
)
def test_a_configuration_file_of_anything_is_one_line(text, tmp_path, capsys):
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["imp", "--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"snnlth: error: {path}: ")


# --- texts


@pytest.mark.parametrize("text", NO_TEXTS)
def test_names_in_results_are_printable(text):
    changes = [{"method": text}, {"config": CONFIG | {"dataset": text}}, {"config": CONFIG | {"arch": text}}]
    changes += [{"rounds": [ROW | {name: text}]} for name in ("kind", "network", "ticket")]
    changes += [{"rounds": [ROW | {"collapsed_layers": [text]}]}]
    for change in changes:
        with pytest.raises(ValueError, match="matching regex"):
            results.from_json(result(**change))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "..", "a/..", "", "a/b/c"])
def test_names_of_files_in_results_stay_within_the_run(name):
    for field in ("ticket", "kind"):
        with pytest.raises(ValueError, match="matching regex"):
            results.from_json(result(rounds=[ROW | {field: name}]))


@pytest.mark.parametrize("text", [*NO_TEXTS, "[/]", "[bold]x"])
def test_what_is_printed_is_escaped_and_no_markup(text, capsys):
    output.show(text)
    console = tables.Console(file=io.StringIO(), width=80)
    table = tables.new_table(text, text, text)
    table.add_row(text, text)
    console.print(table)
    tables.say(console, text)
    for printed in (console.file.getvalue(), capsys.readouterr().out):
        assert all(c.isprintable() or c == "\n" for c in printed)
        assert "a" not in text.replace("\0", "a") or "\\" in printed or "[" in text or "\n" in text
    assert errors.printable("[/]é ü") == "[/]é ü"


def test_a_ticket_of_any_provenance_is_printed(tmp_path, capsys):
    w = {"w": np.ones((2, 2), np.float32)}
    provenance = dict(zip(NO_TEXTS, NO_TEXTS, strict=True)) | {"deep": [[["\x1b"]]]}
    tickets.save(tmp_path / "t", tickets.Ticket({"w": w["w"] > 0}, w, {}, provenance))
    assert main(["ticket", "inspect", str(tmp_path / "t")]) == 0
    assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().out)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1])
def test_a_ticket_that_no_network_can_train_from_is_refused(value):
    w = {"w": np.full((2, 2), value)}
    ticket = tickets.Ticket({"w": np.ones((2, 2), bool)}, w, {}, {})
    with pytest.raises(InputError, match=r"^t: params/w (holds numbers that are not finite|is no array of)"):
        tickets.check_trainable("t", ticket, w)
    good = {"w": np.ones((2, 2))}
    tickets.check_trainable("t", tickets.Ticket({"w": np.ones((2, 2), bool)}, good, {}, {}), good)
    with pytest.raises(InputError, match=r"^t: masks of another network"):
        tickets.check_trainable("t", tickets.Ticket({"w": None}, good, {}, {}), good)


# --- the boundary


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 2, "runs: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"\xff"), 2, "\\udcff: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), 74, "the system: No space left on device"),
        (OSError("odd"), 2, "OSError: odd"),
        (ModuleNotFoundError("No module named 'gcsfs'"), 2, "ModuleNotFoundError: No module named 'gcsfs'"),
        (MemoryError(), 2, "MemoryError: "),
        (ValueError("embedded null byte"), 2, "the name of a file holds a zero byte"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 2, "the devices have no memory for it"),
    ],
)
def test_errors_of_the_world_outside_are_one_line(error, status, line, capsys):
    def fail():
        raise error

    assert exit_status(fail) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"snnlth: error: {line}")


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), AssertionError("x"), ZeroDivisionError("x")]
)
def test_bugs_are_not_hidden(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        exit_status(fail)


@pytest.mark.parametrize("command", [["ticket", "inspect"], ["analyse"], ["report"], ["eval"], ["train"]])
@pytest.mark.parametrize("place", ["gs://b/x", "s3://b/x", "http://b/x", "gs://", "x://y"])
def test_places_without_their_package_are_one_line(command, place, capsys, monkeypatch):
    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main([*command, place]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("workdir", ["a\0b", "\udcff"])
def test_a_workdir_is_text(workdir, capsys):
    assert main(["imp", "--workdir", workdir]) == 2
    assert capsys.readouterr().err.startswith("snnlth: error: --workdir ")


# --- streams


class _Full(io.RawIOBase):
    """A file on a full disk, or one whose reader is gone."""

    def __init__(self, number):
        self.error = OSError(number, os.strerror(number))

    def writable(self):
        return True

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)

    def write(self, _):
        raise self.error


@pytest.mark.parametrize(("number", "status"), [(errno.EPIPE, 0), (errno.ENOSPC, 74), (errno.EIO, 74)])
@pytest.mark.parametrize("length", [1, 100_000])
def test_output_that_cannot_be_written_stops_nothing(number, status, length, monkeypatch, capsys):
    stream = io.TextIOWrapper(io.BufferedWriter(_Full(number)))
    monkeypatch.setattr(sys, "stdout", stream)
    done = []

    def action():
        for _ in range(3):
            print(length * "x")
        done.append(True)

    assert exit_status(action) == status
    assert done
    assert sys.stdout is stream
    lost = f"snnlth: error: standard output: {os.strerror(number)}\n"
    assert capsys.readouterr().err == (lost if status else "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_any_encoding_takes_any_text(encoding, monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
    with streams.guarded() as lost:
        print("T' → ± é \ud800")
    assert not lost
    assert b"T" in buffer.getvalue()


def test_a_stream_that_somebody_kept_goes_on(capsys, monkeypatch):
    """As that of a logger of another library, which was made within."""
    buffer = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", buffer)
    with streams.guarded():
        handler = logging.StreamHandler()
    handler.emit(logging.makeLogRecord({"msg": "later"}))
    assert buffer.buffer.getvalue() == b"later\n"


@pytest.mark.subprocess
def test_the_command_in_a_pipe_on_a_full_disk_and_without_streams():
    """In processes of their own: what Python does at its end counts too."""
    command = f"{sys.executable} -c 'import sys; from snnlth_jax._extra import command; sys.exit(command())'"
    cases = {
        f"{command} ticket inspect --help | true": 0,
        f"{command} --help > /dev/full": 74,
        f"{command} --help > /dev/full 2>&1": 74,
        f"PYTHONIOENCODING=ascii {command} ticket inspect --help": 0,
        f"{command} ticket inspect nowhere 2>&-": 2,
        f"{command} ticket --help >&- <&-": 0,
        f"JAX_ENABLE_X64=maybe {command} --help": 2,
        f"mkdir gone && cd gone && rmdir ../gone && {command} analyse .": 2,
    }
    for case, status in cases.items():
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {case}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, case
        assert done.stderr.count("snnlth: error: ") == done.stderr.count("\n") <= 1 or "gone" in case, (
            done.stderr
        )
        assert "Traceback" not in done.stderr


# --- settings of the machine, and files that go away

SEARCH = configs.ImpConfig(**small.EACH_EPOCH, rounds=3, rewind_epoch=1, num_timesteps=2)


@contextlib.contextmanager
def other_settings():
    offset = jax.config.jax_random_seed_offset
    jax.config.update("jax_random_seed_offset", offset + 5)
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.default_matmul_precision("bfloat16"),
        jax.disable_jit(),
        jax.transfer_guard("disallow"),
    ):
        yield
    jax.config.update("jax_random_seed_offset", offset)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small.run(imp, SEARCH, tmp_path_factory.mktemp("run") / "run", StubPrograms())[1]


def test_results_do_not_depend_on_the_settings_of_jax(run, tmp_path):
    with other_settings():
        _, other, _ = small.run(imp, SEARCH, tmp_path / "run", StubPrograms())
        assert jax.config.jax_enable_x64  # the user's own are back
    small.same_outcome(run, other)


def unfinished(run, directory):
    """A copy of a run whose last result was not written."""
    shutil.copytree(run.config.parent, directory)
    (directory / "result.json").unlink()
    return directory


def test_a_run_without_its_tickets_does_not_resume(run, tmp_path):
    for name in ("tickets/round_00.safetensors", "config.json", "metrics.jsonl"):
        directory = unfinished(run, tmp_path / name.replace("/", "-"))
        (directory / name).unlink()
        with pytest.raises(InputError, match=r"gone; allowed|without a config\.json"):
            small.run(imp, SEARCH, directory, StubPrograms())


def test_a_finished_run_names_what_is_gone(run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(run.config.parent, directory)
    (directory / "tickets/round_01.safetensors").unlink()
    _, _, text = small.run(imp, SEARCH, directory, StubPrograms())
    assert "this search is finished, but of its files tickets/round_01.safetensors is gone\n" in text


def test_a_run_of_other_software_says_from_where_it_is_equal_up_to_rounding(run, tmp_path, monkeypatch):
    monkeypatch.setattr(numerics, "software", lambda: "jax 9.9.9")
    _, _, text = small.run(imp, SEARCH, unfinished(run, tmp_path / "run"), StubPrograms())
    assert re.search(
        r"^on jax 9\.9\.9, not jax \S+ jaxlib .*: from here on equal up to rounding$", text, re.M
    )


def test_what_changes_the_last_bits_is_part_of_the_software(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    plain = numerics.software()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true --xla_dump_to=/nowhere")
    with jax.numpy_dtype_promotion("strict"):  # decides no numbers
        assert numerics.software() == f"{plain} --xla_cpu_enable_fast_math=true"
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        changed = numerics.software()
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert changed == f"{plain} --xla_cpu_enable_fast_math=true jax_disable_most_optimizations True"


@pytest.mark.parametrize("field", ["momentum", "epochs", "controls", "early_time", "width"])
def test_a_run_of_a_version_with_a_field_less_resumes(run, tmp_path, field, caplog):
    directory = unfinished(run, tmp_path / "run")
    config = json.loads((directory / "config.json").read_text())
    missing = config.pop(field)
    (directory / "config.json").write_text(json.dumps(config))
    if field == "width":  # not as it would be by default
        with pytest.raises(InputError, match=rf"width 1\.0 there, {missing} now"):
            small.run(imp, SEARCH, directory, StubPrograms())
        return
    _, paths, _ = small.run(imp, SEARCH, directory, StubPrograms())
    assert f"without some settings: {field} is taken as {missing}" in caplog.text
    small.same_outcome(run, paths)


@pytest.mark.parametrize("name", ["", "metrics.jsonl", "config.json", "tickets"])
def test_files_that_go_away_while_it_runs_are_one_line(name, tmp_path, monkeypatch):
    directory, epochs = tmp_path / "run", []

    class Leaving(Recorder):
        def record(self, event):
            super().record(event)
            epochs.append(event)
            if len(epochs) == 9:  # in the middle
                target = directory / name
                shutil.rmtree(target) if target.is_dir() else target.unlink()

    monkeypatch.setattr(session, "Recorder", Leaving)
    with pytest.raises(StorageError, match=r"^workdir .*: "):
        small.run(imp, SEARCH, directory, StubPrograms())
    assert (
        not (directory / "result.json").exists() or not small.json_of(directory / "result.json")["finished"]
    )


def test_the_oldest_programs_are_forgotten(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (100 - age, 100 - age))
    compile_cache._forget_oldest(tmp_path, most=11)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


# --- every bit of a file


@pytest.mark.parametrize("kind", ["ticket", "network"])
def test_every_bit_of_a_file_counts(kind, tmp_path):
    path, w = tmp_path / "file", np.float32([[1, 0], [0, 2]])
    if kind == "ticket":
        tickets.save(path, tickets.Ticket({"w": w > 0}, {"w": w}, {}, {"seed": 4 / 3, "é": "ÿ"}))
    else:
        recipe = networks.Recipe("vgg5", 10, (8, 8, 1), (0.5,), (0.5,), 4)
        networks.save(path, networks.Network(recipe, {"w": w > 0}, {"w": w}, {}, {"é": "ÿ"}))
    load = {"ticket": tickets.load, "network": networks.load}[kind]
    content, accepted = path.read_bytes(), []
    load(path)
    for bit in range(8 * len(content)):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        try:
            load(path)
        except InputError:
            continue
        accepted.append(bit)
    assert not accepted
