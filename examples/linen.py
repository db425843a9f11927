"""A winning ticket with flax.linen: masks live in the optimiser's state, and `TrainState` needs no change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

from snnlth_jax import masks, neurons, pruning

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


class Network(nn.Module):
    @nn.compact
    def __call__(self, images, num_timesteps=4):
        current = nn.Dense(128)(images)
        _, spikes = neurons.lif_scan(neurons.LIF(), jnp.stack([current] * num_timesteps))
        return nn.Dense(10)(spikes).mean(0)


@jax.jit
def step(state, images, labels):
    def loss(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def train(state, epochs=8):
    for epoch in range(epochs):
        for batch in np.random.default_rng(epoch).permutation(1200).reshape(-1, 120):
            state = step(state, images[batch], labels[batch])
    return state


def accuracy(state):
    logits = state.apply_fn({"params": state.params}, images[1200:])
    return float((logits.argmax(-1) == labels[1200:]).mean())


model = Network()
params = model.init(jax.random.key(0), images[:1])["params"]
kept = masks.make(params)  # True for every kernel, None for biases
tx = masks.freeze_pruned(optax.adam(5e-3), kept)  # removed weights stay at zero
initial = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

state = dense = train(initial)
for _ in range(6):  # remove a quarter of the weights that are left, return to the initial state, train
    kept = pruning.prune(pruning.magnitude(state.params), kept, 0.25)
    opt_state = masks.replace_masks(initial.opt_state, kept)
    state = train(initial.replace(params=masks.apply(params, kept), opt_state=opt_state))
print(f"dense {accuracy(dense):.3f}, ticket {accuracy(state):.3f}, sparsity {masks.sparsity(kept):.3f}")
