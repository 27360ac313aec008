"""A sheet to draw pages on: text and lines at pixels from the upper left corner.

Drawn with matplotlib's Figure and Agg canvas, never pyplot, so that it works in any thread; the same words
give the same pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.dicom.result_context import plain

WIDTH, HEIGHT = 1280, 960
"""Pixels of a page: whole on small diagnostic screens, legible when a viewer shows it half as large."""

DPI = 100
FONT = "DejaVu Sans"
"""Comes with matplotlib, so the page looks the same on every machine."""

INK, FAINT, RED, ORANGE, LINE = "#16202b", "#4c5866", "#e6192d", "#b34700", "#c9d1da"
LEFT, RIGHT = 36, 1244
"""Margins, in pixels."""


class Sheet:
    """A white page."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text whose baseline begins at ``(x, y)``; ``style`` is matplotlib's."""
        settings = {"fontsize": 11, "color": INK, "va": "baseline", "ha": "left", "family": FONT, **style}
        self.figure.text(x / WIDTH, 1 - y / HEIGHT, plain(text), parse_math=False, **settings)

    def rule(self, y: float, left: float = LEFT, right: float = RIGHT) -> None:
        """A thin horizontal line."""
        from matplotlib.lines import Line2D

        ends = [left / WIDTH, right / WIDTH]
        self.figure.add_artist(Line2D(ends, [1 - y / HEIGHT] * 2, color=LINE, linewidth=0.8))

    def bar(self, place: tuple[float, float, float, float], colour: str = INK) -> None:
        """A filled rectangle: left, top, width, height."""
        from matplotlib.patches import Rectangle

        left, top, width, height = place
        lower_left = (left / WIDTH, 1 - (top + height) / HEIGHT)
        self.figure.add_artist(Rectangle(lower_left, width / WIDTH, height / HEIGHT, color=colour))

    def axes(self, place: tuple[float, float, float, float]) -> Any:
        """matplotlib's axes over a rectangle: left, top, width, height."""
        left, top, width, height = place
        return self.figure.add_axes(
            (left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT)
        )

    def pixels(self) -> NDArray[np.uint8]:
        """What was drawn, ``(960, 1280, 3)`` RGB."""
        self._canvas.draw()
        return np.ascontiguousarray(np.asarray(self._canvas.buffer_rgba())[..., :3])
