"""The page's numbers: the burden in large figures, the table of lesions below."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.dicom.results.context import ResultContext, plain
from app.dicom.results.page.sheet import FAINT, RIGHT, Sheet
from app.dicom.results.page.views import VIEWS_HEIGHT, VIEWS_TOP
from app.dicom.results.report.content import NO_LESION, change_in_words, dose_in_words, recip_in_words
from app.dicom.results.report.quantities import activity_instant_in_words
from app.domain.findings.findings import Burden, Change, Lesion, Site
from app.domain.study import StudyKind

TABLE_LEFT, TABLE_TOP, TABLE_BOTTOM = 716, 132, VIEWS_TOP + VIEWS_HEIGHT + 30
FIGURES_IN_A_ROW = 3
"""Large figures in a row: 10000.0 still stands clear of the next."""

HIGHEST_ROW, LOWEST_ROW = 28.0, 17.0
"""Pixels from row to row: as high as there is room; what has none is counted."""

HEAD_HEIGHT = 24.0
FEW_COLUMNS, LARGEST_TYPE = 6, (13.0, 11.0)
"""Numbers of more columns stand too near to each other in larger type."""

CHANGE_CHARACTERS, CHANGE_LINES = 66, 4

SHORT_SITES = {
    Site.BONE: "bone",
    Site.LYMPH_NODE: "node",
    Site.PROSTATE: "prost.",
    Site.LIVER: "liver",
    Site.UNSPECIFIED: "-",
}

PADDING_CHARACTERS = 1.5
"""Between two columns."""

NOTE_CHARACTERS, NOTE_SIZE, NOTE_HEIGHT = 78, 9, 15


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading in two lines, and each lesion's number."""

    heading: tuple[str, str]
    values: tuple[float | None, ...]
    decimals: int

    def cell(self, row: int) -> str:
        """The number as written; a dash where there is none."""
        return in_few_digits(self.values[row], self.decimals)


def in_few_digits(value: float | None, decimals: int) -> str:
    """At most ``decimals`` behind the point and about four digits in all; a dash for no number."""
    if value is None:
        return "-"
    before = len(f"{abs(value):.0f}")
    return f"{value:.{max(0, min(decimals, 4 - before))}f}"


def draw_numbers(sheet: Sheet, context: ResultContext) -> None:
    """Burden and table at the right side of the page."""
    findings = context.quantified.findings
    is_spect = context.loaded.selection.kind is StudyKind.SPECT_CT
    if not findings.lesions:
        sheet.write(TABLE_LEFT, TABLE_TOP + 30, NO_LESION, fontsize=24, weight="bold")
        _draw_change(sheet, findings.change, TABLE_TOP + 66.0)
        return
    top = _draw_burden(sheet, findings.burden, is_spect)
    top = _draw_change(sheet, findings.change, top)
    _draw_table(sheet, context, top)


def _draw_burden(sheet: Sheet, burden: Burden, with_activity: bool) -> float:
    """Returns where the table may begin. Activity is for dosimetry: a PET's page leaves it out."""
    numbers: list[tuple[str, float | None, int]] = [
        ("Lesions", burden.lesion_count, 0),
        ("PSMA-TV, ml", burden.psma_tv_ml, 1),
        ("TL-PSMA, g", burden.tl_psma, 1),
        ("SUVmax, g/ml", burden.suv_max, 1),
        ("Max / liver", burden.to_liver_max, 1),
        ("Activity, MBq", burden.activity_mbq if with_activity else None, 3),
        ("Dmax, cm", None if burden.dmax_mm is None else burden.dmax_mm / 10.0, 1),
    ]
    numbers = [number for number in numbers if number[1] is not None]
    step = (RIGHT - TABLE_LEFT) / FIGURES_IN_A_ROW
    for i, (name, value, decimals) in enumerate(numbers):
        x, y = TABLE_LEFT + i % FIGURES_IN_A_ROW * step, TABLE_TOP + i // FIGURES_IN_A_ROW * 62
        sheet.write(x, y, name, color=FAINT)
        sheet.write(x, y + 30, in_few_digits(value, decimals), fontsize=20, weight="bold")
    return TABLE_TOP + (len(numbers) - 1) // FIGURES_IN_A_ROW * 62.0 + 66.0


def _draw_change(sheet: Sheet, change: Change | None, top: float) -> float:
    """A few lines on the change since the previous study; returns where the table may begin."""
    if change is None:
        return top
    words = [change_in_words(change), recip_in_words(change)]
    lines = [line for text in words for line in textwrap.wrap(text[:1].upper() + text[1:], CHANGE_CHARACTERS)]
    if len(lines) > CHANGE_LINES:
        lines[CHANGE_LINES - 1 :] = ["... in full in the report (DICOM SR)"]
    for line in lines:
        sheet.write(TABLE_LEFT, top, line, fontsize=10.5)
        top += 18
    return top + 18


