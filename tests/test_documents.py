"""The documents are true: every block is run as it stands, or listed with the reason why it is not.

Searches run with the programs of tests/stub.py on data that are there, and are resolved where they
are not; scripts of experiments/ plan, those of benchmarks/ parse. All else is the command itself.
"""

import argparse
import dataclasses
import doctest
import importlib
import os
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image
from stub import StubPrograms

from snnlth_jax import cli, configs, report
from snnlth_jax.commands import demo, fields
from snnlth_jax.commands import words as command_line
from snnlth_jax.machine import hosts
from snnlth_jax.search import imp, programs

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SEARCH = cli.search
DEMO = []  # what it has printed
NETWORK = ROOT / "zoo" / "digits_vgg5_imp_0.958_seed0" / "network.safetensors"

CLOUD, CIFAR, AUTHORS = "a cloud account", "CIFAR-10", "files or code of the authors"
TIMES = "times and bytes of one machine"
TABLES = "the searches above take half an hour or more"
# what is not run, by file and first words: what it needs, or what it consists of
NOT_RUN = {
    ("CONTRIBUTING.md", "errors.py      bad input"): "files, see test_layout.py",
    ("docs/data.md", "snnlth data prepare tfds:kmnist"): "TensorFlow and the network",
    ("docs/data.md", "snnlth imp --dataset tfds:kmnist"): "what that leaves",
    ("docs/export.md", "model = vgg16_bn("): AUTHORS,
    ("docs/export.md", "snnlth ticket import mask_25.4.pkl"): AUTHORS,
    ("docs/export.md", "snnlth ticket import pruned.pth"): AUTHORS,
    ("docs/launching.md", "gcloud storage cp"): CLOUD,
    ("docs/launching.md", "pip install 'skypilot[gcp]'"): CLOUD,
    ("docs/launching.md", "sky check"): CLOUD,
    ("docs/launching.md", "sky jobs launch"): CLOUD,
    ("docs/launching.md", "scontrol requeue"): "a cluster",
    ("docs/launching.md", "snnlth data prepare cifar10"): "TensorFlow and the network",
    ("docs/launching.md", "xpk workload create"): CLOUD,
    ("docs/networks.md", "snnlth eval FILE --dataset cifar10"): CIFAR,
    ("docs/performance.md", "python -m venv .venv-budget"): "3 GB of compilers",
    ("docs/performance.md", ".venv-budget/bin/snnlth compile"): "3 GB of compilers",
    ("docs/performance.md", "│ network   │ T │ batch │            │ load"): TIMES,
    ("docs/performance.md", "│ vgg9:0.25 │ 4 │ 64    │ multi-step │ idle │ 140.1"): TIMES,
    ("docs/performance.md", "│ vgg5 │ 5 │ 64 │ multi-step"): TIMES,
    ("docs/performance.md", "NVIDIA H200, 16 cores, jax 0.11.2, bfloat16: matrix products at 658"): TIMES,
    ("docs/performance.md", "vgg16, T = 5, 388 steps of batch 128"): TIMES,
    ("docs/performance.md", "NVIDIA H200, 16 cores, jax 0.11.2, bfloat16: matrix products at 677"): TIMES,
    ("docs/performance.md", "│ round 0 │ 5 │"): CIFAR,
    ("docs/performance.md", "h100, vgg16"): "3 GB of compilers",
    ("docs/performance.md", "cpu, 2 cores, jax 0.10.2"): TIMES,
    ("docs/performance.md", "XLA alone: compiled in"): TIMES,
    ("docs/performance.md", "│ vgg9:0.25 │ 4 │ 64    │ multi-step │ idle │ 513.6"): TIMES,
    ("docs/performance.md", "partition     104.0"): TIMES,
    ("docs/performance.md", "vgg16, T = 5, 20 steps of batch 32"): TIMES,
    ("docs/performance.md", "epoch 15.694 s"): TIMES,
    ("docs/performance.md", "epoch 33.423 s"): TIMES,
    ("docs/performance.md", "│ network   │ traced"): TIMES,
    ("docs/results.md", "what the searches decided"): TABLES,
    ("docs/results.md", "winning tickets of imp"): TABLES,
    ("docs/search.md", "snnlth data prepare cifar10"): "TensorFlow and the network",
}


# --- what is in a document


@dataclasses.dataclass(frozen=True)
class Part:
    """A command, a piece of Python, or what was printed: a block, or the part of one that is of one kind."""

    kind: str
    text: str


def parts(document):
    """Texts of the fenced blocks of a document, in order."""
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.S | re.M):
        if language in ("python", "toml"):
            yield Part(language, code)
        elif code.startswith(">>>"):
            yield Part("python", code)
        else:
            yield from _commands_and_output(code, shell=language == "bash")


def _commands_and_output(code, shell):
    """The commands of a block; what is not one in a block of no shell has been printed."""
    printed = []
    for line in re.sub(r"\\\n", " ", code).splitlines(keepends=True):
        if shell or re.match(r"(python|snnlth|[\w./-]+/bin/\w+) ", line):
            yield from (Part("command", command) for command in simple(line))
        else:
            printed.append(line)
    if printed:
        yield Part("output", "".join(printed))


