"""PyTorch state dicts, with the names and layouts of the authors' code, to Flax variables and back.

Arrays are NumPy's; PyTorch itself is not needed. Convolutions are O, I, H, W in PyTorch and H, W, I, O in
Flax; linear weights are O, I and I, O; the input of VGG's readout is a flattened map of C, H, W and H, W, C.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from snnlth_jax.models import VGG, ResNet

__all__ = ["from_state_dict", "to_state_dict"]


def from_state_dict(model: VGG | ResNet, state_dict: Mapping[str, Any], sample_input: Any) -> dict[str, Any]:
    """Flax variables from a state dict of the authors' PyTorch network.

    Args:
      model: the same network in Flax.
      state_dict: name -> anything `np.asarray` takes (tensors on the CPU). A prefix `module.` and entries
        `num_batches_tracked` are ignored.
      sample_input: images [B, H, W, C], or their `jax.ShapeDtypeStruct`; only the shape matters.

    Returns:
      `{"params": …, "batch_stats": …}` of NumPy arrays, in the dtypes of the state dict.

    Raises:
      ValueError: an entry is missing, unexpected, or of another shape.

    >>> import jax, numpy as np
    >>> model, images = VGG((2, "M"), num_classes=3), np.ones((1, 4, 4, 1))
    >>> state_dict = to_state_dict(model, model.init(jax.random.key(0), images, num_timesteps=1))
    >>> from_state_dict(model, state_dict, images)["params"]["layer01"]["conv"]["kernel"].shape
    (3, 3, 1, 2)
    """
    given = {
        name.removeprefix("module."): np.asarray(value)
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    shapes = jax.eval_shape(partial(model.init, num_timesteps=1), jax.random.key(0), sample_input)
    wanted = {
        path: (name, _to_torch(model, np.broadcast_to(np.int8(0), leaf.shape)).shape)
        for path, name, leaf in _leaves(model, shapes)
    }
    for name, shape in wanted.values():
        if name not in given:
            raise ValueError(f"{name} is missing from the state dict; the model has it with shape {shape}")
        if given[name].shape != shape:
            raise ValueError(f"{name} has shape {given[name].shape} in the state dict, {shape} in the model")
    if unexpected := sorted(given.keys() - {name for name, _ in wanted.values()}):
        name = unexpected[0]
        raise ValueError(f"{name}, shape {given[name].shape} in the state dict, is not in the model")
    leaves = {path: _from_torch(model, given[name]) for path, (name, _) in wanted.items()}
    variables: dict[str, Any] = unflatten_dict(leaves)
    return variables


def to_state_dict(model: VGG | ResNet, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict that the authors' PyTorch network would have; inverse of `from_state_dict`.

    `{"params": tree}` works for any tree of arrays shaped like the parameters, such as gradients or masks;
    leaves that are None are left out.

    Args:
      model: the network of the variables.
      variables: `{"params": …, "batch_stats": …}` or one of the two.

    Returns:
      PyTorch name -> NumPy array in PyTorch's layout, same dtype.

    >>> import jax, numpy as np
    >>> model, images = VGG((2, "M"), num_classes=3), np.ones((1, 4, 4, 1))
    >>> variables = model.init(jax.random.key(0), images, num_timesteps=1)
    >>> for name, array in to_state_dict(model, {"params": variables["params"]}).items():
    ...     print(name, array.shape)
    features.0.weight (2, 1, 3, 3)
    features.0.bias (2,)
    features.1.weight (2,)
    features.1.bias (2,)
    classifier.weight (3, 8)
    classifier.bias (3,)
    """
    return {name: _to_torch(model, np.asarray(leaf)) for path, name, leaf in _leaves(model, variables)}


_Path = tuple[str, ...]  # path of a leaf: collection, modules from the outside in, its own name

_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _leaves(model: VGG | ResNet, variables: Mapping[str, Any]) -> list[tuple[_Path, str, Any]]:
    """(path, PyTorch's name, leaf) of every leaf in `params` and `batch_stats`."""
    layers = _vgg_layers(model) if isinstance(model, VGG) else _resnet_layers(model)
    return [
        ((collection, *path), f"{layers['/'.join(path[:-1])]}.{_LEAF_NAMES[path[-1]]}", leaf)
        for collection in ("params", "batch_stats")
        for path, leaf in flatten_dict(variables.get(collection, {})).items()
        if leaf is not None
    ]


def _vgg_layers(model: VGG) -> dict[str, str]:
    """Our layers and the authors': one `Sequential` that counts convolution, norm, LIF and pooling."""
    layers, depth, index = {"readout": "classifier"}, 0, 0
    for entry in model.features:
        if entry == "M":
            index += 1
        else:
            depth += 1
            layers[f"layer{depth:02}/conv"] = f"features.{index}"
            layers[f"layer{depth:02}/norm"] = f"features.{index + 1}"
            index += 3
    return layers


def _resnet_layers(model: ResNet) -> dict[str, str]:
    """Our layers and the authors'; their blocks count from 0."""
    layers = {"block0/conv": "conv1", "block0/norm": "bn1", "hidden": "fc1", "readout": "fc2"}
    parts = {
        "first/conv": "conv1",
        "first/norm": "bn1",
        "second/conv": "conv2",
        "second/norm": "bn2",
        "shortcut/conv": "shortcut.0",
        "shortcut/norm": "shortcut.1",
    }
    for stage, blocks in enumerate(model.stage_sizes, 1):
        for block in range(blocks):
            for ours, theirs in parts.items():
                layers[f"block{stage}_{block + 1}/{ours}"] = f"layer{stage}.{block}.{theirs}"
    return layers


def _flattened_channels(model: VGG | ResNet, num_inputs: int) -> int:
    """C of the H x W x C map that a linear layer reads flattened; ResNet pools its maps to 1 x 1 first."""
    if isinstance(model, VGG):
        return next(entry for entry in reversed(model.features) if isinstance(entry, int))
    return num_inputs


def _to_torch(model: VGG | ResNet, leaf: np.ndarray) -> np.ndarray:
    if leaf.ndim == 4:
        leaf = leaf.transpose(3, 2, 0, 1)
    elif leaf.ndim == 2:
        num_inputs, num_outputs = leaf.shape
        maps = leaf.reshape(-1, _flattened_channels(model, num_inputs), num_outputs)
        leaf = maps.transpose(2, 1, 0).reshape(num_outputs, num_inputs)
    return np.ascontiguousarray(leaf)


def _from_torch(model: VGG | ResNet, leaf: np.ndarray) -> np.ndarray:
    if leaf.ndim == 4:
        leaf = leaf.transpose(2, 3, 1, 0)
    elif leaf.ndim == 2:
        num_outputs, num_inputs = leaf.shape
        maps = leaf.reshape(num_outputs, _flattened_channels(model, num_inputs), -1)
        leaf = maps.transpose(2, 1, 0).reshape(num_inputs, num_outputs)
    return np.ascontiguousarray(leaf)
