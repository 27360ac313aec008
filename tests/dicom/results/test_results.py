"""The whole set: repeatable, conformant, faithful to the source, and never sent when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from app.dicom.results import writer
from app.dicom.results.context import open_context
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import Result, ResultMismatchError, check_report, check_segmentation, parse
from app.dicom.results.report.sr import write_report
from app.dicom.results.seg import write_segmentation
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import Quantified
from app.domain.volume import LabelMap
from app.errors import UnusableStudyError
from tests.dicom.results import sources
from tests.dicom.results.conformance import errors_of
from tests.dicom.results.sources import PROVENANCE, PatientHeader

Make = Callable[..., Quantified]
SOURCES: dict[str, Make] = {
    "PET": sources.pet,
    "NM": sources.spect,
    "SPECT as PT": sources.spect_as_pt,
}


@pytest.fixture(scope="module", params=list(SOURCES))
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, ...]:
    """SEG, SR and page of each kind of source."""
    quantified = SOURCES[request.param](tmp_path_factory.mktemp("source"))
    return write_results(quantified, WritePolicy(), PROVENANCE).results


@pytest.fixture(scope="module")
def pet(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.pet(tmp_path_factory.mktemp("pet"))


def test_an_analysis_gives_seg_sr_and_page(results: tuple[Result, ...]) -> None:
    assert [result.kind for result in results] == [ResultKind.SEG, ResultKind.SR, ResultKind.PAGE]
    assert len({result.dataset.SeriesInstanceUID for result in results}) == 3
    for result in results:
        assert result.file_name == f"{result.kind}.{result.dataset.SOPInstanceUID}.dcm"


@pytest.mark.parametrize("kind", [ResultKind.SEG, ResultKind.SR, ResultKind.PAGE])
def test_dciodvfy_finds_no_error(results: tuple[Result, ...], kind: ResultKind, tmp_path: Path) -> None:
    _assert_conformant(next(r.content for r in results if r.kind is kind), tmp_path)


def test_an_empty_result_is_conformant_and_has_no_seg(pet: Quantified, tmp_path: Path) -> None:
    written = write_results(sources.without_lesions(pet), WritePolicy(), PROVENANCE).results
    assert [result.kind for result in written] == [ResultKind.SR, ResultKind.PAGE]
    for result in written:
        _assert_conformant(result.content, tmp_path)


def test_the_same_input_gives_the_same_bytes(pet: Quantified, tmp_path: Path) -> None:
    first = write_results(pet, WritePolicy(), PROVENANCE).results
    again = write_results(sources.pet(tmp_path), WritePolicy(), PROVENANCE).results
    assert [result.content for result in first] == [result.content for result in again]


def test_dates_are_the_acquisitions_and_nothing_is_of_today(results: tuple[Result, ...]) -> None:
    for result in results:
        dates = {
            str(e.value) for e in result.dataset.iterall() if e.VR == "DA" and e.keyword != "PatientBirthDate"
        }
        assert dates == {"20260304"}
        assert not any(e.VR == "DT" for e in result.dataset.iterall())
        assert str(result.dataset.ContentTime) == "093000.250000"


def test_patient_and_study_are_the_sources(results: tuple[Result, ...]) -> None:
    for result in results:
        dataset = result.dataset
        assert dataset.PatientName == "Zorn^Alfred"
        assert dataset.PatientWeight == 81.5
        assert (dataset.PatientID, dataset.PatientSex, dataset.AccessionNumber) == ("P1", "M", "A1")
        assert dataset.StudyDescription == "PSMA"
        assert dataset.ReferringPhysicianName == "Ref^Erring"
        assert "research use only" in dataset.SeriesDescription


@pytest.mark.parametrize(
    ("name", "character_set"),
    [
        ("Müller^Jörg", "ISO_IR 100"),
        ("Müller^Jörg", "ISO_IR 192"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
        ("Παπαδόπουλος^Νίκος", "ISO_IR 126"),
        ("Иванов^Иван", "ISO_IR 144"),
    ],
)
def test_names_in_any_character_set_are_kept(
    tmp_path: Path, name: str, character_set: str | list[str]
) -> None:
    quantified = sources.pet(tmp_path, patient=PatientHeader(name, character_set))
    context = open_context(quantified, WritePolicy(), PROVENANCE)
    segmentation = write_segmentation(context)
    for dataset in (segmentation, write_report(context, segmentation)):
        assert dataset is not None
        read = parse(sources.as_bytes(dataset))
        assert read.PatientName == name
        assert read.SpecificCharacterSet == character_set


@pytest.mark.parametrize("sex", ["", "U", "O"])
def test_an_odd_sex_is_copied_as_it_is(tmp_path: Path, sex: str) -> None:
    context = open_context(sources.pet(tmp_path, patient=PatientHeader(sex=sex)), WritePolicy(), PROVENANCE)
    segmentation = write_segmentation(context)
    assert segmentation is not None
    assert segmentation.PatientSex == sex


def test_a_name_that_highdicom_finds_odd_is_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantified = sources.pet(tmp_path, patient=PatientHeader(name="Just a name"))
    with caplog.at_level("DEBUG"):
        write_results(quantified, WritePolicy(), PROVENANCE)
    assert "Just a name" not in caplog.text


def test_a_source_without_any_date_is_refused_by_attribute(pet: Quantified) -> None:
    loaded = pet.segmented.aligned.loaded
    functional = loaded.selection.functional
    first = next(i for i in functional.instances if i.sop_instance_uid == loaded.slice_sop_instance_uids[0])
    _change_on_disk(first.path, SeriesDate="", StudyDate="")
    try:
        with pytest.raises(UnusableStudyError, match="SeriesDate"):
            write_results(pet, WritePolicy(), PROVENANCE)
    finally:
        _change_on_disk(first.path, SeriesDate="20260304", StudyDate="20260304")


def test_a_seg_with_a_voxel_too_few_is_noticed(pet: Quantified) -> None:
    context = open_context(pet, WritePolicy(), PROVENANCE)
    fewer = np.where(
        np.cumsum(pet.segmented.labels.array.ravel() > 0) == 1, 0, pet.segmented.labels.array.ravel()
    )
    labels = LabelMap(fewer.reshape(pet.segmented.labels.array.shape), pet.segmented.labels.grid)
    other = replace(context, quantified=replace(pet, segmented=replace(pet.segmented, labels=labels)))
    segmentation = write_segmentation(other)
    assert segmentation is not None
    with pytest.raises(ResultMismatchError, match="voxels that differ in the SEG: found 1"):
        check_segmentation(segmentation, context)


def test_a_report_with_another_number_is_noticed(pet: Quantified) -> None:
    context = open_context(pet, WritePolicy(), PROVENANCE)
    lesions = (replace(pet.findings.lesions[0], suv_max=99.0), *pet.findings.lesions[1:])
    other = replace(context, quantified=replace(pet, findings=replace(pet.findings, lesions=lesions)))
    segmentation = write_segmentation(context)
    with pytest.raises(ResultMismatchError, match="numbers in the SR"):
        check_report(write_report(other, segmentation), segmentation, context)


def test_a_report_that_cites_what_its_evidence_lacks_is_not_sent(
    pet: Quantified, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*arguments: Any) -> Dataset:
        report = write_report(*arguments)
        series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[-2]
        unlisted.append(series.ReferencedSOPSequence.pop().ReferencedSOPInstanceUID)
        return report

    unlisted: list[str] = []
    monkeypatch.setattr(writer, "write_report", short)
    with pytest.raises(ResultMismatchError, match="cites without evidence") as raised:
        write_results(pet, WritePolicy(), PROVENANCE)
    assert unlisted[0] in str(raised.value)


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID"])
def test_a_result_of_another_patient_is_noticed_and_not_named(pet: Quantified, keyword: str) -> None:
    context = open_context(pet, WritePolicy(), PROVENANCE)
    segmentation = write_segmentation(context)
    assert segmentation is not None
    setattr(segmentation, keyword, "Somebody")
    with pytest.raises(ResultMismatchError, match=keyword) as raised:
        check_segmentation(segmentation, context)
    assert "Somebody" not in str(raised.value)


def test_nothing_is_returned_when_a_writer_errs(pet: Quantified, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*arguments: Any) -> Dataset:
        page = genuine(*arguments)
        page.PixelData = b"\xff" + page.PixelData[1:-1] + b"\x00"
        return page

    genuine = writer.write_page
    monkeypatch.setattr(writer, "write_page", damaged)
    with pytest.raises(ResultMismatchError, match="pixel values that differ"):
        write_results(pet, WritePolicy(), PROVENANCE)


def _assert_conformant(content: bytes, folder: Path) -> None:
    assert errors_of(content, folder) == []


def _change_on_disk(path: Path, **values: str) -> None:
    dataset = parse(path.read_bytes())
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    path.write_bytes(sources.as_bytes(dataset))
