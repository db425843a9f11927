"""A plain script's view of training: the same steps, without a session, phases or a directory."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import small

from snnlth_jax import data, losses, masks, train
from snnlth_jax.data.augment import augment, normalise
from snnlth_jax.search import programs
from snnlth_jax.train import optimizers


class Plain:
    """Training of `small.MODEL` as a configuration of `small.NETWORK` says, by hand."""

    def __init__(self, config):
        self.config = config
        self.dataset = data.load("digits", train_examples=96, validation_examples=20)
        self.split = jax.device_put(self.dataset.train)
        self.tx = optimizers.create()
        self.init_key, self.train_key, _, self.score_key = jax.random.split(jax.random.key(config.seed), 4)
        self.sample = jnp.zeros((1, 8, 8, 1))
        variants = programs.Variants(config, self.dataset, small.MODEL)
        self.program = lambda state, steps: variants.program(
            programs.Variant("lif", steps), state, variants.on_devices(self.dataset.train), self.dataset.test
        )[0]

    def begin(self):
        return train.init_state(self.init_key, small.MODEL, self.tx, self.sample)

    def train(self, state, num_timesteps, order, rate, first, last):
        """States and mean training losses after each of the epochs first + 1 ... last, in lists.

        `order` is the kind and the round whose images come in the same order; `rate` is a function of the
        number of completed epochs.
        """
        key = jax.random.fold_in(jax.random.fold_in(self.train_key, zlib.crc32(order[0].encode())), order[1])
        states, losses = [], []
        for epoch in train.fit(
            self.program(state, num_timesteps),
            jax.tree.map(jnp.copy, state),
            self.split,
            key=key,
            learning_rate=rate,
            first_epoch=first,
            last_epoch=last,
        ):
            states.append(jax.device_get(epoch.state))
            losses.append(float(epoch.metrics.loss) / int(epoch.metrics.examples))
        return states, losses

    def rewound(self, point, kept):
        """The state that a round begins with: these weights, these masks, a new optimiser."""
        params = masks.apply(jax.tree.map(jnp.asarray, point.params), kept)
        batch_stats = jax.tree.map(jnp.asarray, point.batch_stats)
        return train.TrainState(jnp.asarray(point.step), params, batch_stats, kept, self.tx.init(params))

    def loss(self, params, batch_stats, images, labels):
        """Training loss of the full T on images as they are."""
        logits, _ = small.MODEL.apply(
            {"params": params, "batch_stats": batch_stats},
            normalise(images, self.dataset.augmentation),
            num_timesteps=self.config.num_timesteps,
            train=True,
            mutable=["batch_stats"],
        )
        return losses.cross_entropy(logits, labels).mean()

    def divergences(self, state, num_timesteps, epoch):
        """KL(P_t || P_T) for each t, of the training images that a search takes after this epoch."""
        order_key, augment_key = jax.random.split(jax.random.fold_in(self.score_key, epoch))
        chosen = jax.random.permutation(order_key, len(self.split.labels))
        images = augment(augment_key, self.split.images[chosen], self.dataset.augmentation)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits, _ = small.MODEL.apply(
            variables, images, num_timesteps=num_timesteps, train=True, mutable=["batch_stats"]
        )
        return dict(enumerate(map(float, losses.timestep_divergence(logits)), start=1))


def cosine(base, first, last):
    """A cosine from `first` to `last` completed epochs."""
    return lambda epoch: base / 2 * (1 + float(np.cos(np.pi * (epoch - first) / (last - first))))
