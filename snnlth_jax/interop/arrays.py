"""Trained networks as plain arrays, for an npz file that a few lines of NumPy run: see docs/export.md.

`nodes` is a JSON text: for each layer, in the order of computation, `[name, kind, inputs, stride]`, the kinds
of `layers.Layer`. `NAME/weight` and `NAME/bias` are those of a convolution `[O, I, k, k]` or linear layer
`[O, I]`, with batch norm folded in. `mean` and `std` normalise images, `num_timesteps` is T. The neuron is
`tau`, `v_threshold`, `v_reset` (its potential at rest and at the start too), `decay_input` and `soft_reset`.
"""

import json

import numpy as np

from snnlth_jax.interop import layers
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
        "nodes": np.array(json.dumps([[x.name, x.kind, x.inputs, x.stride] for x in graph.layers])),
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
    for layer in graph.layers:
        if layer.weight is not None and layer.bias is not None:
            arrays |= {f"{layer.name}/weight": layer.weight, f"{layer.name}/bias": layer.bias}
    return arrays
