"""Training loss and accuracy over timesteps. Logits are `[T, B, classes]`, labels `[B]`."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

__all__ = ["correct", "cross_entropy", "timestep_divergence"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Cross-entropy of each timestep's logits, averaged over timesteps.

    .. math:: \ell_b = -\frac{1}{T} \sum_t \log \mathrm{softmax}(z_{t,b})_{y_b}

    The mean is over the T of the logits, so that a search with fewer timesteps has a loss of the same size
    (the authors' code divides by 5 whatever T is).

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
    by_timestep: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return by_timestep.mean(axis=0)


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


def timestep_divergence(
    logits: jax.Array,
    direction: Literal["forward", "reverse"] = "forward",
    reduction: Literal["sum", "mean"] = "sum",
) -> jax.Array:
    r"""Divergence of the prediction after t timesteps from the one after all T (the paper's Early-Time).

    .. math:: D_t = \mathrm{KL}(P_t \,\|\, P_T), \quad P_t = \mathrm{softmax}\Big(\sum_{s \le t} z_s\Big)

    All prefixes come from one forward pass: the first t of T timesteps are a run with t timesteps.

    Args:
      logits: `[T, B, classes]`.
      direction: "forward" as above; "reverse" for :math:`\mathrm{KL}(P_T \| P_t)`, as in the authors' code.
      reduction: "sum" as above; "mean" for the mean of the first t logits, as in the authors' code.

    Returns:
      `[T]`: D_1 ... D_T, mean over the examples, in nats; D_T is 0.

    >>> import jax.numpy as jnp
    >>> [round(float(d), 4) for d in timestep_divergence(jnp.array([[[0.0, 0.0]], [[0.0, 2.0]]]))]
    [0.4338, 0.0]
    """
    accumulated = jnp.cumsum(logits, axis=0)
    if reduction == "mean":
        accumulated /= jnp.arange(1, len(logits) + 1)[:, None, None]
    prefix = jax.nn.log_softmax(accumulated)
    p, q = {"forward": (prefix, prefix[-1:]), "reverse": (prefix[-1:], prefix)}[direction]
    divergences = jnp.sum(jnp.exp(p) * (p - q), axis=-1).mean(axis=-1)
    return jnp.maximum(divergences, 0)  # rounding can make them negative
