"""Training steps on a CPU with oneDNN's convolutions and without, each in a process of its own, alternating.

    python benchmarks/onednn.py [--arch vgg9] [--width 0.25] [--timesteps 4] [--batch 64] [--image 32x32x3]

A turn is three steps in a compiled loop. Beside the time on the clock stands the time that the processor
worked for the process, divided by the cores: other work on the machine adds little to it.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time

STEPS = 3


def serve(options: argparse.Namespace) -> None:
    """Compile, say how long that took, and make a turn for each line of standard input."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from snnlth_jax import models, train
    from snnlth_jax.run.metrics import onednn
    from snnlth_jax.train import optimizers

    model, tx = models.create(options.arch, 10, width=options.width), optimizers.create()
    rng, shape = np.random.default_rng(0), tuple(int(size) for size in options.image.split("x"))
    images = jnp.asarray(rng.standard_normal((options.batch, *shape)), jnp.float32)
    batch = train.Batch(images, jnp.asarray(rng.integers(10, size=options.batch), jnp.int32))
    state = train.init_state(jax.random.key(0), model, tx, images[:1])
    settings = {"learning_rate": 0.1, "num_timesteps": options.timesteps}
    step = functools.partial(train.train_step, model=model, tx=tx, **settings)

    def loop(state, batch, steps):
        first = (state, train.zero_metrics())
        return jax.lax.fori_loop(0, steps, lambda _, carry: step(carry[0], batch), first)

    begun = time.process_time()
    program = jax.jit(loop, donate_argnums=0).lower(state, batch, jnp.int32(1)).compile()
    compiled, memory = time.process_time() - begun, program.memory_analysis().temp_size_in_bytes
    state, metrics = program(state, batch, jnp.int32(1))
    jax.block_until_ready(metrics)
    print(f"{'oneDNN ' + onednn() if onednn() else 'XLA alone'}\t{compiled}\t{memory}", flush=True)
    for _ in sys.stdin:
        worked, begun = time.process_time(), time.perf_counter()
        state, metrics = program(state, batch, jnp.int32(STEPS))
        jax.block_until_ready(metrics)
        print(time.process_time() - worked, time.perf_counter() - begun, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default="vgg9")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image", default="32x32x3")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    command = [sys.executable, __file__, *sys.argv[1:], "--serve"]
    processes, names = [], []
    for choice in ("0", "1"):
        process = subprocess.Popen(command, env=os.environ | {"SNNLTH_ONEDNN": choice}, **pipes)
        name, compiled, memory = process.stdout.readline().strip().split("\t")
        print(f"{name}: compiled in {float(compiled):.1f} s of the processor, {int(memory) / 1e9:.2f} GB")
        processes.append(process)
        names.append(name)
    turns = [[] for _ in processes]
    for _ in range(options.repeat):
        for process, taken in zip(processes, turns, strict=True):
            process.stdin.write("\n")
            taken.append([float(number) for number in process.stdout.readline().split()])
    medians = []
    for name, taken, process in zip(names, turns, processes, strict=True):
        worked, clock = (statistics.median(column) / STEPS for column in zip(*taken, strict=True))
        medians.append(worked)
        repeats = 1000 * worked / (os.cpu_count() or 1)
        print(f"{name}: {repeats:.1f} ms a step by the processor, {1000 * clock:.1f} by the clock")
        process.stdin.close()
        process.wait()
    print(f"ratio by the processor {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
