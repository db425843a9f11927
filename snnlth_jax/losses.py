"""What a network of timesteps is trained on and judged by. Logits are `[T, B, classes]`, labels `[B]`."""

import jax
import jax.numpy as jnp
import optax

__all__ = ["correct", "cross_entropy"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Cross-entropy of each timestep's logits, averaged over timesteps.

    .. math:: \ell_b = -\frac{1}{T} \sum_t \log \mathrm{softmax}(z_{t,b})_{y_b}

    Averaged over the outputs that there are, so that a search with fewer timesteps has a loss of the same
    size (the authors' code divides by 5 whatever T is).

    Args:
      logits: `[T, B, classes]`.
      labels: integers `[B]`.

    Returns:
      `[B]`, in nats; the training loss is its mean.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 4) for x in cross_entropy(jnp.zeros((3, 2, 4)), jnp.array([0, 1]))]
    [1.3863, 1.3863]
    """
    labels = jnp.broadcast_to(labels, logits.shape[:2])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(axis=0)


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether each example is classified correctly: the class of the largest logit summed over time.

    Args:
      logits: `[T, B, classes]`.
      labels: integers `[B]`.

    Returns:
      Booleans `[B]`; accuracies are their sums, so that uneven batches and devices add up.

    >>> import jax.numpy as jnp
    >>> correct(jnp.array([[[2.0, 0.0]], [[0.0, 3.0]]]), jnp.array([1])).tolist()
    [True]
    """
    return jnp.argmax(logits.sum(axis=0), axis=-1) == labels
