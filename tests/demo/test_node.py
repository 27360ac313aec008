"""Sending: what was not acknowledged was not sent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import evt

from app.demo.node import NODE_AE_TITLE, send_images, study_instance_uid
from app.demo.pacs import SmallArchive, running
from app.demo.processes import free_port
from app.demo.results import find_series
from app.errors import RetryLaterError

STUDY = generate_uid(entropy_srcs=["study"])


class FullArchive(SmallArchive):
    """Its disk is full."""

    def _store(self, event: evt.Event) -> int:
        return 0xA700


@pytest.fixture(params=["dcmsend", "own sender"])
def sender(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "own sender":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    elif shutil.which("dcmsend") is None:
        pytest.fail("DCMTK is not installed: run scripts/install-peers")
    return str(request.param)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [write_picture(tmp_path / f"{number}.dcm", STUDY, number) for number in range(3)]


def write_picture(path: Path, study: str, number: int) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[study, str(number)])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, generate_uid(entropy_srcs=[study])
    dataset.PatientID, dataset.Modality = "NOBODY", "OT"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_every_image_arrives(sender: str, images: list[Path], tmp_path: Path) -> None:
    with running(SmallArchive(tmp_path / "archive", NODE_AE_TITLE, free_port())) as archive:
        send_images(images, archive.port)
        assert len(find_series(archive, STUDY)) == 1
        assert len(list((tmp_path / "archive").iterdir())) == 3


def test_an_image_that_is_refused_is_an_error(sender: str, images: list[Path], tmp_path: Path) -> None:
    with (
        running(FullArchive(tmp_path / "archive", NODE_AE_TITLE, free_port())) as archive,
        pytest.raises(RetryLaterError),
    ):
        send_images(images, archive.port)


def test_images_of_one_study_name_it(images: list[Path], tmp_path: Path) -> None:
    assert study_instance_uid(images) == STUDY
    stranger = write_picture(tmp_path / "stranger.dcm", generate_uid(entropy_srcs=["other"]), 1)
    with pytest.raises(ValueError, match="2 studies"):
        study_instance_uid([*images, stranger])
