"""Where a training step goes: shares of the time on the device by kind of operation, forward and backward.

    python benchmarks/step_profile.py [--arch vgg16,resnet19] [--timesteps 5] [--batch 32] [--steps 3] ...

The compiled loop of `train_step.py` under `jax.profiler`. Each operation in the trace is looked up in the
program's text: products of matrices and convolutions, also inside of a fusion; what else belongs to a layer
`conv` (tiles and patches on a CPU, layouts on a GPU); what else the network does; the rest. A fusion counts
where XLA says that its result comes from, with the rest if it does not say. Where operations run side by side
the shares are of the sum. On a GPU kernels are launched one by one, for their names to be in the trace.
"""

import argparse
import collections
import gzip
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

# before jax starts: no CUDA graphs
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="

import jax
import train_step
from rich.console import Console
from rich.table import Table

KINDS = ("products", "tiles, patches, layouts", "batch norm, LIF, pooling, shortcuts")
REST = "loss, optimiser, the rest"
ROWS = [*(f"{kind}, {direction}" for kind in KINDS for direction in ("forward", "backward")), REST]


def kinds(program: str) -> dict[str, str]:
    """The row of each operation in the text of a program."""
    computation, operations, multiplying = "", {}, set()
    for line in program.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            computation = start[1]
        if matched := re.match(r" +(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(", line):
            operations[matched[1]] = matched[2], line
            if matched[2] in ("dot", "convolution"):
                multiplying.add(computation)

    def row(opcode: str, line: str) -> str:
        source = "".join(re.findall(r'op_name="([^"]*)"', line))
        library = opcode == "custom-call" and re.search(r"cudnn|cublas", line)
        if (
            opcode in ("dot", "convolution")
            or library
            or multiplying & {*re.findall(r"calls=%?([\w.-]+)", line)}
        ):
            kind = KINDS[0]
        elif "/conv/" in source:
            kind = KINDS[1]
        elif re.search(r"jvp\(\w+\)", source):
            kind = KINDS[2]
        else:
            return REST
        return f"{kind}, {'backward' if 'transpose(' in source else 'forward'}"

    containers = ("while", "conditional", "call")  # of operations that are in the trace themselves
    return {name: row(*of) for name, of in operations.items() if of[0] not in containers}


def shares(events: list[dict[str, Any]], program: str) -> dict[str, float]:
    """Time of all operations of a program in a trace, by row."""
    known, spent = kinds(program), collections.Counter()
    for event in events:
        of = event.get("args", {})
        if of.get("hlo_module") == "jit_loop" and (operation := of.get("hlo_op")) in known:
            spent[known[operation]] += event["dur"]
    if not spent:
        raise SystemExit("step_profile.py: error: no operation of the loop is in the trace")
    return {row: duration / spent.total() for row, duration in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default=["vgg16", "resnet19"], type=lambda text: text.split(","))
    parser.add_argument("--timesteps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {options.dtype}")
    columns, heads = [], []
    for arch in options.arch:
        ours = train_step.Ours(*train_step.problem(arch, options.batch, options.dtype), options.timesteps)
        with tempfile.TemporaryDirectory() as directory:
            with jax.profiler.trace(directory):
                seconds = ours.seconds(options.steps) / options.steps
            (trace,) = Path(directory).rglob("*.trace.json.gz")
            columns.append(
                shares(json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"], ours.program.as_text())
            )
        heads.append(f"{arch}, {1000 * seconds:.1f} ms")
        ours.close()
    table = Table("", *heads, title=f"T = {options.timesteps}, batch {options.batch}")
    for row in ROWS:
        table.add_row(row, *(f"{100 * column.get(row, 0):.1f} %" for column in columns))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
