"""Our training step beside the same network built from SpikingJelly's layers, alternating, in one run.

    python benchmarks/train_step.py --peer PYTHON [--arch vgg16,resnet19] [--timesteps 5] [--batch 32] ...
    python benchmarks/train_step.py --peer PYTHON --arch vgg9:0.25 --timesteps 4 --batch 64 --neighbour
    python benchmarks/train_step.py --peer PYTHON --arch vgg5 --dataset digits --timesteps 5 --batch 64

PYTHON is the interpreter of an environment with torch and spikingjelly, which are kept out of this one;
without it ours runs alone. Both start from the same weights and train on the same batch: forward, loss,
backward, SGD with momentum and weight decay. That it is the same network is seen first, once per
network, in double precision on four images, before anything is compiled by torch: logits in training
mode and the running statistics of every batch norm have to agree to 1e-6 with T = 2 for `authors`, and
with T = 1 for the multi-step modes, whose batch norm takes all timesteps together: from T = 2 on they
are another network. The matrix rate is that of square matrix products measured here, in the same
precision. "compile" is the time to compile, for the peer that of its first step with its compilation.
The losses of the first and the third step are shown too. A network's name can have its width and
`plain`, which is what --kernels of a search can be; --dataset says whose images' shape it has. With
--neighbour each cell is timed once more beside a process that copies 256 MB again and again: what the
load of others on the memory makes of both. What does not run is left out, with a line; so is what does not
agree, and then the status is 1. With --name the rows go to benchmarks/results/NAME.json, after each cell.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs room on the same device

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from snnlth_jax import data, models, train
from snnlth_jax.analysis.flops import macs, train_flops
from snnlth_jax.interop.torch import to_state_dict
from snnlth_jax.machine import sharding
from snnlth_jax.train import optimizers

RESULTS = Path(__file__).parent / "results"
MODES = ("authors", "multi-step", "multi-step compiled", "multi-step graphs")


def loop_of_steps(model: Any, timesteps: int) -> Callable[..., Any]:
    """Steps in a loop, as a search runs them: a function of the state, a batch, and the number of steps."""
    settings = {"tx": optimizers.create(), "learning_rate": 0.1, "num_timesteps": timesteps}
    step = functools.partial(train.train_step, model=model, **settings)

    def loop(state, batch, steps):
        def body(_, carry):
            return step(carry[0], batch)

        return jax.lax.fori_loop(0, steps, body, (state, train.zero_metrics()))

    return loop


class Ours:
    """`train.train_step` on one batch, in a compiled loop as a search runs it, its state donated."""

    def __init__(self, model, state, batch, timesteps):
        loop = loop_of_steps(model, timesteps)
        begun = time.perf_counter()
        self.program, self.memory = sharding.compiled(loop, (state, batch, jnp.int32(1)), None, donate=1)
        self.compile_seconds = time.perf_counter() - begun
        self._state, self._batch, self.said = jax.tree.map(jnp.array, state), batch, ""
        self.losses = []
        for _ in range(3):
            metrics = self._run(1)
            self.losses.append(float(metrics.loss) / int(metrics.examples))

    def _run(self, steps):
        self._state, metrics = self.program(self._state, self._batch, jnp.int32(steps))
        return jax.block_until_ready(metrics)

    def seconds(self, steps: int) -> float:
        begun = time.perf_counter()
        self._run(steps)
        return time.perf_counter() - begun

    def close(self) -> None:
        del self.program, self._state, self._batch


class Peer:
    """A mode of `spikingjelly_peer.py` in a process of its own."""

    def __init__(self, python: str, directory: str):
        script = Path(__file__).with_name("spikingjelly_peer.py")
        self._errors = tempfile.TemporaryFile("w+", dir=directory)  # noqa: SIM115
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen([python, str(script)], text=True, bufsize=1, **pipes)

    def ask(self, command: str, given: Any) -> dict[str, Any]:
        """Its answer; RuntimeError if it cannot do it, or is no more."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({command: given}) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended: {self.said.rpartition(chr(10))[2]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def prepare(self, **given: Any) -> None:
        answer = self.ask("prepare", given)
        self.losses, self.memory = answer["loss"], answer["peak_memory"]
        self.compile_seconds = answer["first_step_seconds"]

    def seconds(self, steps: int) -> float:
        return self.ask("steps", steps)["seconds"]

    @property
    def message(self) -> str:
        """The last lines of what it said on standard error."""
        self._errors.seek(0)
        return "\n".join(self._errors.read().strip().splitlines()[-5:])

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # of a question that it did not live to read
            self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process beside that is bound by the memory: it copies 256 MB in a loop."""
    program = "import numpy as np\na = np.ones(2**25); b = np.ones(2**25)\nwhile True: np.copyto(b, a)"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        time.sleep(2)  # until it copies
        yield
    finally:
        process.kill()
        process.wait()


def matrix_rate(dtype: str) -> float:
    """FLOP/s of the best of some loops of square matrix products."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype) / size**0.5

    @jax.jit
    def products(count):
        return jax.lax.fori_loop(0, count, lambda _, c: a @ c, a)

    def seconds(count):
        begun = time.perf_counter()
        products(count).block_until_ready()
        return time.perf_counter() - begun

    seconds(1)
    count = max(1, round(0.5 / seconds(10) * 10))
    return 2 * size**3 * count / min(seconds(count) for _ in range(5))


