"""One analysis as DICOM: SEG, SR, page and RTSTRUCT, read back and compared before they may leave."""

from __future__ import annotations

from dataclasses import dataclass

from app.dicom.results.context import open_context
from app.dicom.results.page.page import draw_page, write_page
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import (
    Result,
    check_page,
    check_report,
    check_segmentation,
    check_structure_set,
    encoded,
)
from app.dicom.results.report.sr import write_report
from app.dicom.results.rtstruct import write_structure_set
from app.dicom.results.seg import write_segmentation
from app.dicom.uids import ResultKind
from app.domain.analysis import Provenance, Quantified
from app.domain.decision import Decision


@dataclass(frozen=True, eq=False)
class Written:
    """An analysis and its DICOM objects: SEG (when there is a lesion), SR, page, RTSTRUCT.

    Attributes:
        decisions: all that the SR tells, those of the analysis among them.
    """

    quantified: Quantified
    results: tuple[Result, ...]
    decisions: tuple[Decision, ...] = ()


def write_results(quantified: Quantified, policy: WritePolicy, provenance: Provenance) -> Written:
    """SEG, SR, page and, where the site wants it, RTSTRUCT of one analysis; the same input, the same bytes.

    No lesion gives no SEG and no RTSTRUCT, and an SR and a page that say so.

    Raises:
        UnusableStudyError: the source bears no date.
        ResultMismatchError: what was written is not what was meant; nothing may be sent.
        OSError: the source's header can't be read any more.
    """
    context = open_context(quantified, policy, provenance)
    results: list[Result] = []
    segmentation = write_segmentation(context)
    if segmentation is not None:
        seg = encoded(ResultKind.SEG, segmentation)
        check_segmentation(seg.dataset, context)
        results.append(seg)
    report = encoded(ResultKind.SR, write_report(context, segmentation))
    check_report(report.dataset, segmentation, context)
    results.append(report)
    rgb = draw_page(context)
    page = encoded(ResultKind.PAGE, write_page(context, rgb))
    check_page(page.dataset, rgb, context)
    results.append(page)
    if policy.rtstruct and (structures := write_structure_set(context)) is not None:
        contours = encoded(ResultKind.RTSTRUCT, structures)
        check_structure_set(contours.dataset, context)
        results.append(contours)
    return Written(quantified, tuple(results), context.decisions)
