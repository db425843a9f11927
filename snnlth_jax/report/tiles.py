"""Small images in a figure: shades of one colour that is seen by day and by night."""

import textwrap
from typing import Any

import numpy as np

from snnlth_jax.report.theme import WIDTH, Drawing
from snnlth_jax.run.tables import layer_name

__all__ = ["image", "lines_of", "shades"]


def shades(name: str, least: float = 0.0) -> Any:
    """A colour map from nearly nothing, with `least` opacity, to the colour; the value is its opacity."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    paint = to_rgb("#3b8fd0")  # stands out by day and by night
    return LinearSegmentedColormap.from_list(name, [(*paint, least), (*paint, 1.0)])


def image(
    drawing: Drawing, place: tuple[float, float, float, float], values: np.ndarray, label: str, **look: Any
) -> Any:
    """An image without ticks in a thin frame.

    Args:
      drawing: its figure.
      place: distances from the left and the upper edge, width and height, in inches.
      values: `[rows, columns]`.
      label: text that is shown under the pointer.
      **look: what matplotlib's `imshow` takes.

    Returns:
      Its axes.
    """
    left, top, width, height = place
    whole = drawing.figure.get_size_inches()[1]
    box = (left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole)
    axes = drawing.figure.add_axes(box, label=label)
    axes.imshow(values, aspect="auto", interpolation="none", **look)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
    return axes


def lines_of(name: str, width: int) -> list[str]:
    """The `layer_name` of a layer in lines, broken at its slashes.

    >>> lines_of("block1/first/conv/kernel", 16), lines_of("block10/shortcut/conv/kernel", 12)
    (['block1/first'], ['block10/', 'shortcut'])
    """
    lines = [""]
    for part in layer_name(name).replace("/", "/\n").split("\n"):
        lines = [*lines, part] if len(lines[-1] + part) > width else [*lines[:-1], lines[-1] + part]
    return [piece for line in lines for piece in textwrap.wrap(line, width)]
