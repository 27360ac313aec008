"""Studies from folders of any files."""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from app.dicom.dicom_file import read_with_pixels
from app.dicom.reading.studies import read_studies, read_study
from app.domain.refusal import RefusalCode
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from app.domain.study import Study
from app.errors import UnusableStudyError
from tests.dicom.reading import tiny


def without_paths(study: Study) -> str:
    return repr(
        [(s.series_instance_uid, [i.sop_instance_uid for i in s.instances], s.faults) for s in study.series]
    )


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(6)))
def test_names_order_and_nesting_of_files_make_no_difference(tmp_path: Path, order: list[int]) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    paths = tiny.write_pet(tmp_path / "a", tiny.Scan(tiny.ramp()))
    expected = read_study(tmp_path)
    tiny.rename(paths, order)
    (tmp_path / "b" / "c").mkdir(parents=True)
    for path in list((tmp_path / "a").iterdir())[:3]:
        path.rename(tmp_path / "b" / "c" / path.name)
    assert without_paths(read_study(tmp_path)) == without_paths(expected)
    assert without_paths(read_study(path for path in tmp_path.rglob("image*"))) == without_paths(expected)


def test_an_exact_duplicate_counts_once_whatever_its_file_meta(tmp_path: Path) -> None:
    paths = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp()))
    again = dcmread(paths[0])
    again.file_meta.SourceApplicationEntityTitle = "OTHER"
    again.save_as(tmp_path / "again")
    (series,) = read_study(tmp_path).series
    assert len(series.instances) == 6
    assert series.faults == ()


def test_other_content_under_the_same_uid_is_a_fault_of_the_series(tmp_path: Path) -> None:
    paths = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp()))
    other = dcmread(paths[0])
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "other")
    (series,) = read_study(tmp_path).series
    assert [fault.code for fault in series.faults] == [RefusalCode.CONFLICTING_DUPLICATE]
    assert len(series.instances) == 6


