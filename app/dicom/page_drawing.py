"""The summary page as a picture: two projections with the lesions outlined, the table, the provenance.

Drawn with matplotlib's Figure and Agg canvas, never pyplot, so that it works in any thread; the same analysis
gives the same pixels.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.dicom.result_context import RESEARCH_USE, ResultContext, plain
from app.dicom.sr_content import DEMONSTRATION_MODEL, NO_LESION, prior_statement, quantification_in_words
from app.domain.findings import Burden, Lesion
from app.domain.study import StudyKind
from app.imaging.mip import Projection, anterior, left_lateral

WIDTH, HEIGHT = 1280, 960
"""Pixels of the page."""

DPI = 100
FONT = "DejaVu Sans"
"""Comes with matplotlib, so the page looks the same on every machine."""

INK, FAINT, RED, ORANGE = "#16202b", "#5f6b7a", "#e6192d", "#c05a00"
VIEWS_LEFT, VIEWS_TOP, VIEWS_WIDTH, VIEWS_HEIGHT = 36, 118, 640, 700
TABLE_LEFT, TABLE_RIGHT = 724, 1250
ROW_HEIGHT = 21
GAP_MM = 60.0
"""Between the two views, in their own scale."""

BODY_SHARE_OF_WINDOW = 0.05
"""What is darker everywhere is air: the views are cut to the rest."""

BODY_MARGIN_MM = 25.0
OUTLINE_OVERSAMPLING = 4
"""So that outlines follow voxel edges and a lesion of one voxel is a square, not a dot."""

LONGEST_BAR = 180
"""Pixels: a longer scale bar would run into the grey scale."""

FOOTER_CHARACTERS, FOOTER_LINES = 180, 5

NUMBERED_LESIONS = 12
"""The largest get their number beside them; more would hide the image."""


@dataclass(frozen=True, eq=False)
class View:
    """One projection with the lesions' own, cut alike; ``across`` is the LPS axis that runs to the right."""

    title: str
    image: Projection
    lesions: Projection
    across: int
    ends: tuple[str, str]


def draw_page(context: ResultContext) -> NDArray[np.uint8]:
    """The page of an analysis, ``(960, 1280, 3)`` uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    _draw_heading(figure, context)
    _draw_views(figure, context)
    _draw_burden(figure, context.quantified.findings.burden)
    _draw_table(figure, context)
    _draw_footer(figure, context)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _write(figure: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text at pixels from the page's upper left corner."""
    settings = {"fontsize": 10, "color": INK, "va": "baseline", "ha": "left", "family": FONT, **style}
    figure.text(x / WIDTH, 1 - y / HEIGHT, plain(text), parse_math=False, **settings)


def _rule(figure: Any, y: float, left: float = VIEWS_LEFT, colour: str = "#c9d1da") -> None:
    from matplotlib.lines import Line2D

    ends = [left / WIDTH, TABLE_RIGHT / WIDTH]
    figure.add_artist(Line2D(ends, [1 - y / HEIGHT] * 2, color=colour, linewidth=0.8))


def _draw_heading(figure: Any, context: ResultContext) -> None:
    selection = context.loaded.selection
    _write(figure, VIEWS_LEFT, 42, f"PSMA lesions, {selection.kind.value}", fontsize=19, weight="bold")
    subtitle = f"{selection.tracer.key}   |   scanned {context.dated:%Y-%m-%d %H:%M}"
    _write(figure, VIEWS_LEFT, 68, subtitle, fontsize=11, color=FAINT)
    banner = {"ha": "right", "weight": "bold"}
    _write(figure, TABLE_RIGHT, 40, RESEARCH_USE, fontsize=14, color=RED, **banner)
    if context.model.demonstration_only:
        _write(figure, TABLE_RIGHT, 66, DEMONSTRATION_MODEL, fontsize=11, color=ORANGE, **banner)
    _rule(figure, 82)


def _draw_views(figure: Any, context: ResultContext) -> None:
    views = _views(context)
    heights = [_extent(view)[3] - _extent(view)[2] for view in views]
    widths = [_extent(view)[1] - _extent(view)[0] for view in views]
    pixels_per_mm = min(VIEWS_WIDTH / (sum(widths) + GAP_MM), VIEWS_HEIGHT / max(heights))
    left = float(VIEWS_LEFT)
    for view, width in zip(views, widths, strict=True):
        _draw_view(figure, view, left, pixels_per_mm, context)
        left += (width + GAP_MM) * pixels_per_mm
    _draw_scale(figure, _window_suv(context), pixels_per_mm)


