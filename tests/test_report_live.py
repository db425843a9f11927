"""`snnlth report --watch`: the page of searches under way, by a real process."""

import functools
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import small
import stub

from snnlth_jax import configs, report
from snnlth_jax.cli import main
from snnlth_jax.report import live, runs
from snnlth_jax.run import events
from snnlth_jax.run.tables import duration
from snnlth_jax.search import imp

CONFIG = configs.ImpConfig(
    **small.NETWORK | {"epochs": 2, "test_examples": 60}, num_timesteps=2, rounds=3, controls=("dense",)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "finished"
    small.run(imp, CONFIG, path, stub.StubPrograms())
    return path


@pytest.fixture
def begun(finished, tmp_path):
    """A search in its first round: no result, and metrics as far as the first epoch."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines[:2]))
    return tmp_path / "run"


def epochs(path):
    return [
        event for event in events.read_whole(path / "metrics.jsonl") if isinstance(event, events.EpochEvent)
    ]


def cells(page):
    card = page[page.index("<h3>Under way") :].split("</table>")[0]
    return re.findall("<td>(.*?)</td>", card)


def test_a_search_says_how_many_epochs_it_will_have(finished):
    """The epochs include those of a control that trains for as long as search and ticket."""
    (start,) = [e for e in events.read(finished / "metrics.jsonl") if isinstance(e, events.StartEvent)]
    assert start.epochs == len(epochs(finished)) > 6


def test_a_search_without_a_result_is_under_way(begun, finished, tmp_path):
    page = report.write([str(begun)], str(tmp_path), live=True).read_text()
    (epoch,) = epochs(begun)
    total = len(epochs(finished))
    accuracy = f"{epoch.test_accuracy:.4f}"
    expected = ["round 0", "1", f"{epoch.train_loss:.4f}", accuracy, f"1 of {total}"]
    assert cells(page)[1:] == [*expected, duration((total - 1) * epoch.seconds)]
    assert not (tmp_path / "report").exists()  # the page alone


def test_only_a_live_page_loads_itself_again(begun, finished, tmp_path):
    refresh = '<meta http-equiv="refresh"'
    alone = report.write([str(finished)], str(tmp_path / "a")).read_text()
    page = report.write([str(finished), str(begun)], str(tmp_path / "b"), live=True).read_text()
    assert refresh in page
    assert refresh not in alone
    assert "Under way" not in alone
    assert "Accuracy against sparsity" in page
    assert len(cells(page)) == 7  # the finished one is not under way
    assert "All searches are finished" in report.write([str(finished)], str(tmp_path), live=True).read_text()


def test_a_search_before_its_first_epoch_has_begun(begun):
    (begun / "metrics.jsonl").unlink()
    card = live.under_way(runs.collect([str(begun)], begun=True))
    assert "<td>begun</td>" in card


def test_what_is_no_search_cannot_be_watched(tmp_path, capsys):
    for name, message in ((str(tmp_path), "no search"), ("gs://bucket/run", "is a bucket")):
        assert main(["report", name, "--watch", "--output", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.subprocess
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_follows_its_search_until_it_is_stopped(begun, finished, tmp_path, number):
    output, hurry = tmp_path / "out", "from snnlth_jax.report import live; live._SECONDS = 0.05"
    arguments = ["report", str(begun), "--watch", "--output", str(output)]
    program = f"import sys; from snnlth_jax import cli; {hurry}; sys.exit(cli.main({arguments}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    as_usual = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even in `make test &`
    process = subprocess.Popen([sys.executable, "-u", "-c", program], **pipes, preexec_fn=as_usual)
    try:
        until(process, lambda: (output / "report.html").exists())
        with (begun / "metrics.jsonl").open("a") as file:
            for line in (finished / "metrics.jsonl").read_text().splitlines(keepends=True)[2:3]:
                file.write(line)
        until(process, lambda: "<td>2 of " in (output / "report.html").read_text())
        shutil.copy(finished / "result.json", begun)
        until(process, lambda: "All searches are finished" in (output / "report.html").read_text())
        page = (output / "report.html").read_text()
        shutil.rmtree(begun)
        assert "until Ctrl-C" in process.stdout.readline()
        assert "no such directory" in process.stdout.readline()
        assert (output / "report.html").read_text() == page
    finally:
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def until(process, happens):
    deadline = time.monotonic() + 120
    while not happens():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
