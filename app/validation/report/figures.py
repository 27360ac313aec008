"""Figures as PNG: box plots, and tumour volume after Bland and Altman. Equal scores give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.domain.measures import (
    DICE,
    FALSE_NEGATIVE_ML,
    FALSE_POSITIVE_ML,
    LESION_PPV,
    LESION_SENSITIVITY,
    VOXEL_PPV,
    Measure,
)
from app.domain.scores import ScanScore, Validation
from app.validation import study_table
from app.validation.groups import Group, groups_of

DPI = 110
FONT = "DejaVu Sans"
"""Comes with matplotlib, so figures look the same on every machine."""

INK, FAINT = "#16202b", "#4c5866"
COLOURS = {
    Validation.INTERNAL: "#0072B2",
    Validation.EXTERNAL: "#E69F00",
    Validation.NODE: "#009E73",
}
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