def _window_suv(context: ResultContext) -> float:
    policy, kind = context.policy, context.loaded.selection.kind
    return policy.page_window_pet_suv if kind is StudyKind.PET_CT else policy.page_window_spect_suv


def _views(context: ResultContext) -> tuple[View, View]:
    suv, labels = context.loaded.suv, context.quantified.segmented.labels
    threshold = BODY_SHARE_OF_WINDOW * _window_suv(context)
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


def _extent(view: View) -> tuple[float, float, float, float]:
    return (*view.image.horizontal_mm, *view.image.vertical_mm)


def _draw_view(figure: Any, view: View, left: float, pixels_per_mm: float, context: ResultContext) -> None:
    x0, x1, z0, z1 = _extent(view)
    width, height = (x1 - x0) * pixels_per_mm, (z1 - z0) * pixels_per_mm
    place = (left / WIDTH, 1 - (VIEWS_TOP + height) / HEIGHT, width / WIDTH, height / HEIGHT)
    axes = figure.add_axes(place)
    axes.set_axis_off()
    axes.imshow(
        view.image.image, cmap="gray_r", vmin=0, vmax=_window_suv(context), extent=(x0, x1, z0, z1),
        aspect="auto", interpolation="bilinear",
    )  # fmt: skip
    _outline(axes, view)
    axes.set_xlim(x0, x1)
    axes.set_ylim(z0, z1)
    _number(axes, view, context.quantified.findings.lesions)
    _write(figure, left + width / 2, VIEWS_TOP - 12, view.title, ha="center", color=FAINT)
    for x, mark, side in ((left + 4, view.ends[0], "left"), (left + width - 4, view.ends[1], "right")):
        _write(figure, x, VIEWS_TOP + 18, mark, ha=side, fontsize=13, weight="bold")


def _outline(axes: Any, view: View) -> None:
    if not view.lesions.image.any():
        return
    fine = np.kron(view.lesions.image, np.ones((OUTLINE_OVERSAMPLING, OUTLINE_OVERSAMPLING)))
    axes.contour(fine, levels=[0.5], colors=[RED], linewidths=0.9, extent=_extent(view), origin="upper")


