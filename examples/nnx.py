"""A winning ticket with flax.nnx: masks live in the state of `nnx.Optimizer`, whose use does not change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from snnlth_jax import masks, neurons, pruning

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.readout = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images, num_timesteps=4):
        current = self.hidden(images)
        _, spikes = neurons.lif_scan(neurons.LIF(), jnp.stack([current] * num_timesteps))
        return self.readout(spikes).mean(0)


@nnx.jit
def step(model, optimizer, images, labels):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def train(model, kept, epochs=8):
    tx = masks.freeze_pruned(optax.adam(5e-3), kept)  # removed weights stay at zero
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for epoch in range(epochs):
        for batch in np.random.default_rng(epoch).permutation(1200).reshape(-1, 120):
            step(model, optimizer, images[batch], labels[batch])


def accuracy(model):
    return float((model(images[1200:]).argmax(-1) == labels[1200:]).mean())


model = Network(nnx.Rngs(0))
initial = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
kept = masks.make(initial)  # True for every kernel, None for biases
train(model, kept)
dense = accuracy(model)
for _ in range(6):  # remove a quarter of the weights that are left, return to the initial ones, train
    kept = pruning.prune(pruning.magnitude(nnx.state(model, nnx.Param)), kept, 0.25)
    nnx.update(model, masks.apply(initial, kept))
    train(model, kept)
print(f"dense {dense:.3f}, ticket {accuracy(model):.3f}, sparsity {masks.sparsity(kept):.3f}")
