"""The texts of `--help`, at most 100 columns wide: the commands, and the options of one in groups."""

import shutil
import textwrap
from collections.abc import Mapping

__all__ = ["overview"]

_WIDTH, _INDENT = 100, 19


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


def _width() -> int:
    return max(60, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns))
