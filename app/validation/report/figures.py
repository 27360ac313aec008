"""Figures as PNG: box plots, tumour volume after Bland and Altman, and a model's best, median and worst case.

Equal scores give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.cohort.manifest import image_file
from app.dicom.results.policy import WritePolicy
from app.domain.measures import (
    DICE,
    FALSE_NEGATIVE_ML,
    FALSE_POSITIVE_ML,
    LESION_PPV,
    LESION_SENSITIVITY,
    VOXEL_PPV,
    Measure,
)
from app.domain.scores import ScanKey, ScanScore, Validation
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit, Volume
from app.errors import MisconfiguredError
from app.imaging.mip import Image, Projection, anterior
from app.imaging.nifti import read_labels, read_volume
from app.validation import study_table
from app.validation.groups import Group, groups_of
from app.validation.scores import prediction_file

DPI = 110
FONT = "DejaVu Sans"
"""Comes with matplotlib, so figures look the same on every machine."""

INK, FAINT = "#16202b", "#4c5866"
COLOURS = {Validation.INTERNAL: "#0072B2", Validation.EXTERNAL: "#E69F00", Validation.NODE: "#009E73"}
"""Okabe and Ito's palette, which colour-blind readers can distinguish; hatches serve without colour."""

HATCHES = {Validation.INTERNAL: "", Validation.EXTERNAL: "//", Validation.NODE: ".."}
BOXED = (DICE, VOXEL_PPV, LESION_SENSITIVITY, LESION_PPV, FALSE_POSITIVE_ML, FALSE_NEGATIVE_ML)
PUBLISHED_AS = {DICE.key: study_table.DSC, VOXEL_PPV.key: study_table.PPV, LESION_PPV.key: study_table.PPV}
LIMIT_SDS = 1.96
"""Limits of agreement: mean difference ± 1.96 SD (Bland and Altman, Lancet 1986)."""


def new_figure(width_inch: float, height_inch: float) -> Any:
    """A figure without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inch, height_inch), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any, trimmed: bool = False) -> bytes:
    """The picture's file, without date or version; ``trimmed`` cuts white margins off."""
    stream = io.BytesIO()
    figure.savefig(
        stream, format="png", metadata={"Software": None}, bbox_inches="tight" if trimmed else None
    )
    return stream.getvalue()


def box_plots(scores: Sequence[ScanScore]) -> bytes:
    """A panel a measure: box, whiskers to 1.5 IQR, every patient a dot, the study's mean a diamond."""
    from matplotlib import rc_context

    groups = _in_reading_order(groups_of(scores))
    with rc_context({"font.family": FONT, "font.size": 9, "hatch.linewidth": 0.6}):
        figure = new_figure(10.5, 9.5)
        for axes, measure in zip(figure.subplots(3, 2).flat, BOXED, strict=True):
            _boxes(axes, scores, groups, measure)
        _legend(figure, groups)
        return png(figure)


def _in_reading_order(groups: Sequence[Group]) -> list[Group]:
    """A model's validations side by side."""
    return sorted(groups, key=lambda g: (g.kind.value, g.model.value, g.fitted_only))