def _draw_table(sheet: Sheet, context: ResultContext, top: float) -> None:
    lesions = context.quantified.findings.lesions
    room = TABLE_BOTTOM - _room_below(context) - (top + HEAD_HEIGHT)
    shown = lesions[: min(context.policy.page_lesion_rows, int(room // LOWEST_ROW))]
    columns = columns_of(shown, context.loaded.selection.kind is StudyKind.SPECT_CT)
    headings = [
        [*(("", "") if line == 0 else ("No", "Site")), *(column.heading[line] for column in columns)]
        for line in (0, 1)
    ]
    rows = [
        [str(lesion.number), SHORT_SITES[lesion.site], *(column.cell(i) for column in columns)]
        for i, lesion in enumerate(shown)
    ]
    edges = _right_edges([*headings, *rows])
    for line, words in enumerate(headings):
        _row(sheet, edges, top + 16 * line, words, color=FAINT, fontsize=10)
    y = top + HEAD_HEIGHT
    sheet.rule(y, TABLE_LEFT)
    height = float(np.clip(room / len(shown), LOWEST_ROW, HIGHEST_ROW))
    size = min(LARGEST_TYPE[len(columns) > FEW_COLUMNS], 0.55 * height)
    for cells in rows:
        y += height
        _row(sheet, edges, y - 0.2 * height, cells, fontsize=size)
    _draw_notes(sheet, context, lesions[len(shown) :], y + 22)


def columns_of(lesions: tuple[Lesion, ...], with_activity: bool) -> list[Column]:
    """The table's columns; those without a number are left out."""
    found = [
        Column(("Volume", "ml"), tuple(lesion.volume_ml for lesion in lesions), 2),
        Column(("Length", "mm"), tuple(lesion.longest_diameter_mm or None for lesion in lesions), 0),
        *(_of_suv(lesions) if lesions and lesions[0].suv_max is not None else _of_ratios(lesions)),
    ]
    activity = tuple(lesion.activity_mbq for lesion in lesions) if with_activity else ()
    dose = tuple(lesion.absorbed_dose_gy for lesion in lesions)
    further = [Column(("Activity", "MBq"), activity, 3), Column(("Dose*", "Gy"), dose, 1)]
    return found + [column for column in further if any(value is not None for value in column.values)]


def _of_suv(lesions: tuple[Lesion, ...]) -> list[Column]:
    return [
        Column(("SUV", "max"), tuple(lesion.suv_max for lesion in lesions), 1),
        Column(("SUV", "mean"), tuple(lesion.suv_mean for lesion in lesions), 1),
        Column(("SUV", "peak"), tuple(lesion.suv_peak for lesion in lesions), 1),
        Column(("TL-PSMA", "g"), tuple(lesion.tl_psma for lesion in lesions), 1),
    ]


def _of_ratios(lesions: tuple[Lesion, ...]) -> list[Column]:
    """Of an image that is not quantified."""
    return [
        Column(("Max /", "liver"), tuple(lesion.to_liver_max for lesion in lesions), 1),
        Column(("Mean /", "liver"), tuple(lesion.to_liver for lesion in lesions), 1),
        Column(("Peak /", "liver"), tuple(lesion.to_liver_peak for lesion in lesions), 1),
    ]


def _right_edges(rows: list[list[str]]) -> NDArray[np.float64]:
    """Columns as wide as their longest word asks, over the whole width."""
    widths = np.array([max(map(len, column)) + PADDING_CHARACTERS for column in zip(*rows, strict=True)])
    widths[0] -= PADDING_CHARACTERS / 2.0  # nothing stands before it
    shares: NDArray[np.float64] = np.cumsum(widths) / widths.sum()
    return np.asarray(TABLE_LEFT + shares * (RIGHT - TABLE_LEFT), dtype=np.float64)


def _row(sheet: Sheet, edges: NDArray[np.float64], y: float, cells: list[str], **style: Any) -> None:
    for right, cell in zip(edges, cells, strict=True):
        sheet.write(float(right), y, cell, ha="right", **style)


def _draw_notes(sheet: Sheet, context: ResultContext, left_out: tuple[Lesion, ...], y: float) -> None:
    if left_out:
        volume = sum(lesion.volume_ml for lesion in left_out)
        sheet.write(TABLE_LEFT, y, f"and {len(left_out)} more, {volume:.1f} ml together", color=FAINT)
        y += 20
    for note in notes(context):
        for line in textwrap.wrap(plain(note), NOTE_CHARACTERS):
            sheet.write(TABLE_LEFT, y, line, fontsize=NOTE_SIZE, color=FAINT)
            y += NOTE_HEIGHT


def notes(context: ResultContext) -> list[str]:
    """What the numbers of the table mean, below it."""
    findings = context.quantified.findings
    suv = "" if findings.not_quantified else "SUV"
    sphere = f"{suv}peak in a sphere of 1 ml, so below {suv}mean in lesions smaller than it can be"
    found = [f"SUVbw in g/ml; {sphere}; TL-PSMA = volume x SUVmean."]
    if findings.not_quantified:
        found = [f"Not quantified ({findings.not_quantified}): uptake over the liver's mean; {sphere}."]
    instant = findings.activity_instant
    if instant is not None and context.loaded.selection.kind is StudyKind.SPECT_CT:
        found.append(f"Activity as at: {activity_instant_in_words(instant)}.")
    if findings.dose is not None:
        found.append(f"* Dose: {dose_in_words(findings.dose)}.")
    known = [f"{x.organ} {x.suv_mean:.1f}" for x in findings.references if x.suv_mean is not None]
    if known:
        found.append(f"For reference, SUVmean: {', '.join(known)}.")
    return found


def _room_below(context: ResultContext) -> float:
    """Pixels that the notes need, and what is said of lesions left out."""
    lines = sum(len(textwrap.wrap(plain(note), NOTE_CHARACTERS)) for note in notes(context))
    return 42 + NOTE_HEIGHT * lines
