"""Docstrings as Markdown, for the reference: equations become MathML, examples become code."""

import re

import griffe
from latex2mathml.converter import convert


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """Markup of Sphinx and doctest, in Markdown."""
    text = re.sub(r"^( *)\.\. math::[ ]*(.*(?:\n\1 +\S.*)*)", _displayed, docstring, flags=re.M)
    text = re.sub(r":math:`([^`]+)`", lambda match: convert(match[1]), text)
    return re.sub(r"^( *)>>> .*(?:\n\1.*\S.*)*", r"```pycon\n\g<0>\n```", text, flags=re.M)


def _displayed(match: re.Match[str]) -> str:
    latex = " ".join(match[2].split())
    if r"\\" in latex:
        latex = rf"\begin{{align*}} {latex} \end{{align*}}"
    return f'{match[1]}<div class="equation">{convert(latex, display="block")}</div>'
