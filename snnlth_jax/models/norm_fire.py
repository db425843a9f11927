r"""Batch norm, neurons and pooling of a layer in one function, with its gradient written out.

    y_t = sum over inputs of gamma (x_t - mu_t) / sqrt(sigma_t^2 + epsilon) + beta,  spikes = fire(y),  pooled

Its definition is the composition of `norms.TimestepBatchNorm`, `firing.fire` and `firing.max_pool`. As these
are compiled one by one, they write normalised inputs, potentials and spikes to memory, and keep them for the
gradient. On a GPU or TPU kernels (`_norm_fire_kernels`) compute the same, and only the inputs and their
statistics are kept. With :math:`r = (\sigma^2 + \epsilon)^{-1/2}`, cotangents
:math:`\bar\mu, \bar{\sigma^2}` of the statistics, :math:`S_1 = \sum \bar y`,
:math:`S_2 = \sum \bar y (x - \mu)` and N values of a channel,

.. math::
    \bar\gamma &= \textstyle\sum_t r_t S_{2,t}, \quad \bar\beta = \sum_t S_{1,t}  \\
    v_t &= \bar{\sigma^2_t} - \tfrac12 \gamma r_t^3 S_{2,t}, \quad m_t = \bar\mu_t - \gamma r_t S_{1,t}  \\
    \bar x_t &= \gamma r_t\, \bar y_t + \tfrac2N v_t (x_t - \mu_t) + \tfrac1N m_t

where several devices average m and v. The potentials stay in at least float32, so that in bfloat16 the
kernels round less often than the definition.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial, reduce
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from snnlth_jax import surrogate
from snnlth_jax._axes import varying
from snnlth_jax._constants import is_number, promoted
from snnlth_jax.models import norms
from snnlth_jax.models._checks import check_counts, check_kernels
from snnlth_jax.models._linear import linear
from snnlth_jax.models.firing import fire, first_maximum, max_pool
from snnlth_jax.models.norms import at_least_float32
from snnlth_jax.neurons import LIF, PLIF, lif_step

if TYPE_CHECKING:
    from snnlth_jax.models import _norm_fire_kernels as fused

__all__ = ["Normed", "norm_fire", "takes"]

_MOST_TIMESTEPS = 10  # all of which a kernel holds in registers
_LEAST_CAPABILITY = 8.0  # of Triton
_TPU_DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
_SPIKES = tuple(type(surrogate.create(name)) for name in surrogate.NAMES)

Platform = Literal["cuda", "tpu"]
Statistics = tuple[tuple[jax.Array, jax.Array], ...]  # mean and variance [T, C] of each normalised input


class Normed(NamedTuple):
    """An input that is normalised: `x` `[T, B, H, W, C]`, gamma `[C]` and beta `[C]`."""

    x: jax.Array
    scale: jax.Array
    bias: jax.Array


Inputs = tuple[Normed | jax.Array, ...]
Outputs = tuple[tuple[jax.Array, ...], Statistics]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Computation of a layer: the arguments of `norm_fire`, without arrays."""

    neuron: LIF
    num_timesteps: int
    activation: str
    pool: bool
    epsilon: float
    axis_name: str | None
    dtype: Any
    platform: Platform | None
    interpret: bool
    readers: int

    @property
    def tiles(self) -> ModuleType:
        """Tiles of the platform's kernels."""
        from snnlth_jax.models import _tiles_gpu, _tiles_tpu  # not before: Pallas takes a while to import

        return _tiles_tpu if self.platform == "tpu" else _tiles_gpu


