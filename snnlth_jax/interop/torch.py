"""PyTorch state dicts, with the names and layouts of the authors' code, to Flax variables and back.

Arrays are NumPy's and the caller's own: they share no memory with what was given. PyTorch itself is not
needed. Convolutions are O, I, H, W in PyTorch and H, W, I, O in Flax; linear weights are O, I and I, O; the
input of VGG's first linear layer is a flattened map of C, H, W and H, W, C.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from snnlth_jax.errors import listed
from snnlth_jax.models import VGG, ResNet
from snnlth_jax.models.vgg import least_side
from snnlth_jax.neurons import PLIF

__all__ = ["entries_of", "from_state_dict", "layer_names", "shapes_of", "to_state_dict"]

_Shape = tuple[int, ...]
_Path = tuple[str, ...]  # path of a leaf: collection, modules from the outside in, its own name


def from_state_dict(model: VGG | ResNet, state_dict: Mapping[str, Any], sample_input: Any) -> dict[str, Any]:
    """Flax variables from a state dict of the authors' PyTorch network.

    Args:
      model: the same network in Flax.
      state_dict: name -> tensor on any device, or anything that `np.asarray` takes; or a checkpoint that has
        it as `state_dict`, `model_state_dict`, `model` or `net`. `module` (DataParallel) and `_orig_mod`
        (torch.compile) within names are ignored, and so are entries `num_batches_tracked`. Where pruning
        left `weight_orig` and `weight_mask`, their product is the weight.
      sample_input: images [B, H, W, C], or their `jax.ShapeDtypeStruct`; only the shape matters.

    Returns:
      `{"params": …, "batch_stats": …}` of NumPy arrays, in the dtypes of the state dict (bfloat16 and float8
      are those of ml_dtypes): copies, writeable and C-contiguous.

    Raises:
      ValueError: entries are missing, unexpected, of another shape, or no arrays of numbers: all of them, in
        one line; a network with a `PLIF` or norm "bntt", which the authors' code does not have.

    >>> import jax, numpy as np
    >>> model, images = VGG((2, "M"), num_classes=3), np.ones((1, 4, 4, 1))
    >>> state_dict = to_state_dict(model, model.init(jax.random.key(0), images, num_timesteps=1))
    >>> from_state_dict(model, state_dict, images)["params"]["layer01"]["conv"]["kernel"].shape
    (3, 3, 1, 2)
    """
    _check_theirs(model)
    given = _arrays(entries_of(state_dict))
    leaves = _leaves(model, _flat(shapes_of(model, sample_input)))
    wanted = {
        name: _to_torch(model, path, np.zeros(leaf.shape, np.int8)).shape for path, name, leaf in leaves
    }
    _compare(wanted, {name: array.shape for name, array in given.items()}, "the state dict")
    variables: dict[str, Any] = unflatten_dict(
        {path: _from_torch(model, path, given[name]) for path, name, _ in leaves}
    )
    return variables


def to_state_dict(model: VGG | ResNet, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict that the authors' PyTorch network would have; inverse of `from_state_dict`.

    `{"params": tree}` works for any tree of arrays shaped like the parameters, such as gradients or masks;
    leaves that are None are left out. `torch.from_numpy` takes the arrays; of a bfloat16 one it takes
    `array.view(np.int16)`, and the tensor then has `.view(torch.bfloat16)`.

    Args:
      model: the network of the variables.
      variables: `{"params": …, "batch_stats": …}` or one of the two.

    Returns:
      PyTorch name -> NumPy array in PyTorch's layout, same dtype: a copy, writeable and C-contiguous.

    Raises:
      ValueError: leaves are missing, unexpected or of another shape: all of them, in one line; a network as
        above that the authors' code does not have.

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
    _check_theirs(model)
    given = _flat(variables)
    wanted = {path: shape for path, shape in _wanted(model, given).items() if path[0] in variables}
    shapes = {path: wanted.get(path, ()) if x is None else np.shape(x) for path, x in given.items()}
    _compare(_named(wanted), _named(shapes), "the variables")
    return {name: _to_torch(model, path, _host(path, leaf)) for path, name, leaf in _leaves(model, given)}


def _check_theirs(model: VGG | ResNet) -> None:
    if getattr(model, "norm", "timestep") != "timestep" or isinstance(getattr(model, "neuron", None), PLIF):
        raise ValueError("the authors' networks have no learned tau (PLIF), and norm 'timestep'")


def _host(path: _Path, leaf: Any) -> np.ndarray:
    try:
        return _array(leaf)
    except Exception as error:  # traced, a shape without values, an object
        raise ValueError(f"{'/'.join(path)}: a {type(leaf).__name__} has no values to convert") from error


_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


# --- the model's variables


def _flat(variables: Mapping[str, Any]) -> dict[_Path, Any]:
    """Leaves of `params` and `batch_stats` by path."""
    trees = {}
    if isinstance(variables, Mapping):
        trees = {kind: variables[kind] for kind in ("params", "batch_stats") if kind in variables}
    if not trees or not all(isinstance(tree, Mapping) for tree in trees.values()):
        raise ValueError("variables must have params, batch_stats or both, nested dicts of arrays")
    return {
        (kind, *map(str, path)): leaf
        for kind, tree in trees.items()
        for path, leaf in flatten_dict(dict(tree)).items()
    }


def _named(shapes: Mapping[_Path, _Shape]) -> dict[str, _Shape]:
    return {"/".join(path): shape for path, shape in shapes.items()}


def _leaves(model: VGG | ResNet, flat: Mapping[_Path, Any]) -> list[tuple[_Path, str, Any]]:
    """(path, PyTorch's name, leaf) of every leaf that is not None."""
    layers = layer_names(model)
    return [
        (path, f"{layers['/'.join(path[1:-1])]}.{_LEAF_NAMES[path[-1]]}", leaf)
        for path, leaf in flat.items()
        if leaf is not None
    ]


def shapes_of(model: VGG | ResNet, images: Any) -> Any:
    """Variables of a model for these images, as `jax.ShapeDtypeStruct`; a ValueError for other arguments.

    >>> shapes_of(VGG((2, "M"), num_classes=3), np.ones((1, 4, 4, 1)))["params"]["readout"]["bias"].shape
    (3,)
    """
    if not isinstance(model, (VGG, ResNet)):
        raise ValueError(f"model must be a VGG or a ResNet, got {type(model).__name__}")
    if len(getattr(images, "shape", ())) != 4:
        raise ValueError(f"sample_input must be images [B, H, W, C], got a {type(images).__name__}")
    return _traced(model, tuple(images.shape), jax.dtypes.canonicalize_dtype(images.dtype))


@functools.lru_cache(maxsize=64)
def _traced(model: VGG | ResNet, shape: _Shape, dtype: Any) -> Any:
    images = jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(functools.partial(model.init, num_timesteps=1), jax.random.key(0), images)


def _wanted(model: VGG | ResNet, given: Mapping[_Path, Any]) -> dict[_Path, _Shape]:
    """Shapes of the variables, for images of the channels and the size that the given ones are for."""
    first = ("params", "layer01" if isinstance(model, VGG) else "block0", "conv", "kernel")
    channels = np.shape(given.get(first, 0))[2:3] or (1,)
    pixels = least_side(model.features.count("M"), model.stride) if isinstance(model, VGG) else 1
    images = jax.ShapeDtypeStruct((1, pixels, pixels, *channels), jnp.float32)
    shapes = {path: leaf.shape for path, leaf in _flat(shapes_of(model, images)).items()}
    if isinstance(model, VGG):
        flattened = _reads_maps(model)
        num_inputs, num_outputs = shapes[flattened]
        given_inputs = sum(np.shape(given.get(flattened, 0))[:1])
        if given_inputs and given_inputs % num_inputs == 0:  # of larger images
            shapes[flattened] = (given_inputs, num_outputs)
    return shapes


def layer_names(model: VGG | ResNet) -> dict[str, str]:
    """The authors' names of our layers.

    >>> layer_names(VGG((2, "M", 3), num_classes=3))["layer02/norm"]
    'features.5'
    """
    return _vgg_layers(model) if isinstance(model, VGG) else _resnet_layers(model)


def _vgg_layers(model: VGG) -> dict[str, str]:
    """Our layers and the authors': one `Sequential` that counts convolution, norm, LIF and pooling.

    The authors' network has no hidden layers; here `classifier` is another `Sequential` then, of linear
    layer, norm and LIF for each, and the readout.
    """
    readout = f"classifier.{3 * len(model.hidden)}" if model.hidden else "classifier"
    layers, depth, index = {"readout": readout}, 0, 0
    for entry in model.features:
        if entry == "M":
            index += 1
        else:
            depth += 1
            layers[f"layer{depth:02}/conv"] = f"features.{index}"
            layers[f"layer{depth:02}/norm"] = f"features.{index + 1}"
            index += 3
    for i in range(len(model.hidden)):
        layers[f"layer{depth + 1 + i:02}/linear"] = f"classifier.{3 * i}"
        layers[f"layer{depth + 1 + i:02}/norm"] = f"classifier.{3 * i + 1}"
    return layers


def _resnet_layers(model: ResNet) -> dict[str, str]:
    """Our layers and the authors'; their blocks count from 0. Without a hidden layer the readout is `fc`."""
    layers = {"block0/conv": "conv1", "block0/norm": "bn1", "hidden": "fc1"}
    layers["readout"] = "fc" if model.hidden is None else "fc2"
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


# --- a state dict's entries

_CHECKPOINTS = ("state_dict", "model_state_dict", "model", "net")


def entries_of(checkpoint: Any) -> dict[str, Any]:
    """Entries of a state dict, or of the one in a checkpoint, by the names of the bare network.

    >>> entries_of({"epoch": 3, "state_dict": {"module.fc.weight": 1, "bn.num_batches_tracked": 2}})
    {'fc.weight': 1}
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"state_dict must be a dict of arrays by name, got {type(checkpoint).__name__}")
    inner = [key for key in _CHECKPOINTS if isinstance(checkpoint.get(key), Mapping)]
    if len(inner) > 1:
        raise ValueError(f"the checkpoint has several state dicts, {', '.join(inner)}: give one of them")
    if inner:
        return entries_of(checkpoint[inner[0]])
    entries: dict[str, Any] = {}
    for key, value in checkpoint.items():
        name = ".".join(part for part in str(key).split(".") if part not in ("module", "_orig_mod"))
        if name in entries:
            raise ValueError(f"{name} is in the state dict twice, under prefixes that are ignored")
        if not name.endswith("num_batches_tracked"):
            entries[name] = value
    return entries


def _arrays(entries: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The entries as arrays; `weight_orig` times `weight_mask` is `weight`."""
    arrays, others = {}, []
    for name, value in entries.items():
        try:
            arrays[name] = _array(value)
        except Exception:  # a tensor's class raises what it likes
            others.append(f"{name or 'module'} ({type(value).__name__})")
    if others:
        allowed = f"tensors by name, or a checkpoint with such a dict as {', '.join(_CHECKPOINTS)}"
        raise ValueError(f"no arrays of numbers in the state dict: {listed(others)}; allowed: {allowed}")
    for name in [name for name in arrays if name.endswith("_orig")]:
        plain = name.removesuffix("_orig")
        mask = f"{plain}_mask"
        if mask not in arrays:
            continue
        if arrays[mask].shape != arrays[name].shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, {mask} {arrays[mask].shape}")
        if plain in arrays:
            raise ValueError(f"{plain} is in the state dict beside {name} and {mask}, whose product it is")
        weight, kept = arrays.pop(name), arrays.pop(mask)
        with np.errstate(invalid="ignore"):  # infinity times 0, as in PyTorch
            arrays[plain] = weight * kept.astype(weight.dtype)
    return arrays


def _array(value: Any) -> np.ndarray:
    """NumPy's array of a tensor on any device, or of anything that `np.asarray` takes."""
    for method in ("detach", "cpu"):
        value = getattr(value, method)() if hasattr(value, method) else value
    if hasattr(value, "numpy"):  # a tensor, whose `numpy` knows neither bfloat16 nor float8
        narrow = getattr(ml_dtypes, str(getattr(value, "dtype", "")).removeprefix("torch."), None)
        with np.errstate(invalid="ignore"):  # NaN
            value = value.float().numpy().astype(narrow) if narrow else value.numpy()
    array = np.asarray(value)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "biufc" and array.dtype.isbuiltin != 2:
        raise TypeError(f"an array of {array.dtype}")
    return array


def _compare(wanted: Mapping[str, _Shape], given: Mapping[str, _Shape], source: str) -> None:
    """Raise a ValueError about every difference."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    parts = [
        f"{name} has shape {given[name]} in {source}, {shape} in the model"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    parts = [listed(parts, "; ") + " of another shape" * (len(parts) > 10)] if parts else []
    if len(missing) == 1:
        parts.append(
            f"{missing[0]} is missing from {source}; the model has it with shape {wanted[missing[0]]}"
        )
    elif missing:
        parts.append(f"{len(missing)} are missing from {source}: {listed(missing)}")
    if len(unexpected) == 1:
        parts.append(f"{unexpected[0]}, shape {given[unexpected[0]]} in {source}, is not in the model")
    elif unexpected:
        parts.append(f"{len(unexpected)} of {source} are not in the model: {listed(unexpected)}")
    if parts:
        raise ValueError("; ".join(parts))


# --- layouts


def _reads_maps(model: VGG) -> _Path:
    """The kernel of the first linear layer, which reads maps flattened."""
    convolutions = len(model.features) - model.features.count("M")
    layer = (f"layer{convolutions + 1:02}", "linear") if model.hidden else ("readout",)
    return ("params", *layer, "kernel")


def _flattened_channels(model: VGG | ResNet, path: _Path, num_inputs: int) -> int:
    """C of the H x W x C map that a linear layer reads flattened; ResNet pools its maps to 1 x 1 first."""
    if isinstance(model, VGG) and path == _reads_maps(model):
        return next((entry for entry in reversed(model.features) if isinstance(entry, int)), num_inputs)
    return num_inputs


def _to_torch(model: VGG | ResNet, path: _Path, leaf: np.ndarray) -> np.ndarray:
    if leaf.ndim == 4:
        leaf = leaf.transpose(3, 2, 0, 1)
    elif leaf.ndim == 2:
        num_inputs, num_outputs = leaf.shape
        maps = leaf.reshape(-1, _flattened_channels(model, path, num_inputs), num_outputs)
        leaf = maps.transpose(2, 1, 0).reshape(num_outputs, num_inputs)
    return np.array(leaf, order="C")


def _from_torch(model: VGG | ResNet, path: _Path, leaf: np.ndarray) -> np.ndarray:
    if leaf.ndim == 4:
        leaf = leaf.transpose(2, 3, 1, 0)
    elif leaf.ndim == 2:
        num_outputs, num_inputs = leaf.shape
        maps = leaf.reshape(num_outputs, _flattened_channels(model, path, num_inputs), -1)
        leaf = maps.transpose(2, 1, 0).reshape(num_inputs, num_outputs)
    return np.array(leaf, order="C")
