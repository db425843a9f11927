r"""The leaky integrate-and-fire neuron as a pure function of its state, and its scan over time.

Time comes first: inputs and spikes are `[T, ...]`. Nothing is hidden: the only state is the membrane
potential `v`, an argument and a result.

In one timestep (the paper's neuron; with its constants `v_charged = 0.25 v + 0.75 x`):

.. math::
    v &\leftarrow v + (x - (v - v_\text{reset})) / \tau      && \text{charge, input decaying} \\
    v &\leftarrow v - (v - v_\text{reset}) / \tau + x        && \text{charge, otherwise} \\
    s &= \Theta(v - v_\text{threshold})                      && \text{fire; } \Theta(0) = 1 \\
    v &\leftarrow (1 - s)\, v + s\, v_\text{reset}           && \text{hard reset} \\
    v &\leftarrow v - s\, v_\text{threshold}                 && \text{soft reset}

with `v_reset` read as 0 in the charge of a soft-reset neuron, and the `s` of the reset hidden from the
gradient where `detach_reset`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from snnlth_jax import surrogate

__all__ = ["LIF", "lif_scan", "lif_step"]


@dataclasses.dataclass(frozen=True)
class LIF:
    """Constants of a leaky integrate-and-fire neuron; the defaults are the paper's.

    Hashable, so it can be a static argument of `jit` and a field of a Flax module.

    Attributes:
      tau: membrane time constant in timesteps, >= 1 (1: no memory).
      v_threshold: potential at which the neuron fires, above `v_reset`.
      v_reset: potential after a spike and at the start; None for a soft reset, which subtracts the
        threshold and starts at 0.
      decay_input: whether the input is divided by tau too.
      detach_reset: whether the gradient ignores the path through the reset.
      spike: the spike function, see `snnlth_jax.surrogate`.
    """

    tau: float = 4 / 3
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = True
    spike: surrogate.SpikeFn = surrogate.atan()

    def __post_init__(self) -> None:
        if isinstance(self.tau, (int, float)) and not self.tau >= 1:
            raise ValueError(f"tau must be at least 1 timestep, got {self.tau}")
        if isinstance(self.v_threshold, (int, float)) and not self.v_threshold > (self.v_reset or 0.0):
            raise ValueError(
                f"v_threshold must lie above v_reset ({self.v_reset or 0.0}), got {self.v_threshold}"
            )


def lif_step(neuron: LIF, v: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One timestep of a layer of neurons: charge, fire, reset (equations at the top of this module).

    Args:
      neuron: the constants.
      v: membrane potential before the timestep, any shape.
      x: input current, same shape.

    Returns:
      `(v, spikes)`: the potential after the reset, and 0 or 1 per neuron; same shape, the promoted dtype.

    >>> import jax.numpy as jnp
    >>> v, spikes = lif_step(LIF(), jnp.zeros(2), jnp.array([1.0, 2.0]))
    >>> v.tolist(), spikes.tolist()
    ([0.75, 0.0], [0.0, 1.0])
    """
    v_rest = 0.0 if neuron.v_reset is None else neuron.v_reset
    if neuron.decay_input:
        v = v + (x - (v - v_rest)) / neuron.tau
    else:
        v = v - (v - v_rest) / neuron.tau + x
    spikes = neuron.spike(v - neuron.v_threshold)
    fired = jax.lax.stop_gradient(spikes) if neuron.detach_reset else spikes
    if neuron.v_reset is None:
        v = v - fired * neuron.v_threshold
    else:
        v = (1 - fired) * v + fired * neuron.v_reset
    return v, spikes


def lif_scan(
    neuron: LIF, xs: jax.Array, v: jax.Array | None = None, *, unroll: int | bool = 1
) -> tuple[jax.Array, jax.Array]:
    """Scan `lif_step` over the first axis: a layer of neurons over all timesteps.

    Args:
      neuron: the constants.
      xs: input current per timestep, `[T, ...]`.
      v: potential before the first timestep, `[...]`; by default `v_reset`, or 0 for a soft reset.
      unroll: number of timesteps that `jax.lax.scan` lays out in a row; True for all of them.

    Returns:
      `(v, spikes)`: the potential after the last timestep `[...]`, and the spikes `[T, ...]`.

    >>> import jax.numpy as jnp
    >>> v, spikes = lif_scan(LIF(), jnp.full((4, 1), 1.2))
    >>> spikes[:, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    xs = jnp.asarray(xs)
    if v is None:
        # full_like, not full: in shard_map v must vary over the devices as xs does
        v_start = 0.0 if neuron.v_reset is None else neuron.v_reset
        v = jnp.full_like(xs[0], v_start, dtype=jnp.result_type(xs, v_start))
    return jax.lax.scan(lambda v, x: lif_step(neuron, v, x), v, xs, unroll=unroll)