def test_images_that_contradict_their_series_are_a_fault_that_names_the_attribute(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        if index == 3:
            dataset.Units = "CNTS"
            dataset.FrameOfReferenceUID = "1.2.4"

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    (series,) = read_study(tmp_path).series
    assert {fault.attribute for fault in series.faults} == {"Units", "FrameOfReferenceUID"}


def test_two_patients_in_one_study_are_a_fault_that_names_neither(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        if index == 3:
            dataset.PatientID = "SOMEBODY ELSE"

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    study = read_study(tmp_path)
    assert study.series[0].faults[0].attribute == "PatientID"
    assert "SOMEBODY" not in repr(study)


def test_files_that_are_no_dicom_are_named_by_their_relative_path(tmp_path: Path) -> None:
    tiny.write_pet(tmp_path / "pet", tiny.Scan(tiny.ramp()))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no image", encoding="utf-8")
    (tmp_path / "empty").write_bytes(b"")
    reading = read_studies(tmp_path)
    assert len(reading.studies) == 1
    assert sorted(reason.found.split(":")[0] for reason in reading.unreadable) == [
        "empty",
        "notes/readme.txt",
    ]
    assert str(tmp_path) not in str(reading.unreadable)


def test_a_named_pipe_does_not_hold_the_reader_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_studies(tmp_path).studies == ()


def test_linked_folders_are_read_too_each_once_even_in_a_ring(tmp_path: Path) -> None:
    tiny.write_pet(tmp_path / "elsewhere" / "pet", tiny.Scan(tiny.ramp()))
    source = tmp_path / "in"
    (source / "nested").mkdir(parents=True)
    (source / "nested" / "pet").symlink_to(tmp_path / "elsewhere" / "pet", target_is_directory=True)
    (source / "again").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (source / "nested" / "up").symlink_to(source, target_is_directory=True)
    (source / "itself").symlink_to(source / "itself")
    reading = read_studies(source)
    [series] = reading.studies[0].series
    assert len(series.instances) == 6
    assert [reason.found.split(":")[0] for reason in reading.unreadable] == ["itself"]


def test_a_link_to_nothing_is_reported_and_one_to_a_named_pipe_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "ct").symlink_to(tmp_path / "unmounted", target_is_directory=True)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    [reason] = read_studies(tmp_path).unreadable
    assert reason.found.startswith("ct: ")


def test_malformed_values_are_as_good_as_absent(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.add_new("SeriesTime", "SH", "half past two")
        dataset.add_new("ImagePositionPatient", "LO", ["a", "b", "c"])
        dataset.add_new("Rows", "LO", "many")

    tiny.write_ct(tmp_path, tiny.Scan(tiny.ramp(), change=lambda dataset, index: None))
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        change(dataset, 0)
        dataset.save_as(path)
    (series,) = read_study(tmp_path).series
    assert series.series_datetime is None
    assert series.instances[0].image_position_mm is None
    assert series.instances[0].rows is None


def test_a_series_was_acquired_when_its_first_instance_was(tmp_path: Path) -> None:
    """However acquisition is written, and whenever a workstation processed it."""

    def change(dataset: Dataset, index: int) -> None:
        dataset.SeriesDate = "20260302"
        dataset.AcquisitionTime = f"1{index}0000"
        if index == 0:
            del dataset.AcquisitionDate, dataset.AcquisitionTime
            dataset.TimezoneOffsetFromUTC = "+0100"
            dataset.AcquisitionDateTime = "20260301085000+0000"

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    (series,) = read_study(tmp_path).series
    assert series.acquired_at == series.when == datetime(2026, 3, 1, 9, 50)
    assert series.series_datetime == datetime(2026, 3, 2, 11)


def test_without_acquisition_series_time_orders_and_no_more(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        del dataset.AcquisitionTime

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    (series,) = read_study(tmp_path).series
    assert series.acquired_at is None
    assert series.when == series.series_datetime == datetime(2026, 3, 1, 11)


def test_a_deflate_bomb_is_reported_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dicom.dicom_file.MOST_INFLATED_BYTES", 8 * 2**20)
    path = tiny.write_ct(tmp_path, tiny.Scan(tiny.ramp(1)))[0]
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    header = path.read_bytes()
    start = 144 + int(dcmread(path).file_meta.FileMetaInformationGroupLength)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(2**20)
    bomb = b"".join(deflater.compress(zeros) for _ in range(20)) + deflater.flush()
    path.write_bytes(header[:start] + bomb)
    reading = read_studies(tmp_path)
    assert reading.studies == ()
    assert len(reading.unreadable) == 1


def test_two_studies_where_one_is_due_are_refused(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.StudyInstanceUID = f"1.2.{index}"

    tiny.write_ct(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    with pytest.raises(UnusableStudyError, match="6 studies"):
        read_study(tmp_path)


def test_nm_position_comes_from_the_detector_information(tmp_path: Path) -> None:
    tiny.write_nm(tmp_path, tiny.Scan(tiny.ramp()), -5.0)
    instance = read_study(tmp_path).series[0].instances[0]
    assert instance.image_position_mm == (-10.0, -20.0, -30.0)
    assert instance.spacing_between_slices_mm == -5.0
    assert instance.slice_numbers == (1, 2, 3, 4, 5, 6)


def test_hostile_files_neither_crash_nor_harm_another_study(samples: Path, tmp_path: Path) -> None:
    hostile = [path for path in (samples / "hostile").rglob("*") if path.is_file()]
    good = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp())) + tiny.write_ct(
        tmp_path, tiny.Scan(tiny.ramp(), series_uid="1.2.3.2")
    )
    reading = read_studies([*hostile, *good])
    assert len(hostile) - len(reading.unreadable) > 90
    for study in reading.studies:
        result = select(study, SelectionPolicy())
        assert (result.rejection is None) is (study.study_instance_uid == tiny.STUDY)


ARCHIVES = {
    "zip": lambda path, files: shutil.make_archive(str(path), "zip", files),
    "gzip": lambda path, files: shutil.make_archive(str(path), "gztar", files),
    "tar": lambda path, files: shutil.make_archive(str(path), "tar", files),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_is_called_that_alone_or_in_a_folder(tmp_path: Path, kind: str) -> None:
    tiny.write_pet(tmp_path / "files", tiny.Scan(tiny.ramp()))
    archive = Path(ARCHIVES[kind](tmp_path / "folder" / "study", tmp_path / "files"))
    for source in (archive, archive.parent):
        reading = read_studies(source)
        [reason] = reading.unreadable
        assert (reading.studies, reason.found) == ((), f"{archive.name}: a {kind} archive")
        assert reason.advice == "Unpack it, and give the folder with its files"


def test_a_gzipped_nifti_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "mask.nii.gz").write_bytes(gzip.compress(bytes(352)))
    [reason] = read_studies(tmp_path).unreadable
    assert reason.found == "mask.nii.gz: not a DICOM file (PS3.10: DICM after 128 bytes)"


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("with_meta", [True, False])
def test_a_file_without_preamble_is_read(tmp_path: Path, implicit: bool, with_meta: bool) -> None:
    """Its pixels too, and above the size from which deflated files are looked into."""
    paths = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(2, 400, 400)))
    assert paths[0].stat().st_size > 256 * 2**20 // 1100
    expected = read_study(tmp_path)
    for path in paths:
        dataset = dcmread(path)
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, implicit_vr=implicit, enforce_file_format=True)
        content = path.read_bytes()[128 + len("DICM") :]
        length = 12 + int.from_bytes(content[8:12], "little")
        path.write_bytes(content if with_meta else content[length:])
    assert without_paths(read_study(tmp_path)) == without_paths(expected)
    read = read_with_pixels(paths[1])
    assert (read.pixel_array == tiny.ramp(2, 400, 400)[1]).all()


@pytest.mark.parametrize(
    "content", [b"\x08\0" * 400, b"\x08\0\x05\0CS\x0a\0ISO_IR 100", b"DICM", b"\x02\0\0\0"]
)
def test_what_only_begins_like_a_data_set_is_no_dicom_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    [reason] = read_studies(tmp_path).unreadable
    assert reason.found == "file: not a DICOM file (PS3.10: DICM after 128 bytes)"


def test_a_dicomdir_opens_no_file_that_it_names(tmp_path: Path) -> None:
    good = tiny.write_ct(tmp_path / "study", tiny.Scan(tiny.ramp()))
    other = tiny.write_ct(tmp_path / "elsewhere", tiny.Scan(tiny.ramp(), series_uid="1.2.3.9"))[0]
    record, directory = Dataset(), Dataset()
    outside = ["..", "elsewhere", other.name]  # which no File ID may be
    record.add(DataElement("ReferencedFileID", "CS", outside, validation_mode=IGNORE))
    directory.DirectoryRecordSequence = [record]
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3.10"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(good[0].parent / "DICOMDIR", enforce_file_format=True)
    [study] = read_studies(good[0].parent).studies
    assert [len(series.instances) for series in study.series] == [len(good)]
