"""Tickets from the masks and state dicts of other programs: the authors' code, PyTorch's pruning, open_lth.

A file holds one of four things, in the names and layouts of PyTorch:

- a list of masks by position, as the authors' code pickles it: a 0/1 array for each parameter named `weight`,
  those of batch norm among them (all ones), in the network's order;
- masks by name, as open_lth saves them, by the names of the authors' network or, under other names, in order;
- a state dict in which `torch.nn.utils.prune` left `weight_orig` and `weight_mask`;
- a plain state dict, whose weights that are 0 are the removed ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnlth_jax import masks as masks_lib
from snnlth_jax import models
from snnlth_jax.errors import InputError
from snnlth_jax.interop.torch import entries_of, from_state_dict, shapes_of, to_state_dict
from snnlth_jax.tickets import Ticket

__all__ = ["Content", "Shape", "arch_of", "content", "ends", "ticket"]

Arrays = dict[str, np.ndarray]


class Content(NamedTuple):
    """Masks and weights of a file, by the names that it gives them.

    Attributes:
      kind: of the file, in words.
      masks: arrays by name; by position, in a list, where there are no names; None if there are none.
      state_dict: weights and statistics; empty if there are none.
    """

    kind: str
    masks: Arrays | list[np.ndarray] | None
    state_dict: Arrays


class Shape(NamedTuple):
    """Facts about a network besides its name."""

    num_classes: int
    image_shape: tuple[int, int, int]
    width: float = 1.0


def content(name: object, value: Any) -> Content:
    """Sort what a file holds.

    Args:
      name: of the file, for errors.
      value: dicts and lists of arrays, as `torch_files.load` gives them.

    Raises:
      InputError: neither masks nor a state dict.

    >>> content("f", {"fc.weight": np.array([[0, 1]])}).kind
    'masks by name'
    >>> content("f", {"fc.weight_orig": np.ones((1, 2)), "fc.weight_mask": np.array([[0, 1]])}).masks
    {'fc.weight': array([[0, 1]])}
    """
    if isinstance(value, list):
        if not value or not all(isinstance(mask, np.ndarray) for mask in value):
            raise InputError(name, problem="a list of something else than arrays", allowed=_ALLOWED)
        return Content("masks by position", value, {})
    try:
        entries = entries_of(value)
    except ValueError as error:
        raise InputError(name, problem=str(error), allowed=_ALLOWED) from error
    arrays = {key: array for key, array in entries.items() if isinstance(array, np.ndarray)}
    if not arrays or len(arrays) != len(entries):
        others = [key for key in entries if key not in arrays]
        problem = f"no arrays under {', '.join(others[:5])}" if others else "no arrays"
        raise InputError(name, problem=problem, allowed=_ALLOWED)
    pruned = [key.removesuffix("_orig") for key in arrays if key.endswith("_orig")]
    pruned = [key for key in pruned if f"{key}_mask" in arrays]
    if pruned:
        plain = dict(arrays)
        masks = {key: plain.pop(f"{key}_mask") for key in pruned}
        originals = {key: plain.pop(f"{key}_orig") for key in pruned}
        for key in pruned:
            if masks[key].shape != originals[key].shape:
                shapes = f"of shape {masks[key].shape}, {key}_orig {originals[key].shape}"
                raise InputError(name, problem=f"{key}_mask is {shapes}")
        return Content("weights and masks of torch.nn.utils.prune", masks, {**plain, **originals})
    if all(_is_binary(array) for array in arrays.values()):
        return Content("masks by name", arrays, {})
    return Content("state dict", None, arrays)


_ALLOWED = "a list of masks, masks by name, or a state dict"


def ends(name: object, imported: Content) -> tuple[int, int]:
    """The outputs of a file's last layer and the inputs of its first: numbers of classes and channels.

    Raises:
      InputError: no layers.
    """
    shapes = _layers(imported)
    if not shapes or 0 in (shapes[-1][0], shapes[0][1]):
        raise InputError(name, problem="no masks or weights of layers", allowed=_ALLOWED)
    return shapes[-1][0], shapes[0][1]


def arch_of(name: object, imported: Content, shape: Shape) -> str:
    """The network by name whose layers have the shapes of a file's, in their order.

    Raises:
      InputError: there is none.
    """
    shapes = _layers(imported)
    for arch in models.names():
        try:
            own = _template(_model(arch, shape), shape)
        except InputError:  # too small images
            continue
        if [array.shape for key, array in own.items() if _prunable(key, array)] == shapes:
            return arch
    problem = f"its layers are those of no network by name at `width` {shape.width}"
    raise InputError(name, problem=problem, allowed="`arch`, with its `width` and `image_shape`")


def _layers(imported: Content) -> list[tuple[int, ...]]:
    return [np.shape(array) for array in _values(imported) if np.ndim(array) > 1]


def ticket(
    name: object,
    imported: Content,
    arch: str,
    shape: Shape,
    weights: tuple[object, Content] | None = None,
    seed: int = 0,
) -> Ticket:
    """The ticket of a file's masks and weights; its provenance says of which network.

    Args:
      name: of the file, for errors.
      imported: content of the file.
      arch: name of the network.
      shape: its classes, images and width.
      weights: name and content of a file with the weights to rewind to, for masks without weights.
      seed: seed of the initial weights, where there are masks alone.

    Raises:
      InputError: masks or weights of another network, with the difference; masks of other values than 0
        and 1; weights given twice; an unknown network.

    >>> shape = Shape(10, (8, 8, 1), width=0.1)
    >>> model = _model("vgg5", shape)
    >>> masks = [np.ones(array.shape) for key, array in _template(model, shape).items() if "weight" in key]
    >>> masks[0][0, 0, 0, 0] = 0
    >>> made = ticket("mask.pkl", content("mask.pkl", masks), "vgg5", shape)
    >>> made.provenance["kept"] - made.provenance["total"]
    -1
    """
    if weights is not None and imported.state_dict:
        raise InputError("`weights`", weights[0], problem=f"{name} has weights of its own")
    model = _model(arch, shape)
    sample = jax.ShapeDtypeStruct((1, *shape.image_shape), jnp.float32)
    template = _template(model, shape)
    prunable = {key: array for key, array in template.items() if _prunable(key, array)}
    source, state_dict = (
        (name, imported.state_dict) if weights is None else (weights[0], weights[1].state_dict)
    )
    if weights is not None and not state_dict:
        raise InputError("`weights`", weights[0], problem="no state dict, but masks alone")
    if state_dict:
        others = imported.masks if isinstance(imported.masks, dict) else {}
        state_dict = {
            key: _pruned(source, key, _single(source, key, array), others, prunable)
            for key, array in state_dict.items()
        }
        variables = _read(source, model, state_dict, sample)
    else:
        init_key = jax.random.split(jax.random.key(seed), 4)[0]  # that of a search with this seed
        variables = jax.device_get(
            jax.jit(lambda key: model.init(key, jnp.zeros(sample.shape), num_timesteps=1))(init_key)
        )
    if imported.masks is None:
        masks = {key: imported.state_dict[key] != 0 for key in prunable if key in imported.state_dict}
    else:
        masks = _matched(name, imported, template)
    statistics = _statistics(model, shape)
    whole = {**template, **statistics, **{key: np.asarray(mask) for key, mask in masks.items()}}
    bits = _read(name, model, whole, sample)["params"]
    kept = jax.tree.map(
        lambda is_mask, bit: None if is_mask is None else bit.astype(bool),
        masks_lib.make(variables["params"]),
        bits,
        is_leaf=lambda x: x is None,
    )
    count, total = masks_lib.count(kept)
    provenance = {
        "arch": arch,
        "width": shape.width,
        "num_classes": shape.num_classes,
        "image_shape": list(shape.image_shape),
        "made_by": f"import of {imported.kind}",
        "kept": int(count),
        "total": total,
        "sparsity": masks_lib.sparsity(kept),
    }
    if not state_dict:
        provenance["seed"] = seed
    variables = jax.tree.map(np.asarray, variables)
    return Ticket(kept, variables["params"], variables.get("batch_stats", {}), provenance)


def _values(imported: Content) -> Sequence[np.ndarray]:
    if imported.state_dict:
        return list(imported.state_dict.values())
    return list(imported.masks.values()) if isinstance(imported.masks, dict) else imported.masks or []


def _model(arch: str, shape: Shape) -> Any:
    return models.create(arch, shape.num_classes, width=shape.width)


def _shapes(model: Any, shape: Shape) -> Any:
    try:
        return shapes_of(model, jax.ShapeDtypeStruct((1, *shape.image_shape), jnp.float32))
    except ValueError as error:  # too small for the poolings
        raise InputError("`image_shape`", list(shape.image_shape), problem=str(error)) from error


def _template(model: Any, shape: Shape) -> Arrays:
    """Ones of the parameters, by PyTorch's names and in its order."""
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), _shapes(model, shape)["params"])
    return to_state_dict(model, {"params": params})


