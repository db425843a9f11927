"""Trained networks as ONNX models: all timesteps in one graph, from uint8 images to logits.

The model has the input `images`, uint8 `[N, H, W, C]`, and the output `logits`, float32 `[N, classes]`,
summed over time; N is free. Normalisation is inside, batch norm is folded. The graph repeats the layers for
each timestep, except the first convolution, whose input does not change; weights are in it once. Its
operators are those of opset 17, in no other domain.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from snnlth_jax.errors import not_installed
from snnlth_jax.interop import layers
from snnlth_jax.interop.layers import INPUT, Graph, Layer
from snnlth_jax.networks import Network

__all__ = ["from_network"]

OPSET, IR_VERSION = 17, 8


def from_network(network: Network) -> Any:
    """The ONNX model of a trained network.

    Args:
      network: a VGG or ResNet, spiking or not.

    Returns:
      An `onnx.ModelProto`; `onnx.save(model, path)` writes it.

    Raises:
      InputError: the package onnx is missing, or what `layers.from_network` refuses.

    >>> from snnlth_jax import networks
    >>> model = from_network(networks.load("networks/ticket_05.safetensors"))  # doctest: +SKIP
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise not_installed("onnx", "export") from error
    layers.refuse_frames(network)
    graph = layers.from_network(network)
    recipe = network.recipe
    program = _Program(onnx, graph)
    x = program.call(
        "Transpose", [program.call("Cast", ["images"], to=onnx.TensorProto.FLOAT)], perm=[0, 3, 1, 2]
    )
    per_channel = (1, -1, 1, 1)
    mean = program.array("mean", np.array(recipe.mean, np.float32).reshape(per_channel))
    std = program.array("std", np.array(recipe.std, np.float32).reshape(per_channel))
    scaled = program.call("Div", [x, program.array("white", np.float32(255))])
    normalised = program.call("Div", [program.call("Sub", [scaled, mean]), std])
    outputs = {INPUT: normalised}
    logits = []
    for _ in range(recipe.num_timesteps):
        for layer in graph.layers:
            if layer.inputs != (INPUT,) or layer.name not in outputs:
                outputs[layer.name] = program.layer(layer, [outputs[name] for name in layer.inputs])
        logits.append(outputs["readout"])
    program.call("Identity", [program.sum(logits)], output="logits")
    height, width, channels = recipe.image_shape
    helper = onnx.helper
    body = helper.make_graph(
        program.nodes,
        "network",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", height, width, channels])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", recipe.num_classes])],
        list(program.arrays.values()),
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(body, opset_imports=[opset], ir_version=IR_VERSION, producer_name="snnlth_jax")
    onnx.checker.check_model(model)
    return model


class _Program:
    """Nodes and constants that are put together, and the potentials of the neurons."""

    def __init__(self, onnx: Any, graph: Graph):
        self.onnx, self.neuron = onnx, graph.neuron
        self.nodes: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.potentials: dict[str, str] = {}

    def array(self, name: str, value: Any) -> str:
        """The name of a constant, which is stored once."""
        if name not in self.arrays:
            self.arrays[name] = self.onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def call(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """The name of the output of a new node."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def sum(self, names: Sequence[str]) -> str:
        total = names[0]
        for name in names[1:]:
            total = self.call("Add", [total, name])
        return total

    def layer(self, layer: Layer, inputs: Sequence[str]) -> str:
        x = self.sum(inputs)
        match layer.kind:
            case "conv":
                weight, bias = self._parameters(layer)
                side = np.asarray(layer.weight).shape[-1]
                pads, strides = [side // 2] * 4, [layer.stride] * 2
                return self.call(
                    "Conv", [x, weight, bias], kernel_shape=[side] * 2, pads=pads, strides=strides
                )
            case "linear":
                return self.call("Gemm", [x, *self._parameters(layer)], transB=1)
            case "relu":
                return self.call("Relu", [x])
            case "pool":
                return self.call("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            case "mean":
                return self.call("Flatten", [self.call("GlobalAveragePool", [x])])
            case "flatten":
                return self.call("Flatten", [x])
        return self._fire(layer, x)

    def _parameters(self, layer: Layer) -> tuple[str, str]:
        weight = self.array(f"{layer.name}/weight", layer.weight)
        return weight, self.array(f"{layer.name}/bias", layer.bias)

    def _constant(self, name: str, value: Any) -> str:
        return self.array(name, np.float32(value))

    def _fire(self, layer: Layer, x: str) -> str:
        """A step of `neurons.LIF`, the equations at the top of that module in their order."""
        neuron = self.neuron
        rest = self._constant("rest", 0.0 if neuron.v_reset is None else neuron.v_reset)
        tau, threshold = self._constant("tau", neuron.tau), self._constant("v_threshold", neuron.v_threshold)
        before = self.potentials.get(layer.name, rest)
        leak = self.call("Sub", [before, rest])
        if neuron.decay_input:
            charged = self.call("Add", [before, self.call("Div", [self.call("Sub", [x, leak]), tau])])
        else:
            charged = self.call("Add", [self.call("Sub", [before, self.call("Div", [leak, tau])]), x])
        fired = self.call("GreaterOrEqual", [charged, threshold])
        spikes = self.call("Cast", [fired], to=self.onnx.TensorProto.FLOAT)
        if neuron.v_reset is None:
            after = self.call("Sub", [charged, self.call("Mul", [spikes, threshold])])
        else:
            after = self.call("Where", [fired, rest, charged])
        self.potentials[layer.name] = after
        return spikes
