"""The page's pictures: anterior and lateral projection with the lesions outlined, scale bar, grey scale.

Lesions are numbered so that no number hides another. The grey scale's upper end is fixed for a PET, and
fitted to the image for a SPECT.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.dicom.results.context import ResultContext
from app.dicom.results.page.sheet import FAINT, FONT, LEFT, RED, Sheet
from app.domain.findings.findings import Lesion
from app.domain.study import StudyKind
from app.imaging.mip import Projection, anterior, left_lateral

STEPS = 14
"""Places that are tried above and below, before a number stands where it likes best after all."""


@dataclass(frozen=True)
class LabelAnchor:
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


def placed(
    anchors: Sequence[LabelAnchor], size: tuple[float, float], view: tuple[float, float]
) -> list[Label]:
    """One label an anchor, in their order: the first come first.

    ``size`` is the width of one character and the height of a line, ``view`` those of the view, in pixels.
    """
    _, height = size
    labels: list[Label] = []
    for anchor in anchors:
        places = list(_places(anchor, size, view))
        free = (place for place in places if not any(place.overlaps(other, height) for other in labels))
        labels.append(next(free, places[0]))
    return labels


def _places(anchor: LabelAnchor, size: tuple[float, float], view: tuple[float, float]) -> Iterator[Label]:
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


LESION_AT_SHARE = 0.5
"""Of the grey scale: where a faint lesion's maximum stands, well apart from white and from black."""

FAINT_PERCENTILE = 25.0
"""Of the lesions' SUVmax: three of four lesions are darker than ``LESION_AT_SHARE``."""

BRIGHT_PERCENTILE = 99.0
"""Of the anterior projection: an image without lesions is black in its kidneys or bladder alone."""

LOWEST_WINDOW_SUV, WINDOW_STEP_SUV = 1.5, 0.5
"""A window below the floor would show noise as uptake; steps make a number that a person can read."""


def window_top(context: ResultContext) -> float:
    """Upper end of the page's grey scale, in the image's unit; the same analysis gives the same number.

    A SPECT days after the injection has faint lesions beside bright kidneys, another is bright throughout:
    one fixed window would show one of them empty. ``write.page_window_spect_suv`` is its ceiling.
    """
    widest = widest_window(context)
    if not is_fitted(context):
        return widest
    lesions = context.quantified.findings.lesions
    wanted = _faint_lesion(lesions) / LESION_AT_SHARE if lesions else _bright_uptake(context)
    rounded = math.ceil(wanted / WINDOW_STEP_SUV) * WINDOW_STEP_SUV
    return min(max(rounded, LOWEST_WINDOW_SUV / _suv_per_step(context)), widest)


def is_fitted(context: ResultContext) -> bool:
    """Whether the window depends on the image, which the page then says. A PET's never does."""
    return context.loaded.selection.kind is StudyKind.SPECT_CT


def widest_window(context: ResultContext) -> float:
    """The site's setting for this kind of study: the window of a PET, the ceiling of a SPECT's."""
    policy, kind = context.policy, context.loaded.selection.kind
    suv = policy.page_window_pet_suv if kind is StudyKind.PET_CT else policy.page_window_spect_suv
    return suv / _suv_per_step(context)


def _suv_per_step(context: ResultContext) -> float:
    """What 1 of the image's unit is in SUVbw, for the darkness of a picture alone."""
    scale = context.loaded.liver_scale
    return 1.0 if scale is None else scale.assumed_suv


def _faint_lesion(lesions: tuple[Lesion, ...]) -> float:
    return float(np.percentile([lesion.highest_uptake for lesion in lesions], FAINT_PERCENTILE))


def _bright_uptake(context: ResultContext) -> float:
    suv = context.loaded.uptake
    return float(np.percentile(anterior(suv.array, suv.grid).image, BRIGHT_PERCENTILE))


VIEWS_LEFT, VIEWS_TOP, VIEWS_WIDTH, VIEWS_HEIGHT = LEFT, 144, 640, 674

