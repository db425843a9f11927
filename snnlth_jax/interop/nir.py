r"""Trained spiking networks as graphs of NIR, the Neuromorphic Intermediate Representation.

NIR's neuron (Pedersen et al. 2024) is :math:`\tau \dot v = (v_\text{leak} - v) + R I`, a spike where
:math:`v > v_\text{threshold}`, and a reset to :math:`v_\text{reset}`. A step of length dt by Euler's method,
charge, fire, reset, is the step of `neurons.LIF` with

.. math:: \tau_\text{NIR} = \tau\, dt, \quad v_\text{leak} = v_\text{reset}, \quad
          R = 1 \text{ (input decaying) or } \tau.

Our neurons fire at the threshold too: NIR's is the next smaller number of float32. Batch norm is folded into
the layer before it. Two edges into a node are a sum of currents, as in a ResNet. The input is a normalised
image, the same at every timestep, or a frame for each; potentials begin at v_reset; the logits are the sum
over time of the output. `metadata` says so, with dt, T, mean and std.

NIR has no maximum. Over binary spikes it is a sum over the window, and a threshold at 0.5. It is also an
average, and a neuron that any spike in the window fires: the average is 0 or at least 1/4, the neuron's
threshold 1/8, its potential at rest and after a spike 0, so that it never keeps a charge. Readers that do not
know Threshold take the second form.
"""

import importlib
from typing import Any, Literal, get_args

import numpy as np

from snnlth_jax.data.frames import split_shape
from snnlth_jax.errors import InputError, not_installed
from snnlth_jax.interop import layers
from snnlth_jax.interop.layers import INPUT, Graph, Layer
from snnlth_jax.networks import Network
from snnlth_jax.neurons import LIF

__all__ = ["Pooling", "from_network"]

Pooling = Literal["threshold", "lif"]


def from_network(network: Network, dt: float = 1.0, pooling: Pooling = "threshold") -> Any:
    """The graph of a trained spiking network.

    Nodes have the names of the layers: `layer01` (Conv2d), `layer01_spikes` (LIF), `pool1` (SumPool2d) and
    `pool1_spikes` (Threshold), …, `readout` (Affine), `input`, `output`. With `pooling` "lif", `pool1` is an
    AvgPool2d and `pool1_spikes` a LIF.

    Args:
      network: a VGG or ResNet of spiking neurons with a hard reset.
      dt: length of a timestep in NIR's time, above 0. Readers assume their own: 1e-4 in snnTorch.
      pooling: nodes of a maximum over spikes, "threshold" or "lif", which compute the same spikes.
        SpikingJelly and snnTorch do not know Threshold.

    Returns:
      A `nir.NIRGraph`; `nir.write(path, graph)` writes it.

    Raises:
      InputError: the package nir is missing, a network without spikes, a soft reset, or what
        `layers.from_network` refuses.

    >>> from snnlth_jax import networks
    >>> graph = from_network(networks.load("networks/ticket_05.safetensors"))  # doctest: +SKIP
    """
    try:
        nir = importlib.import_module("nir")
    except ImportError as error:
        raise not_installed("nir", "export") from error
    if not (dt > 0 and np.isfinite(dt)):
        raise InputError("`dt`", dt, allowed="a number above 0")
    if pooling not in get_args(Pooling):
        raise InputError("`pooling`", pooling, allowed=", ".join(get_args(Pooling)))
    if network.recipe.activation != "lif":
        problem, allowed = "NIR has no such neuron", "lif; npz, onnx and torch take all"
        raise InputError("`activation`", network.recipe.activation, problem=problem, allowed=allowed)
    graph = layers.from_network(network)
    if graph.neuron.v_reset is None:
        raise InputError("`v_reset`", None, problem="NIR has no soft reset", allowed="a number")
    if not np.isfinite(graph.neuron.tau):
        raise InputError(
            "`neuron`", "if", problem="is not written to NIR", allowed="lif; npz and onnx take it"
        )
    if any(layer.kind == "pool" and INPUT in layer.inputs for layer in graph.layers):
        raise InputError("`arch`", network.recipe.arch, problem="pools the image, which NIR's nodes cannot")
    nodes = {INPUT: nir.Input({"input": np.array(graph.layers[0].reads)})}
    edges = []
    ends = {INPUT: INPUT}  # node that gives the output of a layer
    for layer in graph.layers:
        steps = _nodes(nir, layer, graph.neuron, dt, pooling)
        nodes |= steps
        first, *_, last = (*steps, *steps)
        edges += [(ends[name], first) for name in layer.inputs]
        edges += list(zip(list(steps)[:-1], list(steps)[1:], strict=True))
        ends[layer.name] = last
    nodes["output"] = nir.Output({"output": np.array(graph.layers[-1].gives)})
    edges.append((ends["readout"], "output"))
    return nir.NIRGraph(nodes, edges, metadata=_metadata(graph, dt))


