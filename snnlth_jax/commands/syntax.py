"""Syntax of values on a command line, and the line for one that tyro refuses."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

import tyro

from snnlth_jax.commands import fields, spelling
from snnlth_jax.errors import InputError, not_one_of

__all__ = ["RULES", "parsed"]

RULES = tyro.constructors.ConstructorRegistry()
_Info = tyro.constructors.PrimitiveTypeInfo
_Spec = tyro.constructors.PrimitiveConstructorSpec[Any]


class _Nothing(tuple[Any, ...]):
    """A list without an entry, as `--seeds ,` says."""


_OUTSIDE = re.compile(r",(?![^()\[\]{}]*[)\]}])")  # commas outside of brackets


@RULES.primitive_rule
def _list(info: _Info) -> _Spec | None:
    """Lists are written with commas: `--seeds 0,1,2`; whole numbers also as a range: `--seeds 0-2`."""
    if info.type_origin is not tuple:
        return None
    (kind, _) = get_args(info.type)

    def read(texts: list[str]) -> tuple[Any, ...]:
        parts = _OUTSIDE.split(texts[0])
        if not any(part.strip() for part in parts):
            return _Nothing()
        if not all(part.strip() for part in parts):
            raise ValueError(f"an empty part in {texts[0]!r:.80}")
        if kind is int:
            return tuple(number for part in parts for number in spelling.numbers(part))
        return tuple(part if names else kind(part) for part in parts)

    names = get_args(kind)  # the choices of a Literal
    entry = {int: "INT", str: "FILE"}.get(kind, f"{{{','.join(names)}}}")
    return _Spec(
        nargs=1,
        metavar=f"{entry},…" if names else f"{entry},{entry},…",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


@RULES.primitive_rule
def _number(info: _Info) -> _Spec | None:
    """Numbers may be fractions: `--neuron-tau 4/3`."""
    if info.type is not float:
        return None

    def read(texts: list[str]) -> float:
        above, slash, below = texts[0].partition("/")
        try:
            return float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"could not convert {texts[0]!r:.300}") from None

    return _Spec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def _switch_or_list(info: _Info) -> _Spec | None:
    """A list that may be the default, or none: `--augment crop,flip`, `--augment none`."""
    kinds = get_args(info.type)
    if bool not in kinds or not any(get_origin(kind) is tuple for kind in kinds):
        return None

    def read(texts: list[str]) -> bool | tuple[str, ...]:
        parts = tuple(",".join(texts).split(","))
        if texts and not all(part.strip() for part in parts):
            raise ValueError(f"an empty part in {texts[0]!r:.80}")
        return (parts if texts else True) if parts != ("none",) else False

    def written(value: Any) -> list[str]:
        return [] if value is True else [",".join(value or ["none"])]

    return _Spec(
        nargs=(0, 1),
        metavar="STEP,…|none",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (bool, tuple)),
        str_from_instance=written,
    )


def parsed(
    parse: Callable[[], Any],
    more: str,
    command: Any,
    unknown: Callable[[Sequence[str]], str],
) -> Any:
    """Run a parser of tyro; a command line that it refuses is one line, not a box.

    Args:
      parse: the parser.
      more: the command that shows the help, named at the end of the line.
      command: dataclass of the command, for the choices of a field.
      unknown: function that returns the line for words that it does not take.

    Raises:
      InputError: with that line.
    """

    try:
        # tyro's only hook for errors, and a private one, "may change in any release": without it tyro prints
        # its box, and exits with 2 as well
        from tyro._errors import on_parse_error
    except ImportError:
        return _without_empty_lists(parse())

    def refuse(event: Any) -> None:
        argument = getattr(event, "argument", None)
        field = _name(argument).lstrip("-").replace("-", "_") if argument else ""
        if type(event).__name__ == "InvalidChoice":
            choices = fields.names(command, field) if hasattr(command, field) else ()  # tyro adds None
            raise not_one_of(_name(event.argument), event.value, choices or event.choices)
        if type(event).__name__ == "InstantiationFailure" and hasattr(command, field):
            numbers = {int: "a whole number", float: "a number"}
            if (kinds := fields.kinds(command, field))[0] in numbers and not fields.is_list(command, field):
                value = re.search(r"'(.*)'", event.message)  # all that tyro tells of it
                raise InputError(_name(argument), value and value[1], allowed=numbers[kinds[0]])
        if type(event).__name__ == "UnrecognizedArgs":
            raise InputError(f"{unknown(event.tokens)} (see {more})")
        if type(event).__name__ == "MissingArgs" and event.unrecognized_tokens:
            raise InputError(f"{_problem(event)}; {unknown(event.unrecognized_tokens)} (see {more})")
        if problem := _problem(event):
            raise InputError(f"{problem} (see {more})")

    with on_parse_error(refuse):
        return _without_empty_lists(parse())


def _without_empty_lists(options: Any) -> Any:
    for field in dataclasses.fields(options):
        if isinstance(value := getattr(options, field.name), _Nothing) and value == field.default:
            raise InputError(f"`{field.name}`", "of no entries", allowed="one or more, or not this flag")
    return options


def _problem(event: Any) -> str | None:
    """The line for an event of tyro; None for an unknown kind, for which tyro prints its box."""
    match type(event).__name__:
        case "InstantiationFailure":
            message = event.message.splitlines()[0]
            return f"Error parsing {_name(event.argument)}: {message}" if event.argument else message
        case "BadValue":
            return f"Missing value for argument '{_name(event.argument)}'"
        case "MissingArgs":
            return f"Missing: {', '.join(_name(missing.arg) for missing in event.missing_arguments)}"
        case "MissingSubcommand":
            return f"Expected one of {{{', '.join(event.subcommand_spec.parser_from_name)}}}"
    return None


def _name(argument: Any) -> str:
    """The flag of an argument of tyro, or the name of a positional one."""
    return str(argument.display_name())