GAP_MM = 60.0
"""Between the two views, in their own scale."""

BODY_SHARE_OF_WINDOW = 0.05
"""What is darker everywhere is air: the views are cut to the rest."""

BODY_MARGIN_MM = 25.0

OUTLINE_OVERSAMPLING = 4
"""So that outlines follow voxel edges and a lesion of one voxel is a square, not a dot."""

LONGEST_BAR = 180
"""Pixels: a longer scale bar would run into the grey scale."""

NUMBERED_LESIONS = 12
"""The largest get their number beside them; more would hide the image."""

NUMBER_SIZE, NUMBER_GAP = (9.0, 15.0), 4.0
"""Pixels of a digit and of a line in the numbers' size; between a lesion and its number."""


@dataclass(frozen=True, eq=False)
class View:
    """One projection with the lesions' own, cut alike; ``across`` is the LPS axis that runs to the right."""

    title: str
    image: Projection
    lesions: Projection
    across: int
    ends: tuple[str, str]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, lower and upper edge in mm."""
        return (*self.image.horizontal_mm, *self.image.vertical_mm)


def draw_views(sheet: Sheet, context: ResultContext) -> None:
    """Both views side by side in one scale, as large as there is room."""
    views = views_of(context)
    heights = [view.extent[3] - view.extent[2] for view in views]
    widths = [view.extent[1] - view.extent[0] for view in views]
    pixels_per_mm = min(VIEWS_WIDTH / (sum(widths) + GAP_MM), VIEWS_HEIGHT / max(heights))
    left = float(VIEWS_LEFT)
    for view, width in zip(views, widths, strict=True):
        _draw_view(sheet, view, (left, pixels_per_mm), context)
        left += (width + GAP_MM) * pixels_per_mm
    fitted = ", fitted" if is_fitted(context) else ""
    start, unit = ("SUVbw 0", " g/ml") if context.loaded.liver_scale is None else ("0", " x liver")
    _draw_scale(sheet, (start, f"{window_top(context):g}{unit}{fitted}"), pixels_per_mm)


def views_of(context: ResultContext) -> tuple[View, View]:
    """The patient from the front and from the left side, without the air beside him."""
    suv, labels = context.loaded.uptake, context.quantified.segmented.labels
    threshold = BODY_SHARE_OF_WINDOW * widest_window(context)
    front = _cut(anterior(suv.array, suv.grid), anterior(labels.mask, labels.grid), threshold)
    side = _cut(left_lateral(suv.array, suv.grid), left_lateral(labels.mask, labels.grid), threshold)
    return View("Anterior", *front, 0, ("R", "L")), View("Left lateral", *side, 1, ("A", "P"))


def _cut(image: Projection, lesions: Projection, threshold: float) -> tuple[Projection, Projection]:
    """Leave out the air at both sides; the full length stays, so that the views keep one height."""
    body = np.flatnonzero((np.maximum(image.image, lesions.image * threshold) >= threshold).any(axis=0))
    if body.size == 0:
        return image, lesions
    left_mm, right_mm = image.horizontal_mm
    step_mm = (right_mm - left_mm) / image.image.shape[1]
    margin = int(np.ceil(BODY_MARGIN_MM / step_mm))
    first = max(int(body[0]) - margin, 0)
    last = min(int(body[-1]) + margin + 1, image.image.shape[1])
    edges = (left_mm + first * step_mm, left_mm + last * step_mm)
    front, outline = (
        Projection(view.image[:, first:last], edges, view.vertical_mm) for view in (image, lesions)
    )
    return front, outline


def _draw_view(sheet: Sheet, view: View, where: tuple[float, float], context: ResultContext) -> None:
    left, pixels_per_mm = where
    x0, x1, z0, z1 = view.extent
    width, height = (x1 - x0) * pixels_per_mm, (z1 - z0) * pixels_per_mm
    axes = sheet.axes((left, VIEWS_TOP, width, height))
    axes.set_axis_off()
    axes.imshow(
        view.image.image, cmap="gray_r", vmin=0, vmax=window_top(context), extent=view.extent,
        aspect="auto", interpolation="bilinear",
    )  # fmt: skip
    _outline(axes, view)
    axes.set_xlim(x0, x1)
    axes.set_ylim(z0, z1)
    _number(axes, view, context.quantified.findings.lesions, pixels_per_mm)
    sheet.write(left + width / 2, VIEWS_TOP - 10, view.title, ha="center", color=FAINT)
    marks = (
        (left + 4, VIEWS_TOP + 20, view.ends[0], "left"),
        (left + width - 4, VIEWS_TOP + 20, view.ends[1], "right"),
    )
    for x, y, mark, side in marks:
        sheet.write(x, y, mark, ha=side, fontsize=15, weight="bold", path_effects=_halo())


def _halo() -> list[Any]:
    """A white edge, so that letters stand out from dark uptake."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def _outline(axes: Any, view: View) -> None:
    if not view.lesions.image.any():
        return
    fine = np.kron(view.lesions.image, np.ones((OUTLINE_OVERSAMPLING, OUTLINE_OVERSAMPLING)))
    axes.contour(fine, levels=[0.5], colors=[RED], linewidths=1.1, extent=view.extent, origin="upper")


