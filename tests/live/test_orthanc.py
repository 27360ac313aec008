"""The node between DCMTK, which sends, and a live Orthanc, which archives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import highdicom as hd
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from app.demo.node import send_images, study_instance_uid
from app.demo.results import (
    StudyResults,
    algorithm_name,
    fetch_results,
    find_series,
    get_series,
    read_labels,
    reported_lesions,
    result_series,
    statements,
)
from app.demo.story import compare
from app.domain.codes import PRIOR
from app.phantom.acquisition import Acquisition
from tests.live.conftest import Case, Hospital

DCIODVFY = Path(sys.executable).with_name("dciodvfy")
SCANS = ("pet", "spect")


@pytest.fixture(params=SCANS)
def scan(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def results_of(scan: str, hospital: Hospital, case: Case) -> StudyResults:
    """The PET/CT always comes first, as it does in the clinic, whichever test is run."""
    pet = hospital.results_of(case.written.pet.images)
    return pet if scan == "pet" else hospital.results_of(case.written.spect.images)


def acquisition(scan: str, case: Case) -> Acquisition:
    return case.patient.pet if scan == "pet" else case.patient.spect


def test_results_are_found_by_query_beside_the_images(hospital: Hospital, followed: Case, scan: str) -> None:
    results_of(scan, hospital, followed)
    images = getattr(followed.written, scan).images
    found = find_series(hospital.pacs, study_instance_uid(images))
    # the images themselves went to the node alone: the PACS has the results under the images' study
    assert sorted(series.modality for series in found) == ["OT", "SEG", "SR"]


def test_results_belong_to_the_patient_and_study_of_the_images(
    hospital: Hospital, followed: Case, scan: str
) -> None:
    results = results_of(scan, hospital, followed)
    source = dcmread(getattr(followed.written, scan).functional[0], stop_before_pixels=True)
    for result in (results.segmentation, results.report, results.page):
        assert result is not None
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
            assert result.get(keyword) == source.get(keyword), keyword
    assert results.segmentation is not None
    assert results.segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID


def test_segments_and_measurements_speak_of_the_same_lesions(
    hospital: Hospital, followed: Case, scan: str
) -> None:
    results = results_of(scan, hospital, followed)
    assert results.segmentation is not None
    segmentation = hd.seg.Segmentation.from_dataset(results.segmentation)
    report = hd.sr.Comprehensive3DSR.from_dataset(results.report)
    assert segmentation.SOPClassUID == SegmentationStorage
    assert report.SOPClassUID == Comprehensive3DSRStorage

    grid = acquisition(scan, followed).functional.grid
    labels = read_labels(results.segmentation, grid)
    lesions = {item.tracking_identifier: item.numbers for item in reported_lesions(results.report)}
    whole_body = lesions.pop("Whole body")
    tracked = [str(item.TrackingID) for item in segmentation.SegmentSequence]
    assert list(lesions) == tracked
    assert whole_body["Number of lesions"][0] == len(tracked) == labels.count
    for number, name in enumerate(tracked, start=1):
        volume_ml = int((labels.array == number).sum()) * grid.voxel_ml
        assert lesions[name]["Volume"] == (pytest.approx(volume_ml, rel=1e-4), "ml")


def test_lesions_found_are_lesions_of_the_patient(hospital: Hospital, followed: Case, scan: str) -> None:
    results = results_of(scan, hospital, followed)
    truth = acquisition(scan, followed).truth
    comparison = compare(truth, read_labels(results.segmentation, truth.grid))
    assert comparison.hit_count >= comparison.true_count / 2
    # the shipped models are small; this asks only that left, right, up and down are where they should be
    assert comparison.dice is not None
    assert comparison.dice > 0.3


def test_every_result_conforms_to_the_standard(
    hospital: Hospital, followed: Case, scan: str, tmp_path: Path
) -> None:
    results = results_of(scan, hospital, followed)
    for name in ("segmentation", "report", "page"):
        assert dciodvfy_errors(getattr(results, name), tmp_path / f"{name}.dcm") == []


def dciodvfy_errors(dataset: Dataset, path: Path) -> list[str]:
    dataset.save_as(path, enforce_file_format=True)
    done = subprocess.run([str(DCIODVFY), str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line and not line.startswith(("Error", "Warning")) for line in lines), "dciodvfy said nothing"
    return [line for line in lines if line.startswith("Error")]


def test_the_spect_ct_is_segmented_with_the_earlier_pet_as_prior(hospital: Hospital, followed: Case) -> None:
    pet = results_of("pet", hospital, followed)
    spect = results_of("spect", hospital, followed)
    assert algorithm_name(pet.report).startswith("M1 ")
    assert algorithm_name(spect.report).startswith("M4 ")
    (prior,) = [item.text for item in statements(spect.report) if item.about == PRIOR.meaning]
    assert pet.segmentation is not None
    assert str(pet.segmentation.SOPInstanceUID) in prior


def test_a_resend_changes_nothing(hospital: Hospital, followed: Case) -> None:
    before = results_of("spect", hospital, followed)
    images = followed.written.spect.images
    send_images(tuple(reversed(images)), hospital.node.port)
    hospital.wait_until_done(study_instance_uid(images))
    after = fetch_results(hospital.pacs, study_instance_uid(images))
    assert after.report.SOPInstanceUID == before.report.SOPInstanceUID
    assert len(find_series(hospital.pacs, study_instance_uid(images))) == 3


def test_results_arrive_once_after_the_node_was_killed_while_it_worked(
    hospital: Hospital, stranger: Case
) -> None:
    images = stranger.written.spect.images
    study_uid = study_instance_uid(images)
    send_images(images, hospital.node.port)
    hospital.wait_for(study_uid, lambda status: status.state == "running")
    hospital.node.kill()
    assert result_series(hospital.pacs, study_uid) == {}

    hospital.node.start()
    hospital.wait_until_done(study_uid)
    assert_arrived_once(hospital, study_uid)
    report = fetch_results(hospital.pacs, study_uid).report
    assert algorithm_name(report).startswith("M2 ")  # no PET/CT of this patient was ever here


def test_results_arrive_once_after_the_pacs_was_down(hospital: Hospital, stranger: Case) -> None:
    images = stranger.written.pet.images
    study_uid = study_instance_uid(images)
    hospital.pacs.stop()
    send_images(images, hospital.node.port)
    hospital.wait_for(study_uid, lambda status: status.state == "delivering")
    hospital.node.kill()  # and while it waits for the PACS, the node's power fails too
    hospital.node.start()
    # an attempt has to fail first; before that the reason only counts what is acknowledged
    waiting = hospital.wait_for(study_uid, lambda status: "reached" in status.reason)
    assert waiting.state == "delivering"

    hospital.pacs.start()
    hospital.wait_until_done(study_uid)
    assert_arrived_once(hospital, study_uid)


def assert_arrived_once(hospital: Hospital, study_uid: str) -> None:
    found = find_series(hospital.pacs, study_uid)
    assert sorted(series.modality for series in found) in (["OT", "SR"], ["OT", "SEG", "SR"])
    for series in found:
        assert len(get_series(hospital.pacs, study_uid, series.series_instance_uid)) == 1
