"""A notice of withdrawal: names what it withdraws and why, for the same patient, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.dicom.results.policy import SrClass, WritePolicy
from app.dicom.results.read_back import Result, texts
from app.dicom.results.withdrawal import withdraw_unreplaced, write_withdrawal
from app.dicom.results.writer import write_results
from app.dicom.uids import NoticeKind, ResultKind
from app.domain.analysis import SupersededReport
from app.domain.outcome import EarlierRevisions, StandingResult, Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import SeriesVerdict
from app.files.outcome import read_outcome
from tests.dicom.results import sources
from tests.dicom.results.conformance import errors_of
from tests.dicom.results.sources import PROVENANCE, PatientHeader

SECOND = replace(PROVENANCE, revision=2)
REASON = "[slice-gap] found a step of 9 mm, expected 3 mm"


def standing(folder: Path, patient: PatientHeader | None = None) -> StandingResult:
    """The first revision's SR, on disk."""
    quantified = sources.pet(folder / "source", patient=patient)
    results = write_results(quantified, WritePolicy(), PROVENANCE).results
    report = next(result for result in results if result.kind is ResultKind.SR)
    file = folder / report.file_name
    file.write_bytes(report.content)
    uids = (report.dataset[f"{what}UID"].value for what in ("StudyInstance", "SeriesInstance"))
    sop = (report.dataset.SOPClassUID, report.dataset.SOPInstanceUID)
    return StandingResult(SupersededReport(*uids, *sop, 1, f"{sources.ROOT}.3"), file)


@pytest.fixture(scope="module")
def withdrawn(tmp_path_factory: pytest.TempPathFactory) -> StandingResult:
    return standing(tmp_path_factory.mktemp("pet"))


@pytest.fixture(scope="module")
def notice(withdrawn: StandingResult) -> tuple[Result, Result]:
    return write_withdrawal(withdrawn, REASON, WritePolicy(), SECOND)


def test_it_names_the_withdrawn_report_as_its_predecessor(
    withdrawn: StandingResult, notice: tuple[Result, Result]
) -> None:
    report = notice[0].dataset
    series = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == withdrawn.report.sop_instance_uid
    assert report.StudyInstanceUID == withdrawn.report.study_instance_uid


def test_it_says_that_the_result_is_withdrawn_and_why(notice: tuple[Result, Result]) -> None:
    report, page = (result.dataset for result in notice)
    said = [text for _, text in texts(report)]
    assert "The result of revision 1 is withdrawn: do not use it" in said
    assert f"Why: revision 2 of the study gives none: {REASON}" in said
    for dataset in (report, page):
        assert dataset.SeriesDescription == "PSMA result of r1 withdrawn (research use only)"
        assert dataset.PatientName == "Zorn^Alfred"
        assert dataset.ContentDate == "20260304"


@pytest.mark.parametrize("sr_class", list(SrClass))
def test_dciodvfy_finds_no_error(withdrawn: StandingResult, sr_class: SrClass, tmp_path: Path) -> None:
    policy = WritePolicy(sr_class=sr_class)
    for result in write_withdrawal(withdrawn, REASON, policy, SECOND):
        assert errors_of(result.content, tmp_path) == []


def test_the_same_notice_again_is_the_same_bytes(
    withdrawn: StandingResult, notice: tuple[Result, Result]
) -> None:
    again = write_withdrawal(withdrawn, REASON, WritePolicy(), SECOND)
    assert [result.content for result in again] == [result.content for result in notice]


def test_another_revision_or_reason_is_another_notice(
    withdrawn: StandingResult, notice: tuple[Result, Result]
) -> None:
    policy = WritePolicy()
    others = (
        write_withdrawal(withdrawn, REASON, policy, replace(SECOND, revision=3)),
        write_withdrawal(withdrawn, "another reason", policy, SECOND),
    )
    made = [result for pair in (notice, *others) for result in pair]
    assert len({result.dataset.SOPInstanceUID for result in made}) == len(made)
    assert {result.kind for result in made} == set(NoticeKind)


def test_the_page_bears_the_banner(notice: tuple[Result, Result]) -> None:
    band = notice[1].dataset.pixel_array[86:88].reshape(-1, 3)
    assert (band == (179, 71, 0)).all(axis=1).mean() > 0.9
    assert np.unique(notice[1].dataset.pixel_array).size > 2


@pytest.mark.parametrize(
    ("name", "character_set"), [("Παπαδόπουλος^Νίκος", "ISO_IR 126"), ("Müller^Jörg", "ISO_IR 192")]
)
def test_names_in_any_character_set_are_kept(tmp_path: Path, name: str, character_set: str) -> None:
    result = standing(tmp_path, PatientHeader(name, character_set))
    for written in write_withdrawal(result, REASON, WritePolicy(), SECOND):
        assert written.dataset.PatientName == name
        assert written.dataset.SpecificCharacterSet == character_set


def test_a_reason_of_any_length_is_written(withdrawn: StandingResult) -> None:
    report, _ = write_withdrawal(withdrawn, "[slice-gap] found – " * 400, WritePolicy(), SECOND)
    assert any(text.startswith("Why: revision 2") for _, text in texts(report.dataset))


@pytest.mark.parametrize("place", ["reasons", "verdicts"])
def test_two_contents_of_an_image_withdraw_nothing(
    withdrawn: StandingResult, tmp_path: Path, place: str
) -> None:
    two = Reason(RefusalCode.CONFLICTING_DUPLICATE, "SOPInstanceUID", "2 UIDs with two contents", "one")
    facts = {"reasons": (two,), "verdicts": (SeriesVerdict("1.2", "CT", "", "", two),)}
    outcome = StudyOutcome(withdrawn.report.study_instance_uid, Status.REJECTED, **{place: facts[place]})  # type: ignore[arg-type]
    earlier = EarlierRevisions((withdrawn.report,), (withdrawn,))
    found = withdraw_unreplaced(outcome, earlier, tmp_path / "out", WritePolicy(), SECOND)
    assert found.files == ()
    assert found.message == "the result of revision 1 stands until a person chooses a content"
    assert read_outcome(tmp_path / "out") == found
    gap = replace(outcome, reasons=(replace(two, code=RefusalCode.SLICE_GAP),), verdicts=())
    told = withdraw_unreplaced(gap, earlier, tmp_path / "gap", WritePolicy(), SECOND)
    assert [notice.revision for notice in told.withdrawals] == [1]