def _statistics(model: Any, shape: Shape) -> Arrays:
    stats = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), _shapes(model, shape)["batch_stats"])
    return to_state_dict(model, {"batch_stats": stats})


def _prunable(key: str, array: np.ndarray) -> bool:
    return key.endswith("weight") and array.ndim > 1


def _pruned(name: object, key: str, array: np.ndarray, masks: Arrays, prunable: Arrays) -> np.ndarray:
    """An entry with its mask, where the mask is of something that tickets do not prune, such as a bias."""
    if key not in masks or key in prunable:
        return array
    if masks[key].shape != array.shape:
        shapes = f"the mask of {key} has shape {masks[key].shape}, it {array.shape}"
        raise InputError(f"{name}: of another network: {shapes}")
    if not _is_binary(masks[key]):
        raise InputError(f"{name}: the mask of {key} has other values than 0 and 1")
    return np.where(masks[key] != 0, array, np.zeros_like(array))


def _read(name: object, model: Any, state_dict: Arrays, sample: Any) -> dict[str, Any]:
    try:
        return from_state_dict(model, state_dict, sample)
    except ValueError as error:
        raise InputError(f"{name}: of another network: {error}") from error


def _matched(name: object, imported: Content, template: Arrays) -> Arrays:
    """Masks of the network's weights, by its names; weights that the file does not mention are kept."""
    prunable = {key: array for key, array in template.items() if _prunable(key, array)}
    every = [key for key in template if key.endswith("weight")]
    if isinstance(imported.masks, dict):
        named = {key: mask for key, mask in imported.masks.items() if key in prunable}
        rest = {
            key: mask for key, mask in imported.masks.items() if key not in prunable and np.ndim(mask) > 1
        }
        if named and rest:
            listed = ", ".join([*rest][:5])
            raise InputError(f"{name}: of another network: it has no {listed}")
        by_name = named
        if not named:
            by_name = _in_order(name, rest, list(prunable))
    else:
        masks = {str(number): mask for number, mask in enumerate(imported.masks or [])}
        if len(masks) not in (len(every), len(prunable)):
            counts = f"{len(masks)} masks, the network has {len(prunable)} layers of weights"
            raise InputError(
                f"{name}: of another network: {counts}, and {len(every)} with those of batch norm"
            )
        by_name = _in_order(name, masks, every if len(masks) == len(every) else list(prunable))
    for key, mask in by_name.items():
        if mask.shape != template[key].shape:
            shapes = f"the mask of {key} has shape {mask.shape}, the weight {template[key].shape}"
            raise InputError(f"{name}: of another network: {shapes}")
        if not _is_binary(mask):
            raise InputError(f"{name}: the mask of {key} has other values than 0 and 1")
        if key not in prunable and not mask.all():
            raise InputError(f"{name}: the mask of {key} removes parameters of batch norm")
    return {key: mask.astype(bool) for key, mask in by_name.items() if key in prunable}


def _in_order(name: object, masks: Arrays, keys: list[str]) -> Arrays:
    if len(masks) != len(keys):
        counts = f"{len(masks)} masks of layers, the network has {len(keys)}"
        raise InputError(f"{name}: of another network: {counts}")
    return dict(zip(keys, masks.values(), strict=True))


def _is_binary(array: np.ndarray) -> bool:
    return bool(np.isin(array, (0, 1)).all())


def _single(name: object, key: str, array: np.ndarray) -> np.ndarray:
    """An entry in float32, in which networks are trained."""
    if np.iscomplexobj(array):
        raise InputError(f"{name}: {key} is {array.dtype}; allowed: real numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        single = array.astype(np.float32, copy=False)
    if not np.isfinite(single).all():
        raise InputError(f"{name}: {key} has numbers that are not finite in float32")
    return single
