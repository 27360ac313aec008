"""Notice that an earlier result no longer holds: a short SR that names it as its predecessor, and a page.

What has been sent can't be taken back from a PACS. When a later revision of the study gives no result on a
series (late images brought a conflict to light, say), this notice stands beside the earlier result, so that
nobody takes that for the last word. Patient and study are copied from the withdrawn SR; the page has few
words in large type.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.sr import MeasurementReport, MeasurementsAndQualitativeEvaluations, TrackingIdentifier
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from app.dicom.dicom_file import read_header
from app.dicom.header_values import tolerant
from app.dicom.results.context import (
    RESEARCH_USE,
    anonymous,
    coded,
    copy_header,
    decoded_header,
    equipment,
    plain,
    stamp,
)
from app.dicom.results.page.page import draw_banner, secondary_capture
from app.dicom.results.page.sheet import FAINT, LEFT, RED, RIGHT, Sheet
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import (
    Result,
    ResultMismatchError,
    differing_values,
    encoded,
    store_files,
    texts,
)
from app.dicom.results.report.content import evaluations
from app.dicom.results.report.sr import REPORT_CLASSES, observer, predecessor, private_scheme
from app.dicom.uids import NoticeKind, derived_uid
from app.domain import codes
from app.domain.analysis import Provenance
from app.domain.outcome import EarlierRevisions, StandingResult, StudyOutcome, Withdrawal
from app.domain.study import Code
from app.errors import RetryLaterError
from app.files.outcome import write_outcome

FIRST_LINE, LINE_HEIGHT, LAST_LINE = 190, 30, 820

CHARACTERS = 100


SERIES_AFTER_RESULTS = 4
"""Results take four Series Numbers: SEG, SR, page, RTSTRUCT."""

LONGEST_REASON = 1000
"""Characters of the reason that are written; the whole of it is in the outcome and the audit log."""


def withdraw_unreplaced(
    outcome: StudyOutcome,
    earlier: EarlierRevisions,
    folder: Path,
    policy: WritePolicy,
    provenance: Provenance,
) -> StudyOutcome:
    """The outcome with a notice for every standing result on a series that it gives no result on.

    Two contents of an image prove nothing against a result: it stands until a person has chosen, whoever had
    this content processed. Notices and outcome are in ``folder`` then.

    Raises:
        RetryLaterError: the disk does not take them, or no longer gives the report to be withdrawn.
    """
    replaced = {pair.functional_series_instance_uid for pair in outcome.pairs}
    unreplaced = [
        one for one in earlier.standing if one.report.functional_series_instance_uid not in replaced
    ]
    if not unreplaced:
        return outcome
    notices = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for result in () if outcome.awaits_choice else unreplaced:
            series = result.report.functional_series_instance_uid
            reason = reason_for(series, outcome)
            files = store_files(write_withdrawal(result, reason, policy, provenance), folder)
            notices.append(Withdrawal(series, result.report.revision, reason, files))
        if notices:
            outcome = replace(outcome, withdrawals=tuple(notices))
        else:
            revision = unreplaced[-1].report.revision
            message = f"the result of revision {revision} stands until a person chooses a content"
            outcome = replace(outcome, message=message)
        write_outcome(outcome, folder)
    except OSError as error:
        raise RetryLaterError(f"an earlier result can't be withdrawn: {error.strerror}") from error
    return outcome


def reason_for(functional_series_instance_uid: str, outcome: StudyOutcome) -> str:
    """Why the study gives no result on a series: what was said of it, else of the study."""
    of_series = [r for r in outcome.reasons if r.series_instance_uid == functional_series_instance_uid]
    verdicts = [
        verdict.reason
        for verdict in outcome.verdicts
        if verdict.reason and verdict.series_instance_uid == functional_series_instance_uid
    ]
    found = of_series or verdicts or list(outcome.reasons)
    return "; ".join(dict.fromkeys(map(str, found))) or "the series is no longer part of the study's result"


@dataclass(frozen=True, eq=False)
class _Notice:
    """One withdrawal, ready to be written; ``withdrawn`` is the SR that loses its standing."""

    withdrawn: Dataset
    result: StandingResult
    reason: str
    policy: WritePolicy
    provenance: Provenance

    @property
    def headline(self) -> str:
        """What happens, in one sentence."""
        earlier = self.result.report.revision
        return f"The result of revision {earlier} is withdrawn: do not use it"

    @property
    def acquired(self) -> str:
        """Date of the image, which the withdrawn report bears."""
        return str(self.withdrawn.ContentDate)

    def statements(self) -> tuple[tuple[Code, str], ...]:
        """All that the notice says, with its codes."""
        report, revision = self.result.report, self.provenance.revision
        return (
            (codes.SUMMARY, self.headline),
            (codes.INTENDED_USE, RESEARCH_USE),
            (codes.WITHDRAWN, plain(f"Why: revision {revision} of the study gives none: {self.reason}")),
            (codes.WITHDRAWN, f"SR {report.sop_instance_uid}, with its SEG, RTSTRUCT and page"),
            (codes.INPUT, f"About: series {report.functional_series_instance_uid}, acquired {self.acquired}"),
        )

    def instance(self, kind: NoticeKind) -> dict[str, Any]:
        """highdicom's arguments; UIDs depend on what is withdrawn, by which revision, and why."""
        made_by = self.provenance
        identity = (
            self.result.report.sop_instance_uid, str(made_by.revision), self.reason,
            made_by.software_version, made_by.settings_digest,
        )  # fmt: skip
        number = self.policy.first_series_number + SERIES_AFTER_RESULTS + list(NoticeKind).index(kind)
        what = f"PSMA result of r{self.result.report.revision} withdrawn (research use only)"
        return {
            "series_instance_uid": derived_uid("withdrawal series", kind.value, *identity),
            "sop_instance_uid": derived_uid("withdrawal", kind.value, *identity),
            "series_number": number,
            "series_description": what,
            **equipment(made_by.software_version),
        }


