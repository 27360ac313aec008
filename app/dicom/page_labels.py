"""Where the lesions' numbers stand on a view, so that none hides another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

STEPS = 14
"""Places that are tried above and below, before a number stands where it likes best after all."""


@dataclass(frozen=True)
class Anchor:
    """A lesion on a view, in pixels from its left upper corner: centre, half its width, characters of its
    number."""

    x: float
    y: float
    reach: float
    characters: int


@dataclass(frozen=True)
class Label:
    """Where a number stands: its left edge and the middle of its height, in pixels; ``moved`` from its place
    beside the lesion."""

    x: float
    y: float
    width: float
    moved: bool = False

    def overlaps(self, other: Label, height: float) -> bool:
        """Whether two labels of that height share a pixel."""
        apart = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not apart and abs(self.y - other.y) < height


def placed(anchors: Sequence[Anchor], size: tuple[float, float], view: tuple[float, float]) -> list[Label]:
    """One label an anchor, in their order: the first come first.

    Args:
        anchors: lesions.
        size: width of one character and height of a line, in pixels.
        view: width and height of the view, in pixels.
    """
    _, height = size
    labels: list[Label] = []
    for anchor in anchors:
        places = list(_places(anchor, size, view))
        free = (place for place in places if not any(place.overlaps(other, height) for other in labels))
        labels.append(next(free, places[0]))
    return labels


def _places(anchor: Anchor, size: tuple[float, float], view: tuple[float, float]) -> Iterator[Label]:
    """Right of the lesion, left of it, then above and below in steps, always within the view's height."""
    character, height = size
    width = character * anchor.characters
    sides = (anchor.x + anchor.reach, anchor.x - anchor.reach - width)
    for step in range(STEPS):
        for direction in (1, -1) if step else (1,):
            y = anchor.y + direction * step * height / 2.0
            if step and not height / 2.0 <= y <= view[1] - height / 2.0:
                continue
            for x in sides:
                if x is sides[0] or x >= 0.0:
                    yield Label(x, y, width, moved=step > 1)
