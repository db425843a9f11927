"""Memory, descriptors, threads and disk of a long search: `python tests/soak.py --minutes 60`.

A search of very short epochs, each with a checkpoint, runs on digits. Every few seconds its memory, file
descriptors, threads, files and the size of its checkpoints are taken; metrics.jsonl and tickets may grow. It
prints the middle value of each fifth of the time, and ends with status 1 if a last fifth is above the second
(in the first it compiles) by more than 5 %.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SEARCH = ["imp", "--num-timesteps", "2", "--width", "0.1", "--train-examples", "96", "--batch-size", "48"]
SEARCH += ["--epochs", "2000", "--rounds", "20", "--rewind-epoch", "1", "--devices", "1"]
FIFTHS, MOST_GROWTH = 5, 0.05


def size(directory: Path) -> int:
    """Bytes of the files of a directory, some of which may go meanwhile."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def sample(process: psutil.Process, workdir: Path, temporary: Path) -> dict[str, float]:
    """Resources of the process now."""
    with process.oneshot():
        held = {
            "memory, MB": process.memory_info().rss / 1e6,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
        }
    held["checkpoints, MB"] = size(workdir / "checkpoints") / 1e6
    others = [path for path in workdir.iterdir() if path.name != "checkpoints"] if workdir.exists() else []
    held["files beside"] = sum(not path.is_dir() for path in others)
    held["temporary files"] = sum(1 for _ in temporary.rglob("*"))
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long")
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    options = parser.parse_args()
    samples: list[dict[str, float]] = []
    with contextlib.ExitStack() as held:
        root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="snnlth_soak_")))
        workdir, temporary = root / "run", root / "tmp"
        temporary.mkdir()
        command = [sys.executable, "-m", "snnlth_jax.cli", *SEARCH, "--workdir", str(workdir)]
        with (root / "out").open("w") as out:
            environment = os.environ | {"TMPDIR": str(temporary)}
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        held.callback(process.kill)
        until = time.monotonic() + 60 * options.minutes
        while time.monotonic() < until and process.poll() is None:
            samples.append(sample(psutil.Process(process.pid), workdir, temporary))
            time.sleep(options.every)
        if process.poll() is not None:
            print(f"ended with status {process.returncode}:", *(root / "out").read_text().splitlines()[-3:])
            return 1
        process.terminate()
        status = process.wait()
        metrics = (workdir / "metrics.jsonl").read_text()
    epochs = metrics.count('"event": "epoch"')
    print(f"{epochs} epochs, {len(samples)} samples, status {status}")
    length, grown = len(samples) // FIFTHS, []
    for name in samples[0]:
        middles = [
            statistics.median(one[name] for one in samples[k * length : (k + 1) * length])
            for k in range(FIFTHS)
        ]
        print(f"{name:16} " + " ".join(f"{middle:9.1f}" for middle in middles))
        if middles[-1] > middles[1] * (1 + MOST_GROWTH):
            grown.append(name)
    print(f"growing: {', '.join(grown)}" if grown else "nothing grows")
    return int(bool(grown) or status != 75)


if __name__ == "__main__":
    sys.exit(main())
