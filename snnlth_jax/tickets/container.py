"""The container of tickets and networks: trees and masks as tensors and header of one safetensors file.

Tensors have names: `mask/layer01/conv/kernel` (a bit per weight, high bit first),
`params/layer01/conv/kernel`, `batch_stats/layer01/norm/mean`. The header has one entry, named after the kind
of file: as JSON its format, the shapes of the masks, `nodes`, what the kind adds, and a SHA-256 of
everything.

`nodes` is what names and tensors do not say of the trees, `{name: [...]}`: the containers of `places.record`
and the leaves of `leaves`. Nested dicts of NumPy's arrays need none.
"""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from snnlth_jax import masks as masks_lib
from snnlth_jax.errors import InputError
from snnlth_jax.tickets import leaves, places, tensors

__all__ = [
    "KINDS",
    "Tree",
    "check_finite",
    "kind",
    "masks_of",
    "pack",
    "parse",
    "refusing",
    "serialize",
    "tree_of",
]

PyTree = Any
Arrays = dict[str, np.ndarray]

KINDS = ("ticket", "network")  # names of the header's entry

# what reading bytes of any origin can raise
_DAMAGE = (
    *(safetensors.SafetensorError, ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, TypeError, ValueError),
)


class Tree(NamedTuple):
    """A tree of a file: its leaves by path, and the records of its containers."""

    leaves: dict[places.Path, Any]
    containers: Mapping[places.Path, places.Record]

    def plain(self, values: Mapping[places.Path, Any] | None = None) -> PyTree:
        """The tree of plain containers, with these leaves or its own; what could not be stored is None."""
        given = self.leaves if values is None else values
        known = {path: None if isinstance(x, leaves.Absent) else x for path, x in given.items()}
        return places.nested(known, self.containers)


def pack(trees: Mapping[str, PyTree], masks: PyTree) -> tuple[Arrays, dict[str, Any]]:
    """Trees, `params` among them, and the masks of its leaves as tensors, and fields of the header.

    Raises:
      ValueError: masks that do not mirror the parameters, or a leaf whose values cannot be stored, by name.

    >>> arrays, fields = pack({"params": {"w": np.ones(3)}}, {"w": np.array([True, False, True])})
    >>> arrays["mask/w"].tolist(), sorted(arrays), fields
    ([160], ['mask/w', 'params/w'], {'mask_shapes': {'w': (3,)}})
    """
    walked = {kind: places.walk(tree) for kind, tree in trees.items()}
    masks_lib.check(masks, trees["params"])
    nodes: dict[str, Any] = {}
    arrays: Arrays = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for kind, tree in walked.items():
        for place in tree:
            name, array = _name(kind, place.path), None
            if place.keys is None:
                node, array = leaves.store(name, place.value)
            else:
                node = places.record(place)
            if node is not None:
                nodes[name] = node
            if array is not None:
                arrays[name] = array
    for path, mask in places.leaves(masks).items():
        if mask is not None:
            bits = np.asarray(mask)
            shapes["/".join(path)] = bits.shape
            arrays[_name("mask", path)] = np.packbits(bits.reshape(-1))
    return arrays, {"mask_shapes": shapes, **({"nodes": nodes} if nodes else {})}


