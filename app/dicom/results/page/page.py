"""The summary page: two projections with the lesions outlined, the numbers, the provenance.

It is written as Secondary Capture Image Storage (PS3.3 A.8.1), which any PACS shows.
"""

from __future__ import annotations

import textwrap
from itertools import accumulate, chain
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from app.dicom.results.context import RESEARCH_USE, ResultContext, coded, finish, plain, reference
from app.dicom.results.page.sheet import FAINT, INK, LEFT, ORANGE, RED, RIGHT, WARNING_YELLOW, Sheet
from app.dicom.results.page.table import draw_numbers
from app.dicom.results.page.views import draw_views
from app.dicom.results.report.content import (
    DEMONSTRATION_MODEL,
    prior_statement,
    quantification_in_words,
    replaces_statement,
)
from app.dicom.results.report.quantities import uptake_in_words
from app.dicom.results.report.sr import in_order
from app.dicom.uids import ResultKind
from app.domain.codes import SOURCE_IMAGE_FOR_PROCESSING
from app.domain.study import StudyKind

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
    for i, line in enumerate(warnings):
        top = WARNINGS_TOP + WARNING_HEIGHT * i
        sheet.bar((LEFT, top, RIGHT - LEFT, WARNING_HEIGHT), WARNING_YELLOW)
        sheet.write(LEFT + 10, top + 17, line, fontsize=11.5, weight="bold")
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


def draw_banner(sheet: Sheet, text: str) -> None:
    """A line that nobody overlooks, below the heading."""
    sheet.bar((LEFT, 84, RIGHT - LEFT, 26), ORANGE)
    sheet.write((LEFT + RIGHT) / 2, 102, text, fontsize=13, color="white", weight="bold", ha="center")


def _draw_heading(sheet: Sheet, context: ResultContext) -> None:
    selection = context.loaded.selection
    marked = "" if context.loaded.liver_scale is None else ", not quantified"
    sheet.write(LEFT, 42, f"PSMA lesions, {selection.kind.value}{marked}", fontsize=20, weight="bold")
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


def write_page(context: ResultContext, rgb: NDArray[np.uint8]) -> Dataset:
    """The drawn page, ``(rows, columns, 3)``, as one plain RGB frame.

    The patient's name stands in the header, as in every derived object, and not in the pixels.
    """
    study = context.loaded.selection.study.study_instance_uid
    page = secondary_capture(rgb, study, context.instance(ResultKind.PAGE, "PSMA summary page"))
    finish(page, context)
    page.DateOfSecondaryCapture, page.TimeOfSecondaryCapture = page.ContentDate, page.ContentTime
    page.DerivationDescription = "Projections with outlined lesions, and their measurements"
    page.SourceImageSequence = Sequence(_source_images(context))
    return page


def secondary_capture(
    rgb: NDArray[np.uint8], study_instance_uid: str, instance: dict[str, Any]
) -> hd.sc.SCImage:
    """One RGB frame ``(rows, columns, 3)`` without patient, study or dates.

    ``instance`` are highdicom's arguments on UIDs, series and equipment.
    """
    page = hd.sc.SCImage(
        pixel_array=rgb,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),
        study_instance_uid=study_instance_uid,
        **instance,
    )
    page.PatientOrientation = None  # two views and a table: no one orientation (PS3.3 C.7.6.1.1.1)
    page.Laterality = None  # no paired body part (PS3.3 C.7.3.1.1.1)
    page.BurnedInAnnotation = "NO"
    return page


def _source_images(context: ResultContext) -> list[Dataset]:
    purpose = DataElement(Tag("PurposeOfReferenceCodeSequence"), "SQ", [coded(SOURCE_IMAGE_FOR_PROCESSING)])
    images = (each for series in context.loaded.functional_series for each in in_order(series))
    return [reference(each.sop_class_uid, each.sop_instance_uid, purpose) for each in images]
