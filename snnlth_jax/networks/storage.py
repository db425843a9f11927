"""The network file: trained weights, batch statistics, masks and recipe in one safetensors file.

It is a file like a ticket's (see `tickets.container`), with `recipe` in its header, and sparse: of a weight
with a mask the file holds the mask's bits and the kept values, `kept/layer01/conv/kernel`, in row-major
order, so that a kept weight costs its bytes and a removed one a bit. A weight without a mask, with nothing
removed, or with a removed value that is not +0 is stored whole, `params/layer01/conv/kernel`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn

from snnlth_jax import files
from snnlth_jax import masks as masks_lib
from snnlth_jax.errors import InputError
from snnlth_jax.networks import recipe as recipes
from snnlth_jax.networks.recipe import Recipe
from snnlth_jax.tickets import container, places, tensors

__all__ = ["FORMAT", "Network", "check", "load", "save", "summary"]

PyTree = Any
FORMAT = "snnlth-network-1"


class Network(NamedTuple):
    """A trained network. Trees are nested dicts of arrays.

    Attributes:
      recipe: how it is built and called.
      masks: boolean array per prunable weight, None for the rest; the structure of `params`.
      params: trained weights, removed ones 0.
      batch_stats: running statistics of batch norm.
      provenance: search, phase, accuracy and versions; a dict of JSON values.
    """

    recipe: Recipe
    masks: PyTree
    params: PyTree
    batch_stats: PyTree
    provenance: dict[str, Any]


def save(path: epath.PathLike, network: Network) -> None:
    """Write a network; the file is there whole, read back and compared, or not at all.

    Args:
      path: path of the file; it may be a `gs://` one.
      network: the network. Values are stored exactly, NaN and -0 included.

    Raises:
      ValueError: masks that do not mirror the parameters, or what JSON or safetensors cannot hold.
      StorageError: the file system gives back other bytes than were written.

    Example, with `load`:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/network.safetensors"
    >>> weights, masks = {"w": np.array([1.5, 0, 0])}, {"w": np.array([True, False, False])}
    >>> recipe = Recipe("vgg5", 10, (8, 8, 1), (0.5,), (0.5,), 4)
    >>> save(path, Network(recipe, masks, weights, {}, {"seed": 0}))
    >>> load(path).params["w"].tolist(), load(path).recipe.num_timesteps
    ([1.5, 0.0, 0.0], 4)
    """
    path = epath.Path(path)
    trees = {"params": network.params, "batch_stats": network.batch_stats}
    arrays, fields = container.pack(trees, network.masks)
    header = {
        "format": FORMAT,
        "recipe": recipes.to_json(network.recipe),
        "provenance": network.provenance,
        **fields,
    }
    content = container.serialize("network", header, _sparse(arrays))
    with container.refusing(path, "network"):
        _read(path, content)  # the checksum is that of the arrays that were given
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, content)


def load(path: epath.PathLike) -> Network:
    """Read a network and verify it; arrays are NumPy's.

    Args:
      path: path of the file; it may be a `gs://` one.

    Raises:
      InputError: no such file, not a network, or not what `save` wrote.
    """
    path = epath.Path(path)
    with container.refusing(path, "network"):
        return _read(path, tensors.read(path, "network"))


def check(name: object, network: Network, model: nn.Module) -> None:
    """Check that the weights of a file are those of a network; no device computes anything.

    Args:
      name: name of the file, for the error.
      network: network of the file.
      model: the network that its recipe makes, or the author's own.

    Raises:
      InputError: naming a weight that one of the two lacks or has in another shape.
    """
    images = jax.ShapeDtypeStruct((1, *network.recipe.image_shape), jnp.float32)

    def init(x: jax.Array) -> PyTree:
        return model.init(jax.random.key(0), x, num_timesteps=1)

    try:
        wanted = dict(jax.eval_shape(init, images))
    except Exception as error:  # whatever a network says to images that do not fit it
        first = [*str(error).splitlines(), type(error).__name__][0]
        raise InputError(name, problem=f"a recipe of no network: {first}") from error
    given = {"params": network.params, "batch_stats": network.batch_stats}
    container.check_finite(name, given)
    for kind, tree in given.items():
        own = {place: np.shape(x) for place, x in places.leaves(tree).items() if x is not None}
        other = {
            place: np.shape(x) for place, x in places.leaves(wanted.get(kind, {})).items() if x is not None
        }
        for place in sorted(own.keys() | other.keys()):
            if own.get(place) != other.get(place):
                in_file, here = (
                    shape if shape is not None else "nothing" for shape in (own.get(place), other.get(place))
                )
                what = f"{kind}/{'/'.join(place)} is {in_file}, its recipe makes {here}"
                raise InputError(name, problem=f"weights of another network: {what}")


def summary(network: Network) -> str:
    """Recipe, provenance and layer-wise sparsity, as text to print."""
    fields = network.provenance | recipes.to_json(network.recipe)
    lines = [f"{name}: {value}" for name, value in fields.items()]
    return "\n".join([*lines, "", masks_lib.table(network.masks)])


def _sparse(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, with the kept values alone where all that is removed is +0."""
    stored = dict(arrays)
    for name, bits in arrays.items():
        weight = arrays.get(f"params/{name.removeprefix('mask/')}")
        if not name.startswith("mask/") or weight is None or not weight.ndim:
            continue
        kept = np.unpackbits(bits, count=weight.size).astype(bool)
        values = weight.reshape(-1)
        removed = np.ascontiguousarray(values[~kept])
        if removed.size and not any(tensors.data(removed)):
            del stored[f"params/{name.removeprefix('mask/')}"]
            stored[f"kept/{name.removeprefix('mask/')}"] = np.ascontiguousarray(values[kept])
    return stored


def _dense(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `_sparse`."""
    whole = {name: array for name, array in arrays.items() if not name.startswith("kept/")}
    for name, values in arrays.items():
        if not name.startswith("kept/"):
            continue
        own = name.removeprefix("kept/")
        shape = header["mask_shapes"][own]
        mask = container.unpacked(arrays[f"mask/{own}"], shape, shape)
        if f"params/{own}" in whole or values.shape != (np.count_nonzero(mask),):
            raise ValueError("kept values of no mask")
        weight = np.zeros(mask.shape, values.dtype)
        weight[mask] = values
        whole[f"params/{own}"] = weight
    return whole


def _read(path: epath.Path, content: bytes) -> Network:
    """Read the bytes of a file; an error of one of many kinds if they are not a network's."""
    header, arrays = container.parse(path, "network", (FORMAT,), content)
    whole = _dense(header, arrays)
    params, batch_stats = (container.tree_of(kind, header, whole) for kind in ("params", "batch_stats"))
    masks = container.masks_of(params, header, whole)
    try:
        recipe = recipes.from_json(header["recipe"])
    except InputError as error:
        raise InputError(f"{path}: recipe: {error}") from error
    return Network(recipe, params.plain(masks), params.plain(), batch_stats.plain(), header["provenance"])
