"""Look of plots: drawn once in the light theme, whose colours become CSS variables in the page's SVG."""

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from snnlth_jax.errors import InputError
from snnlth_jax.report import hover

__all__ = ["DARK", "LIGHT", "MARKERS", "STYLE", "Drawing", "canvas", "color", "css", "paper", "svg"]

# Series colours follow Okabe and Ito (2008), darkened for white paper and lightened for the night until each
# stands out from its surface; markers and dashes tell the series apart as well.
LIGHT = {
    "surface": "#fefefe",
    "ink": "#171b21",
    "muted": "#59616c",
    "faint": "#dfe3e8",
    "s0": "#0069ab",
    "s1": "#3a9bd1",
    "s2": "#cc5200",
    "s3": "#b88600",
    "s4": "#00825e",
    "s5": "#a8478f",
    "s6": "#6e6a5f",
    "s7": "#7b4b2a",
}
DARK = {
    "surface": "#15181d",
    "ink": "#eceff3",
    "muted": "#a3acb8",
    "faint": "#30363f",
    "s0": "#3d9ee0",
    "s1": "#8fd0f5",
    "s2": "#f5813f",
    "s3": "#e8b93a",
    "s4": "#2fc296",
    "s5": "#dd8cc8",
    "s6": "#b3aea0",
    "s7": "#c9946b",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
WIDTH, HEIGHT = 5.0, 3.3  # inches: readable as wide as a phone, two beside each other on a desk

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,  # TrueType, which every publisher takes
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["faint"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": LIGHT["faint"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["faint"],
    "ytick.color": LIGHT["faint"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "xtick.minor.visible": False,
    "ytick.major.size": 0,
    "figure.facecolor": LIGHT["surface"],
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": False,
}


class Drawing(NamedTuple):
    """A figure with one pair of axes, matplotlib's."""

    figure: Any
    axes: Any


@contextmanager
def canvas(right: float = 0.97, height: float = HEIGHT, left: float = 0.15) -> Iterator[Drawing]:
    """Axes in the project's style.

    Args:
      right: where they end, as a share of the width; what is left is for labels.
      height: inches.
      left: where they begin.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots: need matplotlib; allowed: after pip install 'snnlth_jax[plots]'") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a matplotlibrc says
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.subplots()
        figure.subplots_adjust(left=left, right=right, top=0.955, bottom=0.55 / height)
        yield Drawing(figure, axes)


def color(slot: int) -> str:
    """Colour of a series."""
    return LIGHT[f"s{slot % 8}"]


def svg(figure: Any, name: str, alt: str) -> str:
    """A figure for the inside of a page.

    Text is text in the page's font; colours of the light theme are CSS variables of the same name; an id is
    only where something refers to it, and begins with `name`; nothing refers to anything outside.

    Args:
      figure: matplotlib's, drawn in colours of `LIGHT`.
      name: unique in the page.
      alt: what is seen, for those who do not see it.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)([^")]+)', rf"\g<1>{name}-\g<2>", text)
    # the page's font, at the size that was meant
    text = re.sub(r"font: (?:(bold|700) )?([\d.]+)px [^;\"]+", _font, text)
    for role, value in LIGHT.items():
        text = text.replace(value, f"var(--{role})")
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    inner = text[text.index(">") + 1 :]
    inner = inner[: inner.rindex("</svg>")].strip() + hover.circles(figure) + hover.frames(figure)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(alt)}">{inner}</svg>'


def paper(figure: Any) -> dict[str, bytes]:
    """A figure as files in the light theme, by suffix: PNG with 200 dots per inch, and PDF."""
    import matplotlib

    files = {"png": io.BytesIO(), "pdf": io.BytesIO()}
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(STYLE):
        for suffix, file in files.items():
            figure.savefig(file, format=suffix, dpi=200, metadata=undated[suffix])
    return {suffix: file.getvalue() for suffix, file in files.items()}


def _font(match: re.Match[str]) -> str:
    weight = "font-weight: 600; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


def css(theme: dict[str, str]) -> str:
    """The variables of a theme.

    >>> css({"ink": "#000000", "s0": "#0069ab"})
    '--ink: #000000; --s0: #0069ab'
    """
    return "; ".join(f"--{role}: {value}" for role, value in theme.items())