def norm_fire(
    inputs: Sequence[Normed | jax.Array],
    neuron: LIF,
    num_timesteps: int,
    *,
    activation: str = "lif",
    pool: bool = False,
    epsilon: float = 1e-5,
    axis_name: str | None = None,
    dtype: Any = None,
    kernels: str = "auto",
    readers: int = 1,
) -> tuple[tuple[jax.Array, ...], Statistics]:
    """Normalise inputs by their own statistics, add them, fire, and pool.

    Args:
      inputs: inputs, whose sum is the current of the neurons: `Normed`, or arrays that are added as they are.
        All have the shape `[T, B, H, W, C]`, or `[1, B, H, W, C]` if they are the same at every timestep.
      neuron: constants of the neurons.
      num_timesteps: T.
      activation: "lif" or "relu".
      pool: whether 2x2 max pooling follows, see `max_pool`.
      epsilon: added to variances.
      axis_name: mapped axis to average statistics over.
      dtype: of normalised inputs; None promotes them with gamma and beta.
      kernels: "auto" for the kernels on a GPU or TPU where they fit, "plain" for the definition, "interpret"
        or "interpret-tpu" for a GPU's or TPU's kernels emulated on any platform, slowly. They fit neurons
        whose constants are numbers, with a spike function of `surrogate`, 10 timesteps or fewer, and images
        of even sides where they are pooled. On a TPU they fit float32 and bfloat16, multiples of 16 channels
        and of 16 images of each device, of which one is a multiple of 128 or the images are fewer, and one
        device or all axes mapped by `shard_map` or `pmap`; arrays that `jit` divides need "plain".
      readers: number of layers that read the output. Each has a copy, so that the kernels can add up the
        gradients.

    Returns:
      A tuple of `readers` copies of the output, `[T, B, H, W, C]` or with `pool` `[T, B, H // 2, W // 2, C]`;
      and mean and biased variance, each `[T, C]`, of each `Normed`, in at least float32. Differentiable in
      both modes, repeatedly.

    Raises:
      ValueError: another word for `kernels`, a number of readers below 1, and what `fire` and `max_pool`
        refuse.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([0.0, 1.0, 2.0, 9.0]).reshape(1, 1, 2, 2, 1)
    >>> (spikes,), ((mean, var),) = norm_fire([Normed(x, jnp.ones(1), jnp.zeros(1))], LIF(), 2)
    >>> spikes.reshape(2, 4).tolist(), mean.tolist(), var.tolist()
    ([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]], [[3.0]], [[12.5]])
    """
    check_counts(readers=readers)
    platform = _chosen(neuron, kernels)
    interpret = kernels.startswith("interpret")
    layer = _Layer(
        neuron, num_timesteps, activation, pool, epsilon, axis_name, dtype, platform, interpret, readers
    )
    if platform is not None and _fits(layer, inputs):
        result: Outputs = _by_kernels(layer, tuple(inputs))
        return result
    return _definition(layer, tuple(inputs))


def takes(neuron: LIF, kernels: str) -> bool:
    """Whether the kernels compute such neurons, in the program that is traced.

    It is for a TPU, or for an NVIDIA GPU of compute capability 8.0 or more, if the devices of the mesh that
    is set are, or else those of JAX's default platform.

    Args:
      neuron: constants of the neurons.
      kernels: see `norm_fire`.

    >>> takes(LIF(), "plain"), takes(LIF(), "interpret"), takes(PLIF(2.0), "interpret")
    (False, True, False)
    """
    return _chosen(neuron, kernels) is not None


def _chosen(neuron: LIF, kernels: str) -> Platform | None:
    """The platform whose kernels compute such neurons, in the program that is traced; None for no kernels."""
    check_kernels(kernels)
    if kernels == "plain" or isinstance(neuron, PLIF) or not isinstance(neuron.spike, _SPIKES):
        return None
    return _platform(kernels) if all(is_number(leaf) for leaf in jax.tree.leaves(neuron)) else None


def _platform(kernels: str) -> Platform | None:
    """The platform of the program that is traced, if there are kernels for it, or the emulated one."""
    if kernels.startswith("interpret"):
        return "tpu" if kernels.endswith("tpu") else "cuda"
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)  # not in all releases
    platform = jax.default_backend() if device is None else device.platform
    if platform == "tpu":
        return "tpu"
    if platform != "gpu":
        return None
    try:
        present = jax.local_devices(backend="cuda")
    except RuntimeError:  # none: it is compiled for an absent one, or is of another make
        return None if device is None else "cuda"
    able = all(float(gpu.compute_capability) >= _LEAST_CAPABILITY for gpu in present)
    return "cuda" if able else None


def _fits(layer: _Layer, inputs: Sequence[Normed | jax.Array]) -> bool:
    arrays = [term.x if isinstance(term, Normed) else term for term in inputs]
    shape = arrays[0].shape
    return (
        len(shape) == 5
        and all(x.shape == shape and not varying(x) for x in arrays)
        and any(isinstance(term, Normed) for term in inputs)
        and shape[0] in (1, layer.num_timesteps)
        and 0 < layer.num_timesteps <= _MOST_TIMESTEPS
        and not (layer.pool and (shape[2] % 2 or shape[3] % 2))
        and (layer.platform != "tpu" or _fits_tpu(layer, inputs, shape))
    )


