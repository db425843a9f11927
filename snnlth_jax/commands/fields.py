"""The fields of a command's dataclass as a user sees them: flags, names that are allowed, descriptions."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from snnlth_jax import data
from snnlth_jax.errors import flag

__all__ = ["description", "flags", "is_list", "is_positional", "is_switch", "kinds", "names", "owner"]


def is_positional(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is given by its place and not by a flag."""
    return "Positional" in str(field.type)


def is_switch(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is turned on by its flag alone."""
    return isinstance(field.default, bool) and "tuple" not in str(field.type)


def flags(field: dataclasses.Field[Any]) -> list[str]:
    """The flags of a field: one, and for a switch the one that turns it off."""
    name = flag(field.name.rstrip("_"))
    return [name, f"--no-{name[2:]}"] if is_switch(field) else [name]


def kinds(command: Any, name: str) -> list[Any]:
    """The types of which a value of a field is one, or a list; without None.

    >>> from snnlth_jax.configs import ImpConfig
    >>> kinds(ImpConfig, "epochs"), kinds(ImpConfig, "final_rounds")
    ([<class 'int'>], [<class 'int'>])
    """
    return list(dict.fromkeys(_parts(_types(command)[name])))


def is_list(command: Any, name: str) -> bool:
    """Whether a field may hold several values."""
    return any(word in str(_types(command)[name]) for word in ("tuple[", "list["))


def _parts(kind: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    if get_origin(kind) is Annotated:
        yield from _parts(get_args(kind)[0])
    elif get_origin(kind) in (UnionType, Union, tuple, list):
        for part in get_args(kind):
            yield from _parts(part)
    elif kind not in (NoneType, Ellipsis):
        yield kind


@functools.cache
def _types(command: Any) -> dict[str, Any]:
    return get_type_hints(command, include_extras=True)


def names(command: Any, field: str) -> tuple[str, ...]:
    """The names that a field may have; empty for numbers, files and free texts.

    >>> from snnlth_jax.configs import ImpConfig
    >>> names(ImpConfig, "schedule"), names(ImpConfig, "epochs")
    (('cosine', 'step'), ())
    """
    match field:
        case "dataset":
            return tuple(data.dataset.SPECS)
        case "arch":
            from snnlth_jax import models  # loads Flax

            return tuple(models.names())
    literals = (kind for kind in kinds(command, field) if get_origin(kind) is Literal)
    return tuple(name for literal in literals for name in get_args(literal))


def owner(command: Any, name: str) -> Any:
    """The class that declares a field of a command, the command itself or one of its parts."""
    return next(base for base in command.__mro__ if name in vars(base).get("__annotations__", {}))


def description(command: Any, name: str) -> str:
    """The text below a field where it is declared, in one line; empty without one."""
    return _descriptions(owner(command, name)).get(name, "")


@functools.cache
def _descriptions(part: Any) -> dict[str, str]:
    """Texts below the fields of a class, from its source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    name = ""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            texts[name] = " ".join(str(node.value.value).split())
        name = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""
    return texts
