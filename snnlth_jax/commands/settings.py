"""A configuration file: the settings of a search in TOML, in place of flags."""

import os
import tomllib
from typing import Any, get_type_hints

import msgspec

from snnlth_jax import files
from snnlth_jax.commands import fields, spelling
from snnlth_jax.configs.toml import command_name
from snnlth_jax.errors import InputError, flag, not_one_of

__all__ = ["read"]

_MOST_BYTES = 2**16


def read(path: str, command: Any) -> dict[str, Any]:
    """The fields that a file sets, by name.

    Args:
      path: path of the file.
      command: dataclass of the command, a search.

    Raises:
      InputError: no TOML, of another command, or a key or a value that the command does not have.
    """
    content = files.read(path, "configuration file", _MOST_BYTES)
    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, 5000 digits, or 5000 brackets
        problem = f"no TOML ({' '.join(str(error).split())})"
        raise InputError(path, problem=problem, allowed="lines such as epochs = 10") from error
    own = command_name(command)
    if (other := values.pop("command", own)) != own:
        raise InputError(f"{path}: command", other, allowed=f"{own}, or run it by snnlth {other}")
    types = get_type_hints(command)
    read: dict[str, Any] = {}
    for key, value in values.items():
        name = key.lower().replace("-", "_")
        if name not in types or name == "method":
            known = [field for field in types if field != "method"]
            nearest = spelling.nearest_flags([flag(name)], map(flag, known))
            near = nearest[0][2:].replace("-", "_") if nearest else ""
            raise InputError(f"{path}: key", key, problem="no such setting", nearest=near)
        if name in read:
            raise InputError(f"{path}: key", key, allowed="once")
        read[name] = _converted(f"{path}: {key}", value, command, name, types[name])
    return read


def _converted(what: str, value: Any, command: Any, name: str, kind: Any) -> Any:
    """A value as its field has it: of its type, with names as they are known."""
    if isinstance(value, str) and fields.is_list(command, name):
        value = [part for part in value.split(",") if part.strip()]
        if int in fields.kinds(command, name):
            try:
                value = [number for part in value for number in spelling.numbers(part)]
            except ValueError as error:
                raise InputError(what, problem=str(error), allowed="whole numbers") from error
    names = fields.names(command, name)
    if name == "augment" and value == ["none"]:
        return False
    if isinstance(value, list):
        value = [spelling.known(one, names) if isinstance(one, str) else one for one in value]
    elif isinstance(value, str) and not (name == "dataset" and os.path.exists(value)):
        value = spelling.known(value, names)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        several = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        wrong = [one for one in several if one not in names]
        if names and wrong:
            raise not_one_of(what, wrong[0], names) from error
        kinds = [_KINDS[kind] for kind in fields.kinds(command, name) if kind in _KINDS and not names]
        flags = ["true, false"] * (bool in fields.kinds(command, name))
        listed = "a list of these: " if fields.is_list(command, name) else ""
        allowed = [*flags, listed + ", ".join([*names, *kinds])] if names or kinds else flags
        raise InputError(what, value, allowed=" or ".join(allowed)) from error


_KINDS = {int: "a whole number", float: "a number", str: "a text"}