def _number(axes: Any, view: View, lesions: tuple[Lesion, ...], pixels_per_mm: float) -> None:
    """The largest lesions' numbers beside them; one that had to move away has a line to its lesion."""
    x0, x1, z0, z1 = view.extent
    numbered = lesions[:NUMBERED_LESIONS]
    anchors = [
        LabelAnchor(
            (lesion.centre_mm[view.across] - x0) * pixels_per_mm,
            (z1 - lesion.centre_mm[2]) * pixels_per_mm,
            _reach_mm(lesion) * pixels_per_mm + NUMBER_GAP,
            len(str(lesion.number)),
        )
        for lesion in numbered
    ]
    labels = placed(anchors, NUMBER_SIZE, ((x1 - x0) * pixels_per_mm, (z1 - z0) * pixels_per_mm))
    line = {"arrowstyle": "-", "color": RED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    for lesion, label in zip(numbered, labels, strict=True):
        axes.annotate(
            str(lesion.number), (lesion.centre_mm[view.across], lesion.centre_mm[2]),
            (x0 + label.x / pixels_per_mm, z1 - label.y / pixels_per_mm), textcoords="data", fontsize=9,
            color=RED, weight="bold", va="center", family=FONT, annotation_clip=False,
            path_effects=_halo(), arrowprops=line if label.moved else None,
        )  # fmt: skip


def _reach_mm(lesion: Lesion) -> float:
    """Radius of the ball of the lesion's volume."""
    return float((3.0 * lesion.volume_ml * 1000.0 / (4.0 * np.pi)) ** (1 / 3))


def _draw_scale(sheet: Sheet, ends: tuple[str, str], pixels_per_mm: float) -> None:
    """A bar of 10 cm (1 cm where the image is small) and the grey scale, below the views.

    ``ends`` are the scale's, in words.
    """
    y = VIEWS_TOP + VIEWS_HEIGHT + 22
    length_cm = 10 if 100 * pixels_per_mm <= LONGEST_BAR else 1
    bar_width = length_cm * 10 * pixels_per_mm
    sheet.bar((VIEWS_LEFT, y, bar_width, 3))
    sheet.write(VIEWS_LEFT + bar_width + 8, y + 6, f"{length_cm} cm")
    ramp_left = VIEWS_LEFT + 320
    ramp = sheet.axes((ramp_left, y - 6, 160, 13))
    ramp.imshow(np.linspace(0, 1, 160)[None], cmap="gray_r", vmin=0, vmax=1, aspect="auto")
    ramp.set_xticks([])
    ramp.set_yticks([])
    sheet.write(ramp_left - 8, y + 6, ends[0], ha="right")
    sheet.write(ramp_left + 168, y + 6, ends[1])