def _fits_tpu(layer: _Layer, inputs: Sequence[Normed | jax.Array], shape: tuple[int, ...]) -> bool:
    """Whether a TPU's kernels take such shapes, in a program of numbers and devices that its compiler takes.

    The compiler knows no numbers of 64 or 16 bits but bfloat16, and divides no kernel among devices.
    """
    arrays = len(inputs) + layer.readers
    if not layer.tiles.fits((layer.num_timesteps, *shape[1:]), layer.pool, arrays):
        return False
    leaves = jax.tree.leaves(inputs)
    mesh = jax.typeof(leaves[0]).sharding.mesh
    alone = mesh.empty or mesh.size == 1 or set(mesh.axis_types) == {jax.sharding.AxisType.Manual}
    narrow = jnp.result_type(float) == jnp.float32  # JAX's 64-bit mode is off
    return layer.interpret or (alone and narrow and {leaf.dtype for leaf in leaves} <= {*_TPU_DTYPES})


# --- the definition


def _definition(layer: _Layer, inputs: Inputs) -> Outputs:
    currents, statistics = [], []
    for term in inputs:
        if not isinstance(term, Normed):
            currents.append(term)
            continue
        x = at_least_float32(term.x)
        mean, var = norms.statistics(x, layer.axis_name)
        y = norms.normalised(x, mean, var, term.scale, term.bias, layer.epsilon)
        currents.append(y.astype(_dtype(layer, term)))
        statistics.append((mean.reshape(len(x), -1), var.reshape(len(x), -1)))
    current = reduce(jnp.add, currents)
    output = fire(current, layer.num_timesteps, layer.neuron, layer.activation)
    output = max_pool(output) if layer.pool else output
    return (output,) * layer.readers, tuple(statistics)


def _dtype(layer: _Layer, term: Normed | jax.Array) -> Any:
    return (layer.dtype or promoted(*term)) if isinstance(term, Normed) else term.dtype


# --- by kernels


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _by_kernels(layer: _Layer, inputs: Inputs) -> Outputs:
    plain, kernels = partial(_definition, layer), partial(_forward, layer)
    result: Outputs = _on_platform(layer, kernels, plain, inputs)
    return result


