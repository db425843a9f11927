"""Searches on digits, disturbed at random moments, beside undisturbed ones: `python tests/chaos.py`.

A search is started, left alone for a random time, disturbed, and started again until it is done; then the
next, with another seed, until there were as many disturbances as asked for. Tickets, metrics, distances of
masks, and every array of the last checkpoint must then be those of a run that nobody touched. It prints a
tally, and ends with status 1 if anything differs.

    kill     SIGKILL
    stop     SIGTERM, to be answered within 30 seconds
    damage   SIGKILL, and the newest checkpoint comes to harm in one of the ways of tests/damage.py
    full     the disk fills up and has room again for the next process (a small tmpfs, which needs root)
    clock    SIGKILL, and meanwhile the clock of every process jumps, by up to years, back and forth
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import damage
import jax
import numpy as np
import orbax.checkpoint as ocp
import small

from snnlth_jax.run import directory as rundir

SMALL = ["--width", "0.25", "--batch-size", "128"]
SEARCHES = {
    "imp+et": ["imp", "--early-time", *SMALL, "--rounds", "6", "--epochs", "10", "--controls", "random"],
    "eb": ["eb", *SMALL, "--epochs", "30", "--sparsity", "0.95", "--tau", "0.001"],
}
KINDS = ("kill", "stop", "damage", "full", "clock")
JUMPING_CLOCK = """
import random, time
true, true_ns, shift = time.time, time.time_ns, 0.0
def jumped():
    global shift
    if random.random() < 0.01:
        shift = random.choice([-1, 1]) * 10 ** random.uniform(0, 8)
    return shift
time.time, time.time_ns = lambda: true() + jumped(), lambda: true_ns() + int(1e9 * jumped())
"""  # of Python alone: what waits in C would wait for years


def start(search: str, seed: int, workdir: Path, site: Path | None = None) -> subprocess.Popen:
    """A process of a search; Python imports a `sitecustomize` of the directory `site` first."""
    command = [*SEARCHES[search], "--devices", "1", "--seed", str(seed), "--workdir", str(workdir)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    paths = filter(None, [site and str(site), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen([sys.executable, "-m", "snnlth_jax.cli", *command], **pipes, env=environment)


def events(run: rundir.Paths) -> list[dict]:
    text = run.metrics.read_text() if run.metrics.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def epochs(told: list[dict]) -> int:
    return sum(event["event"] == "epoch" for event in told)


def finished(workdir: Path) -> bool:
    result = rundir.read_json(rundir.paths(workdir).result)
    return result is not None and result["finished"]


def last_arrays(run: rundir.Paths) -> dict[str, bytes]:
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(damage.newest(Path(run.checkpoints)) / "arrays")
    leaves, _ = jax.tree_util.tree_flatten_with_path(arrays)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def disturb(kind: str, process: subprocess.Popen, workdir: Path, ways: Iterator[str], tally: Counter) -> None:
    """Disturb a process and wait for its end."""
    if kind == "stop":
        process.terminate()
        begun = time.monotonic()
        process.communicate(timeout=30)
        tally["slowest answer, s"] = max(tally["slowest answer, s"], round(time.monotonic() - begun, 1))
    elif kind == "full":
        ballast = workdir.parent / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(shutil.disk_usage(workdir.parent).total))
        _, err = process.communicate(timeout=120)
        ballast.unlink()
        if process.returncode:
            assert "No space left on device" in err, err
            assert len(err.splitlines()) == 1, err
    else:
        process.kill()
        process.communicate()
    tally[f"status {process.returncode}"] += 1
    there = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    if kind == "damage" and len(there) > 1 and not finished(workdir):
        way = next(ways)
        damage.WAYS[way](damage.newest(workdir / "checkpoints"))
        tally[f"damaged: {way}"] += 1


def survive(
    search: str,
    seed: int,
    kind: str,
    workdir: Path,
    dice: random.Random,
    ways: Iterator[str],
    tally: Counter,
    site: Path | None,
    longest: float,
) -> None:
    """A search from its start to its end, disturbed in every process but the last."""
    run = rundir.paths(workdir)
    while True:
        earlier = events(run)
        before, known = epochs(earlier), [event for event in earlier if event["event"] == "start"]
        process = start(search, seed, workdir, site)
        try:
            _, err = process.communicate(timeout=dice.uniform(0, longest))
            if kind == "clock" and process.returncode == 74:  # Orbax waits by that clock
                assert "timed out" in err, err
                assert len(err.splitlines()) == 1, err
                tally["status 74"] += 1
            else:
                assert process.returncode == 0, err
        except subprocess.TimeoutExpired:
            disturb(kind, process, workdir, ways, tally)
            tally["disturbances"] += 1
        after = events(run)
        starts = [at for at, event in enumerate(after) if event["event"] == "start"]
        if starts and after[starts[-1]] not in known:  # it got as far as that
            lost = before - epochs(after[: starts[-1]])
            tally["most epochs lost"] = max(tally["most epochs lost"], lost)
            tally["resumed"] += before > 0
        if process.returncode == 0 and finished(workdir):
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--disturbances", type=int, default=50, help="of each kind, half of them per search")
    parser.add_argument("--longest", type=float, default=15.0, help="seconds that a process is left alone")
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    dice, different = random.Random(options.seed), 0
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snnlth_chaos_")))
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(root / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for kind in options.kinds.split(","):
            disk = root / kind
            disk.mkdir()
            if kind == "full":
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(disk)], check=True)
                stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
            site = None
            if kind == "clock":
                site = root / "site"
                site.mkdir()
                (site / "sitecustomize.py").write_text(JUMPING_CLOCK)
            ways = itertools.cycle(damage.WAYS)
            for search in SEARCHES:
                tally: Counter = Counter()
                for seed in itertools.count():
                    expected = rundir.paths(root / f"{search}_{seed}")
                    if not expected.result.exists():
                        process = start(search, seed, Path(expected.config.parent))
                        _, err = process.communicate()
                        assert process.returncode == 0, err
                    run = rundir.paths(disk / f"{search}_{seed}")
                    survive(
                        search, seed, kind, Path(run.config.parent), dice, ways, tally, site, options.longest
                    )
                    try:
                        small.same_outcome(run, expected)
                        arrays, others = last_arrays(run), last_arrays(expected)
                        assert arrays == others, f"{sum(arrays[k] != others[k] for k in arrays)} arrays"
                        tally["searches, all bit for bit"] += 1
                    except AssertionError as error:
                        different += 1
                        print(f"{kind}, {search}, seed {seed}: differs: {error}", flush=True)
                    if tally["disturbances"] >= options.disturbances / len(SEARCHES):
                        break
                print(f"{kind}, {search}: " + ", ".join(f"{k} {v}" for k, v in tally.items()), flush=True)
    print("nothing differs" if not different else f"{different} searches differ")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
