"""A winning ticket in plain JAX: parameters are a dict of arrays, and the training loop is your own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from snnlth_jax import masks, neurons, pruning

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


def network(params, images, num_timesteps=4):
    """Logits, averaged over time; the image is the current at every timestep."""
    current = images @ params["hidden"]["w"] + params["hidden"]["b"][None]
    _, spikes = neurons.lif_scan(neurons.LIF(), jnp.stack([current] * num_timesteps))
    return spikes.mean(0) @ params["readout"]["w"] + params["readout"]["b"][None]


def loss(params, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(network(params, images), labels).mean()


tx = masks.freeze_pruned(optax.adam(5e-3))  # removed weights stay at zero


@jax.jit
def step(params, opt_state, kept, images, labels):
    grads = jax.grad(loss)(params, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params, masks=kept)
    return optax.apply_updates(params, updates), opt_state


def train(params, kept, epochs=8):
    opt_state = tx.init(params)
    for epoch in range(epochs):
        for batch in np.random.default_rng(epoch).permutation(1200).reshape(-1, 120):
            params, opt_state = step(params, opt_state, kept, images[batch], labels[batch])
    return params


def accuracy(params):
    return float((network(params, images[1200:]).argmax(-1) == labels[1200:]).mean())


keys = jax.random.split(jax.random.key(0))
initial = {
    "hidden": {"w": jax.random.normal(keys[0], (64, 128)) / 4, "b": jnp.zeros(128)},
    "readout": {"w": jax.random.normal(keys[1], (128, 10)) / 8, "b": jnp.zeros(10)},
}
kept = masks.make(initial)  # True for every weight, None for biases
trained = dense = train(initial, kept)
for _ in range(6):  # remove a quarter of the weights that are left, return to the initial ones, train
    kept = pruning.prune(pruning.magnitude(trained), kept, 0.25)
    trained = train(masks.apply(initial, kept), kept)
print(f"dense {accuracy(dense):.3f}, ticket {accuracy(trained):.3f}, sparsity {masks.sparsity(kept):.3f}")
