"""The PACS of demo and live tests: Orthanc and the small archive are interchangeable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import SecondaryCaptureImageStorage

from app.demo.pacs import PACS_AE_TITLE, Orthanc, Pacs, SmallArchive, choose_pacs, orthanc_program, running
from app.demo.processes import LOOPBACK, free_port, is_listening
from app.demo.results import VIEWER_AE_TITLE, find_series, get_series
from app.errors import RetryLaterError

SENDER = "SENDER"
PEERS = {VIEWER_AE_TITLE: 11111, SENDER: 11112}


def picture(study: str, series: str, grey: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[study, series, str(grey)])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.Modality, dataset.SeriesDescription = "NOBODY", "OT", "grey"
    dataset.Rows = dataset.Columns = 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes([grey] * 4)
    return dataset


def store(pacs: Pacs, *datasets: Dataset) -> list[int]:
    entity = AE(ae_title=SENDER)
    entity.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    association = entity.associate(LOOPBACK, pacs.port, ae_title=pacs.ae_title)
    assert association.is_established
    statuses = [association.send_c_store(dataset).Status for dataset in datasets]
    association.release()
    return statuses


@pytest.fixture(params=["small archive", "Orthanc"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pacs]:
    if request.param == "Orthanc" and orthanc_program() is None:
        pytest.fail("Orthanc is not installed: run scripts/install-peers")
    folder = tmp_path / "pacs"
    makers = {
        "small archive": lambda: SmallArchive(folder, PACS_AE_TITLE, free_port()),
        "Orthanc": lambda: Orthanc(folder, PACS_AE_TITLE, free_port(), PEERS),
    }
    with running(makers[request.param]()) as started:
        yield started


def test_what_was_stored_is_found_by_study_and_given_back_unchanged(pacs: Pacs) -> None:
    study, first, second = (generate_uid(entropy_srcs=[name]) for name in ("study", "first", "second"))
    elsewhere = generate_uid(entropy_srcs=["elsewhere"])
    sent = [picture(study, first, 1), picture(study, first, 2), picture(study, second, 3)]
    assert store(pacs, *sent, picture(elsewhere, generate_uid(entropy_srcs=["third"]), 4)) == [0, 0, 0, 0]

    series = find_series(pacs, study)
    assert {(item.series_instance_uid, item.modality, item.description) for item in series} == {
        (first, "OT", "grey"),
        (second, "OT", "grey"),
    }
    received = get_series(pacs, study, first)
    assert {str(item.SOPInstanceUID): item.PixelData for item in received} == {
        str(item.SOPInstanceUID): item.PixelData for item in sent[:2]
    }


def test_what_was_stored_is_there_after_a_restart(pacs: Pacs) -> None:
    study = generate_uid(entropy_srcs=["restart"])
    store(pacs, picture(study, generate_uid(entropy_srcs=["series"]), 9))
    pacs.stop()
    assert not is_listening(pacs.port)
    with pytest.raises(RetryLaterError):
        find_series(pacs, study)
    pacs.start()
    assert len(find_series(pacs, study)) == 1


def test_without_orthanc_the_small_archive_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.demo.pacs.orthanc_program", lambda: None)
    assert isinstance(choose_pacs(tmp_path, PEERS), SmallArchive)
