"""Training images and loss that scores of weights are computed from."""

from typing import Any

import jax
import jax.numpy as jnp

from snnlth_jax import configs
from snnlth_jax.data.augment import normalise
from snnlth_jax.data.frames import as_input
from snnlth_jax.models import own
from snnlth_jax.search.programs import full_variant
from snnlth_jax.search.session import Session

PyTree = Any

__all__ = ["draw", "loss"]


def draw(
    session: Session[configs.ResolvedTrain], key: jax.Array, examples: int
) -> tuple[jax.Array, jax.Array]:
    """Draw this number of training images at random, with their labels."""
    split = session.train_split
    order = jax.random.permutation(key, len(split.labels))[:examples]
    return split.images[order], split.labels[order]


def loss(
    session: Session[configs.ResolvedTrain],
    params: PyTree,
    batch_stats: PyTree,
    images: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """Training loss at the full T on images without augmentation, a batch at a time."""
    variant, augmentation = full_variant(session.config), session.variants.augmentation
    # without kernels: the same scores on every device, those of second derivatives too
    model, examples = own.cloned(session.variants.model(variant), kernels="plain"), len(labels)
    size = min(session.config.batch_size, examples)
    full = examples // size * size

    def batch_loss(params: PyTree, chosen: jax.Array) -> jax.Array:
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            as_input(model, normalise(images[chosen], augmentation), variant.num_timesteps),
            num_timesteps=variant.num_timesteps,
            train=True,
            mutable=["batch_stats"],
        )
        return session.variants.loss(logits, labels[chosen]).sum()

    # checkpointed, so that only the activations of one batch are in memory
    batches = jnp.arange(full).reshape(-1, size)
    sums: jax.Array = jax.lax.map(jax.checkpoint(lambda chosen: batch_loss(params, chosen)), batches)
    rest = batch_loss(params, jnp.arange(full, examples)) if full < examples else 0.0
    return (sums.sum() + rest) / examples
