"""Bytes of VGG16's files by sparsity, ours and the authors': python benchmarks/network_size.py

The authors' code pickles masks as one float32 array for each parameter named weight, batch norm's included,
and writes weights by `torch.save`, which stores a removed weight as any other.
"""

import pickle
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax import masks, models, networks, pruning, tickets
from snnlth_jax.data.augment import Augmentation
from snnlth_jax.interop import torch_files
from snnlth_jax.interop.torch import to_state_dict


def authors(model: models.VGG, kept: dict, variables: dict) -> tuple[int, int]:
    """Bytes of the masks and of the state dict, as the authors' code writes them."""
    named = to_state_dict(model, {"params": kept})
    state_dict = to_state_dict(model, {**variables, "params": masks.apply(variables["params"], kept)})
    weights = [
        name for name in to_state_dict(model, {"params": variables["params"]}) if name.endswith("weight")
    ]
    ones = {name: np.ones_like(state_dict[name]) for name in weights}
    listed = [named.get(name, ones[name]).astype(np.float32) for name in weights]
    return len(pickle.dumps(listed)), len(torch_files.dumps(state_dict))


def main() -> None:
    """Print a row for each sparsity."""
    model = models.create("vgg16", 10)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), num_timesteps=1))
    variables = init(jax.random.key(0))
    grey = Augmentation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    recipe = networks.describe(
        model, image_shape=(32, 32, 3), normalisation=grey, num_timesteps=5, name="vgg16"
    )
    params, everything = variables["params"], masks.make(variables["params"])
    print("| sparsity | network file | ticket | masks, pickled | state dict |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for sparsity in (0.0, 0.9, 0.982):
            kept = pruning.prune(pruning.magnitude(params), everything, sparsity) if sparsity else everything
            path = Path(directory) / "network.safetensors"
            network = networks.Network(recipe, kept, masks.apply(params, kept), variables["batch_stats"], {})
            networks.save(path, network)
            ticket = Path(directory) / "ticket.safetensors"
            tickets.save(ticket, tickets.Ticket(kept, params, variables["batch_stats"], {}))
            sizes = [path.stat().st_size, ticket.stat().st_size, *authors(model, kept, variables)]
            print("|", " | ".join([f"{100 * sparsity:.1f} %", *(f"{size:,}" for size in sizes)]), "|")


if __name__ == "__main__":
    main()