def _number(axes: Any, view: View, lesions: tuple[Lesion, ...]) -> None:
    from matplotlib.patheffects import withStroke

    for lesion in lesions[:NUMBERED_LESIONS]:
        reach_mm = (3.0 * lesion.volume_ml * 1000.0 / (4.0 * np.pi)) ** (1 / 3)
        axes.annotate(
            str(lesion.number), (lesion.centre_mm[view.across] + reach_mm, lesion.centre_mm[2]), (3, 0),
            textcoords="offset points", fontsize=7, color=RED, weight="bold", va="center", family=FONT,
            annotation_clip=False, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _draw_scale(figure: Any, window_suv: float, pixels_per_mm: float) -> None:
    """A bar of 10 cm (1 cm where the image is small) and the grey scale, below the views."""
    from matplotlib.patches import Rectangle

    y = VIEWS_TOP + VIEWS_HEIGHT + 26
    length_cm = 10 if 100 * pixels_per_mm <= LONGEST_BAR else 1
    bar_width = length_cm * 10 * pixels_per_mm
    figure.add_artist(
        Rectangle((VIEWS_LEFT / WIDTH, 1 - y / HEIGHT), bar_width / WIDTH, 3 / HEIGHT, color=INK)
    )
    _write(figure, VIEWS_LEFT + bar_width + 8, y + 3, f"{length_cm} cm", fontsize=9)
    ramp_left = VIEWS_LEFT + 300
    ramp = figure.add_axes((ramp_left / WIDTH, 1 - (y + 3) / HEIGHT, 160 / WIDTH, 10 / HEIGHT))
    ramp.imshow(np.linspace(0, 1, 160)[None], cmap="gray_r", vmin=0, vmax=1, aspect="auto")
    ramp.set_xticks([])
    ramp.set_yticks([])
    _write(figure, ramp_left - 8, y + 3, "SUVbw 0", fontsize=9, ha="right")
    _write(figure, ramp_left + 168, y + 3, f"{window_suv:g}", fontsize=9)


def _draw_burden(figure: Any, burden: Burden) -> None:
    if burden.lesion_count == 0:
        _write(figure, TABLE_LEFT, 130, NO_LESION, fontsize=20, weight="bold")
        return
    numbers = [
        ("Lesions", f"{burden.lesion_count}"),
        ("PSMA-TV, ml", f"{burden.psma_tv_ml:.1f}"),
        ("TL-PSMA, g", f"{burden.tl_psma:.1f}"),
        ("SUVmax", "-" if burden.suv_max is None else f"{burden.suv_max:.1f}"),
    ]
    if burden.activity_mbq is not None:
        numbers.append(("Activity, MBq", _activity(burden.activity_mbq)))
    step = (TABLE_RIGHT - TABLE_LEFT) / len(numbers)
    for i, (name, value) in enumerate(numbers):
        _write(figure, TABLE_LEFT + i * step, 110, name, color=FAINT, fontsize=9)
        _write(figure, TABLE_LEFT + i * step, 140, value, fontsize=18, weight="bold")


def _draw_table(figure: Any, context: ResultContext) -> None:
    lesions = context.quantified.findings.lesions
    if not lesions:
        return
    shown = lesions[: context.policy.page_lesion_rows]
    with_activity = any(lesion.activity_mbq is not None for lesion in shown)
    head = ["No", "Volume ml", "SUVmax", "SUVmean", "SUVpeak", "TL-PSMA g"]
    if with_activity:
        head.append("MBq")
    edges = np.linspace(TABLE_LEFT + 24, TABLE_RIGHT, len(head))
    y = 182.0
    _row(figure, edges, y, head, color=FAINT, fontsize=9)
    _rule(figure, y + 7, TABLE_LEFT)
    for lesion in shown:
        y += ROW_HEIGHT
        _row(figure, edges, y + 3, _cells(lesion, with_activity), fontsize=10)
    left_out = lesions[len(shown) :]
    if left_out:
        volume = sum(lesion.volume_ml for lesion in left_out)
        _write(figure, TABLE_LEFT, y + 27, f"and {len(left_out)} more, {volume:.1f} ml together", color=FAINT)
    y += 52 if left_out else 30
    _write(figure, TABLE_LEFT, y, "SUVbw in g/ml; SUVpeak in a sphere of 1 ml; TL-PSMA = volume x SUVmean.",
           fontsize=8, color=FAINT)  # fmt: skip


def _cells(lesion: Lesion, with_activity: bool) -> list[str]:
    values: list[float | None] = [lesion.suv_max, lesion.suv_mean, lesion.suv_peak, lesion.tl_psma]
    cells = [str(lesion.number), f"{lesion.volume_ml:.2f}"]
    cells += ["-" if value is None else f"{value:.1f}" for value in values]
    if with_activity:
        cells.append("-" if lesion.activity_mbq is None else _activity(lesion.activity_mbq))
    return cells


def _activity(mbq: float) -> str:
    """Digits that mean something, over the decades that lesions span."""
    decimals = 0 if mbq >= 100 else 1 if mbq >= 10 else 2 if mbq >= 1 else 3
    return f"{mbq:.{decimals}f}"


def _row(figure: Any, edges: NDArray[np.float64], y: float, cells: list[str], **style: Any) -> None:
    for right, cell in zip(edges, cells, strict=True):
        _write(figure, float(right), y, cell, ha="right", **style)


def _draw_footer(figure: Any, context: ResultContext) -> None:
    """What made the numbers; a SPECT read without a prior says so in colour: the weaker model spoke."""
    is_spect = context.loaded.selection.kind is StudyKind.SPECT_CT
    without_prior = is_spect and not context.quantified.segmented.prior_used
    lines = [
        (_model_in_words(context), FAINT),
        (prior_statement(context, with_uids=False), ORANGE if without_prior else INK),
        (f"Quantification: {quantification_in_words(context.loaded.quantification)}", FAINT),
    ]
    _rule(figure, 868)
    wrapped = [(part, ink) for line, ink in lines for part in textwrap.wrap(line, FOOTER_CHARACTERS)]
    if len(wrapped) > FOOTER_LINES:
        wrapped[FOOTER_LINES - 1] = ("... in full in the report (DICOM SR)", FAINT)
    for i, (text, ink) in enumerate(wrapped[:FOOTER_LINES]):
        _write(figure, VIEWS_LEFT, 885 + 14 * i, text, fontsize=8.5, color=ink)


def _model_in_words(context: ResultContext) -> str:
    model, provenance = context.model, context.provenance
    return (
        f"Model {model.role.value} {model.model_id} {model.version}, weights {model.weights_sha256[:12]}; "
        f"software {provenance.software_version}, settings {provenance.settings_digest[:12]}, "
        f"revision {provenance.revision}"
    )