def network(arch: str, dtype: str | None = None) -> Any:
    """A network by its name, name:width, name:plain or name:width:plain."""
    name, *more = arch.split(":")
    width, kernels = [word for word in more if word != "plain"], "plain" if "plain" in more else "auto"
    lower = None if dtype in (None, "float32") else jnp.dtype(dtype)
    return models.create(name, 10, width=float(*width or [1]), dtype=lower, kernels=kernels)


def layers(model: Any) -> dict[str, Any]:
    """Arguments with which the peer builds a network."""
    if isinstance(model, models.VGG):
        return {"kind": "VGG", "features": model.features}
    sizes = {"blocks": model.stage_sizes, "widths": model.widths, "stem": model.stem, "hidden": model.hidden}
    return {"kind": "ResNet", **sizes}


def disagreement(arch: str, mode: str, python: str, dataset: str) -> float:
    """The largest difference between what the peer's network and ours compute, of the largest number."""
    timesteps = 2 if mode == "authors" else 1
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as directory:
        model, shape = network(arch), data.spec(dataset).image_shape
        images = jnp.asarray(np.random.default_rng(0).standard_normal((4, *shape)))
        variables = jax.jit(functools.partial(model.init, num_timesteps=1))(jax.random.key(0), images)

        def louder(path, leaf):  # so that neurons of all layers fire
            raised = path[-1].key == "scale" or path[-2].key == "hidden"
            return jnp.asarray(leaf, jnp.float64) * (3 if raised else 1)

        variables = jax.tree_util.tree_map_with_path(louder, variables)
        step = functools.partial(model.apply, num_timesteps=timesteps, train=True, mutable=["batch_stats"])
        logits, updates = jax.jit(step)(variables, images)
        state = to_state_dict(model, {**variables, **updates})
        ours = {"logits": logits, **{name: array for name, array in state.items() if "running" in name}}
        given, into = f"{directory}/given.npz", f"{directory}/outcome.npz"
        np.savez(given, images=images, labels=np.zeros(4), **to_state_dict(model, variables))
        asked = {"layers": layers(model), "mode": mode, "timesteps": timesteps, "device": torch_device()}
        with contextlib.closing(Peer(python, directory)) as peer:
            peer.ask("outcome", asked | {"file": given, "into": into})
        with np.load(into) as theirs:
            errors = [np.abs(theirs[name] - own).max() / np.abs(own).max() for name, own in ours.items()]
        return float(np.max(errors))  # NaN if there is one


