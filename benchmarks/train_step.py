"""Our training step beside the same network built from SpikingJelly's layers, alternating, in one run.

    python benchmarks/train_step.py --peer PYTHON [--arch vgg16,resnet19] [--timesteps 5] [--batch 32] ...

PYTHON is the interpreter of an environment with torch and spikingjelly, which are kept out of this one;
without it ours runs alone. Both start from the same weights and train on the same batch: forward, loss,
backward, SGD with momentum and weight decay. The losses of the first and of the third step are shown; the
first of `authors` has to be ours to a hundredth: a spike more or less by rounding grows from layer to layer
(the golden tests compare in double precision). The matrix rate is that of square matrix products measured
here, in the same precision. With --name the rows go to benchmarks/results/NAME.json.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs room on the same device

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from snnlth_jax import cost, models, optimizers, training
from snnlth_jax.interop.torch import to_state_dict

RESULTS = Path(__file__).parent / "results"
MODES = ("authors", "multi-step", "multi-step compiled")


class Ours:
    """`training.train_step` on one batch, in a compiled loop as a search runs it, its state donated."""

    def __init__(self, model, state, batch, timesteps):
        step = functools.partial(
            training.train_step,
            model=model,
            tx=optimizers.create(),
            learning_rate=0.1,
            num_timesteps=timesteps,
        )

        def loop(state, batch, steps):
            def body(_, carry):
                return step(carry[0], batch)

            return jax.lax.fori_loop(0, steps, body, (state, training.zero_metrics()))

        begun = time.perf_counter()
        self._steps = jax.jit(loop, donate_argnums=0).lower(state, batch, jnp.int32(1)).compile()
        self.compile_seconds = time.perf_counter() - begun
        self._state, self._batch = jax.tree.map(jnp.array, state), batch
        analysis = self._steps.memory_analysis()
        self.memory = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes if analysis else None
        self.losses = []
        for _ in range(3):
            metrics = self._run(1)
            self.losses.append(float(metrics.loss) / int(metrics.examples))

    def _run(self, steps):
        self._state, metrics = self._steps(self._state, self._batch, jnp.int32(steps))
        return jax.block_until_ready(metrics)

    def seconds(self, steps: int) -> float:
        begun = time.perf_counter()
        self._run(steps)
        return time.perf_counter() - begun


class Peer:
    """A mode of `spikingjelly_peer.py` in a process of its own."""

    def __init__(self, python: str, **prepare: Any):
        script = Path(__file__).with_name("spikingjelly_peer.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([python, str(script)], text=True, bufsize=1, **pipes)
        answer = self._ask({"prepare": prepare})
        self.losses, self.memory = answer["loss"], answer["peak_memory"]
        self.compile_seconds, self.version = answer["first_step_seconds"], answer["torch"]

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(command) + "\n")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def seconds(self, steps: int) -> float:
        return self._ask({"steps": steps})["seconds"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def matrix_rate(dtype: str) -> float:
    """FLOP/s of the best of some square matrix products."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def cell(
    arch: str, timesteps: int, batch_size: int, dtype: str, peer: str | None, modes: list[str], repeat: int
) -> list[dict[str, Any]]:
    """The rows of one configuration: ours, and the peer's modes that run."""
    model = models.create(arch, 10, dtype=None if dtype == "float32" else jnp.dtype(dtype))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(10, size=batch_size).astype(np.int32)
    state = training.init_state(jax.random.key(0), model, optimizers.create(), jnp.asarray(images[:1]))
    apply = functools.partial(model.apply, num_timesteps=timesteps)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    flops = batch_size * cost.train_flops(2 * cost.macs(apply, variables, jnp.asarray(images[:1])))
    contestants: dict[str, Ours | Peer] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        file = f"{directory}/batch.npz"
        np.savez(file, images=images, labels=labels, **to_state_dict(model, variables))
        for mode in modes if peer else ():
            name, compiled = mode.removesuffix(" compiled"), mode.endswith("compiled")
            device = "cpu" if jax.default_backend() == "cpu" else "cuda"
            prepare = {"arch": arch, "mode": name, "timesteps": timesteps, "dtype": dtype, "device": device}
            try:
                contestants[mode] = Peer(peer, **prepare, file=file, compile=compiled)
                stack.callback(contestants[mode].close)
            except RuntimeError as error:
                print(f"{arch}, T = {timesteps}, batch {batch_size}: {mode} does not run: {str(error)[:200]}")
        contestants["ours"] = Ours(
            model, state, training.Batch(jnp.asarray(images), jnp.asarray(labels)), timesteps
        )
        times = {name: contestant.seconds(1) for name, contestant in contestants.items()}
        steps = {name: max(3, int(1.0 / seconds)) for name, seconds in times.items()}
        samples = {name: [] for name in contestants}
        for _ in range(repeat):  # alternating: whatever else the machine does hits all alike
            for name, contestant in contestants.items():
                time.sleep(0.5)  # threads of the one before may spin while they wait for work
                samples[name].append(contestant.seconds(steps[name]) / steps[name])
        if "authors" in contestants:
            first = [contestants[name].losses[0] for name in ("authors", "ours")]
            np.testing.assert_allclose(*first, rtol=0.01)
        return [
            {
                "network": arch,
                "timesteps": timesteps,
                "batch": batch_size,
                "dtype": dtype,
                "who": name,
                "seconds": statistics.median(samples[name]),
                "fastest": min(samples[name]),
                "images_per_second": batch_size / statistics.median(samples[name]),
                "flops": flops,
                "losses": contestant.losses,
                "memory": contestant.memory,
                "compile_seconds": contestant.compile_seconds,
            }
            for name, contestant in contestants.items()
        ]