def simple(line):
    """The simple commands of a line of a shell, without comments, loops and tests.

    >>> list(simple("until snnlth imp; do [ $? = 75 ] || break; done   # until it is done"))
    ['snnlth imp']
    >>> list(simple("srun snnlth imp --x 'a b' && snnlth eb & tensorboard"))
    ["snnlth imp --x 'a b'", 'snnlth eb', 'tensorboard']
    >>> list(simple('sky jobs launch --env RUN="snnlth imp --dataset cifar10"'))
    ["sky jobs launch --env 'RUN=snnlth imp --dataset cifar10'", 'snnlth imp --dataset cifar10']
    """
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.wordchars += "$?:,@[]{}%"
    command = []
    for word in [*words, ";"]:
        if set(word) <= set(";&|"):
            if command and command[0] not in ("[", "break", "done"):
                yield shlex.join(command)
            for word in command:
                if inner := re.fullmatch(r"(?:RUN=)?(snnlth .*)", word):
                    yield from simple(inner[1])
            command = []
        elif command or word not in ("until", "do", "srun"):
            command.append(word)


def listed(document, part):
    """The key of NOT_RUN that a part has, if any."""
    for name, words in NOT_RUN:
        if document.relative_to(ROOT).as_posix() == name and part.text.startswith(words):
            return name, words
    return None


def test_what_is_listed_is_there():
    assert {listed(document, part) for document in DOCUMENTS for part in parts(document)} - {None} == {
        *NOT_RUN
    }


# --- running it


class Scene:
    """A directory with what the documents take for granted, and what has been defined and printed in one."""

    def __init__(self, directory, run, capsys):
        self.capsys, self.printed, self.images = capsys, "", np.zeros((2, 8, 8), np.uint8)
        self.names = {"images": self.images[..., None], "path": "FILE"}
        for path in ("experiments", "examples", "benchmarks"):
            shutil.copytree(ROOT / path, directory / path)
        for name in ("FILE", "networks/ticket_05.safetensors", "runs/mine/networks/ticket_05.safetensors"):
            _copy(NETWORK, directory / name)
        tickets = (
            "TICKET",
            "A",
            "B",
            "tickets/round_03.safetensors",
            "runs/mine/tickets/round_05.safetensors",
        )
        for name in tickets:
            _copy(NETWORK.with_name("ticket.safetensors"), directory / name)
        for name in ("imp_digits_vgg5_seed0", "experiments/imp", "imp", "eb", "transfer"):
            shutil.copytree(run, directory / "runs" / name)
        Image.fromarray(self.images[0]).save(directory / "image.png")
        np.save(directory / "more.npy", self.images)

    def run(self, part):
        """Run a part, or fail."""
        getattr(self, f"_{part.kind}")(part.text)
        self.printed += self.capsys.readouterr().out

    def _python(self, code):
        if not code.startswith(">>>"):
            exec(compile(code, "document", "exec"), self.names)
            if match := re.match(r"# (\w+\.py)\n", code):  # the name of its file
                Path(match[1]).write_text(code)
            return
        for example in doctest.DocTestParser().get_examples(code):
            exec(compile(example.source, "document", "single"), self.names)

    def _output(self, text):
        """Print what the document shows: to the letter, or in what no clock and no processor decides."""
        if text in self.printed:
            return
        if text.startswith("snnlth: error: --dataset float.npz"):
            with np.load("shapes.npz") as file:
                np.savez("float.npz", **{**file, "train_images": file["train_images"] / 255})
            assert cli.main(["data", "check", "float.npz"]) == 2
            assert self.capsys.readouterr().err == text
            return
        wanted, found = facts(text), facts(self.printed)
        assert wanted, f"neither compared nor listed: {text}"
        assert wanted <= found, wanted - found

    def _command(self, text):
        words = shlex.split(text)
        program = Path(words[0])
        if program.suffix == ".py":
            program, words = Path("python"), ["python", *words]
        runner = getattr(self, f"_run_{program.stem}", None)
        assert runner, f"neither run nor listed: {text}"
        runner(words[1:])

    def _run_snnlth(self, words):
        if words == ["demo"] and DEMO:  # which several documents show
            self.printed += DEMO[0]
            return
        if "--watch" in words:  # without end, see test_report_live.py
            command_line.parse(words)
            return
        assert cli.main(words) == 0, self.capsys.readouterr().err
        if words == ["demo"]:
            self.printed = self.capsys.readouterr().out
            DEMO.append(self.printed)

    def _run_cd(self, words):
        os.chdir(*words)

    def _run_tensorboard(self, words):
        assert any(Path(words[words.index("--logdir") + 1]).iterdir())

    def _run_tpu_vm(self, words):
        """The command that the launcher is given; test_tpu_vm.py launches."""
        self._command(shlex.join(words[words.index("--") + 1 :]))

    def _run_side_by_side(self, words):
        """The command that several processes get; test_side_by_side.py starts them."""
        self._command(shlex.join(words[1:]))

    def _run_make(self, words):
        (target,) = words
        if target == "demo":
            self._run_snnlth(words)
        assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.M), f"no target {target}"

    def _run_pip(self, words):
        """All that is named exists: files, extras."""
        assert words[0] == "install"
        for word in words[1:]:
            name, extras = re.fullmatch(r"([^\[]*)(?:\[(.*)\])?", word).groups()
            if name in (".", "snnlth_jax"):
                assert {*(extras or "").split(",")} - {""} <= {*PROJECT["project"]["optional-dependencies"]}
            elif name.endswith(".txt"):
                assert (ROOT / name).exists()
            elif extras:
                assert extras in metadata(name).get_all("Provides-Extra")

    def _run_python(self, words):
        """A script of experiments/ plans, or shows; those of benchmarks/ read their options."""
        script, *options = words
        assert (ROOT / script).exists(), script
        if script.startswith("benchmarks/"):
            with pytest.MonkeyPatch.context() as patch:
                parse = argparse.ArgumentParser.parse_args
                patch.setattr(argparse.ArgumentParser, "parse_args", lambda parser: _raise(parse(parser)))
                patch.setattr(sys, "argv", [script, *options])
                patch.setattr(os, "environ", dict(os.environ))
                patch.syspath_prepend(ROOT / "benchmarks")
                with pytest.raises(_Parsed):
                    runpy.run_path(str(ROOT / script), run_name="__main__")
            return
        module = importlib.import_module(Path(script).stem)
        options += [] if "--show" in options else ["--dry-run"]
        assert module.grid.main(module.cells, module.TABLES, module.CLAIMS, module.FIGURES, options) == 0