def write_withdrawal(
    result: StandingResult, reason: str, policy: WritePolicy, provenance: Provenance
) -> tuple[Result, Result]:
    """SR and page of a notice; the same input gives the same bytes.

    Args:
        result: what loses its standing.
        reason: why the later revision, whose ``provenance`` it is, gives no result; no patient data.

    Raises:
        ResultMismatchError: what was written is not what was meant.
        OSError: the withdrawn SR can't be read any more.
    """
    reason = reason[:LONGEST_REASON].strip()
    notice = _Notice(decoded_header(result.report_file), result, reason, policy, provenance)
    report = encoded(NoticeKind.SR, _write_report(notice), result.report_file)
    page = encoded(NoticeKind.PAGE, _write_page(notice), result.report_file)
    _check(report.dataset, notice)
    return report, page


def _write_report(notice: _Notice) -> Dataset:
    withdrawn = notice.withdrawn
    evidence = anonymous()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "Modality"):
        setattr(evidence, keyword, withdrawn[keyword].value)
    report = REPORT_CLASSES[notice.policy.sr_class](
        evidence=[evidence],
        content=_content(notice),
        is_complete=True,
        previous_versions=[predecessor(notice.result.report)],
        coding_schemes=[private_scheme()],
        **notice.instance(NoticeKind.SR),
    )
    _finish(report, withdrawn)
    return report


def _content(notice: _Notice) -> MeasurementReport:
    """TID 1500 with its qualitative evaluations alone (row 10): there is nothing to measure."""
    identifier = TrackingIdentifier(uid=derived_uid("not written"), identifier="not written")
    report = MeasurementReport(
        observation_context=observer(notice.provenance.software_version),
        procedure_reported=_procedure(notice.withdrawn),
        imaging_measurements=[MeasurementsAndQualitativeEvaluations(tracking_identifier=identifier)],
        title=coded(codes.IMAGING_MEASUREMENT_REPORT),
    )
    content = report[0].ContentSequence
    del content[-1]  # highdicom insists on measurements
    content.append(evaluations(notice.statements()))
    return report


def _procedure(withdrawn: Dataset) -> Any:
    """The procedure that the withdrawn report names (121058 DCM)."""
    for item in withdrawn.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == "121058":
            found = item.ConceptCodeSequence[0]
            return coded(Code(found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning))
    raise ResultMismatchError("the SR to be withdrawn names no procedure; it is none of ours")


def _write_page(notice: _Notice) -> Dataset:
    rgb = _draw(notice)
    study = str(notice.withdrawn.StudyInstanceUID)
    page = secondary_capture(rgb, study, notice.instance(NoticeKind.PAGE))
    _finish(page, notice.withdrawn)
    page.DateOfSecondaryCapture, page.TimeOfSecondaryCapture = page.ContentDate, page.ContentTime
    if differing_values(page, rgb):
        raise ResultMismatchError("the notice's page is not what was drawn")
    return page


def _draw(notice: _Notice) -> NDArray[np.uint8]:
    """The page, ``(960, 1280, 3)`` uint8 RGB: which result is withdrawn, why, and what it was."""
    statements = [text for code, text in notice.statements() if code is not codes.INTENDED_USE]
    made_by = notice.provenance
    footer = f"Software {made_by.software_version}, settings {made_by.settings_digest[:12]}"
    sheet = Sheet()
    sheet.write(LEFT, 42, "PSMA result withdrawn", fontsize=20, weight="bold")
    sheet.write(RIGHT, 40, RESEARCH_USE, fontsize=15, color=RED, ha="right", weight="bold")
    sheet.rule(82)
    draw_banner(sheet, notice.headline)
    y = FIRST_LINE
    for statement in statements[1:]:
        for line in textwrap.wrap(statement, CHARACTERS):
            if y > LAST_LINE:
                break
            sheet.write(LEFT, y, line, fontsize=15)
            y += LINE_HEIGHT
        y += LINE_HEIGHT // 2
    sheet.rule(868)
    sheet.write(LEFT, 887, f"{footer}, revision {made_by.revision}", fontsize=9.5, color=FAINT)
    return sheet.pixels()


def _finish(result: Any, withdrawn: Dataset) -> None:
    """Patient, study and date are the withdrawn report's."""
    copy_header(result, withdrawn)
    result.StudyInstanceUID = withdrawn.StudyInstanceUID
    # its Content Date is the day of processing; the acquisition's is the series'
    date, time = DA(withdrawn.SeriesDate), TM(withdrawn.SeriesTime)
    if date is None or time is None:
        raise ResultMismatchError("the SR to be withdrawn bears no date; it is none of ours")
    stamp(result, datetime.combine(date, time))


def _check(report: Dataset, notice: _Notice) -> None:
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    if named.ReferencedSOPInstanceUID != notice.result.report.sop_instance_uid:
        raise ResultMismatchError("the notice names another report than the one to be withdrawn")
    meant = [(code.value, text) for code, text in notice.statements()]
    if [statement for statement in texts(report) if statement in meant] != meant:
        raise ResultMismatchError("the notice does not say what was meant")
    with tolerant():
        withdrawn = read_header(notice.result.report_file)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        with tolerant():
            if str(report.get(keyword) or "") != str(withdrawn.get(keyword) or ""):
                raise ResultMismatchError(f"{keyword} of the notice is not the withdrawn report's")
