"""Trained networks as plain arrays, for an npz file that a few lines of NumPy run: see docs/export.md.

`nodes` is a JSON text: for each layer, in the order of computation, `[name, kind, inputs, stride,
padding]`. Kinds are "conv" (zeros around), "max" (2x2, 2 apart), "mean" (over rows and columns), "lif",
"relu"; `inputs` are the layers whose outputs are added and read. `NAME/weight` `[O, C, h, w]` and
`NAME/bias` `[O]` are those of a convolution, with batch norm folded in. A linear layer is one too, with a
kernel as large as the map that it reads. `mean` and `std` normalise images, `num_timesteps` is T. The
neuron is `tau`, `v_threshold`, `v_reset` (its potential at rest and at the start too), `decay_input` and
`soft_reset`.
"""

import json
from collections.abc import Sequence

import numpy as np

from snnlth_jax.interop import layers
from snnlth_jax.interop.layers import Layer
from snnlth_jax.networks import Network

__all__ = ["from_network"]


def from_network(network: Network) -> dict[str, np.ndarray]:
    """The arrays of a trained network; `np.savez(path, **arrays)` writes them.

    Args:
      network: a VGG or ResNet, spiking or not.

    Raises:
      InputError: what `layers.from_network` refuses.

    >>> from snnlth_jax import networks
    >>> arrays = from_network(networks.load("networks/ticket_05.safetensors"))  # doctest: +SKIP
    """
    layers.refuse_frames(network)
    graph = layers.from_network(network)
    recipe, neuron = network.recipe, graph.neuron
    arrays = {
        "nodes": np.array(json.dumps(_nodes(graph.layers))),
        "mean": np.array(recipe.mean, np.float32),
        "std": np.array(recipe.std, np.float32),
        "num_timesteps": np.array(recipe.num_timesteps),
        "class_names": np.array(recipe.classes),
        "tau": np.array(neuron.tau, np.float32),
        "v_threshold": np.array(neuron.v_threshold, np.float32),
        "v_reset": np.array(0.0 if neuron.v_reset is None else neuron.v_reset, np.float32),
        "decay_input": np.array(neuron.decay_input),
        "soft_reset": np.array(neuron.v_reset is None),
    }
    maps = {layer.name: layer.reads for layer in graph.layers if layer.kind == "flatten"}
    for layer in graph.layers:
        if layer.weight is not None and layer.bias is not None:
            weight = layer.weight
            if layer.kind == "linear":
                weight = weight.reshape(len(weight), *maps.get(layer.inputs[0], (*layer.reads, 1, 1)))
            arrays |= {f"{layer.name}/weight": weight, f"{layer.name}/bias": layer.bias}
    return arrays


def _nodes(graph: Sequence[Layer]) -> list[tuple[str, str, list[str], int, int]]:
    kinds = {"linear": "conv", "pool": "max"}
    read = {layer.name: layer.inputs[0] for layer in graph if layer.kind == "flatten"}
    return [
        (
            layer.name,
            kinds.get(layer.kind, layer.kind),
            [read.get(name, name) for name in layer.inputs],
            layer.stride,
            0 if layer.weight is None or layer.kind == "linear" else layer.weight.shape[-1] // 2,
        )
        for layer in graph
        if layer.name not in read
    ]