def _nodes(nir: Any, layer: Layer, neuron: LIF, dt: float, pooling: Pooling) -> dict[str, Any]:
    """The nodes of a layer, in a row."""

    def constant(value: float, shape: tuple[int, ...] = layer.gives) -> np.ndarray:
        return np.full(shape, value, np.float32)

    match layer.kind:
        case "conv":
            assert layer.weight is not None
            node = nir.Conv2d(
                input_shape=layer.reads[1:],
                weight=layer.weight,
                stride=layer.stride,
                padding=layer.weight.shape[-1] // 2,
                dilation=1,
                groups=1,
                bias=layer.bias,
            )
        case "linear":
            node = nir.Affine(weight=layer.weight, bias=layer.bias)
        case "lif":
            tau, threshold, reset = (float(x) for x in (neuron.tau, neuron.v_threshold, neuron.v_reset or 0))
            node = nir.LIF(
                tau=constant(tau * dt),
                r=constant(1.0 if neuron.decay_input else tau),
                v_leak=constant(reset),
                v_threshold=np.nextafter(constant(threshold), np.float32(-np.inf)),
                v_reset=constant(reset),
            )
        case "pool":
            pool = nir.SumPool2d if pooling == "threshold" else nir.AvgPool2d
            spikes = (
                nir.Threshold(threshold=constant(0.5))
                if pooling == "threshold"
                else nir.LIF(  # r dt / tau is 1: it is charged with the average itself
                    tau=constant(2 * dt),
                    r=constant(2),
                    v_leak=constant(0),
                    v_threshold=constant(1 / 8),
                    v_reset=constant(0),
                )
            )
            two, none = np.array([2, 2]), np.array([0, 0])
            return {
                layer.name: pool(kernel_size=two, stride=two, padding=none),
                f"{layer.name}_spikes": spikes,
            }
        case "mean":
            size = np.array(layer.reads[1:])
            pooled = np.array([*layer.gives, 1, 1])
            return {
                layer.name: nir.AvgPool2d(kernel_size=size, stride=size, padding=np.array([0, 0])),
                f"{layer.name}_flatten": nir.Flatten({"input": pooled}, start_dim=0),
            }
        case "flatten":
            node = nir.Flatten({"input": np.array(layer.reads)}, start_dim=0)
        case _:
            raise ValueError(layer.kind)
    return {layer.name: node}


def _metadata(graph: Graph, dt: float) -> dict[str, Any]:
    recipe = graph.network.recipe
    frames, _ = split_shape(recipe.image_shape)
    images = "at each of num_timesteps timesteps" if frames is None else "frame t at timestep t"
    return {
        "dt": dt,
        "num_timesteps": recipe.num_timesteps,
        "mean": np.array(recipe.mean),
        "std": np.array(recipe.std),
        "convention": (
            "At the start v = v_reset. A timestep of length dt is one step of Euler's method: "
            "v += dt / tau * (v_leak - v + r I), then z = v > v_threshold, then v = v_reset where z. "
            f"Input: (image / 255 - mean) / std, [C, H, W], {images}. "
            "Logits: the sum over num_timesteps timesteps of the output."
        ),
    }
