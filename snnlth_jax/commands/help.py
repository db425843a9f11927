"""The texts of `--help`: the commands, and the options of one in groups, in at most 100 columns."""

import dataclasses
import inspect
import math
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from snnlth_jax import configs
from snnlth_jax.commands import fields
from snnlth_jax.configs import parts

__all__ = ["options", "overview"]

_WIDTH, _INDENT = 100, 19
_COLUMN = 28  # where the text of an option begins
CONFIG = "Read settings from a TOML file, such as the config.toml of a run; flags win over it."
COMMON = {
    "--quiet": "Print nothing but errors and, of commands that are no searches, what they are asked for.",
    "--verbose": "Print also every setting of a search, and the traceback of an error.",
}
# groups of options in their order: what a search is, then its images, its network, its place and machine
_GROUPS: Sequence[tuple[str, tuple[type[Any], ...]]] = (
    ("rounds", (configs.Rounds,)),
    ("", ()),  # of the command itself
    ("controls", (configs.Controls,)),
    ("Early-Time", (parts.EarlyTime, parts.Divergence)),
    ("images and seeds", (parts.Dataset, parts.Data, parts.Seeds)),
    ("network", (parts.Network,)),
    ("neurons", (parts.Neuron,)),
    ("training", (parts.Training,)),
    ("run", (parts.Run,)),
    ("devices", (parts.Machine,)),
)
_METAVARS = {
    **dict.fromkeys(("workdir", "data_dir", "figure"), "DIR"),
    **dict.fromkeys(("like", "ticket", "path", "output", "weights"), "FILE"),
    "arch_option": "NAME=VALUE,…",
    "tickets": "FILE,…",
    "augment": "STEP,…|none",
    "dataset": "NAME",
    "arch": "NAME",
}
_SAID = r" Default: (.*?)[.](?= |$)"  # the default in words
_NAMES = {int: "INT", float: "FLOAT", str: "TEXT"}


def overview(prog: str, commands: Mapping[str, str]) -> str:
    """A list of commands.

    Args:
      prog: words before the command.
      commands: text about each, by its word; the first paragraph counts.
    """
    lines = [f"usage: {prog} COMMAND ...", ""]
    for word, about in commands.items():
        start = f"  {word:<{_INDENT - 3}} "
        first = " ".join(about.partition("\n\n")[0].split())
        lines += textwrap.wrap(first, _width(), initial_indent=start, subsequent_indent=" " * _INDENT)
    return "\n".join([*lines, "", f"{prog} COMMAND --help lists the options of a command."])


def options(
    command: type[Any],
    prog: str,
    defaults: Mapping[str, Any],
    note: str = "",
    common: Mapping[str, str] | None = None,
    short: bool = False,
    about: str = "",
) -> str:
    """The options of a command, in groups.

    Args:
      command: its dataclass.
      prog: words of the command.
      defaults: values to show as defaults, by field; a text is shown as it is. Of others, and of None and
        empty lists, what the description says is left to speak.
      note: text between the description and the options.
      common: flags that are no fields, with their descriptions.
      short: leave out all but the beginning of each description.
      about: text about the command; by default the docstring of its dataclass.
    """
    every = dataclasses.fields(command)
    given = [field for field in every if fields.is_positional(field)]
    words = [_positional(command, field) for field in given]
    lines = [f"usage: {' '.join([prog, *words, '[OPTIONS]'])}", ""]
    for paragraph in (about.strip() or inspect.getdoc(command) or "").split("\n\n"):
        in_columns = "  " in paragraph
        lines += (
            paragraph.splitlines() if in_columns else textwrap.wrap(" ".join(paragraph.split()), _width())
        )
        lines.append("")
    lines += [*textwrap.wrap(note, _width()), ""] if note else []
    grouped = [(title, list(members)) for title, members in _grouped(command)]
    for title, members in [("arguments", given), *grouped]:
        if not members:
            continue
        alone = title == "" and len(grouped) == 1
        lines.append(f"{'options' if alone else title or prog.split()[-1]}:")
        for field in members:
            start = _positional(command, field) if field in given else _flag(command, field)
            lines += _entry(start, _text(command, field, defaults, short))
        lines.append("")
    lines.append("and:")
    both = {"-h": "Show the options in short.", "--help": "Show the options with all that is to say."}
    for start, text in (both | dict(common or {})).items():
        lines += _entry(start, text)
    return "\n".join(lines)


