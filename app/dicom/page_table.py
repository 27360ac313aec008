"""The page's numbers: the burden in large figures, the table of lesions below."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.dicom.page_sheet import FAINT, RIGHT, Sheet
from app.dicom.page_views import VIEWS_HEIGHT, VIEWS_TOP
from app.dicom.result_context import ResultContext
from app.dicom.sr_biomarkers import change_in_words, recip_in_words
from app.dicom.sr_content import NO_LESION
from app.domain.findings import Burden, Change, Findings, Lesion, Site

TABLE_LEFT, TABLE_TOP, TABLE_BOTTOM = 716, 132, VIEWS_TOP + VIEWS_HEIGHT + 30
FIGURES_IN_A_ROW = 3
"""Large figures beside one another: 10000.0 still stands clear of the next."""

HIGHEST_ROW, LOWEST_ROW = 28.0, 20.0
"""Pixels from row to row: as high as there is room."""

CHANGE_CHARACTERS, CHANGE_LINES = 66, 4

SHORT_SITES = {
    Site.BONE: "bone",
    Site.LYMPH_NODE: "node",
    Site.PROSTATE: "prost.",
    Site.LIVER: "liver",
    Site.UNSPECIFIED: "",
}

PADDING_CHARACTERS = 1.5
"""Between two columns."""

ROOM_BELOW_TABLE = 68
"""Pixels for what is left out, and the note on units."""


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
    if not findings.lesions:
        sheet.write(TABLE_LEFT, TABLE_TOP + 30, NO_LESION, fontsize=24, weight="bold")
        _draw_change(sheet, findings.change, TABLE_TOP + 66.0)
        return
    top = _draw_burden(sheet, findings.burden)
    top = _draw_change(sheet, findings.change, top)
    _draw_table(sheet, context, top)


def _draw_burden(sheet: Sheet, burden: Burden) -> float:
    """Returns where the table may begin."""
    numbers: list[tuple[str, float | None, int]] = [
        ("Lesions", burden.lesion_count, 0),
        ("PSMA-TV, ml", burden.psma_tv_ml, 1),
        ("TL-PSMA, g", burden.tl_psma, 1),
        ("SUVmax, g/ml", burden.suv_max, 1),
    ]
    if burden.activity_mbq is not None:
        numbers.append(("Activity, MBq", burden.activity_mbq, 3))
    if burden.dmax_mm is not None:
        numbers.append(("Dmax, cm", burden.dmax_mm / 10.0, 1))
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
    shown = lesions[: context.policy.page_lesion_rows]
    columns = _columns(shown)
    sites = [SHORT_SITES[lesion.site] for lesion in shown]
    headings = [
        ["" if line == 0 else "No", *(column.heading[line] for column in columns)] for line in (0, 1)
    ]
    rows = [
        [f"{sites[i]} {lesion.number}".strip(), *(column.cell(i) for column in columns)]
        for i, lesion in enumerate(shown)
    ]
    edges = _right_edges([*headings, *rows])
    for line, words in enumerate(headings):
        _row(sheet, edges, top + 16 * line, words, color=FAINT, fontsize=10)
    y = top + 24
    sheet.rule(y, TABLE_LEFT)
    room = TABLE_BOTTOM - ROOM_BELOW_TABLE - y
    height = float(np.clip(room / len(shown), LOWEST_ROW, HIGHEST_ROW))
    for cells in rows:
        y += height
        _row(sheet, edges, y - 0.2 * height, cells, fontsize=min(13.0, 0.55 * height))
    _draw_notes(sheet, context.quantified.findings, lesions[len(shown) :], y + 22)


def _columns(lesions: tuple[Lesion, ...]) -> list[Column]:
    found = [
        Column(("Volume", "ml"), tuple(lesion.volume_ml for lesion in lesions), 2),
        Column(("Length", "mm"), tuple(lesion.longest_diameter_mm or None for lesion in lesions), 0),
        Column(("SUV", "max"), tuple(lesion.suv_max for lesion in lesions), 1),
        Column(("SUV", "mean"), tuple(lesion.suv_mean for lesion in lesions), 1),
        Column(("SUV", "peak"), tuple(lesion.suv_peak for lesion in lesions), 1),
        Column(("TL-PSMA", "g"), tuple(lesion.tl_psma for lesion in lesions), 1),
    ]
    activity = tuple(lesion.activity_mbq for lesion in lesions)
    if any(value is not None for value in activity):
        found.append(Column(("Activity", "MBq"), activity, 3))
    return found


def _right_edges(rows: list[list[str]]) -> NDArray[np.float64]:
    """Columns as wide as their longest word asks, over the whole width."""
    widths = np.array([max(map(len, column)) + PADDING_CHARACTERS for column in zip(*rows, strict=True)])
    widths[0] -= PADDING_CHARACTERS  # nothing stands before it
    shares: NDArray[np.float64] = np.cumsum(widths) / widths.sum()
    return np.asarray(TABLE_LEFT + shares * (RIGHT - TABLE_LEFT), dtype=np.float64)


def _row(sheet: Sheet, edges: NDArray[np.float64], y: float, cells: list[str], **style: Any) -> None:
    for right, cell in zip(edges, cells, strict=True):
        sheet.write(float(right), y, cell, ha="right", **style)


def _draw_notes(sheet: Sheet, findings: Findings, left_out: tuple[Lesion, ...], y: float) -> None:
    if left_out:
        volume = sum(lesion.volume_ml for lesion in left_out)
        sheet.write(TABLE_LEFT, y, f"and {len(left_out)} more, {volume:.1f} ml together", color=FAINT)
        y += 20
    note = "SUVbw in g/ml; SUVpeak in a sphere of 1 ml; TL-PSMA = volume x SUVmean."
    sheet.write(TABLE_LEFT, y, note, fontsize=9.5, color=FAINT)
    known = [f"{x.organ} {x.suv_mean:.1f}" for x in findings.references if x.suv_mean is not None]
    if known:
        note = f"For reference, SUVmean: {', '.join(known)}."
        sheet.write(TABLE_LEFT, y + 17, note, fontsize=9.5, color=FAINT)
