"""A sheet to draw pages on: text and lines at pixels from the upper left corner.

Drawn with matplotlib's Figure and Agg canvas, never pyplot, so that it works in any thread; the same words
give the same pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.dicom.results.context import plain

WIDTH, HEIGHT = 1280, 960
"""Pixels of a page without warnings: whole on small diagnostic screens, legible at half the size."""

DPI = 100
FONT = "DejaVu Sans"
"""Comes with matplotlib, so the page looks the same on every machine."""

INK, FAINT, RED, ORANGE, LINE = "#16202b", "#4c5866", "#e6192d", "#b34700", "#c9d1da"
WARNING_YELLOW = "#ffe27a"
"""Behind a warning: seen in grey as well, where black stands out from it."""

LEFT, RIGHT = 36, 1244
"""Margins, in pixels."""


class Sheet:
    """A white page, as much higher as ``extra`` pixels say.

    What is drawn after :meth:`move_down` stands that much lower: so a page keeps its layout below a band.
    """

    def __init__(self, extra: int = 0) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._height, self._down = HEIGHT + extra, 0
        self.figure = Figure(figsize=(WIDTH / DPI, self._height / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)

    def move_down(self, pixels: int) -> None:
        """Everything from here on."""
        self._down += pixels

    def _up(self, y: float) -> float:
        """matplotlib's height of ``y``: a share of the page, from below."""
        return 1 - (y + self._down) / self._height

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text whose baseline begins at ``(x, y)``; ``style`` is matplotlib's."""
        settings = {"fontsize": 11, "color": INK, "va": "baseline", "ha": "left", "family": FONT, **style}
        self.figure.text(x / WIDTH, self._up(y), plain(text), parse_math=False, **settings)

    def rule(self, y: float, left: float = LEFT, right: float = RIGHT) -> None:
        """A thin horizontal line."""
        from matplotlib.lines import Line2D

        ends = [left / WIDTH, right / WIDTH]
        self.figure.add_artist(Line2D(ends, [self._up(y)] * 2, color=LINE, linewidth=0.8))

    def bar(self, place: tuple[float, float, float, float], colour: str = INK) -> None:
        """A filled rectangle: left, top, width, height."""
        from matplotlib.patches import Rectangle

        left, top, width, height = place
        lower_left = (left / WIDTH, self._up(top + height))
        self.figure.add_artist(Rectangle(lower_left, width / WIDTH, height / self._height, color=colour))

    def axes(self, place: tuple[float, float, float, float]) -> Any:
        """matplotlib's axes over a rectangle: left, top, width, height."""
        left, top, width, height = place
        return self.figure.add_axes(
            (left / WIDTH, self._up(top + height), width / WIDTH, height / self._height)
        )

    def pixels(self) -> NDArray[np.uint8]:
        """What was drawn, ``(960 or more, 1280, 3)`` RGB."""
        self._canvas.draw()
        return np.ascontiguousarray(np.asarray(self._canvas.buffer_rgba())[..., :3])
