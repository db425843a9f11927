"""`experiments/side_by_side.sh`: several processes share the cells of an experiment."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

SIDE_BY_SIDE = Path(__file__).parent.parent / "experiments" / "side_by_side.sh"
CELLS = """
import signal, sys, time
arguments = sys.argv[1:]
if "--show" in arguments:
    sys.exit(print("tables"))
number, of = map(int, arguments[arguments.index("--cells") + 1].split("/"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print(f"cell {number} of {of}", flush=True)
time.sleep(float(arguments[0]))
sys.exit(2 if number == int(arguments[1]) else 0)
"""


@pytest.mark.subprocess
@pytest.mark.parametrize(("failing", "status"), [("0", 0), ("2", 2)])
def test_processes_side_by_side_share_the_cells(tmp_path, failing, status):
    command = [str(SIDE_BY_SIDE), "3", sys.executable, "-c", CELLS, "0", failing]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "tables\n")
    assert done.stderr.count("\n") == bool(status)
    printed = [path.read_text() for path in sorted(tmp_path.glob("side_by_side_*.txt"))]
    assert printed == [f"cell {number} of 3\n" for number in (1, 2, 3)]


@pytest.mark.subprocess
def test_processes_side_by_side_stop_together(tmp_path):
    command = [str(SIDE_BY_SIDE), "2", sys.executable, "-c", CELLS, "60", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    while len([path for path in tmp_path.glob("*.txt") if path.read_text()]) < 2:
        time.sleep(0.05)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("ended with status 75")) == (75, "", 2)
