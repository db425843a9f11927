"""Places of a pytree: its containers and leaves, each with a path, and trees made of them.

A container is what JAX opens (dict, list, tuple, NamedTuple, registered class), or any mapping; None is a
leaf here. A path is the keys on the way from the root, with "/" and "%" within a key escaped, so that
`layers/0/kernel` names it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["DEEPEST", "Path", "Place", "Record", "leaves", "nested", "rebuild", "record", "walk"]

PyTree = Any
Key = str | int | float  # of a dict that is stored; True and False are among them
Path = tuple[str, ...]
Record = list[Any]

DEEPEST = 500  # levels; JAX's own functions follow Python's limit on recursion, and do not recover from it


class Place(NamedTuple):
    """A container or leaf of a tree.

    Attributes:
      path: escaped keys from the root to the place.
      value: the container or leaf.
      keys: the keys of its children, distinct, in their order; None for a leaf.
      build: a container of the same kind around other children.
    """

    path: Path
    value: Any
    keys: tuple[Key, ...] | None
    build: Callable[[list[Any]], Any]


def walk(tree: PyTree) -> list[Place]:
    """Every place of a tree, containers before their children.

    Raises:
      ValueError: the tree is deeper than `DEEPEST`, or contains itself.

    >>> [(place.path, place.keys) for place in walk({"layers": [1.0, None]})]
    [((), ('layers',)), (('layers',), (0, 1)), (('layers', '0'), None), (('layers', '1'), None)]
    """
    places: list[Place] = []
    ahead: list[tuple[Path, Any]] = [((), tree)]
    while ahead:
        path, value = ahead.pop()
        if len(path) > DEEPEST:
            raise ValueError(f"{'/'.join(path[:3])}/...: nested deeper than {DEEPEST} levels")
        keys, children, build = _opened(value)
        places.append(Place(path, value, keys, build))
        if keys is not None:
            below = zip(_components(keys), children, strict=True)
            ahead.extend(reversed([((*path, component), child) for component, child in below]))
    return places


def leaves(tree: PyTree) -> dict[Path, Any]:
    """Leaves of a tree by path, None included.

    >>> leaves({"a/b": (1, None)})
    {('a%2Fb', '0'): 1, ('a%2Fb', '1'): None}
    """
    return {place.path: place.value for place in walk(tree) if place.keys is None}


def rebuild(tree: PyTree, leaf: Callable[[Path, Any], Any]) -> PyTree:
    """The tree with `leaf(path, value)` in place of each leaf, None included.

    >>> rebuild({"a": [1, None]}, lambda path, value: ("/".join(path), value))
    {'a': [('a/0', 1), ('a/1', None)]}
    """
    built: list[Any] = []  # what stands behind the place; its first child is the last entry
    for place in reversed(walk(tree)):
        if place.keys is None:
            built.append(leaf(place.path, place.value))
        else:
            built.append(place.build([built.pop() for _ in place.keys]))
    return built.pop()


def record(container: Place) -> Record | None:
    """JSON for a container that is not, in the eyes of `nested`, a dict of what lies below.

    >>> [record(place) for place in walk({"a": ({}, 0), "b": {0: None}}) if place.keys is not None]
    [None, ['tuple', 2], ['dict', []], ['dict', [0]]]
    """
    keys = container.keys or ()
    if type(container.value) in (list, tuple):
        return [type(container.value).__name__, len(keys)]
    if all(isinstance(key, str) for key in keys) and (keys or not container.path):
        return None
    return ["dict", list(keys)]


def nested(leaves: Mapping[Path, Any], records: Mapping[Path, Record]) -> PyTree:
    """The tree of dicts, lists and tuples with these leaves; nothing at all is an empty dict.

    Raises:
      ValueError: leaves and records do not make a tree.

    >>> nested({("a", "0"): 1.0, ("a", "1"): None}, {("a",): ["list", 2], ("b",): ["dict", []]})
    {'a': [1.0, None], 'b': {}}
    """
    members: dict[Path, set[str]] = {path: set() for path in [(), *records]}
    for path in [*leaves, *records]:
        if len(path) > DEEPEST:
            raise ValueError(f"deeper than {DEEPEST} levels")
        while path and path[-1] not in members.setdefault(path[:-1], set()):
            members[path[:-1]].add(path[-1])
            path = path[:-1]
    if () in leaves and not members[()]:
        return leaves[()]
    if both := members.keys() & leaves.keys():
        raise ValueError(f"{'/'.join(min(both))} is a leaf and a container")
    built = dict(leaves)
    for path in sorted(members, key=len, reverse=True):
        children = {component: built.pop((*path, component)) for component in sorted(members[path])}
        built[path] = _container(records.get(path), children)
    return built[()]


def _container(record: Record | None, children: dict[str, Any]) -> Any:
    match record:
        case None:
            return {_unescaped(component): child for component, child in children.items()}
        case ["dict", [*keys]] if all(type(key) in _KEYS for key in keys):
            values = _in_order(_components(keys), children)
            return dict(zip(keys, values, strict=True))
        case ["list" | "tuple" as kind, int(length)] if 0 <= length <= len(children):
            values = _in_order([str(i) for i in range(length)], children)
            return values if kind == "list" else tuple(values)
    raise ValueError("a container of no known kind")


def _in_order(components: list[str], children: dict[str, Any]) -> list[Any]:
    if children.keys() != set(components):
        raise ValueError("a container with other keys")
    return [children[component] for component in components]


def _components(keys: Iterable[Key]) -> list[str]:
    """Parts of paths, distinct, for the keys of one container."""
    return _distinct(str(key).replace("%", "%25").replace("/", "%2F") for key in keys)


def _unescaped(component: str) -> str:
    return component.replace("%2F", "/").replace("%25", "%")


def _opened(value: Any) -> tuple[tuple[Key, ...] | None, list[Any], Callable[[list[Any]], Any]]:
    """Keys, children and constructor of a container; None for the keys of a leaf."""
    if value is None:
        return None, [], lambda children: value
    if type(value) is dict:
        return _opened_mapping(value)
    # one level: only the value itself is opened
    try:
        below, structure = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda x: x is not value)
    except RecursionError:
        raise ValueError(f"a {type(value).__name__} that contains itself is no tree") from None
    if below and not below[0][0]:
        if isinstance(value, Mapping):  # of a class that JAX does not know
            return _opened_mapping(value)
        return None, [], lambda children: value
    keys = _distinct(_key(path[0]) for path, _ in below)
    if type(value) in (list, tuple):
        keys = list(range(len(below)))
    return tuple(keys), [child for _, child in below], partial(jax.tree_util.tree_unflatten, structure)


def _opened_mapping(
    value: Mapping[Any, Any],
) -> tuple[tuple[Key, ...], list[Any], Callable[[list[Any]], Any]]:
    try:
        order = sorted(value)
    except TypeError:  # keys of several types
        order = sorted(value, key=lambda key: (type(key).__name__, str(key)))
    keys = _distinct(map(_plain, order))
    children = [value[key] for key in order]
    return tuple(keys), children, lambda others: dict(zip(order, others, strict=True))


def _key(entry: Any) -> Key:
    """JAX's name of a child: the key of a mapping, the name of a field, a number."""
    if isinstance(entry, jax.tree_util.DictKey):
        return _plain(entry.key)
    return jax.tree_util.keystr((entry,), simple=True)


_KEYS = (str, int, float, bool)


def _plain(key: Any) -> Key:
    """A key as JSON can hold it, equal to that of the dict if it is a text or a number."""
    plain: Key = key.item() if isinstance(key, np.generic) else key
    return plain if type(plain) in _KEYS else str(plain)


def _distinct(keys: Iterable[Any]) -> list[Any]:
    distinct: dict[Any, None] = {}
    for key in keys:
        while key in distinct:
            key = f"{key}~"
        distinct[key] = None
    return list(distinct)