class _Parsed(Exception):
    """Ends a script that has read its options."""


def _raise(options):
    raise _Parsed(options)


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def facts(text):
    """Rounds with their sparsities and weights, and the names of the columns.

    >>> sorted(facts("round 4: sparsity 68.36 %, 21,314 weights, 7 s"))
    [('round 4', '68.36', '21,314')]
    """
    rows = re.findall(r"((?:round|random) \d+)\b.*?(\d+\.\d\d) %\D*([\d,]+)\d*", text)
    return {*rows, *(tuple(re.findall(r"[^┃\s]+", line)) for line in text.splitlines() if line[:1] == "┃")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a search."""
    config = configs.ImpConfig(**small.NETWORK, num_timesteps=2, rounds=2)
    _, paths, _ = small.run(imp, config, tmp_path_factory.mktemp("run") / "run", StubPrograms())
    return paths.config.parent


@pytest.fixture
def scene(tmp_path, run, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(programs, "SHARED", StubPrograms())
    monkeypatch.setattr(
        report, "draw", lambda *args: ([], [])
    )  # the page without its plots; see test_report.py
    monkeypatch.setattr(hosts, "connect", lambda: None)
    for name, (command, search) in cli.COMMANDS.items():
        if search is SEARCH:
            monkeypatch.setitem(cli.COMMANDS, name, (command, _searched))
    for module in (cli, demo):
        monkeypatch.setattr(module, "search", _searched)
    modules = set(sys.modules)
    yield Scene(tmp_path, run, capsys)
    for name in set(sys.modules) - modules:  # those in its directory
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def _searched(config, console=None):
    """Resolve the configuration for these devices, and search where the images are."""
    resolved = configs.resolve(config)
    configs.check_devices(resolved)
    if config.dataset == "digits" or ":" in config.dataset[5:] or os.path.exists(config.dataset):
        # most of the time is that of checkpoints, the more so on several devices
        short = {"epochs": 2, "checkpoint_every": 2, "devices": 1, "workdir": resolved.workdir}
        shutil.rmtree(resolved.workdir, ignore_errors=True)  # what the document took for granted
        SEARCH(dataclasses.replace(config, **short), console)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_in_the_text_exist(document):
    """Their names and flags; their values are words such as FILE."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)
    for command in re.findall(r"`((?:snnlth|make|python) [^`]*)`", text):
        program, *words = command.split()
        if program == "make":
            assert re.search(rf"^{words[0]}:.*##", (ROOT / "Makefile").read_text(), re.M), command
        elif program == "python":
            assert words[0] == "-m" or (ROOT / words[0]).exists(), command
        elif words[0] not in ("help", "--version"):
            group = words[0] not in cli.COMMANDS
            taken, _ = cli.COMMANDS[" ".join(words[: 1 + group])]
            flags = {flag for field in dataclasses.fields(taken) for flag in fields.flags(field)}
            given = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert given <= {*flags, "--help", "-h", "--config"}, command


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_says_what_is_so(document, scene):
    if document.name == "library.md":
        assert "docs/library.md" in PROJECT["tool"]["pytest"]["ini_options"]["testpaths"]  # a doctest
        return
    for part in parts(document):
        if listed(document, part) is None:
            scene.run(part)
