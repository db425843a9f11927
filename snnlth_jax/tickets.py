"""The ticket file: masks, the weights to rewind to, and where they come from, in one safetensors file.

Tensors have names: `mask/layer01/conv/kernel` (a bit per weight, high bit first),
`params/layer01/conv/kernel`, `batch_stats/layer01/norm/mean`. The header has one entry, `ticket`: as JSON the
shapes of the masks, the provenance, and a SHA-256 of everything, so that `load` refuses a file that was cut
short or altered. Equal tickets are equal files.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

from snnlth_jax import files
from snnlth_jax import masks as masks_lib
from snnlth_jax.errors import InputError

__all__ = ["FORMAT", "Ticket", "check", "describe", "load", "save"]

FORMAT = "snnlth-ticket-1"


class Ticket(NamedTuple):
    """A sub-network. Trees are nested dicts by name.

    Attributes:
      masks: boolean array per prunable weight, None for the rest.
      params: the weights at the rewind point, removed ones included.
      batch_stats: running statistics at the rewind point.
      provenance: the search that made the ticket; a dict of JSON values.
    """

    masks: Any
    params: Any
    batch_stats: Any
    provenance: dict[str, Any]


def save(path: epath.PathLike, ticket: Ticket) -> None:
    """Write a ticket; the file is there whole or not at all.

    Args:
      path: path of the file; it may be a `gs://` one.
      ticket: its trees must be nested dicts with string keys.

    Example, with `load`:

    >>> import tempfile, jax.numpy as jnp
    >>> path = tempfile.mkdtemp() + "/ticket.safetensors"
    >>> weights = {"dense": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.zeros(2)}}
    >>> masks = {"dense": {"kernel": jnp.array([[True, False]]), "bias": None}}
    >>> save(path, Ticket(masks, weights, {}, {"seed": 0}))
    >>> ticket = load(path)
    >>> ticket.masks["dense"]["kernel"].tolist(), ticket.masks["dense"]["bias"], ticket.provenance
    ([[True, False]], None, {'seed': 0})
    """
    mask_leaves = {name: np.asarray(m) for name, m in _flat(ticket.masks).items() if m is not None}
    tensors = {f"mask/{name}": np.packbits(m.reshape(-1)) for name, m in mask_leaves.items()}
    for kind, tree in (("params", ticket.params), ("batch_stats", ticket.batch_stats)):
        tensors |= {f"{kind}/{n}": np.asarray(x, order="C") for n, x in _flat(jax.device_get(tree)).items()}
    for name, tensor in tensors.items():
        if tensor.dtype.isbuiltin != 1:
            raise ValueError(f"{name}: {tensor.dtype} cannot be stored, allowed: NumPy's own types")
    header = {
        "format": FORMAT,
        "mask_shapes": {name: m.shape for name, m in mask_leaves.items()},
        "provenance": ticket.provenance,
    }
    header["sha256"] = _digest(tensors, header)
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, safetensors.numpy.save(tensors, {"ticket": json.dumps(header)}))


def load(path: epath.PathLike) -> Ticket:
    """Read a ticket and verify it; arrays are NumPy's.

    Raises:
      InputError: no such file, not a ticket, or not what `save` wrote.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such ticket file")
    content = path.read_bytes()
    try:
        tensors = safetensors.numpy.load(content)
        # the header again, for its metadata: 8 bytes of length, then JSON
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        header = json.loads(metadata["ticket"])
        shapes, provenance, digest = header["mask_shapes"], header["provenance"], header.pop("sha256")
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a ticket file, or cut short ({type(error).__name__})") from error
    if header["format"] != FORMAT:
        raise InputError(f"{path}: format {header['format']!r}, this version reads {FORMAT!r}")
    if digest != _digest(tensors, header):
        raise InputError(f"{path}: checksum does not match, the file was altered or damaged")

    def tree(kind: str) -> Any:
        flat = {n.removeprefix(f"{kind}/"): x for n, x in tensors.items() if n.startswith(f"{kind}/")}
        return _nested(flat)

    def mask(name: str) -> np.ndarray | None:
        if name not in shapes:
            return None
        bits = tensors[f"mask/{name}"]
        return np.unpackbits(bits, count=int(np.prod(shapes[name]))).reshape(shapes[name]).astype(bool)

    params = tree("params")
    masks = _nested({name: mask(name) for name in _flat(params)})
    return Ticket(masks, params, tree("batch_stats"), provenance)


def check(name: object, ticket: Ticket, params: Any) -> None:
    """Check that a ticket belongs to the network with these parameters (or `jax.ShapeDtypeStruct` of them).

    Raises:
      InputError: naming the first weight that one of the two lacks or has in another shape.
    """
    given = {path: np.shape(x) for path, x in _flat(ticket.params).items()}
    wanted = {path: x.shape for path, x in _flat(params).items()}
    for path in wanted | given:
        if wanted.get(path) != given.get(path):
            raise InputError(
                f"{name}: a ticket of another network: {path} is {given.get(path, 'not there')}, "
                f"here {wanted.get(path, 'there is none')}"
            )


def describe(ticket: Ticket) -> str:
    """Provenance and layer-wise sparsity, as text to print."""
    lines = [f"{name}: {value}" for name, value in ticket.provenance.items()]
    return "\n".join([*lines, "", masks_lib.table(ticket.masks)])


# a "/" within a key, as Haiku has it, is escaped; "%" escapes it
def _flat(tree: Any) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        raise ValueError(f"a ticket holds nested dicts of arrays, got {type(tree).__name__}")
    return {
        "/".join(key.replace("%", "%25").replace("/", "%2F") for key in path): leaf
        for path, leaf in traverse_util.flatten_dict(dict(tree)).items()
    }


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = traverse_util.unflatten_dict(
        {
            tuple(key.replace("%2F", "/").replace("%25", "%") for key in name.split("/")): leaf
            for name, leaf in flat.items()
        }
    )
    return nested


def _digest(tensors: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
