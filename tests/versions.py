"""A search that begins on one Python and ends on another: `python tests/versions.py PYTHON...`.

This Python begins a search on digits, which is stopped with SIGTERM after some epochs; each of the others
resumes a copy of it. Its result must be that of a search that this Python ends by itself, to the last bit, or
its output must have the line that says from where it is equal up to rounding only; and then the number of its
phases and weights must be the same. It prints the versions and the outcome, and ends with status 1 otherwise.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small

from snnlth_jax.run import directory as rundir

SEARCH = ["imp", "--early-time", "--width", "0.25", "--train-examples", "400", "--batch-size", "100"]
SEARCH += ["--epochs", "6", "--rounds", "2", "--rewind-epoch", "1", "--controls", "random", "--devices", "1"]
VERSIONS = "import sys, jax, flax; print('Python', sys.version.split()[0], 'jax', jax.__version__, end=' ')"
VERSIONS += "; print('flax', flax.__version__)"


def start(python: str, workdir: Path) -> subprocess.Popen:
    """The search, by an interpreter."""
    command = [python, "-m", "snnlth_jax.cli", *SEARCH, "--workdir", str(workdir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped(workdir: Path, epochs: int) -> None:
    """Begin the search here, and stop it once it has this number of epochs."""
    process, run = start(sys.executable, workdir), rundir.paths(workdir)
    while not run.metrics.exists() or run.metrics.read_text().count('"event": "epoch"') < epochs:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75, err


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "pythons", nargs="+", metavar="PYTHON", help="interpreters with what the search needs"
    )
    parser.add_argument("--epochs", type=int, default=9, help="before it is stopped")
    options = parser.parse_args()
    os.environ["SNNLTH_ONEDNN"] = "0"  # not everywhere there, and then another line
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="snnlth_versions_") as name:
        root = Path(name)
        whole = start(sys.executable, root / "whole")
        _, err = whole.communicate()
        assert whole.returncode == 0, err
        stopped(root / "stopped", options.epochs)
        for number, python in enumerate([sys.executable, *options.pythons]):
            workdir = root / f"run{number}"
            shutil.copytree(root / "stopped", workdir)
            process = start(python, workdir)
            out, err = process.communicate()
            lines = [line for line in out.splitlines() if "equal up to rounding" in line]
            versions = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout.strip()
            outcome = f"status {process.returncode}: {err.strip()[-300:]}"
            if process.returncode == 0:
                try:
                    small.same_outcome(rundir.paths(workdir), rundir.paths(root / "whole"))
                    outcome = "identical"
                except AssertionError:
                    outcome = "differs"
                rows = [small.json_of(run / "result.json")["rounds"] for run in (workdir, root / "whole")]
                assert [row["kept"] for row in rows[0]] == [row["kept"] for row in rows[1]]
            print(f"{versions}: {outcome}", *lines, sep="\n    ", flush=True)
            wrong += outcome != "identical" and not (outcome == "differs" and lines)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
