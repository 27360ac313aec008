"""The page of a notice of withdrawal: few words, large."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.dicom.page_drawing import draw_banner
from app.dicom.page_sheet import FAINT, LEFT, RED, RIGHT, Sheet
from app.dicom.result_context import RESEARCH_USE

FIRST_LINE, LINE_HEIGHT, LAST_LINE = 190, 30, 820
CHARACTERS = 100


@dataclass(frozen=True)
class Notice:
    """What a notice says.

    Attributes:
        headline: which result is withdrawn.
        statements: why, and what it was, a paragraph each.
        footer: what made the notice.
    """

    headline: str
    statements: tuple[str, ...]
    footer: str


def draw_notice(notice: Notice) -> NDArray[np.uint8]:
    """The page, ``(960, 1280, 3)`` uint8 RGB."""
    sheet = Sheet()
    sheet.write(LEFT, 42, "PSMA result withdrawn", fontsize=20, weight="bold")
    sheet.write(RIGHT, 40, RESEARCH_USE, fontsize=15, color=RED, ha="right", weight="bold")
    sheet.rule(82)
    draw_banner(sheet, notice.headline)
    y = FIRST_LINE
    for statement in notice.statements:
        for line in textwrap.wrap(statement, CHARACTERS):
            if y > LAST_LINE:
                break
            sheet.write(LEFT, y, line, fontsize=15)
            y += LINE_HEIGHT
        y += LINE_HEIGHT // 2
    sheet.rule(868)
    sheet.write(LEFT, 887, notice.footer, fontsize=9.5, color=FAINT)
    return sheet.pixels()
