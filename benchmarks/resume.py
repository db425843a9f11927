"""The cost of resume: checkpoints while a search runs, and the time until a resumed one trains again.

    python benchmarks/resume.py [--data-dir DIR] [FLAG...]

Flags are those of `snnlth imp`, by default VGG16 on CIFAR-10 at T = 5 with one step an epoch. Runs the
search in processes of their own, without and with a compilation cache: from nothing, and again in the same
directory. Prints the seconds from the start of each process to the end of its first training step, the
seconds that training pauses for a checkpoint, and those until it is written.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = ["--dataset", "cifar10", "--train-examples", "128", "--test-examples", "32", "--rewind-epoch", "1"]
EPOCHS = 3
STEPS = 391  # of an epoch of CIFAR-10 at batch 128


def child(flags: list[str], started: float) -> None:
    """A search in this process, with a clock at its first step and around its checkpoints."""
    import jax

    from snnlth_jax import cli
    from snnlth_jax.run import checkpoints
    from snnlth_jax.search import session

    times: dict[str, list[float]] = {"first step": [], "step": [], "paused": [], "written": []}

    def timed(function, what):
        def clocked(*args, **kwargs):
            begun = time.perf_counter()
            result = function(*args, **kwargs)
            times[what].append(time.perf_counter() - begun)
            return result

        return clocked

    fit, save = session.fit, checkpoints.save

    def watched(program, *args, on_progress, **kwargs):
        def progress(epoch, steps, state, metrics, seconds):
            if not times["first step"]:
                times["first step"] = [time.time() - started]
            times["step"].append(seconds / steps)
            on_progress(epoch, steps, state, metrics, seconds)

        return fit(program, *args, on_progress=progress, **kwargs)

    def saved(manager, *args):
        begun = time.perf_counter()
        timed(save, "paused")(manager, *args)
        manager.wait_until_finished()  # which a search does an epoch later
        times["written"].append(time.perf_counter() - begun)

    session.fit, checkpoints.save = watched, saved
    status = cli.main(["imp", *flags])
    newest = max(Path(flags[flags.index("--workdir") + 1]).glob("checkpoints/*"), key=lambda p: int(p.name))
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    machine = {"kind": jax.devices()[0].device_kind, "jax": jax.__version__}
    print("TIMES " + json.dumps(times | machine | {"bytes": size}))
    sys.exit(status)


def search(flags: list[str], cache: str | None) -> dict[str, Any]:
    command = [sys.executable, __file__, *flags, "--started", str(time.time())]
    enabled = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, env=os.environ | enabled, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("TIMES ")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.started is not None:
        child(flags, options.started)
    flags = [*FLAGS, *flags]
    print(f"snnlth imp {' '.join(flags)}")
    with tempfile.TemporaryDirectory(prefix="snnlth_resume_") as directory:
        for name, cache in (("without", None), ("with", f"{directory}/cache")):
            workdir = Path(directory) / name
            run = [*flags, "--workdir", str(workdir), "--epochs", str(EPOCHS)]
            first = search([*run, "--rounds", "1"], cache)
            again = search([*run, "--rounds", "2", "--override"], cache)
            seconds = [times["first step"][0] for times in (first, again)]
            print(
                f"{name} compilation cache: first step after {seconds[0]:.1f} s, resumed {seconds[1]:.1f} s"
            )
    print(f"{again['kind']}, {os.cpu_count()} cores, jax {again['jax']}")
    paused, written = (statistics.median(again[what]) for what in ("paused", "written"))
    step = min(again["step"])
    print(f"a checkpoint: {again['bytes'] / 1e6:.0f} MB, written in {written:.2f} s behind the training,")
    print(f"which pauses for {paused:.3f} s: {paused / step:.2f} steps of {step:.3f} s,")
    print(f"{100 * paused / (STEPS * step):.3f} % of an epoch of {STEPS}")


if __name__ == "__main__":
    main()
