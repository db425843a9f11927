"""Where the time to compile a training step goes: tracing, lowering, and XLA's compiler.

    python benchmarks/compile_time.py [--arch vgg16,resnet19,vgg9:0.25] [--timesteps 5] [--batch 128]

Each network's step is compiled in a loop, as a search runs it, in this process, which keeps no compiled
programs. Seconds are of the wall and, in brackets, of the processor, which other work on the machine changes
less. "equations" counts the lines of the traced program with all that it calls.
"""

import argparse
import time
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from train_step import loop_of_steps, problem


class Clock:
    """Seconds since the last look, of the wall and of the processor."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def look(self) -> str:
        now = time.perf_counter(), time.process_time()
        wall, processor = (after - before for after, before in zip(now, self._last, strict=True))
        self._last = now
        return f"{wall:.2f} ({processor:.2f})"


def equations(jaxpr: Any) -> int:
    inner = [part for eqn in jaxpr.eqns for part in jax.extend.core.jaxprs_in_params(eqn.params)]
    return len(jaxpr.eqns) + sum(equations(part) for part in inner)


def row(arch: str, timesteps: int, batch_size: int) -> list[str]:
    model, state, batch = problem(arch, batch_size, "float32")
    clock = Clock()
    traced = jax.jit(loop_of_steps(model, timesteps), donate_argnums=0).trace(state, batch, jnp.int32(1))
    seconds = [clock.look()]
    lowered = traced.lower()
    seconds.append(clock.look())
    lowered.compile()
    seconds.append(clock.look())
    return [arch, *seconds, str(equations(traced.jaxpr.jaxpr))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--timesteps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    jax.jit(lambda x: x + 1)(0)  # the start of the backend is no part of it
    table = Table("network", "traced", "lowered", "compiled", "equations", title="seconds (of the processor)")
    for arch in options.arch.split(","):
        table.add_row(*row(arch, options.timesteps, options.batch))
    Console().print(table)


if __name__ == "__main__":
    main()