def tree_of(kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Tree:
    """The tree of a name that `pack` stored; other content raises one of many kinds of error."""
    nodes = header.get("nodes", {})
    if not isinstance(nodes, dict):
        raise TypeError("nodes is not a dict")
    records, below = _below(kind, nodes), _below(kind, arrays)
    containers = {path: node for path, node in records.items() if node[0] in ("dict", "list", "tuple")}
    paths = (records.keys() | below.keys()) - containers.keys()
    restored = {path: leaves.restore(records.get(path), below.get(path)) for path in sorted(paths)}
    return Tree(restored, containers)


def masks_of(
    params: Tree, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[places.Path, np.ndarray | None]:
    """The mask of each leaf of the parameters, None for those without."""
    shapes, bits = header["mask_shapes"], _below("mask", arrays)
    if not isinstance(shapes, dict):
        raise TypeError("mask_shapes is not a dict")
    if not bits.keys() <= params.leaves.keys() or {"/".join(path) for path in bits} != shapes.keys():
        raise ValueError("masks of no weights")
    return {
        path: unpacked(bits[path], shapes["/".join(path)], np.shape(leaf)) if path in bits else None
        for path, leaf in params.leaves.items()
    }


def unpacked(bits: np.ndarray, shape: Sequence[int], weight: Sequence[int]) -> np.ndarray:
    """The mask of a weight from its bits; ValueError if they are of another shape."""
    size = math.prod(weight)
    if list(shape) != list(weight) or bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        raise ValueError("a mask of another shape than its weight")
    return np.unpackbits(bits, count=size).reshape(weight).astype(bool)


def check_finite(name: object, trees: Mapping[str, PyTree]) -> None:
    """Check that the leaves of trees are arrays of finite floating-point numbers, where they have values.

    Raises:
      InputError: naming the file and the first leaf that is not.
    """
    for kind, tree in trees.items():
        for path, leaf in places.leaves(tree).items():
            if leaf is None or isinstance(leaf, jax.ShapeDtypeStruct):
                continue
            if not jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jnp.floating):
                problem = f"{_name(kind, path)} is no array of floating-point numbers"
                raise InputError(name, problem=problem)
            if not np.isfinite(np.asarray(leaf)).all():
                raise InputError(name, problem=f"{_name(kind, path)} holds numbers that are not finite")


def serialize(kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a file, with the checksum in its header.

    Raises:
      ValueError: a header that is not JSON.
    """
    if not _has_texts_as_keys(header["provenance"]) or not isinstance(header["provenance"], dict):
        allowed = "a dict of JSON values, with texts as keys"
        raise ValueError(f"provenance: {header['provenance']!r:.80}, allowed: {allowed}")
    try:
        whole = {**header, "sha256": _digest(arrays, header)}
        return tensors.serialize(arrays, {kind: json.dumps(whole, sort_keys=True)})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"provenance: allowed: a dict of JSON values ({error})") from error


def parse(
    path: epath.Path, kind: str, formats: Sequence[str], content: bytes
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the tensors of `serialize`; other bytes raise one of many kinds of error.

    Raises:
      InputError: a file of another kind or format, or one whose checksum does not match.
    """
    metadata, arrays = tensors.parse(content)
    if kind not in metadata and (other := [name for name in KINDS if name in metadata]):
        raise InputError(f"{path}: a {other[0]} file, {_WEIGHTS[other[0]]}; allowed: a {kind} file")
    header = json.loads(metadata[kind], parse_float=_exact)
    same = not any(escape.lower() != escape for escape in re.findall(_ESCAPE, metadata[kind]))
    digest, version = header.pop("sha256"), header["format"]
    if version not in formats:
        allowed = " and ".join(map(repr, formats))
        raise InputError(f"{path}: format {version!r:.80}, this version reads {allowed}")
    if not same or digest != _digest(arrays, header):
        raise InputError(f"{path}: checksum does not match, the file was altered or damaged")
    if not isinstance(header["provenance"], dict):
        raise TypeError("provenance is not a dict")
    return header, arrays


def _exact(text: str) -> float:
    """A number of the header; ValueError for a text that Python would write in another way, so altered."""
    number = float(text)
    if repr(number) != text:
        raise ValueError(f"{text} for {number}")
    return number


_ESCAPE = r"\\(?:u([0-9a-fA-F]{4})|.)"  # JSON's, whose digits Python writes in lower case
_WEIGHTS = {
    "ticket": "whose weights are those before training (`snnlth train` trains it)",
    "network": "whose weights are trained",
}


def kind(path: epath.PathLike) -> str:
    """The kind of a file, "ticket" or "network", as it says itself; nothing is verified.

    Raises:
      InputError: no such file, or one of neither kind.
    """
    path = epath.Path(path)
    with refusing(path, "ticket"):
        metadata, _ = tensors.parse(tensors.read(path, "ticket"))
        (name,) = [name for name in KINDS if name in metadata]
        return name


@contextlib.contextmanager
def refusing(path: epath.Path, kind: str) -> Iterator[None]:
    """Turn what bytes of any origin can raise into one InputError."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: not a {kind} file, or cut short ({type(error).__name__})") from error


def _has_texts_as_keys(value: Any, depth: int = 0) -> bool:
    """Whether JSON would change no key of a value."""
    if depth > 100:  # which json.dumps refuses, or a value that contains itself
        return True
    if isinstance(value, dict):
        return all(isinstance(k, str) and _has_texts_as_keys(v, depth + 1) for k, v in value.items())
    return not isinstance(value, list | tuple) or all(_has_texts_as_keys(v, depth + 1) for v in value)


def _name(kind: str, path: places.Path) -> str:
    name = "/".join((kind, *path))
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r}: a name that UTF-8 cannot hold") from error
    return name


def _below(kind: str, named: Mapping[str, Any]) -> dict[places.Path, Any]:
    """The entries of a kind by path."""
    return {
        tuple(name.split("/")[1:]): x
        for name, x in named.items()
        if name == kind or name.startswith(f"{kind}/")
    }


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(tensors.data(array))
    return digest.hexdigest()
