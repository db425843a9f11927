"""Connections of any spiking network, derived from its traced program.

An operation that has both a prunable parameter and the spikes of some neurons among its inputs is a layer of
weights; its target are the neurons whose input depends on its result. The neurons are those whose spikes the
network sows (`self.sow("intermediates", "NAME_spikes", spikes)`).

What kind of layer it is, numbers decide: the program runs once with random zeros and ones in the place of all
spikes, and the connection is the one for which `wiring.onward` has the same result, up to a constant factor.
"""

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from snnlth_jax.analysis import wiring as w
from snnlth_jax.analysis.wiring import IMAGE, LOGITS, Connection, Shape, Wiring
from snnlth_jax.masks import trees

__all__ = ["trace"]

_SPIKES = "_spikes"
_TOLERANCE = 0.02  # of the largest number, for networks that compute in bfloat16
_LARGEST_STRIDE = 4


def trace(model: Any, variables: Mapping[str, Any], masks: Any, image_shape: Shape) -> Wiring:
    """Connections of a network, in the order of its forward pass.

    Args:
      model: Flax module, called as those of `snnlth_jax.models`, that sows the spikes of each layer of
        neurons, `[T, B, H, W, C]` or `[T, B, C]`, as intermediates `NAME_spikes`.
      variables: `params` and `batch_stats`, or `jax.ShapeDtypeStruct` of them.
      masks: masks of the prunable parameters; only their places matter.
      image_shape: height, width, channels; the number of frames first if the image changes over time.

    Returns:
      Connections, as `wiring.connections` has them for the networks of this package.

    Raises:
      ValueError: the network sows no spikes, or has a layer that `wiring.Connection` cannot describe:
        another padding, groups, average pooling, weights behind weights without neurons in between.

    >>> import jax.numpy as jnp
    >>> from snnlth_jax import masks, models
    >>> model, image = models.VGG((4, "M", 8), num_classes=3), jnp.ones((1, 4, 4, 1))
    >>> variables = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), image)
    >>> for c in trace(model, variables, masks.make(variables["params"]), (4, 4, 1)):
    ...     print(c.name, c.source, "->", c.target, c.poolings)
    layer01/conv/kernel image -> layer01 0
    layer02/conv/kernel layer01 -> layer02 1
    readout/kernel layer02 -> logits 0
    """
    noise = np.random.default_rng(0)
    # in [1/2, 1): a variance is positive
    variables = jax.tree.map(lambda x: (noise.random(x.shape) / 2 + 0.5).astype(x.dtype), dict(variables))
    once = (1, 1) if len(image_shape) > 3 else (1,)  # a timestep and an image
    image = noise.normal(size=(*once, *image_shape[-3:])).astype(np.float32)

    def forward(variables: Any, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, sown = model.apply(variables, x, num_timesteps=1, train=False, mutable=["intermediates"])
        flat = flatten_dict(sown.get("intermediates", {}), sep="/")
        return logits, {k.removesuffix(_SPIKES): v[0] for k, v in flat.items() if k.endswith(_SPIKES)}

    jaxpr, (_, shapes) = jax.make_jaxpr(forward, return_shape=True)(variables, image)
    if not shapes:
        raise ValueError("the network sows no spikes as intermediates NAME_spikes")
    program = _flat(jaxpr, sorted(shapes))  # the order in which JAX has the keys of a dict
    spikes = {name: noise.integers(0, 2, shape.shape) for name, shape in shapes.items()}
    known = {name: array.reshape(array.shape[2:]) for name, array in spikes.items()} | {
        IMAGE: image.reshape(image_shape[-3:])
    }

    prunable = {f"params/{trees.name_of(path)}" for path, _ in jax.tree_util.tree_leaves_with_path(masks)}
    named = {trees.name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    kernels = [name.removeprefix("params/") if name in prunable else None for name in named]
    origins = [_Origin(kernel=kernel) for kernel in kernels]
    layers, ends = _layers(program, [*origins, _Origin(reads=frozenset([IMAGE]))])
    results = jax.jit(partial(_results, program, layers))([*jax.tree.leaves(variables), image], spikes)
    connections = [
        _connection(
            layer, known[layer.source], named[f"params/{layer.kernel}"].shape, *map(np.asarray, result)
        )
        for layer, result in zip(layers, results, strict=True)
    ]

    wiring: list[Connection] = []
    for target, origin in ends.items():
        wiring += [connections[i]._replace(target=target) for i in sorted(origin.layers)]
        for source in sorted(origin.reads):
            if target == LOGITS or known[source].shape != known[target].shape:
                raise ValueError(f"a shortcut from {source} to {target} changes the shape")
            wiring.append(Connection(None, source, target))
    return tuple(wiring)


# --- a program without calls


class _Constant(NamedTuple):
    array: Any


class _Operation(NamedTuple):
    """An operation; its inputs are numbers of values, or constants."""

    equation: JaxprEqn
    inputs: list[Any]
    outputs: list[int]


class _Program(NamedTuple):
    """Operations of a program and of all that it calls; values have numbers.

    Attributes:
      operations: operations, in order.
      arguments: numbers of the arguments.
      logits: number of the logits.
      neurons: names of neurons by the number of their spikes.
    """

    operations: list[_Operation]
    arguments: list[int]
    logits: Any
    neurons: dict[Any, str]


def _flat(program: ClosedJaxpr, names: list[str]) -> _Program:
    numbers, operations = itertools.count(), []

    def visit(jaxpr: Jaxpr, consts: Any, arguments: list[Any]) -> list[Any]:
        values: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {var: _Constant(x) for var, x in zip(jaxpr.constvars, consts, strict=True)}

        def value(atom: Any) -> Any:
            return _Constant(atom.val) if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            inputs, called = [value(atom) for atom in equation.invars], _called(equation)
            if called is None:
                outputs: list[Any] = [next(numbers) for _ in equation.outvars]
                operations.append(_Operation(equation, inputs, outputs))
            else:
                outputs = visit(*called, inputs)
            values |= dict(zip(equation.outvars, outputs, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    arguments = [next(numbers) for _ in program.jaxpr.invars]
    logits, *sown = visit(program.jaxpr, program.consts, arguments)
    return _Program(operations, arguments, logits, dict(zip(sown, names, strict=True)))


def _called(equation: JaxprEqn) -> tuple[Jaxpr, Any] | None:
    """The program that an operation calls once, with its constants; None for other operations."""
    if equation.primitive.name not in ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"):
        return None
    called = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
    return (called.jaxpr, called.consts) if isinstance(called, ClosedJaxpr) else (called, ())


# --- what its values are made of


class _Origin(NamedTuple):
    """Origin of a value of the program.

    Attributes:
      reads: neurons, or the image, that it depends on with no weights in between.
      layers: indices of layers of weights that it depends on with no neurons in between.
      kernel: prunable parameter that it is a function of; None for others.
    """

    reads: frozenset[str] = frozenset()
    layers: frozenset[int] = frozenset()
    kernel: str | None = None


class _Layer(NamedTuple):
    """A layer of weights.

    Attributes:
      kernel: name of the prunable parameter.
      source: neurons that it reads, or the image.
      weights: number of the value that is a function of the parameter.
      result: number of the result.
    """

    kernel: str
    source: str
    weights: int
    result: int


def _layers(program: _Program, origins: list[_Origin]) -> tuple[list[_Layer], dict[str, _Origin]]:
    """The layers of weights, and what the inputs of all neurons and the logits are made of, in order."""
    known: dict[Any, _Origin] = dict(zip(program.arguments, origins, strict=True))
    layers: list[_Layer] = []
    ends: dict[str, _Origin] = {}
    for equation, inputs, outputs in program.operations:
        numbers = [x for x in inputs if isinstance(x, int)]
        origin = _combined(equation.primitive.name, [known[x] for x in numbers])
        if origin.kernel and origin.reads:
            if len(origin.reads) > 1:
                raise ValueError(f"{origin.kernel} reads {', '.join(sorted(origin.reads))} at once")
            (weights, *_) = (x for x in numbers if known[x].kernel)
            (source,) = origin.reads
            layers.append(_Layer(origin.kernel, source, weights, outputs[0]))
            origin = _Origin(layers=frozenset([len(layers) - 1]))
        for number in outputs:
            known[number] = origin
            if name := program.neurons.get(number):
                ends[name] = origin
                known[number] = _Origin(reads=frozenset([name]))
    return layers, ends | {LOGITS: known[program.logits]}


def _combined(primitive: str, inputs: list[_Origin]) -> _Origin:
    reads = frozenset[str]().union(*(origin.reads for origin in inputs))
    layers = frozenset[int]().union(*(origin.layers for origin in inputs))
    kernels = {origin.kernel for origin in inputs if origin.kernel}
    if len(kernels) > 1:
        raise ValueError(f"{primitive} combines the weights {', '.join(sorted(kernels))}")
    kernel = next(iter(kernels), None)
    if kernel and layers:
        raise ValueError(f"{kernel} is behind other weights, without neurons in between")
    return _Origin(reads, layers, kernel)


# --- what its numbers say


def _results(
    program: _Program, layers: list[_Layer], arguments: list[Any], spikes: Mapping[str, Any]
) -> list[tuple[Any, Any]]:
    """Weights and result of each layer, with these spikes in the place of the network's."""
    values: dict[Any, Any] = dict(zip(program.arguments, arguments, strict=True))
    for equation, inputs, outputs in program.operations:
        primitive, arrays = equation.primitive, [values[x] if isinstance(x, int) else x.array for x in inputs]
        with equation.ctx.manager:
            result = primitive.bind(*arrays, **primitive.get_bind_params(equation.params))
        arrays = result if primitive.multiple_results else [result]
        values |= dict(zip(outputs, arrays, strict=True))
        for number in outputs:
            if name := program.neurons.get(number):
                values[number] = spikes[name].astype(values[number].dtype)
    return [(values[layer.weights], values[layer.result]) for layer in layers]


def _connection(
    layer: _Layer, source: np.ndarray, shape: Shape, weights: np.ndarray, result: np.ndarray
) -> Connection:
    """The connection that a layer is, without its target."""
    if weights.size == np.prod(shape):
        kernel = weights.astype(np.float32).reshape(shape)
        for connection in _candidates(layer, source.shape, shape):
            ours = w.onward(connection, kernel, w.pooled(connection, source))
            if _proportional(ours.reshape(-1), result.astype(np.float32).reshape(-1)):
                return connection
    raise ValueError(
        f"{layer.kernel} reads {layer.source} in a way that has no description, allowed are convolutions "
        "with an odd kernel, zero padding by half of it and a stride, and linear layers, behind 2x2 max "
        "pooling or the mean over all positions"
    )


def _candidates(layer: _Layer, neurons: Shape, kernel: Shape) -> Iterator[Connection]:
    """Connections that weights of this shape can be."""
    maps = len(neurons) == 3
    for poolings in range(min(neurons[:2]).bit_length() if maps else 1):
        plain = Connection(layer.kernel, layer.source, "", poolings)
        received = w.received_shape(plain, neurons)
        if len(kernel) == 2:
            if kernel[0] == np.prod(received):
                yield plain
            if maps and kernel[0] == received[-1]:
                yield plain._replace(mean=True)
        elif maps and len(kernel) == 4 and kernel[0] == kernel[1] and kernel[2] == received[-1]:
            for stride in range(1, _LARGEST_STRIDE + 1) if kernel[0] % 2 else ():
                yield plain._replace(stride=stride)


def _proportional(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two vectors are equal up to a factor."""
    if ours.shape != theirs.shape or not ours.any():
        return False
    factor = float(ours @ theirs) / float(ours @ ours)
    return factor != 0 and bool(np.abs(factor * ours - theirs).max() <= _TOLERANCE * np.abs(theirs).max())
