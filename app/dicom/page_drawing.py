"""The summary page as a picture: two projections with the lesions outlined, the numbers, the provenance."""

from __future__ import annotations

import textwrap
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from app.dicom.page_sheet import (
    FAINT,
    HEIGHT,
    INK,
    LEFT,
    ORANGE,
    RED,
    RIGHT,
    WARNING_YELLOW,
    WIDTH,
    Sheet,
)
from app.dicom.page_table import draw_numbers
from app.dicom.page_views import VIEWS_HEIGHT, VIEWS_LEFT, VIEWS_TOP, draw_views
from app.dicom.result_context import RESEARCH_USE, ResultContext, plain
from app.dicom.sr_content import (
    DEMONSTRATION_MODEL,
    prior_statement,
    quantification_in_words,
    replaces_statement,
)
from app.dicom.sr_instants import uptake_in_words
from app.domain.study import StudyKind

__all__ = ["HEIGHT", "VIEWS_HEIGHT", "VIEWS_LEFT", "VIEWS_TOP", "WIDTH", "draw_banner", "draw_page"]

FOOTER_TOP = 868
FOOTER_CHARACTERS, FOOTER_LINES = 172, 5

WARNINGS_TOP, WARNING_HEIGHT = 112, 24
WARNING_CHARACTERS, WARNING_LINES = 118, 6


def draw_page(context: ResultContext) -> NDArray[np.uint8]:
    """The page of an analysis, ``(960, 1280, 3)`` uint8 RGB; higher by a band where there are warnings."""
    warnings = warning_lines(context)
    band = WARNING_HEIGHT * len(warnings)
    sheet = Sheet(band)
    _draw_heading(sheet, context)
    _draw_warnings(sheet, warnings)
    sheet.move_down(band)
    draw_views(sheet, context)
    draw_numbers(sheet, context)
    _draw_footer(sheet, context)
    return sheet.pixels()


def warning_lines(context: ResultContext) -> list[str]:
    """What was decided with a warning, wrapped, ``WARNING_LINES`` at most; the last line then says what is
    left out. Each warning begins with ``WARNING``."""
    wrapped = [
        textwrap.wrap(f"WARNING: {plain(text)}", WARNING_CHARACTERS, subsequent_indent="    ")
        for text in context.warnings
    ]
    if sum(map(len, wrapped)) <= WARNING_LINES:
        return list(chain.from_iterable(wrapped))
    room = WARNING_LINES - 1  # the last line is for what is left out
    whole = sum(lines <= room for lines in accumulate(map(len, wrapped)))
    kept = list(chain.from_iterable(wrapped[:whole]))
    begun = wrapped[whole][: room - len(kept)]
    return [*kept, *begun, _left_out(bool(begun), others=len(wrapped) - whole - bool(begun))]


def _left_out(is_cut: bool, others: int) -> str:
    if not is_cut:
        return f"... and {others} more, in full in the report (DICOM SR)"
    return "... continued in the report (DICOM SR)" + (f", with {others} more" if others else "")


def _draw_warnings(sheet: Sheet, lines: list[str]) -> None:
    for i, line in enumerate(lines):
        top = WARNINGS_TOP + WARNING_HEIGHT * i
        sheet.bar((LEFT, top, RIGHT - LEFT, WARNING_HEIGHT), WARNING_YELLOW)
        sheet.write(LEFT + 10, top + 17, line, fontsize=11.5, weight="bold")


def draw_banner(sheet: Sheet, text: str) -> None:
    """A line that nobody overlooks, below the heading."""
    sheet.bar((LEFT, 84, RIGHT - LEFT, 26), ORANGE)
    sheet.write((LEFT + RIGHT) / 2, 102, text, fontsize=13, color="white", weight="bold", ha="center")


def _draw_heading(sheet: Sheet, context: ResultContext) -> None:
    selection = context.loaded.selection
    sheet.write(LEFT, 42, f"PSMA lesions, {selection.kind.value}", fontsize=20, weight="bold")
    uptake_s = context.loaded.quantification.uptake_s
    parts = [selection.tracer.key, f"scanned {context.dated:%Y-%m-%d %H:%M}"]
    parts += [] if uptake_s is None else [f"uptake time {uptake_in_words(uptake_s)}"]
    sheet.write(LEFT, 70, "   |   ".join(parts), fontsize=12.5, color=FAINT)
    sheet.write(RIGHT, 40, RESEARCH_USE, fontsize=15, color=RED, ha="right", weight="bold")
    if context.model.demonstration_only:
        sheet.write(RIGHT, 68, DEMONSTRATION_MODEL, fontsize=12.5, color=ORANGE, ha="right", weight="bold")
    sheet.rule(82)
    if replaces := replaces_statement(context):
        draw_banner(sheet, replaces)


def _draw_footer(sheet: Sheet, context: ResultContext) -> None:
    """What made the numbers; a SPECT read without a prior says so in colour: the weaker model spoke."""
    is_spect = context.loaded.selection.kind is StudyKind.SPECT_CT
    without_prior = is_spect and not context.quantified.segmented.prior_used
    lines = [
        (_model_in_words(context), FAINT),
        (prior_statement(context, with_uids=False), ORANGE if without_prior else INK),
        (f"Quantification: {quantification_in_words(context.loaded.quantification)}", FAINT),
    ]
    sheet.rule(FOOTER_TOP)
    wrapped = [(part, ink) for line, ink in lines for part in textwrap.wrap(line, FOOTER_CHARACTERS)]
    if len(wrapped) > FOOTER_LINES:
        wrapped[FOOTER_LINES - 1] = ("... in full in the report (DICOM SR)", FAINT)
    for i, (text, ink) in enumerate(wrapped[:FOOTER_LINES]):
        sheet.write(LEFT, FOOTER_TOP + 19 + 15.5 * i, text, fontsize=9.5, color=ink)


def _model_in_words(context: ResultContext) -> str:
    model, provenance = context.model, context.provenance
    return (
        f"Model {model.role.value} {model.model_id} {model.version}, weights {model.weights_sha256[:12]}; "
        f"software {provenance.software_version}, settings {provenance.settings_digest[:12]}, "
        f"revision {provenance.revision}"
    )
