"""The ticket file: masks, the weights to rewind to, and where they come from, in one safetensors file.

`load` refuses a file that was cut short or altered; equal tickets are equal files. `container` says what is
in the file. One of nested dicts of NumPy's arrays has the format `snnlth-ticket-1`, which earlier versions
read.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from snnlth_jax import files
from snnlth_jax import masks as masks_lib
from snnlth_jax.errors import InputError, listed
from snnlth_jax.masks.trees import check_pair
from snnlth_jax.tickets import container, leaves, places, tensors

__all__ = ["FORMAT", "Ticket", "check", "check_trainable", "describe", "load", "save"]

PyTree = Any

FORMAT = "snnlth-ticket-2"
_NESTED_DICTS = "snnlth-ticket-1"


class Ticket(NamedTuple):
    """A sub-network. Trees are pytrees of any kind.

    Attributes:
      masks: boolean array per prunable weight, None for the rest; the structure of `params`.
      params: the weights at the rewind point, removed ones included.
      batch_stats: running statistics at the rewind point.
      provenance: the search that made the ticket; a dict of JSON values, in which a tuple comes back as a
        list.
    """

    masks: Any
    params: Any
    batch_stats: Any
    provenance: dict[str, Any]


def save(path: epath.PathLike, ticket: Ticket) -> None:
    """Write a ticket; the file is there whole, read back and compared, or not at all.

    Arrays of every dtype of NumPy and JAX, typed PRNG keys, Python numbers and texts are stored exactly.
    Other leaves, such as the functions in an Equinox module, are not stored: `load` takes them from `like`.

    Args:
      path: path of the file; it may be a `gs://` one.
      ticket: masks that mirror the parameters, and trees of any kind.

    Raises:
      ValueError: no `Ticket`, masks that do not mirror the parameters, or a leaf whose values cannot be
        stored, by name.
      StorageError: the file system gives back other bytes than were written.
      OSError: no such place, or no permission; a file that was there stays.

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
    path = epath.Path(path)
    content = _content(ticket)
    with container.refusing(path, "ticket"):
        _read(path, content)  # the checksum is that of the arrays that were given
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, content)


def load(path: epath.PathLike, like: PyTree | None = None) -> Ticket:
    """Read a ticket and verify it; arrays are NumPy's.

    Without `like`, dicts with keys that are texts or numbers, lists, tuples and None come back as they were;
    other containers (NamedTuple, dataclass, nnx.State, Equinox module) come back as nested dicts by name, and
    leaves that could not be stored as None.

    Args:
      path: path of the file; it may be a `gs://` one.
      like: parameters, or `jax.ShapeDtypeStruct` of them, whose structure masks and parameters get; what
        could not be stored, such as a function, comes from there. With a `Ticket`, of which `params` and
        `batch_stats` are read, the batch statistics get theirs too.

    Raises:
      InputError: no such file, not a ticket, not what `save` wrote, or not a ticket of `like`.

    >>> import collections, tempfile, jax
    >>> Dense = collections.namedtuple("Dense", ["kernel", "bias"])
    >>> params, path = [Dense(np.ones((1, 2)), np.zeros(2))], tempfile.mkdtemp() + "/ticket.safetensors"
    >>> save(path, Ticket([Dense(np.array([[True, False]]), None)], params, {}, {}))
    >>> load(path, like=params).masks
    [Dense(kernel=array([[ True, False]]), bias=None)]
    >>> load(path).masks
    [{'bias': None, 'kernel': array([[ True, False]])}]
    """
    path = epath.Path(path)
    with container.refusing(path, "ticket"):
        file = _read(path, tensors.read(path))
    if like is None:
        return file.plain
    structure = like.params if isinstance(like, Ticket) else like
    params = _like(f"{path}: params", file.params, structure)
    masks = places.rebuild(structure, lambda place, _: file.masks[place])
    batch_stats = file.plain.batch_stats
    if isinstance(like, Ticket):
        batch_stats = _like(f"{path}: batch_stats", file.batch_stats, like.batch_stats)
    return Ticket(masks, params, batch_stats, file.plain.provenance)


def check(name: object, ticket: Ticket, params: PyTree) -> None:
    """Check that a ticket belongs to the network with these parameters (or `jax.ShapeDtypeStruct` of them).

    Raises:
      InputError: naming the weights that one of the two lacks or has in another shape, and the settings of
        the ticket's network, where its provenance has them.
    """
    given, wanted = (
        {place: str(np.shape(x)) for place, x in places.leaves(tree).items()}
        for tree in (ticket.params, params)
    )
    if differences := _differences(given, wanted, "here"):
        network = [
            f"`{key}` {','.join(map(str, value)) if isinstance(value, list) else value}"
            for key in ("arch", "arch_option", "width")
            if (value := ticket.provenance.get(key)) not in (None, [], 1.0)
        ]
        found_with = f"; found with {' '.join(network)}" if network else ""
        raise InputError(f"{name}: a ticket of another network: {differences}{found_with}")