def show(rows: list[dict[str, Any]], rate: float) -> None:
    table = Table(
        "network",
        "T",
        "batch",
        "",
        "ms",
        "images/s",
        "of matrix rate",
        "ours is",
        "memory",
        "first loss, third",
    )
    for row in rows:
        ours = next(r for r in rows if r["who"] == "ours" and key(r) == key(row))
        table.add_row(
            row["network"],
            str(row["timesteps"]),
            str(row["batch"]),
            row["who"],
            f"{1000 * row['seconds']:.1f}",
            f"{row['images_per_second']:,.1f}",
            f"{100 * row['flops'] / row['seconds'] / rate:.0f} %",
            f"{row['seconds'] / ours['seconds']:.2f} x" if row is not ours else "",
            f"{row['memory'] / 1e9:.2f} GB" if row["memory"] else "",
            f"{row['losses'][0]:.5f}, {row['losses'][2]:.5f}",
        )
    Console(width=130).print(table)


def key(row: dict[str, Any]) -> tuple:
    return row["network"], row["timesteps"], row["batch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    numbers = {"type": lambda text: [int(part) for part in text.split(",")]}
    names = {"type": lambda text: text.split(",")}
    parser.add_argument("--peer", help="python of an environment with torch and spikingjelly")
    parser.add_argument("--arch", default=["vgg16", "resnet19"], **names)
    parser.add_argument("--timesteps", default=[5], **numbers)
    parser.add_argument("--batch", default=[32], **numbers)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--modes", default=list(MODES), **names)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--name", help="of the file in benchmarks/results, which is not written without")
    options = parser.parse_args()
    rate = matrix_rate(options.dtype)
    device = jax.devices()[0]
    print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {options.dtype}: ", end="")
    print(f"matrix products at {rate / 1e12:.3g} TFLOP/s")
    rows: list[dict[str, Any]] = []
    for arch, timesteps, batch in itertools.product(options.arch, options.timesteps, options.batch):
        rows += cell(arch, timesteps, batch, options.dtype, options.peer, options.modes, options.repeat)
        show([row for row in rows if key(row) == (arch, timesteps, batch)], rate)
    if options.name:
        given = ["PYTHON" if argument == options.peer else argument for argument in sys.argv[1:]]
        record = {
            "command": " ".join(["python benchmarks/train_step.py", *given]),
            "machine": {"kind": device.device_kind, "processor": processor(), "cores": os.cpu_count()},
            "versions": {
                "jax": jax.__version__,
                "python": platform.python_version(),
                **peer_versions(options.peer),
            },
            "matrix_flops_per_second": rate,
            "rows": rows,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.json").write_text(json.dumps(record, indent=1) + "\n")


def peer_versions(python: str | None) -> dict[str, str]:
    program = "from importlib.metadata import version as v; print(v('torch'), v('spikingjelly'))"
    said = subprocess.check_output([python, "-c", program], text=True).split() if python else ()
    return dict(zip(("torch", "spikingjelly"), said, strict=False))


def processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


if __name__ == "__main__":
    main()
