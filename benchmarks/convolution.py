"""Convolutions by XLA and by `models._conv_cpu`, alone and inside of a compiled loop.

    python benchmarks/convolution.py

For each shape the time of the forward pass, and of forward and both gradients, in milliseconds: `xla` is
`lax.conv_general_dilated` and its gradients, `ours` what the networks use. The shapes are those of layers of
VGG16 at T = 5, batch 4, and of VGG5 on digits at T = 4, batch 64.
"""

import os
import time

import jax
import jax.numpy as jnp

from snnlth_jax.models import _conv_cpu

LOOP = 2
SHAPES = [(256, 8, 32), (256, 4, 64), (20, 32, 64), (20, 16, 128), (20, 8, 256), (20, 4, 512), (20, 2, 512)]


def xla(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def ours(x, kernel):
    return _conv_cpu.conv(x, kernel, (1, 1), [(1, 1), (1, 1)])


def gradients(conv):
    def both(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2) / 2, argnums=(0, 1))(x, kernel)

    return both


def in_loop(step):
    """The step LOOP times over, each on what the last one made, as training does."""

    def loop(x, kernel):
        def body(_, carry):
            made = step(*carry)
            if isinstance(made, tuple):
                return jax.tree.map(lambda old, new: old - 1e-6 * new, carry, made)
            return carry[0] - 1e-6 * made, carry[1]

        return jax.lax.fori_loop(0, LOOP, body, (x, kernel))

    return loop


def milliseconds(fn, *args, repeats=1):
    fn = jax.jit(fn)
    jax.block_until_ready(fn(*args))
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(fn(*args))
        best = min(best, time.perf_counter() - started)
    return 1e3 * best / repeats


def main():
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}")
    print(f"{'N x H x W x C':>18}  {'':4}  {'forward':>8} {'in loop':>8}  {'gradients':>9} {'in loop':>8}")
    for n, side, channels in SHAPES:
        x = jax.random.normal(jax.random.key(0), (n, side, side, channels))
        kernel = 0.05 * jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
        for name, conv in (("xla", xla), ("ours", ours)):
            grad = gradients(conv)
            times = [
                milliseconds(conv, x, kernel),
                milliseconds(in_loop(conv), x, kernel, repeats=LOOP),
                milliseconds(grad, x, kernel),
                milliseconds(in_loop(grad), x, kernel, repeats=LOOP),
            ]
            shape = f"{n} x {side} x {side} x {channels}"
            print(
                f"{shape:>18}  {name:4}  {times[0]:8.1f} {times[1]:8.1f}  {times[2]:9.1f} {times[3]:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