def check_trainable(name: object, ticket: Ticket, params: PyTree) -> None:
    """Check that a ticket belongs to the network with these parameters, and that it can be trained.

    Raises:
      InputError: as `check`; or naming numbers that are not finite, or a mask of no prunable weight.
    """
    check(name, ticket, params)
    container.check_finite(name, {"params": ticket.params, "batch_stats": ticket.batch_stats})
    try:
        check_pair(ticket.masks, masks_lib.make(params))
    except ValueError as error:
        raise InputError(name, problem=f"masks of another network: {error}") from error


def describe(ticket: Ticket) -> str:
    """Provenance and layer-wise sparsity, as text to print."""
    lines = [f"{name}: {value}" for name, value in ticket.provenance.items()]
    return "\n".join([*lines, "", masks_lib.table(ticket.masks)])


class _File(NamedTuple):
    """A file's content: the ticket of plain containers, and the leaves of its trees by path."""

    plain: Ticket
    masks: dict[places.Path, np.ndarray | None]
    params: dict[places.Path, Any]
    batch_stats: dict[places.Path, Any]


def _content(ticket: Ticket) -> bytes:
    """The bytes of a ticket's file."""
    if not isinstance(ticket, Ticket):
        given = type(ticket).__name__
        raise ValueError(f"ticket must be a Ticket of masks, params, batch_stats and provenance, got {given}")
    trees = {"params": ticket.params, "batch_stats": ticket.batch_stats}
    arrays, fields = container.pack(trees, ticket.masks)
    plain = "nodes" not in fields and all(array.dtype.isbuiltin == 1 for array in arrays.values())
    header = {"format": _NESTED_DICTS if plain else FORMAT, "provenance": ticket.provenance, **fields}
    return container.serialize("ticket", header, arrays)


def _read(path: epath.Path, content: bytes) -> _File:
    """Read the bytes of a file; an error of one of many kinds if they are not a ticket's."""
    header, arrays = container.parse(path, "ticket", (_NESTED_DICTS, FORMAT), content)
    params, batch_stats = (container.tree_of(kind, header, arrays) for kind in ("params", "batch_stats"))
    masks = container.masks_of(params, header, arrays)
    trees = params.plain(masks), params.plain(), batch_stats.plain()
    return _File(Ticket(*trees, header["provenance"]), masks, params.leaves, batch_stats.leaves)


def _like(name: str, given: Mapping[places.Path, Any], like: PyTree) -> PyTree:
    """The leaves of a file in the structure of `like`; Absent ones are those of `like`."""
    wanted = {path: leaves.kind(leaf) for path, leaf in places.leaves(like).items()}
    kinds = {path: leaves.kind(leaf) for path, leaf in given.items()}
    fitting = {
        path: kind for path, kind in wanted.items() if path in kinds and leaves.fits(kinds[path], kind)
    }
    texts = [{path: kind.text for path, kind in side.items()} for side in (kinds | fitting, wanted)]
    if differences := _differences(texts[0], texts[1], "in `like`"):
        raise InputError(f"{name}: a ticket of another network: {differences}")

    def leaf(path: places.Path, other: Any) -> Any:
        return other if isinstance(given[path], leaves.Absent) else given[path]

    return places.rebuild(like, leaf)


def _differences(given: Mapping[places.Path, str], wanted: Mapping[places.Path, str], here: str) -> str:
    """Leaves that two trees do not share, with counts, as one line; empty if there are none."""
    other = [
        f"{_shown(path)} is {given[path]}, {here} {text}"
        for path, text in wanted.items()
        if given.get(path, text) != text
    ]
    missing = [f"{_shown(path)} {text}" for path, text in wanted.items() if path not in given]
    unexpected = [f"{_shown(path)} {text}" for path, text in given.items() if path not in wanted]
    parts = [listed(other, "; ")]
    parts += [f"{len(missing)} missing: {listed(missing)}"] if missing else []
    parts += [f"{len(unexpected)} unexpected: {listed(unexpected)}"] if unexpected else []
    return "; ".join(part for part in parts if part)


def _shown(path: places.Path) -> str:
    """A path as a part of a message, in one line."""
    name = "/".join(path)
    return name if name.isprintable() and name else repr(name)
