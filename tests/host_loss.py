"""A search of two hosts that loses one again and again: `python tests/host_loss.py --kills 20`.

Each host is a supervisor, `experiments/again.sh`, over the loopback interface. After a random time the
process of one of the two gets SIGKILL. The other must end before that one is started again, 45 seconds later,
with status 69 and one line, unless it was still waiting for its connection; its supervisor starts it again
too. That goes on until the search is done; then comes the next, with another seed, until there were as many
kills as asked for. Metrics, tickets and result must be those of a search that nobody disturbed. It prints a
tally, and ends with status 1 if anything differs.
"""

import argparse
import contextlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import small

from snnlth_jax.machine import host_loss
from snnlth_jax.run import directory as rundir

AGAIN = Path(__file__).parent.parent / "experiments" / "again.sh"
SEARCH = ["imp", "--num-timesteps", "2", "--width", "0.1", "--train-examples", "96", "--batch-size", "48"]
SEARCH += ["--rewind-epoch", "1", "--controls", "random"]
PROGRAM = """
import sys
from snnlth_jax import cli
from snnlth_jax.machine import host_loss
host_loss.HEARTBEAT = int(sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""
LINE = "snnlth: error: another host is gone; the same command on all hosts resumes after the last checkpoint"


def environments(devices: int) -> list[dict[str, str]]:
    """Variables of two processes that find each other over the loopback interface, each with some devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    several = "--xla_force_host_platform_device_count="
    flags = re.sub(rf"{several}\d+", "", os.environ.get("XLA_FLAGS", ""))
    both = os.environ | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} {several}{devices}",
    }
    return [both | {"JAX_PROCESS_ID": str(index)} for index in range(2)]


class Hosts:
    """Two supervisors of one search, each with what it and its processes print."""

    def __init__(self, workdir: Path, search: list[str], heartbeat: int, pause: float, devices: int = 1):
        command = [str(AGAIN), sys.executable, "-c", PROGRAM, str(heartbeat), *search]
        command += ["--distributed", "--workdir", str(workdir)]
        again = {"AGAIN_SECONDS": str(pause), "AGAIN_ATTEMPTS": "1000"}
        self.run, self.supervisors = rundir.paths(workdir), []
        self.logs = [workdir.parent / f"{workdir.name}.{index}" for index in range(2)]
        for log, host in zip(self.logs, environments(devices), strict=True):
            with log.open("w") as out:
                self.supervisors.append(
                    psutil.Popen(command, env=host | again, stdout=subprocess.DEVNULL, stderr=out)
                )

    def process(self, index: int) -> psutil.Process | None:
        """The process of a host; None while its supervisor waits."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.supervisors[index].children():
                if "-c" in child.cmdline():
                    return child
        return None

    def epochs(self) -> int:
        """Number of epochs in metrics.jsonl."""
        return self.run.metrics.read_text().count('"event": "epoch"') if self.run.metrics.exists() else 0

    def over(self) -> bool:
        """Whether a supervisor has ended."""
        return any(supervisor.poll() is not None for supervisor in self.supervisors)

    def lose(self, index: int) -> tuple[float, list[str]] | None:
        """Kill a process and wait for the end of the other one.

        Returns:
          The seconds that took, and the lines that the other printed; None if it did not end since the two
          were not yet connected, or one was at its end.
        """
        victim, other = self.process(index), self.process(1 - index)
        if victim is None or other is None:
            return None
        log = self.logs[1 - index]
        before = len(log.read_text())
        victim.send_signal(signal.SIGKILL)
        begun = time.monotonic()
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            if (new := self.process(index)) and new.pid != victim.pid:
                return None
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        time.sleep(0.5)
        return seconds, log.read_text()[before:].splitlines()

    def wait(self) -> list[int]:
        """The statuses of the supervisors at the end."""
        return [supervisor.wait() for supervisor in self.supervisors]

    def end(self) -> None:
        """End what is left of it."""
        for supervisor in self.supervisors:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [*supervisor.children(recursive=True), supervisor]:
                    process.kill()


@contextlib.contextmanager
def hosts(*arguments: object, **more: object) -> Iterator[Hosts]:
    """Two hosts, which are ended with the context."""
    both = Hosts(*arguments, **more)
    try:
        yield both
    finally:
        both.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=25, help="seconds until a kill")
    parser.add_argument(
        "--heartbeat", type=int, default=host_loss.HEARTBEAT, help="seconds; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    dice, tally, slowest, wrong = random.Random(options.seed), Counter(), 0.0, []
    timing = (options.heartbeat, options.heartbeat + host_loss.SLACK)
    with tempfile.TemporaryDirectory(prefix="snnlth_hosts_") as name:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{name}/cache"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        for seed in itertools.count():
            search = [*SEARCH, "--seed", str(seed), "--epochs", "25", "--rounds", "3"]
            with hosts(Path(name) / f"undisturbed_{seed}", search, *timing) as alone:
                assert alone.wait() == [0, 0], alone.logs[0].read_text()
            with hosts(Path(name) / f"run_{seed}", search, *timing) as both:
                while not both.over():
                    time.sleep(dice.uniform(0, options.longest))
                    index = dice.randrange(2)
                    if tally["kills"] >= options.kills:
                        break
                    if (lost := both.lose(index)) is None:
                        tally["not connected or just over"] += 1
                        continue
                    seconds, lines = lost
                    tally["kills"] += 1
                    tally[f"of process {index}"] += 1
                    slowest = max(slowest, seconds)
                    told, *again = lines or [""]
                    if told != LINE or not all(
                        line.startswith("again: ended with status 69,") for line in again
                    ):
                        wrong.append(lines)
                        print(f"seed {seed}, process {index} killed: {lines}", flush=True)
                    print(f"process {index} killed, the other ended after {seconds:.1f} s", flush=True)
                statuses = both.wait()
                try:
                    assert statuses == [0, 0], statuses
                    small.same_outcome(both.run, alone.run)
                    tally["searches, all bit for bit"] += 1
                except AssertionError as error:
                    wrong.append(error)
                    print(f"seed {seed}: differs: {error}", flush=True)
            if tally["kills"] >= options.kills:
                break
    print(
        ", ".join(f"{name} {count}" for name, count in tally.items()),
        f"slowest end {slowest:.1f} s",
        sep=", ",
    )
    print("nothing wrong" if not wrong else f"{len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
