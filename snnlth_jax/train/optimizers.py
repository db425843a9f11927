"""The optimiser of a search, and its learning rate, which is set per epoch: an argument, not a constant."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from snnlth_jax import masks

PyTree = Any

__all__ = ["create", "learning_rates"]


@functools.cache
def create(
    name: str = "sgd", *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> optax.GradientTransformationExtraArgs:
    r"""SGD as the authors run it, or Adam, with removed weights frozen at zero.

    .. math:: g \leftarrow g + \lambda w, \quad b \leftarrow \mu b + g, \quad w \leftarrow w - \eta b

    The weight decay applies to all parameters, batch norm and biases included, before the momentum.

    Args:
      name: "sgd" or "adam" (with the same kind of weight decay).
      momentum: mu, for SGD only.
      weight_decay: lambda.

    Returns:
      A transformation with `update(grads, state, params, masks=..., learning_rate=...)`: the rate is an
      argument, since it is set per epoch and must not be a constant of the program.
    """

    def scale_by_rate(
        updates: PyTree,
        state: optax.OptState,
        params: PyTree | None = None,
        *,
        learning_rate: float | jax.Array,
        **extra: Any,
    ) -> tuple[PyTree, optax.OptState]:
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    rate = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale_by_rate)
    direction = {"sgd": optax.trace(decay=momentum), "adam": optax.scale_by_adam()}[name]
    return masks.freeze_pruned(optax.chain(optax.add_decayed_weights(weight_decay), direction, rate))


def learning_rates(schedule: str, base: float, epochs: int) -> Callable[[int], float]:
    r"""The learning rate of epoch e, counted from 0; constant within an epoch.

    "cosine": :math:`\eta_e = \frac{\eta}{2} (1 + \cos(\pi e / E))` (paper);
    "step": a tenth after half of the epochs, a hundredth after three quarters, rounded down as in PyTorch;
    "cosine-twice": :math:`\eta_e = \frac{\eta}{2} (1 + \cos(2 \pi e / E))`, a cosine with two steps each
    epoch (authors' code, Early-Bird's retraining): 0 at half of the epochs, and back at the end;
    "fine-tune": a hundredth in all epochs (Renda et al. 2020).

    >>> rate = learning_rates("cosine", 0.3, 300)
    >>> rate(0), rate(150)
    (0.3, 0.15)
    """
    if schedule in ("cosine", "cosine-twice"):
        pace = 1 if schedule == "cosine" else 2
        return lambda epoch: base / 2 * (1 + float(np.cos(np.pi * pace * epoch / epochs)))
    if schedule == "fine-tune":
        return lambda epoch: base * 0.01
    if schedule != "step":
        raise ValueError(f"schedule must be cosine, cosine-twice, step or fine-tune, got {schedule!r}")
    return lambda epoch: base * 0.1 ** ((epoch >= epochs // 2) + (epoch >= 3 * epochs // 4))
