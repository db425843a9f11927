"""Texts and tables as HTML."""

import html
import json
from collections.abc import Sequence

from snnlth_jax.errors import printable

__all__ = ["table", "text", "text_lines", "wrapped"]


def text(value: object) -> str:
    """A text of any origin for the inside of an element or an attribute.

    >>> text("a < b")
    'a &lt; b'
    """
    return html.escape(printable(value))


def text_lines(lines: Sequence[str]) -> str:
    """Lines of text of any origin for the inside of `pre`."""
    return "\n".join(map(text, lines))


def wrapped(cell: str) -> str:
    """A cell whose text may stand on several lines; numbers stay on one."""
    return f'<span class="wrap">{cell}</span>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], without: Sequence[int] = ()) -> str:
    """A table of HTML cells; on a phone each row is a block, whose cells but the first name their columns.

    Args:
      heads: names of the columns; none for a table without them.
      rows: cells that are HTML.
      without: columns to leave out.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        shown = [cell for i, cell in enumerate(cells) if i not in without]
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    head = f"<thead>{line([text(name) for name in heads], 'th')}</thead>" if heads else ""
    shown = [name for i, name in enumerate(heads) if i not in without]
    strings = [json.dumps(printable(name), ensure_ascii=False) for name in shown]
    names = html.escape("; ".join(f"--c{i}: {string}" for i, string in enumerate(strings, 1)))
    opening = f'<table style="{names}">' if heads else "<table>"
    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll" tabindex="0">{opening}{head}<tbody>{body}</tbody></table></div>'