def agrees(arch: str, mode: str, python: str, dataset: str) -> bool:
    """Whether the peer's network is ours; if not, or if that cannot be seen, a line says so."""
    try:
        error = disagreement(arch, mode, python, dataset)
        reason = "" if error < 1e-6 else f"another network, {error:.1e} from ours"
    except RuntimeError as refused:
        reason = one_line(refused)
    print(f"{arch}, {mode}: {reason or f'the same network, {error:.1e} from ours'}", flush=True)
    return not reason


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def torch_device() -> str:
    return "cpu" if jax.default_backend() == "cpu" else "cuda"


def problem(
    arch: str, batch_size: int, dtype: str, dataset: str = "cifar10"
) -> tuple[Any, train.TrainState, train.Batch]:
    """A network, its state before training, and a batch of noise."""
    model, rng = network(arch, dtype), np.random.default_rng(0)
    shape = (batch_size, *data.spec(dataset).image_shape)
    images = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    labels = jnp.asarray(rng.integers(10, size=batch_size), jnp.int32)
    state = train.init_state(jax.random.key(0), model, optimizers.create(), images[:1])
    return model, state, train.Batch(images, labels)


def cell(
    arch: str, timesteps: int, batch_size: int, modes: list[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of one configuration: ours, and the peer's modes that run."""
    dtype = options.dtype
    model, state, batch = problem(arch, batch_size, dtype, options.dataset)
    apply = functools.partial(model.apply, num_timesteps=timesteps)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    flops = batch_size * train_flops(2 * macs(apply, variables, batch.images[:1]))
    with tempfile.TemporaryDirectory() as directory:
        file = f"{directory}/batch.npz"
        np.savez(file, images=batch.images, labels=batch.labels, **to_state_dict(model, variables))

        def peers(mode):
            peer = Peer(options.peer, directory)
            try:
                place = {
                    "layers": layers(model),
                    "mode": mode,
                    "timesteps": timesteps,
                    "device": torch_device(),
                }
                peer.prepare(**place, dtype=dtype, file=file)
            except RuntimeError:
                peer.close()
                raise
            return peer

        makers: dict[str, Callable[[], Ours | Peer]] = {
            mode: functools.partial(peers, mode) for mode in modes
        }
        makers["ours"] = functools.partial(Ours, model, state, batch, timesteps)
        rows = []
        for group in [[name] for name in makers] if options.in_turn else [list(makers)]:
            rows += contest({name: makers[name] for name in group}, options.repeat, options.neighbour)
    of = {
        "network": arch,
        "dataset": options.dataset,
        "timesteps": timesteps,
        "batch": batch_size,
        "dtype": dtype,
        "flops": flops,
    }
    return [{**of, **row, "images_per_second": batch_size / row["seconds"]} for row in rows]


def contest(makers: dict[str, Callable[[], Ours | Peer]], repeat: int, loaded: bool) -> list[dict[str, Any]]:
    """Rows of those that can be made and stay alive, timed in turns; again with a neighbour if `loaded`."""
    contestants: dict[str, Ours | Peer] = {}
    loads = {"idle": contextlib.nullcontext} | ({"neighbour": neighbour} if loaded else {})
    samples: dict[str, dict[str, list[float]]] = {name: {load: [] for load in loads} for name in makers}
    steps: dict[str, int] = {}

    def attempt(name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (RuntimeError, MemoryError) as error:  # jax's errors of the device are RuntimeErrors
            samples.pop(name)
            if name in contestants:
                contestants.pop(name).close()
            print(f"{name} is left out: {one_line(error)}", flush=True)

    def make(name: str) -> None:
        contestants[name] = makers[name]()
        steps[name] = max(3, int(1.0 / contestants[name].seconds(1)))

    def time_it(name: str, load: str) -> None:
        samples[name][load].append(contestants[name].seconds(steps[name]) / steps[name])

    for name in makers:
        attempt(name, functools.partial(make, name))
    for load, beside in loads.items():
        with beside():
            for _ in range(repeat):  # alternating: whatever else the machine does hits all alike
                for name in list(samples):
                    time.sleep(0.5)  # threads of the one before may spin while they wait for work
                    attempt(name, functools.partial(time_it, name, load))
    rows = [
        {
            "who": name,
            "load": load,
            "seconds": statistics.median(taken),
            "fastest": min(taken),
            "losses": contestants[name].losses,
            "memory": contestants[name].memory,
            "compile_seconds": contestants[name].compile_seconds,
            "said": contestants[name].said,
        }
        for name, by_load in samples.items()
        for load, taken in by_load.items()
    ]
    for contestant in contestants.values():
        contestant.close()
    return rows


def show(rows: list[dict[str, Any]], rate: float) -> None:
    table = Table(
        "network",
        "T",
        "batch",
        "",
        "load",
        "ms",
        "images/s",
        "of matrix rate",
        "ours is",
        "memory",
        "compile",
        "first loss, third",
    )
    for row in rows:
        ours = next((r for r in rows if r["who"] == "ours" and key(r) == key(row)), row)
        table.add_row(
            row["network"],
            str(row["timesteps"]),
            str(row["batch"]),
            row["who"],
            row["load"],
            f"{1000 * row['seconds']:.1f}",
            f"{row['images_per_second']:,.1f}",
            f"{100 * row['flops'] / row['seconds'] / rate:.0f} %",
            f"{row['seconds'] / ours['seconds']:.2f} x" if row is not ours else "",
            f"{row['memory'] / 1e9:.2f} GB" if row["memory"] else "",
            f"{row['compile_seconds']:.1f} s",
            f"{row['losses'][0]:.5f}, {row['losses'][2]:.5f}",
        )
    Console(width=130).print(table)


def key(row: dict[str, Any]) -> tuple:
    return row["network"], row["timesteps"], row["batch"], row["load"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    numbers = {"type": lambda text: [int(part) for part in text.split(",")]}
    names = {"type": lambda text: text.split(",")}
    parser.add_argument("--peer", help="python of an environment with torch and spikingjelly")
    parser.add_argument("--arch", default=["vgg16", "resnet19"], **names)
    parser.add_argument("--dataset", default="cifar10", choices=("cifar10", "digits", "fashion_mnist"))
    parser.add_argument("--timesteps", default=[5], **numbers)
    parser.add_argument("--batch", default=[32], **numbers)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--modes", default=list(MODES), **names)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--in-turn", action="store_true", help="one at a time on the device, where all do not fit"
    )
    parser.add_argument("--neighbour", action="store_true", help="once more beside a process that copies")
    parser.add_argument("--name", help="of the file in benchmarks/results, which is not written without")
    options = parser.parse_args()
    if unknown := set(options.modes) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))}: allowed: {', '.join(MODES)}")
    device, versions = jax.devices()[0], peer_versions(options.peer)
    rate = matrix_rate(options.dtype)
    print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {options.dtype}: ", end="")
    print(f"matrix products at {rate / 1e12:.3g} TFLOP/s", flush=True)
    given = ["PYTHON" if argument == options.peer else argument for argument in sys.argv[1:]]
    record = {
        "command": " ".join(["python benchmarks/train_step.py", *given]),
        "machine": {"kind": device.device_kind, "processor": processor(), "cores": os.cpu_count()},
        "versions": {"jax": jax.__version__, "python": platform.python_version(), **versions},
        "matrix_flops_per_second": rate,
        "rows": [],
    }
    modes = options.modes if options.peer else []
    kinds = {mode: "authors" if mode == "authors" else "multi-step" for mode in modes}
    same = {
        (arch, kind): agrees(arch, kind, options.peer, options.dataset)
        for arch, kind in itertools.product(options.arch, dict.fromkeys(kinds.values()))
    }
    for arch, timesteps, batch in itertools.product(options.arch, options.timesteps, options.batch):
        agreeing = [mode for mode in modes if same[arch, kinds[mode]]]
        rows = cell(arch, timesteps, batch, agreeing, options)
        show(rows, rate)
        record["rows"] += rows
        if options.name:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{options.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(same.values()) else 1


def peer_versions(python: str | None) -> dict[str, str]:
    program = "from importlib.metadata import version as v; print(v('torch'), v('spikingjelly'))"
    message = subprocess.check_output([python, "-c", program], text=True).split() if python else ()
    return dict(zip(("torch", "spikingjelly"), message, strict=False))


def processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