def _boxes(axes: Any, scores: Sequence[ScanScore], groups: Sequence[Group], measure: Measure) -> None:
    for place, group in enumerate(groups):
        values = [value for score in group.of(scores) if (value := measure.of(score)) is not None]
        if values:
            _box(axes, place, values, group.validation)
        if name := PUBLISHED_AS.get(measure.key):
            study = study_table.published(group.model, group.kind, group.validation, name)
            if study is not None and not group.fitted_only:
                axes.plot([place + 0.33], [study.mean], "D", color="white", markeredgecolor=INK, markersize=6)
    axes.set_title(measure.title, fontsize=10, color=INK, loc="left")
    axes.set_xticks(range(len(groups)), [_tick(group) for group in groups], fontsize=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(*((-0.03, 1.03) if not measure.unit else (0, None)))
    axes.grid(axis="y", color="#dfe4ea", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _box(axes: Any, place: int, values: list[float], validation: Validation) -> None:
    box = axes.boxplot(
        [values], positions=[place], widths=0.5, patch_artist=True, showfliers=False, manage_ticks=False,
        medianprops={"color": INK, "linewidth": 1.8},
        whiskerprops={"color": FAINT}, capprops={"color": FAINT},
    )  # fmt: skip
    box["boxes"][0].set(facecolor=COLOURS[validation] + "66", edgecolor=INK, hatch=HATCHES[validation])
    spread = 0.16 * np.sin(np.arange(len(values)) * 2.4)  # apart, and the same each time
    axes.plot(place + spread, values, "o", color=INK, markersize=2.6, alpha=0.6, linewidth=0)


def _tick(group: Group) -> str:
    fitted = "\nfitted" if group.fitted_only else ""
    return f"{group.model.value}\n{group.kind.value.split('/')[0]}{fitted}"


def _legend(figure: Any, groups: Sequence[Group]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    present = [validation for validation in Validation if any(g.validation is validation for g in groups)]
    boxes = [
        Patch(facecolor=COLOURS[v] + "66", edgecolor=INK, hatch=HATCHES[v], label=v.value) for v in present
    ]
    diamond = Line2D(
        [], [], marker="D", linewidth=0, color="white", markeredgecolor=INK, label="the study's mean"
    )
    figure.legend(handles=[*boxes, diamond], loc="outside upper right", ncols=4, frameon=False, fontsize=9)


def bland_altman(scores: Sequence[ScanScore], validation: Validation) -> bytes:
    """Tumour volume found minus true, against the mean of both; a panel a model and modality."""
    from matplotlib import rc_context

    groups = volume_groups(scores, validation)
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    with rc_context({"font.family": FONT, "font.size": 9}):
        figure = new_figure(3.6 * columns, 3.2 * rows)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, group in zip(panels, groups, strict=False):
            _agreement_panel(axes, scores, group)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        return png(figure)


def volume_groups(scores: Sequence[ScanScore], validation: Validation) -> list[Group]:
    """Whose volumes are shown."""
    return [group for group in groups_of(scores) if group.validation is validation and not group.fitted_only]


def agreement(scores: Sequence[ScanScore], group: Group) -> tuple[float, float | None]:
    """Mean of tumour volume found minus true, ml, and how far the limits of agreement are from it."""
    differences = [score.found_ml - score.true_ml for score in group.of(scores)]
    half = LIMIT_SDS * float(np.std(differences, ddof=1)) if len(differences) > 1 else None
    return float(np.mean(differences)), half


def _agreement_panel(axes: Any, scores: Sequence[ScanScore], group: Group) -> None:
    own = group.of(scores)
    means = [(score.found_ml + score.true_ml) / 2 for score in own]
    differences = [score.found_ml - score.true_ml for score in own]
    bias, half = agreement(scores, group)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.plot(means, differences, "o", color=COLOURS[group.validation], markeredgecolor=INK, markersize=5)
    axes.axhline(bias, color=INK, linewidth=1.3)
    for limit in () if half is None else (bias - half, bias + half):
        axes.axhline(limit, color="#D55E00", linewidth=1.2, linestyle="--")
    axes.set_title(f"{group.label}, {group.kind.value}", fontsize=10, color=INK, loc="left")
    axes.set_xlabel("mean of found and true, ml")
    axes.set_ylabel("found − true, ml")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


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


def kept_result(predictions: Path, key: ScanKey) -> LabelMap | None:
    """The result of a scan on its functional image's grid; ``None`` where none was kept."""
    path = prediction_file(predictions, key.validation, key.used, key.patient, key.kind)
    return read_labels(path) if path.is_file() else None


def draw_cases(cases: Sequence[ShownCase], cohort: Path, predictions: Path) -> bytes:
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


def _draw_case(panels: Sequence[Any], case: ShownCase, cohort: Path, predictions: Path) -> None:
    key = case.score.key
    suv = read_volume(image_file(cohort, key.patient, key.kind, "suv"), Unit.SUVBW)
    truth = read_labels(image_file(cohort, key.patient, key.kind, "truth"))
    found = kept_result(predictions, key)
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
