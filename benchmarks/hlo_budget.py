"""Kernels, bytes and time of a training step, from programs compiled for devices that are not there.

    python benchmarks/hlo_budget.py --topology h100 [--arch vgg16,resnet19] [--list 20] [--text DIRECTORY] ...
    python benchmarks/hlo_budget.py --topology h100 --check
    python benchmarks/hlo_budget.py --table

The training of `snnlth imp` on CIFAR-10, in whole batches, T = 5, batch 128, bfloat16, compiled by the
compiler of each topology (`snnlth compile`, which says what is needed). The first form prints the
figures and, with --write, keeps them in benchmarks/results/budget_NAME.json. --check compares with what
is there and ends with status 1 if a figure got worse by more than 3 %. --table prints all that is there.
A network's name can have what --kernels is: vgg16:plain. --list prints the kernels that move most, --text
keeps the program, whose kernels can be listed again by --from without compiling. Kernels of Pallas (Triton)
need no GPU either: inside of `jax.lax.platform_dependent(..., cuda=...)` they compile for compute capability
9.0.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from snnlth_jax import configs
from snnlth_jax.machine import kernels
from snnlth_jax.machine.accelerators import ACCELERATORS
from snnlth_jax.search import ahead

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 0.03
FIGURES = (
    "kernels",
    "gigabytes",
    "outside",
    "milliseconds",
    "temporaries",
    "compiler_gigabytes",
    "compiler_ms",
)
NETWORKS = ("vgg16", "resnet19")


def figures(step: list[kernels.Kernel], card: str, dtype: str) -> dict[str, Any]:
    """Figures of the kernels of a step; GB, ms and TFLOP."""
    rates = ACCELERATORS[card]
    sums = kernels.budget(step, flops_per_second=rates.flops[dtype], bandwidth=rates.bandwidth)
    return {
        "kernels": sums.kernels,
        "small_kernels": sums.small,
        "gigabytes": round(sum(sums.bytes.values()) / 1e9, 4),
        "outside": round(sums.bytes_outside / 1e9, 4),
        "by_class": {kind: [sums.counts[kind], round(sums.bytes[kind] / 1e9, 4)] for kind in kernels.KINDS},
        "teraflops": round(sums.flops / 1e12, 4),
        "milliseconds": round(1e3 * sums.seconds, 3),
    }


def row(compiled: ahead.Compiled, dtype: str) -> dict[str, Any]:
    """Figures of a program; those of the compiler are of the whole program, one step in it."""
    message = compiled.compiler
    own = {
        "compiler_gigabytes": round(message["bytes accessed"] / 1e9, 4)
        if "bytes accessed" in message
        else None,
        # TPUs' compilers give negative numbers for programs with loops
        "compiler_ms": round(1e3 * seconds, 3)
        if (seconds := message.get("optimal_seconds", -1)) > 0
        else None,
    }
    return {
        **figures(list(compiled.kernels), compiled.topology.partition(":")[0], dtype),
        "arguments": round(compiled.memory.arguments / 1e9, 4),
        "temporaries": round(compiled.memory.temporaries / 1e9, 4),
        **{name: value for name, value in own.items() if value is not None},
        "epochs": compiled.search_epochs,
        "hours": round(compiled.search_seconds / 3600, 2),
        "compile_seconds": round(compiled.compile_seconds),
    }


def worse(name: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each figure that got worse by more than the tolerance."""
    return [
        f"{name}: {figure} {after[figure]}, worse than {before[figure]}"
        for figure in FIGURES
        if figure in before and after.get(figure, 0) > before[figure] * (1 + TOLERANCE)
    ]


def show(name: str, measured: dict[str, Any]) -> None:
    print(name)
    for kind, (count, size) in measured["by_class"].items():
        print(f"  {kind:20s} {count:5d} kernels {size:8.3f} GB")
    rest = {figure: value for figure, value in measured.items() if figure != "by_class"}
    print("  " + ", ".join(f"{figure} {value}" for figure, value in rest.items()), flush=True)


def show_kernels(step: list[kernels.Kernel], count: int) -> None:
    for kernel in sorted(step, key=lambda kernel: -kernel.bytes)[:count]:
        print(f"  {kernel.bytes / 1e6:8.1f} MB {kernel.kind:20s} {kernel.name:36s} {kernel.source[-80:]}")


def file_of(topology: str) -> Path:
    return RESULTS / f"budget_{topology.partition(':')[0]}.json"


def table() -> None:
    """All figures that are kept, as Markdown."""
    print("| | | kernels | GB | outside of convolutions | temporaries | TFLOP | ms | hours, IMP |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sorted(RESULTS.glob("budget_*.json")):
        record = json.loads(path.read_text())
        for arch, measured in record["networks"].items():
            cells = [
                measured[name] for name in ("kernels", "gigabytes", "outside", "temporaries", "teraflops")
            ]
            cells += [measured["milliseconds"], measured["hours"]]
            print("|", " | ".join([record["topology"], arch, *(f"{cell:.4g}" for cell in cells)]), "|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = {"type": lambda text: text.split(",")}
    parser.add_argument("--topology", default=["h100"], **names)
    parser.add_argument("--arch", default=list(NETWORKS), **names)
    parser.add_argument("--timesteps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--list", type=int, default=0, help="number of kernels to print")
    parser.add_argument("--text", help="directory that the programs are written to")
    parser.add_argument("--from", dest="file", help="text of a program: print its figures, compile nothing")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--check", action="store_true", help="compare with the figures that are kept")
    parser.add_argument("--table", action="store_true", help="print the figures that are kept")
    options = parser.parse_args()
    if options.table:
        table()
        return 0
    if options.file:
        step = kernels.kernels_of_step(Path(options.file).read_text())
        show(options.file, figures(step, options.topology[0].partition(":")[0], options.dtype))
        show_kernels(step, options.list)
        return 0
    complaints: list[str] = []
    for topology in options.topology:
        path = file_of(topology)
        kept = json.loads(path.read_text()) if path.exists() else {"networks": {}}
        measured = {}
        for arch in options.arch:
            shape = {"num_timesteps": options.timesteps, "batch_size": options.batch, "dtype": options.dtype}
            shape["train_examples"] = (
                50_000 // options.batch * options.batch
            )  # no step for a last, smaller batch
            name, _, own = arch.partition(":")
            config = configs.ImpConfig(dataset="cifar10", arch=name, kernels=own or "auto", **shape)
            compiled = ahead.compile_for(topology, config)
            if options.text:
                Path(options.text).mkdir(parents=True, exist_ok=True)
                (Path(options.text) / f"{topology}_{arch}.hlo".replace(":", "_")).write_text(compiled.text)
            measured[arch] = row(compiled, options.dtype)
            show(f"{topology}, {arch}", measured[arch])
            show_kernels(list(compiled.kernels), options.list)
            if arch in kept["networks"]:
                complaints += worse(f"{topology}, {arch}", kept["networks"][arch], measured[arch])
            elif options.check:
                complaints.append(f"{topology}, {arch}: no figures are kept, see --write")
        if options.write:
            record = {
                "topology": topology,
                "timesteps": options.timesteps,
                "batch": options.batch,
                "dtype": options.dtype,
                "jax": version("jax"),
                "networks": kept["networks"] | measured,
            }
            RESULTS.mkdir(exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n")
    for line in complaints:
        print(line)
    return int(options.check and bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
