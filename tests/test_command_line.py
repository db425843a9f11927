"""What a newcomer types: versions, help, completion, slips of the pen, configuration files."""

import re
import subprocess
import sys

import pytest

import snnlth_jax
from snnlth_jax.cli import COMMANDS, main


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Each test in a directory of its own, on a terminal of 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def shown(capsys, *arguments):
    """What a command that asks for help prints."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments):
    """The line of a command that is refused."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("snnlth: error: ").rstrip()


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"snnlth_jax {snnlth_jax.__version__}\n"


@pytest.mark.subprocess
def test_the_package_is_the_command():
    command = [sys.executable, "-m", "snnlth_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == f"snnlth_jax {snnlth_jax.__version__}\n"


def test_help_lists_every_command_and_each_has_its_own(capsys):
    overview = shown(capsys, "help")
    assert overview == shown(capsys, "--help") == shown(capsys, "-h")
    for name in COMMANDS:
        assert re.search(rf"^  {name.split()[0]} ", overview, re.M)
    assert "transplant" in shown(capsys, "help", "ticket")
    assert shown(capsys, "help", "imp") == shown(capsys, "imp", "--help")
    assert shown(capsys, "help", "ticket", "diff") == shown(capsys, "ticket", "diff", "--help")
    assert "nearest: imp" in refused(capsys, "help", "impp")


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["snnlth", "tr"], {"train", "transfer"}),
        (["snnlth", "ticket", "d"], {"diff"}),
        (["snnlth", "imp", "--rou"], {"--rounds"}),
        (["snnlth", "imp", "--dataset", "cifar"], {"cifar10", "cifar100"}),
        (["snnlth", "eb", "--schedule", "c"], {"cosine"}),
        (["snnlth", "ticket", "combine", "--out"], {"--output"}),
        (["snnlth", "help", "e"], {"eb", "eval", "export"}),
    ],
)
def test_bash_completes(words, completed, capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    program = f"source ./script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
    program += 'COMPREPLY=(); _snnlth; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) == completed
    assert done.stderr == ""
