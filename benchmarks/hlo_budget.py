"""Kernels, bytes and time of a training step, from programs compiled for devices that are not there.

    python benchmarks/hlo_budget.py [--target h100] [--arch vgg16,resnet19] [--dtype bfloat16] ...
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from snnlth_jax import data, models, train
from snnlth_jax.machine import accelerators, aot, kernels
from snnlth_jax.train import loop, optimizers


def program(target: str, arch: str, dtype: str, timesteps: int, batch: int) -> Any:
    """The training of a search on CIFAR-10, compiled for one device of a target."""
    aot.prepare()
    chip = aot.devices_of(target)[0]
    whole = NamedSharding(Mesh([chip], ("batch",)), PartitionSpec())
    spec = data.spec("cifar10")
    model = models.create(arch, 10, dtype=None if dtype == "float32" else jnp.dtype(dtype))
    images = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    tx = optimizers.create()
    state = jax.eval_shape(lambda key, x: train.init_state(key, model, tx, x), jax.random.key(0), images)
    split = data.Split(
        jax.ShapeDtypeStruct((spec.train_size, *spec.image_shape), jnp.uint8),
        jax.ShapeDtypeStruct((spec.train_size,), jnp.int32),
    )
    state, split = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), (state, split)
    )
    shape = {"batch_size": batch, "num_timesteps": timesteps, "augmentation": spec.augmentation}
    return loop.compile_steps(model, tx, state, split, **shape).call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", default=["h100"], type=lambda text: text.split(","))
    parser.add_argument("--arch", default=["vgg16", "resnet19"], type=lambda text: text.split(","))
    parser.add_argument("--timesteps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--list", type=int, default=0, help="print so many of the largest kernels")
    parser.add_argument("--text", help="file that the program's text is written to")
    options = parser.parse_args()
    for target in options.target:
        for arch in options.arch:
            begun = time.perf_counter()
            compiled = program(target, arch, options.dtype, options.timesteps, options.batch)
            seconds, text = time.perf_counter() - begun, compiled.as_text()
            if options.text:
                with open(options.text, "w") as file:
                    file.write(text)
            found = kernels.kernels_of_step(text)
            card = accelerators.ACCELERATORS[target.partition(":")[0]]
            rates = {"flops_per_second": card.flops[options.dtype], "bandwidth": card.bandwidth}
            sums = kernels.budget(found, **rates)
            memory = compiled.memory_analysis()
            print(f"{target}, {arch}: compiled in {seconds:.0f} s")
            print(f"  {sums.kernels} kernels, {sums.small} below 1 MB, {sums.flops / 1e12:.3f} TFLOP")
            for kind, size in sums.bytes.items():
                count = sum(k.count for k in found if k.kind == kind)
                print(f"  {kind:20s} {size / 1e9:7.3f} GB {count:4d} kernels")
            print(f"  outside of convolutions {sums.bytes_outside / 1e9:.3f} GB; {1e3 * sums.seconds:.2f} ms a step")
            print(f"  temporaries {memory.temp_size_in_bytes / 1e9:.3f} GB")
            for kernel in sorted(found, key=lambda k: -k.bytes)[: options.list]:
                print(f"  {kernel.bytes / 1e6:8.1f} MB {kernel.kind:20s} {kernel.name:40s} {kernel.source[-90:]}")


if __name__ == "__main__":
    main()
