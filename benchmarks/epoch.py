"""A whole epoch as a search runs it, beside its bare training steps: what all the rest costs on top.

    python benchmarks/epoch.py [--arch vgg16] [--timesteps 5] [--batch 128] [--examples 50000] ...

The bare step is one compiled `train.train_step`, over and over on one batch. The epoch is `train.fit`:
images of CIFAR-10's size on the device, permutation, gathering, crop, flip and cutout, a compiled loop of
steps, progress shown on the host every ten seconds. Both alternate, over as many steps.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import train_step

from snnlth_jax import data, models, train
from snnlth_jax.machine import memory
from snnlth_jax.train import optimizers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--timesteps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=50_000, help="best a multiple of --batch")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    memory.keep()
    spec, rng = data.spec("cifar10"), np.random.default_rng(0)
    dtype = None if options.dtype == "float32" else jnp.dtype(options.dtype)
    model, tx = models.create(options.arch, 10, dtype=dtype), optimizers.create()
    images = rng.integers(256, size=(options.examples, *spec.image_shape), dtype=np.uint8)
    labels = rng.integers(10, size=options.examples).astype(np.int32)
    split = data.Split(jnp.asarray(images), jnp.asarray(labels))
    test = jax.tree.map(lambda x: x[: options.batch], split)
    batch = train.Batch(jnp.asarray(images[: options.batch], jnp.float32) / 255, test.labels)
    state = train.init_state(jax.random.key(0), model, tx, batch.images[:1])
    bare = train_step.Ours(model, state, batch, options.timesteps)
    shape = {"batch_size": options.batch, "num_timesteps": options.timesteps}
    program = train.compile_program(model, tx, state, split, test, augmentation=spec.augmentation, **shape)

    def epoch() -> float:
        schedule = {"learning_rate": lambda done: 0.01, "first_epoch": 0, "last_epoch": 1}
        copied = jax.block_until_ready(jax.tree.map(jnp.array, state))
        begun = time.perf_counter()
        for done in train.fit(program, copied, split, key=jax.random.key(0), **schedule):
            jax.block_until_ready(done.state)
        return time.perf_counter() - begun

    steps = program.steps_per_epoch
    samples = [(epoch(), bare.seconds(steps)) for _ in range(options.repeat)]
    whole, alone = (statistics.median(column) for column in zip(*samples, strict=True))
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {options.dtype}")
    print(f"{options.arch}, T = {options.timesteps}, {steps} steps of batch {options.batch}")
    print(f"epoch {whole:.3f} s, steps alone {alone:.3f} s, on top {100 * (whole / alone - 1):+.1f} %")
    images_per_second = options.examples / whole
    print(f"{images_per_second:,.0f} images/s; 50,000 images in {50_000 / images_per_second:,.2f} s")


if __name__ == "__main__":
    main()