def _width() -> int:
    return max(60, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns))


def _grouped(command: type[Any]) -> Iterator[tuple[str, list[dataclasses.Field[Any]]]]:
    """The fields with flags, in the order of the groups."""
    flagged = [field for field in dataclasses.fields(command) if not fields.is_positional(field)]
    shared = {part: title for title, members in _GROUPS for part in members}
    titles = {field.name: shared.get(fields.owner(command, field.name)) for field in flagged}
    for title, members in _GROUPS:
        shown = [field for field in flagged if titles[field.name] == (title if members else None)]
        ranks = {part: rank for rank, part in enumerate(members)}
        shown.sort(key=lambda field: ranks.get(fields.owner(command, field.name), 0))
        if shown:
            yield title, shown


def _entry(start: str, text: str) -> list[str]:
    """An option and its text beside it, or below where the option is long."""
    indent = " " * _COLUMN
    body = textwrap.wrap(
        text, _width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if len(start) + 4 > _COLUMN or not body:
        return [f"  {start}", *body]
    return [f"  {start}".ljust(_COLUMN) + body[0][_COLUMN:], *body[1:]]


def _positional(command: type[Any], field: dataclasses.Field[Any]) -> str:
    name = _metavar(command, field) if fields.names(command, field.name) else field.name.upper()
    return f"{name} ..." if fields.is_list(command, field.name) else name


def _flag(command: type[Any], field: dataclasses.Field[Any]) -> str:
    """The flag with a word for its value; of a switch both flags in one."""
    if fields.is_switch(field):
        return f"--[no-]{fields.flags(field)[0][2:]}"
    return f"{fields.flags(field)[0]} {_metavar(command, field)}"


def _metavar(command: type[Any], field: dataclasses.Field[Any]) -> str:
    """A word for a value: its choices, or its kind."""
    if fields.description(command, field.name).startswith("Directory"):
        return "DIR"
    if field.name in _METAVARS:
        return _METAVARS[field.name]
    kinds, choices = fields.kinds(command, field.name), fields.names(command, field.name)
    numbers = [name for kind, name in _NAMES.items() if kind in kinds and not (choices and kind is str)]
    words = [*numbers, *choices]
    one = words[0] if len(words) == 1 else "|".join(words) if numbers else f"{{{','.join(choices)}}}"
    return f"{one},…" if fields.is_list(command, field.name) else one


def _text(command: type[Any], field: dataclasses.Field[Any], defaults: Mapping[str, Any], short: bool) -> str:
    """The description of a field, and its default."""
    text, value = fields.description(command, field.name), defaults.get(field.name)
    unknown = value is None or value == () or value is False or fields.is_positional(field)
    default = re.search(_SAID, text) if unknown else None
    text = text if unknown and not short else re.sub(_SAID, "", text)
    if short:
        text = _beginning(text, 0 if "{" in _metavar(command, field) else 8)
    if value is dataclasses.MISSING:
        return text + " (required)" * (not fields.is_positional(field))
    if unknown:
        return f"{text} (default: {default[1]})" if default and short else text
    return f"{text} (default: {'on' if fields.is_switch(field) else _shown(value)})"


def _beginning(text: str, least: int) -> str:
    """A text up to its first stop after some characters, outside of brackets."""
    for stop in re.finditer(r"[.:;](?= |$)", text):
        before = text[: stop.start()]
        if len(before) >= least and before.count("(") == before.count(")"):
            return before
    return text.rstrip(".")


def _shown(value: Any) -> str:
    """A default as it can be typed: a number of six digits, or the fraction that it is."""
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if not isinstance(value, float):
        return str(value)
    fraction = Fraction(value).limit_denominator(100) if math.isfinite(value) else 0
    return str(fraction) if float(f"{value:.6g}") != value == float(fraction) else f"{value:.6g}"
