"""The best, the median and the worst case of a model as pictures: what stands behind a Dice coefficient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.cohort.manifest import image_file
from app.dicom.results.policy import WritePolicy
from app.domain.scores import ScanKey, ScanScore
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit, Volume
from app.errors import MisconfiguredError
from app.imaging.mip import Image, Projection, anterior
from app.imaging.nifti import read_labels, read_volume
from app.validation.report.figures import FAINT, FONT, INK, new_figure, png
from app.validation.scores import prediction_file

Predictions = Callable[[ScanKey], LabelMap | None]
"""The result of a scan on its functional image's grid; ``None`` where none was kept."""

TRUE_COLOUR, FOUND_COLOUR = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito."""

BODY_SHARE_OF_WINDOW, MARGIN_PIXELS = 0.05, 6
"""Columns with less uptake everywhere are air; they are cut off to a margin."""

OUTLINE_OVERSAMPLING = 4
"""Each voxel becomes this many pixels along each axis, so that outlines follow its edges."""

PANEL_HEIGHT_INCH, PANEL_WIDTH_INCH = 4.6, 1.75


@dataclass(frozen=True)
class ShownCase:
    """One of the three cases."""

    name: str
    score: ScanScore


def chosen_cases(scores: Sequence[ScanScore]) -> tuple[ShownCase, ...]:
    """Best, median and worst by DSC, each scan once; scans without a DSC are left out.

    Of an even number the median case is the lower of the two in the middle; equal scores are in order of
    patient.
    """
    defined = [(score.voxels.dice, score) for score in scores if score.voxels.dice is not None]
    ordered = [
        score for _, score in sorted(defined, key=lambda d: (-d[0], d[1].key.centre, d[1].key.patient))
    ]
    if not ordered:
        return ()
    places = {"best": 0, "median": len(ordered) // 2, "worst": len(ordered) - 1}
    names: dict[int, str] = {}
    for name, place in places.items():
        names[place] = f"{names[place]} and {name}" if place in names else name
    return tuple(ShownCase(name, ordered[place]) for place, name in names.items())


def predictions_in(folder: Path) -> Predictions:
    """Results as ``<validation>/<model that ran>/<patient>_<pet|spect>.nii.gz`` in ``folder``."""

    def read(key: ScanKey) -> LabelMap | None:
        path = prediction_file(folder, key.validation, key.used, key.patient, key.kind)
        return read_labels(path) if path.is_file() else None

    return read


def draw_cases(cases: Sequence[ShownCase], cohort: Path, predictions: Predictions) -> bytes:
    """Each case twice in a row, anterior MIP: the truth outlined, and the result.

    Raises:
        MisconfiguredError: an image is not there, or a result is not on its grid.
    """
    from matplotlib import rc_context

    with rc_context({"font.family": FONT, "font.size": 9}):
        figure = new_figure(2 * PANEL_WIDTH_INCH * len(cases), PANEL_HEIGHT_INCH)
        panels = figure.subplots(1, 2 * len(cases), squeeze=False)[0]
        for place, case in enumerate(cases):
            _draw_case(panels[2 * place : 2 * place + 2], case, cohort, predictions)
        return png(figure, trimmed=True)


def case_in_words(case: ShownCase) -> str:
    """``best: patient B-7, DSC 0.91, …`` for the caption and for those who don't see the picture."""
    score = case.score
    key = score.key
    ran = "" if key.used is key.model else f" ({key.used.value} ran)"
    return (
        f"{case.name}: patient {key.patient}{ran}, DSC {score.voxels.dice:.2f}, "
        f"{score.lesions.true} true lesions of {score.true_ml:.1f} ml, "
        f"{score.lesions.found} found of {score.found_ml:.1f} ml"
    )


def _draw_case(panels: Sequence[Any], case: ShownCase, cohort: Path, predictions: Predictions) -> None:
    key = case.score.key
    suv = read_volume(image_file(cohort, key.patient, key.kind, "suv"), Unit.SUVBW)
    truth = read_labels(image_file(cohort, key.patient, key.kind, "truth"))
    found = predictions(key)
    _same_grid(suv, truth, "truth", key)
    title = f"{case.name}: {key.patient}\nDSC {case.score.voxels.dice:.2f}, truth"
    image = anterior(suv.array, suv.grid)
    columns = _body(image, _window_suv(key.kind))
    _draw_panel(panels[0], (image, truth, columns), key.kind, title, TRUE_COLOUR)
    if found is None:
        panels[1].set_axis_off()
        panels[1].text(0.5, 0.5, "no result\nwas kept", ha="center", color=FAINT)
        return
    _same_grid(suv, found, "result", key)
    _draw_panel(panels[1], (image, found, columns), key.kind, "\nresult", FOUND_COLOUR)


def _same_grid(suv: Volume, labels: LabelMap, what: str, key: ScanKey) -> None:
    if not labels.grid.matches(suv.grid):
        scan = f"{key.validation.value}, {key.model.value}, {key.kind.value}, patient {key.patient}"
        raise MisconfiguredError(
            f"{scan}: the {what} is not on the functional image's grid; was the cohort built again since?"
        )


def _window_suv(kind: StudyKind) -> float:
    policy = WritePolicy()
    return policy.page_window_pet_suv if kind is StudyKind.PET_CT else policy.page_window_spect_suv


def _body(image: Projection, window_suv: float) -> slice:
    columns = np.flatnonzero((image.image > BODY_SHARE_OF_WINDOW * window_suv).any(axis=0))
    if columns.size == 0:
        return slice(0, image.image.shape[1])
    return slice(max(int(columns[0]) - MARGIN_PIXELS, 0), int(columns[-1]) + MARGIN_PIXELS + 1)


def _draw_panel(
    axes: Any, what: tuple[Projection, LabelMap, slice], kind: StudyKind, title: str, colour: str
) -> None:
    image, labels, columns = what
    shown = image.image[:, columns]
    step_mm = (image.horizontal_mm[1] - image.horizontal_mm[0]) / image.image.shape[1]
    extent = (0.0, shown.shape[1] * step_mm, *image.vertical_mm)
    axes.imshow(shown, cmap="gray_r", vmin=0, vmax=_window_suv(kind), extent=extent, interpolation="bilinear")
    _outline(axes, anterior(labels.mask, labels.grid).image[:, columns], extent, colour)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_title(title, fontsize=8.5, color=INK, loc="left")
    axes.set_axis_off()


def _outline(axes: Any, mask: Image, extent: tuple[float, float, float, float], colour: str) -> None:
    """Draw the outline along voxel edges, with a white rim that stands out from dark uptake."""
    from matplotlib.patheffects import withStroke

    if not mask.any():
        return
    x_mm, z_mm = extent[1] / mask.shape[1], (extent[3] - extent[2]) / mask.shape[0]
    fine = np.kron(np.pad(mask, 1), np.ones((OUTLINE_OVERSAMPLING, OUTLINE_OVERSAMPLING)))
    wide = (-x_mm, extent[1] + x_mm, extent[2] - z_mm, extent[3] + z_mm)
    lines = axes.contour(fine, levels=[0.5], colors=[colour], linewidths=1.1, extent=wide, origin="upper")
    lines.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
