"""A winning ticket with Equinox: masks are a module like the model, and go into the call of the optimiser."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from snnlth_jax import masks, neurons, pruning

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


class Network(eqx.Module):
    hidden: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __call__(self, image, num_timesteps=4):
        current = self.hidden(image)
        _, spikes = neurons.lif_scan(neurons.LIF(), jnp.stack([current] * num_timesteps))
        return self.readout(spikes.mean(0))


def loss(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(images), labels).mean()


tx = masks.freeze_pruned(optax.adam(5e-3))  # removed weights stay at zero


@eqx.filter_jit
def step(model, opt_state, kept, images, labels):
    grads = eqx.filter_grad(loss)(model, images, labels)
    updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_array), masks=kept)
    return eqx.apply_updates(model, updates), opt_state


def train(model, kept, epochs=8):
    opt_state = tx.init(eqx.filter(model, eqx.is_array))
    for epoch in range(epochs):
        for batch in np.random.default_rng(epoch).permutation(1200).reshape(-1, 120):
            model, opt_state = step(model, opt_state, kept, images[batch], labels[batch])
    return model


def accuracy(model):
    return float((jax.vmap(model)(images[1200:]).argmax(-1) == labels[1200:]).mean())


keys = jax.random.split(jax.random.key(0))
initial = Network(eqx.nn.Linear(64, 128, key=keys[0]), eqx.nn.Linear(128, 10, key=keys[1]))
kept = masks.make(initial)  # True for every weight, None for biases
model = dense = train(initial, kept)
for _ in range(6):  # remove a quarter of the weights that are left, return to the initial ones, train
    kept = pruning.prune(pruning.magnitude(model), kept, 0.25)
    model = train(masks.apply(initial, kept), kept)
print(f"dense {accuracy(dense):.3f}, ticket {accuracy(model):.3f}, sparsity {masks.sparsity(kept):.3f}")
