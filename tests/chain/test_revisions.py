"""A later revision replaces the earlier result, or withdraws it where it gives none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest

from app.dicom.results.withdrawal import reason_for
from app.domain.analysis import SupersededReport
from app.domain.outcome import EarlierRevisions, PairOutcome, RunContext, StandingResult, Status, StudyOutcome
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import SeriesVerdict
from app.errors import UnusableStudyError
from app.files.outcome import read_outcome
from app.phantom.dicom.writer import WrittenPatient
from app.settings import Settings
from tests.chain.conftest import processor


def earlier_of(folder: Path, pair: PairOutcome) -> EarlierRevisions:
    """What a node knows of a first revision in ``folder``."""
    report = next(file for file in pair.files if file.kind == "SR")
    study = str(pydicom.dcmread(folder / report.path, stop_before_pixels=True).StudyInstanceUID)
    series = pair.functional_series_instance_uid
    word = SupersededReport(
        study, report.series_instance_uid, report.sop_class_uid, report.sop_instance_uid, 1, series
    )
    return EarlierRevisions((word,), (StandingResult(word, folder / report.path),))


def predecessor_of(report: Path) -> str:
    dataset = pydicom.dcmread(report)
    series = dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def test_a_second_result_replaces_and_a_third_content_without_result_withdraws(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    worker = processor(settings)
    first, second, third = (tmp_path / name for name in ("r1", "r2", "r3"))
    [pair] = worker.process(patient.spect.images, first, 1).pairs

    outcome = worker.process(patient.spect.images, second, 2, earlier_of(first, pair))
    [replacing] = outcome.pairs
    files = {file.kind: file for file in replacing.files}
    assert outcome.withdrawals == ()
    assert predecessor_of(second / files["SR"].path) == earlier_of(first, pair).last_words[0].sop_instance_uid

    without_ct = worker.process(patient.spect.functional, third, 3, earlier_of(second, replacing))
    assert without_ct.status is Status.REJECTED
    [notice] = without_ct.withdrawals
    assert "no-ct" in notice.reason
    assert predecessor_of(third / notice.files[0].path) == files["SR"].sop_instance_uid
    assert read_outcome(third) == without_ct
    assert {path.name for path in third.glob("*.dcm")} == {file.path for file in without_ct.files}


def test_a_study_that_can_no_longer_be_read_withdraws_its_result_too(
    patient: WrittenPatient, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(paths: Sequence[Path]) -> object:
        raise UnusableStudyError(Reason(RefusalCode.UNREADABLE, "StudyInstanceUID", "two", "one"))

    worker = processor(settings)
    [pair] = worker.process(patient.spect.images, tmp_path / "r1", 1).pairs
    monkeypatch.setattr("app.chain.headers.read_study", unreadable)
    with pytest.raises(UnusableStudyError):
        worker.process(patient.spect.images, tmp_path / "alone", 1, EarlierRevisions())
    outcome = worker.process(patient.spect.images, tmp_path / "r2", 2, earlier_of(tmp_path / "r1", pair))
    assert outcome.status is Status.REJECTED
    assert [notice.revision for notice in outcome.withdrawals] == [1]
    assert "unreadable" in outcome.withdrawals[0].reason


def test_a_ct_of_the_same_space_in_another_study_is_named(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    ct = pydicom.dcmread(patient.spect.ct[0])
    ct.StudyInstanceUID = "1.2.99"
    ct.save_as(tmp_path / "ct.dcm")
    context = RunContext(other_cts=(tmp_path / "ct.dcm", tmp_path / "gone.dcm"))
    outcome = processor(settings).process(patient.spect.functional, tmp_path / "out", 1, context=context)
    [reason] = outcome.reasons
    assert reason.code is RefusalCode.NO_CT
    assert f"lies CT series {ct.SeriesInstanceUID} of study 1.2.99" in reason.found


def test_the_reason_is_the_series_own_where_there_is_one() -> None:
    def reason(series: str) -> Reason:
        return Reason(RefusalCode.SLICE_GAP, "", "a gap", "none", series_instance_uid=series)

    verdicts = (SeriesVerdict("1.3", "PT", "", "", reason("1.3")),)
    outcome = StudyOutcome("1", Status.DONE, (reason("1.2"), reason("")), (), verdicts)
    assert reason_for("1.2", outcome) == str(reason("1.2"))
    assert reason_for("1.3", outcome) == str(reason("1.3"))
    assert reason_for("1.4", outcome) == str(reason(""))
    assert reason_for("1.4", SimpleNamespace(reasons=(), verdicts=())).startswith("the series is no longer")  # type: ignore[arg-type]  # the two fields that are read
