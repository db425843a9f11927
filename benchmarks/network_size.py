"""Bytes of the network file of VGG16 by sparsity: python benchmarks/network_size.py"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from snnlth_jax import masks, models, networks, pruning
from snnlth_jax.data.augment import Augmentation


def main() -> None:
    model = models.create("vgg16", 10)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), num_timesteps=1))
    variables = init(jax.random.key(0))
    grey = Augmentation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    recipe = networks.describe(
        model, image_shape=(32, 32, 3), normalisation=grey, num_timesteps=5, name="vgg16"
    )
    params, everything = variables["params"], masks.make(variables["params"])
    with tempfile.TemporaryDirectory() as directory:
        for sparsity in (0.0, 0.9, 0.982):
            kept = pruning.prune(pruning.magnitude(params), everything, sparsity) if sparsity else everything
            path = Path(directory) / "network.safetensors"
            network = networks.Network(recipe, kept, masks.apply(params, kept), variables["batch_stats"], {})
            networks.save(path, network)
            print(f"sparsity {100 * sparsity:.1f} %: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
