"""A winning ticket with Haiku: parameters are a dict of dicts, and masks a dict of dicts beside it."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from snnlth_jax import masks, neurons, pruning

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


def forward(images, num_timesteps=4):
    current = hk.Linear(128)(images)
    _, spikes = neurons.lif_scan(neurons.LIF(), jnp.stack([current] * num_timesteps))
    return hk.Linear(10)(spikes).mean(0)


network = hk.without_apply_rng(hk.transform(forward))
tx = masks.freeze_pruned(optax.adam(5e-3))  # removed weights stay at zero


@jax.jit
def step(params, opt_state, kept, images, labels):
    def loss(params):
        logits = network.apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    grads = jax.grad(loss)(params)
    updates, opt_state = tx.update(grads, opt_state, params, masks=kept)
    return optax.apply_updates(params, updates), opt_state


def train(params, kept, epochs=8):
    opt_state = tx.init(params)
    for epoch in range(epochs):
        for batch in np.random.default_rng(epoch).permutation(1200).reshape(-1, 120):
            params, opt_state = step(params, opt_state, kept, images[batch], labels[batch])
    return params


def accuracy(params):
    return float((network.apply(params, images[1200:]).argmax(-1) == labels[1200:]).mean())


initial = network.init(jax.random.key(0), images[:1])
kept = masks.make(initial)  # True for every w, None for every b
params = dense = train(initial, kept)
for _ in range(6):  # remove a quarter of the weights that are left, return to the initial ones, train
    kept = pruning.prune(pruning.magnitude(params), kept, 0.25)
    params = train(masks.apply(initial, kept), kept)
print(f"dense {accuracy(dense):.3f}, ticket {accuracy(params):.3f}, sparsity {masks.sparsity(kept):.3f}")
