"""The fields of a command's dataclass as a user sees them: flags, names that are allowed, descriptions."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from snnlth_jax import data
from snnlth_jax.configs.fields import choices
from snnlth_jax.errors import flag

__all__ = ["description", "flags", "is_positional", "is_switch", "names", "owner", "plain_type"]


def is_positional(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is given by its place and not by a flag."""
    return "Positional" in str(field.type)


def is_switch(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is turned on by its flag alone."""
    return isinstance(field.default, bool) and "tuple" not in str(field.type)


def flags(field: dataclasses.Field[Any]) -> list[str]:
    """The flags of a field: one, and for a switch the one that turns it off."""
    name = flag(field.name)
    return [name, f"--no-{name[2:]}"] if is_switch(field) else [name]


def plain_type(command: Any, name: str) -> Any:
    """The type of a field, without annotations."""
    kind = _types(command)[name]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


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
    return choices(plain_type(command, field))


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
