"""Values of the points and images of a figure, shown by a browser under the pointer: SVG without a script."""

import html
from collections.abc import Iterator
from typing import Any

__all__ = ["circles", "frames"]

_MOST = 60  # points of a line


def circles(figure: Any) -> str:
    """Invisible circles around the points of all named lines, in points from the upper left of the figure."""
    return "".join(
        f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{html.escape(text)}</title></circle>'
        for axes in figure.axes
        for line in axes.lines
        if not line.get_label().startswith("_child") and line.get_transform() == axes.transData
        for x, y, text in _points(figure, axes, line)
    )


def frames(figure: Any) -> str:
    """Invisible frames around the axes that have a label, with the label."""
    scale, height = 72 / figure.dpi, 72 * figure.get_size_inches()[1]
    return "".join(
        f'<rect class="point" x="{box.x0 * scale:.1f}" y="{height - box.y1 * scale:.1f}" '
        f'width="{box.width * scale:.1f}" height="{box.height * scale:.1f}">'
        f"<title>{html.escape(axes.get_label())}</title></rect>"
        for axes in figure.axes
        if axes.get_label() and not axes.get_label().startswith("<")  # of matplotlib itself
        for box in [axes.bbox]
    )


def _points(figure: Any, axes: Any, line: Any) -> Iterator[tuple[float, float, str]]:
    scale, height = 72 / figure.dpi, 72 * figure.get_size_inches()[1]
    data = line.get_xydata()
    step = -(-len(data) // _MOST)
    for at, (x, y) in zip(line.get_transform().transform(data)[::step], data[::step], strict=True):
        if axes.bbox.padded(1).contains(*at):
            text = f"{line.get_label()}: {_value(axes.xaxis, x)}, {_value(axes.yaxis, y)}"
            yield at[0] * scale, height - at[1] * scale, text


def _value(axis: Any, value: float) -> str:
    """The name of an axis and a value, with its digits where the axis has no form of its own."""
    from matplotlib.ticker import FuncFormatter

    form = axis.get_major_formatter()
    plain = f"{value:g}" if value == round(value) else f"{value:.4f}" if 0.001 < value < 1 else f"{value:.4g}"
    name = axis.get_label_text().split(" (")[0].split(",")[0]
    return f"{name} {form(value) if isinstance(form, FuncFormatter) else plain}"
