"""Training loss and accuracy over timesteps. Logits are `[T, B, classes]`, labels integers `[B]`.

Shapes and dtypes are compared when a program is traced, at no cost when it runs. Labels lie in
0 ... classes - 1: others raise ValueError where their values are known. In a program that is traced for any
labels, they have a loss of NaN, with a gradient of NaN, and are never classified correctly.

Logits of fewer than 32 bits are added up in float32.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax._constants import as_array, concrete, known, promoted

__all__ = ["NAMES", "Loss", "Name", "correct", "cross_entropy", "timestep_divergence"]

Name = Literal["mean-ce", "sum-ce", "tet", "mse-rate"]
NAMES: tuple[str, ...] = get_args(Name)
TET_SHARE, TET_MEAN = 1e-3, 1.0  # lambda and phi, defaults of the code of Deng et al.


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    r"""Cross-entropy of each timestep's logits, averaged over timesteps.

    .. math:: \ell_b = -\frac{1}{T} \sum_t \log \mathrm{softmax}(z_{t,b})_{y_b}

    The mean is over the T of the logits, so that a search with fewer timesteps has a loss of the same size
    (the authors' code divides by 5 whatever T is).

    Args:
      logits: `[T, B, classes]`, floating-point numbers.
      labels: integers `[B]`, from 0 to classes - 1.
      label_smoothing: epsilon in [0, 1); the targets are 1 - epsilon on the label, plus epsilon / classes on
        every class. A Python number.

    Returns:
      `[B]`, in nats, of at least float32; the training loss is its mean.

    Raises:
      ValueError: other shapes or dtypes, a known label that is no class, or an epsilon that is not allowed.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 4) for x in cross_entropy(jnp.zeros((3, 2, 4)), jnp.array([0, 1]))]
    [1.3863, 1.3863]
    """
    _check_smoothing(label_smoothing)
    given = as_array("logits", logits).dtype
    if not jnp.issubdtype(given, jnp.inexact):
        raise ValueError(f"logits must be floating-point numbers, got {given}")
    logits, labels, valid = _checked(logits, labels)
    chosen = _chosen(logits, labels) | ~valid[None, :, None]
    log_probabilities = jax.nn.log_softmax(logits)
    log_likelihood = jnp.where(chosen, log_probabilities, 0).sum(axis=-1)
    if label_smoothing:
        uniform = log_probabilities.mean(axis=-1)
        log_likelihood = (1 - label_smoothing) * log_likelihood + label_smoothing * uniform
    return -log_likelihood.mean(axis=0) * _unless(valid, logits.dtype)


@dataclasses.dataclass(frozen=True)
class Loss:
    r"""A training loss by its name: a function `(logits [T, B, classes], labels [B]) -> [B]`.

    With q the one-hot vector of a label, or :math:`(1 - \epsilon) q + \epsilon / K` of K classes with label
    smoothing, and :math:`H(q, z) = -\sum_k q_k \log \mathrm{softmax}(z)_k`:

    .. math::
        \text{mean-ce} &= \frac{1}{T} \sum_t H(q, z_t)  \\
        \text{sum-ce} &= H\Big(q, \sum_t z_t\Big)  \\
        \text{tet} &= (1 - \lambda) \frac{1}{T} \sum_t H(q, z_t)
            + \lambda \frac{1}{TK} \sum_{t,k} (z_{t,k} - \varphi)^2  \\
        \text{mse-rate} &= \frac{1}{K} \sum_k \Big(\frac{1}{T} \sum_t z_{t,k} - q_k\Big)^2

    mean-ce is the paper's, and `cross_entropy`; tet is that of Deng et al. 2022, with the
    :math:`\lambda = 10^{-3}` and :math:`\varphi = 1` of their code. Equal by value, and hashable.

    Attributes:
      name: one of `NAMES`.
      label_smoothing: epsilon, 0 or more, below 1.

    Raises:
      ValueError: another name or epsilon; of the function, what `cross_entropy` refuses.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([[[2.0, 0.0]], [[0.0, 0.0]]]), jnp.array([0])
    >>> {name: round(float(Loss(name)(logits, labels)[0]), 4) for name in NAMES}
    {'mean-ce': 0.41, 'sum-ce': 0.1269, 'tet': 0.4106, 'mse-rate': 0.0}
    """

    name: Name = "mean-ce"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"loss must be one of {', '.join(NAMES)}; got {self.name!r}")
        _check_smoothing(self.label_smoothing)

    @property
    def averages(self) -> bool:
        """Whether it is a mean over timesteps of a loss of each."""
        return self.name in ("mean-ce", "tet")

    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The loss of each example, of at least float32; the training loss is its mean."""
        if self.name == "mean-ce":
            return cross_entropy(logits, labels, self.label_smoothing)
        if self.name == "sum-ce":
            summed = _checked_logits(logits).sum(axis=0, keepdims=True)
            return cross_entropy(summed, labels, self.label_smoothing)
        if self.name == "tet":
            distance = ((_checked_logits(logits) - TET_MEAN) ** 2).mean(axis=(0, 2))
            entropy = cross_entropy(logits, labels, self.label_smoothing)
            return (1 - TET_SHARE) * entropy + TET_SHARE * distance
        logits, labels, valid = _checked(logits, labels)
        chosen = _chosen(logits, labels)[0].astype(logits.dtype)
        target = (1 - self.label_smoothing) * chosen + self.label_smoothing / logits.shape[-1]
        return ((logits.mean(axis=0) - target) ** 2).mean(axis=-1) * _unless(valid, logits.dtype)


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether each example is classified correctly: the class of the largest logit summed over time.

    An example with a NaN among its logits is not.

    Args:
      logits: `[T, B, classes]`, integers or floating-point numbers.
      labels: integers `[B]`, from 0 to classes - 1.

    Returns:
      Booleans `[B]`; accuracies are their sums, so that uneven batches and devices add up.

    Raises:
      ValueError: other shapes or dtypes, or a known label that is no class.

    >>> import jax.numpy as jnp
    >>> correct(jnp.array([[[2.0, 0.0]], [[0.0, 3.0]]]), jnp.array([1])).tolist()
    [True]
    """
    logits, labels, valid = _checked(logits, labels)
    summed = logits.sum(axis=0)
    predicted = jnp.argmax(summed, axis=-1)
    return (predicted == labels.astype(predicted.dtype)) & valid & ~jnp.isnan(summed).any(axis=-1)


def timestep_divergence(
    logits: jax.Array,
    direction: Literal["forward", "reverse"] = "forward",
    reduction: Literal["sum", "mean"] = "sum",
) -> jax.Array:
    r"""Divergence of the prediction after t timesteps from the one after all T (the paper's Early-Time).

    .. math:: D_t = \mathrm{KL}(P_t \,\|\, P_T), \quad P_t = \mathrm{softmax}\Big(\sum_{s \le t} z_s\Big)

    All prefixes come from one forward pass: the first t of T timesteps are a run with t timesteps.

    Args:
      logits: `[T, B, classes]`, at least one example.
      direction: "forward" as above; "reverse" for :math:`\mathrm{KL}(P_T \| P_t)`, as in the authors' code.
      reduction: "sum" as above; "mean" for the mean of the first t logits, as in the authors' code.

    Returns:
      `[T]`, of at least float32: D_1 ... D_T, mean over the examples, in nats; D_T is 0.

    Raises:
      ValueError: other shapes, another direction or reduction.

    >>> import jax.numpy as jnp
    >>> [round(float(d), 4) for d in timestep_divergence(jnp.array([[[0.0, 0.0]], [[0.0, 2.0]]]))]
    [0.4338, 0.0]
    """
    logits = _checked_logits(logits)
    if logits.shape[1] == 0:
        raise ValueError(f"logits must be of at least one example, got shape {logits.shape}")
    for name, value, allowed in (
        ("direction", direction, ("forward", "reverse")),
        ("reduction", reduction, ("sum", "mean")),
    ):
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    accumulated = jnp.cumsum(logits, axis=0)
    if reduction == "mean":
        accumulated /= jnp.arange(1, len(logits) + 1, dtype=accumulated.dtype)[:, None, None]
    prefix = jax.nn.log_softmax(accumulated)
    p, q = {"forward": (prefix, prefix[-1:]), "reverse": (prefix[-1:], prefix)}[direction]
    possible = jnp.exp(p) > 0  # the limit of x log x at 0 is 0
    difference = jnp.where(possible, p, 0) - jnp.where(possible, q, 0)
    divergences = jnp.sum(jnp.exp(p) * difference, axis=-1).mean(axis=-1)
    return jnp.maximum(divergences, 0)  # rounding can make them negative


def _checked_logits(logits: Any) -> jax.Array:
    array = as_array("logits", logits)
    if array.ndim != 3 or len(array) == 0 or array.shape[-1] == 0 or jnp.iscomplexobj(array):
        raise ValueError(
            "logits must be real numbers [T, B, classes] of at least one timestep and class, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array.astype(promoted(array, jnp.float32))


def _check_smoothing(epsilon: Any) -> None:
    values = known("label_smoothing", epsilon)
    if values is None or values.shape != () or not 0 <= values < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {epsilon!r}")


def _checked(logits: Any, labels: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits, labels, and which labels are classes."""
    logits, values = _checked_logits(logits), concrete(labels)
    given: Any = labels if values is None else values
    classes = logits.shape[-1]
    if given.shape != logits.shape[1:2] or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(
            "labels must be integers [B] for logits [T, B, classes], "
            f"got {given.dtype} of shape {given.shape} for logits of shape {logits.shape}"
        )
    if values is not None:
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if wrong.size:
            value, index = values[wrong[0]], wrong[0]
            raise ValueError(f"labels must lie in 0 ... {classes - 1}, got {value} at [{index}]")
    labels = as_array("labels", labels)
    last = min(classes - 1, int(jnp.iinfo(labels.dtype).max))
    return logits, labels, (labels >= 0) & (labels <= last)


def _chosen(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Which class is the label `[1, B, classes]`, not by index: classes may be divided over devices."""
    classes = jnp.arange(logits.shape[-1])[None, None]
    return classes == labels[None, :, None].astype(classes.dtype)


def _unless(valid: jax.Array, dtype: Any) -> jax.Array:
    """1 where a label is a class, else NaN."""
    return jnp.where(valid, jnp.ones((), dtype), jnp.nan)