@_by_kernels.defjvp
def _(layer: _Layer, primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[Any, Any]:
    (inputs,), (changes,) = primals, tangents
    definition = partial(_definition, layer)
    result = _, statistics = _by_kernels(layer, inputs)

    def tangent(changes: Inputs) -> Any:
        return jax.linearize(definition, inputs)[1](changes)

    def transpose(grads: Any) -> Any:
        def plain(inputs: Inputs, _: Statistics, grads: Any) -> Inputs:
            pulled_back: tuple[Inputs] = jax.vjp(definition, inputs)[1](grads)
            return pulled_back[0]

        given = (inputs, statistics, grads)
        of_inputs: Inputs = _on_platform(layer, partial(_backward, layer), plain, *given)
        return of_inputs

    return result, linear(tangent, transpose, changes, like=result)


def _on_platform(layer: _Layer, kernels: Any, plain: Any, *args: Any) -> Any:
    if layer.interpret:
        return kernels(*args)
    return jax.lax.platform_dependent(*args, **{str(layer.platform): kernels}, default=plain)


def _over_time(layer: _Layer, currents: list[list[jax.Array]]) -> list[jax.Array]:
    """Output by timestep, from currents by corner and timestep: `fire` and `max_pool`, unrolled."""

    def outputs(currents: list[jax.Array]) -> list[jax.Array]:
        currents = currents * (layer.num_timesteps // len(currents))
        if layer.activation == "relu":
            return [jax.nn.relu(current) for current in currents]
        neuron = dataclasses.replace(layer.neuron, spike=partial(_spike, layer.neuron.spike))
        start = 0.0 if neuron.v_reset is None else neuron.v_reset
        v, spikes = jnp.full_like(currents[0], start), []
        for current in currents:
            v, spike = lif_step(neuron, v, current)
            spikes.append(spike)
        return spikes

    return [*map(first_maximum, zip(*map(outputs, currents), strict=True))]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _spike(spike: Any, u: jax.Array) -> jax.Array:
    """A spike function of `surrogate`, by operations that Pallas knows."""
    return jnp.asarray(u >= 0, u.dtype)


@_spike.defjvp
def _(spike: Any, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _spike(spike, *primals), spike.slope_at(*primals) * tangents[0]


def _forward(layer: _Layer, inputs: Inputs) -> Outputs:
    from snnlth_jax.models import _norm_fire_kernels as fused  # not before it is needed: Pallas takes a while

    statistics = tuple(_statistics(layer, term.x) for term in inputs if isinstance(term, Normed))
    currents, how = _read(layer, inputs, statistics)
    _, batch, height, width, channels = currents.normed[0].x.shape
    if layer.pool:
        height, width = height // 2, width // 2
    dtype = promoted(*(jnp.dtype(_dtype(layer, term)) for term in inputs))
    like = jax.ShapeDtypeStruct((layer.num_timesteps, batch, height, width, channels), dtype)
    return (fused.forward(currents, how, like),) * layer.readers, statistics


def _statistics(layer: _Layer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    if layer.platform == "tpu":
        mean, var = norms.statistics(at_least_float32(x), layer.axis_name)
        return mean.reshape(len(x), -1), var.reshape(len(x), -1)
    from snnlth_jax.models import _statistics_gpu

    means, m2s, counts = _statistics_gpu.statistics(x, promoted(x, jnp.float32), layer.interpret)
    # parts, and devices, are merged as the rows of a part are
    weights = jnp.asarray(counts / counts.sum(), means.dtype)[:, None, None]
    mean = _averaged(layer, (weights * means).sum(0))
    squares = m2s * (1 / int(counts.sum())) + weights * (means - mean[None]) ** 2
    return mean, _averaged(layer, squares.sum(0))


def _averaged(layer: _Layer, x: Any) -> Any:
    return x if layer.axis_name is None else jax.lax.pmean(x, layer.axis_name)


def _read(layer: _Layer, inputs: Inputs, statistics: Statistics) -> "tuple[fused.Currents, fused.How]":
    from snnlth_jax.models import _norm_fire_kernels as fused

    terms = (term for term in inputs if isinstance(term, Normed))
    normed = tuple(fused.Normed(*term, *pair) for term, pair in zip(terms, statistics, strict=True))
    others = tuple(term for term in inputs if not isinstance(term, Normed))
    how = fused.How(
        layer=partial(_over_time, layer),
        pool=layer.pool,
        epsilon=layer.epsilon,
        timesteps=layer.num_timesteps,
        interpret=layer.interpret,
        plan=layer.tiles.Plan.of,
    )
    return fused.Currents(normed, others), how


def _backward(layer: _Layer, inputs: Inputs, statistics: Statistics, grads: Any) -> Inputs:
    """Cotangents of the inputs, from those of the output and the statistics (equations above)."""
    from snnlth_jax.models import _norm_fire_kernels as fused

    of_outputs, of_statistics = grads
    currents, how = _read(layer, inputs, statistics)
    parts, dy = fused.sums(currents, how, of_outputs)
    # a barrier, or compilers would sum the parts again for each use
    sum_dy, *sums_dy_x = jax.lax.optimization_barrier(parts.sum(0))
    lines, of_parameters = [], []
    for term, (dmean, dvar), dot in zip(currents.normed, of_statistics, sums_dy_x, strict=True):
        count = math.prod(term.x.shape[1:-1])
        r = jax.lax.rsqrt(term.var + layer.epsilon)
        slope = r * at_least_float32(term.scale)[None]
        v, m = _averaged(layer, (dvar - slope * r**2 * dot / 2, dmean - slope * sum_dy))
        lines.append((2 / count * v, m / count))
        of_parameters.append(((r * dot).sum(0), sum_dy.sum(0)))
    dxs, dothers = fused.gradient(currents, how, of_outputs, dy, lines)
    of_normed, of_others = zip(dxs, of_parameters, strict=True), iter(dothers)

    def of(term: Normed | jax.Array) -> Any:
        if not isinstance(term, Normed):
            return next(of_others)
        dx, (dscale, dbias) = next(of_normed)
        return Normed(dx, dscale.astype(term.scale.dtype), dbias.astype(term.bias.dtype))

    return tuple(map(of, inputs))
