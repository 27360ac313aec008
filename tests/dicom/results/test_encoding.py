"""A result's bytes are pydicom's, and what highdicom is not shown makes no difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from highdicom.sr.utils import collect_evidence
from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.dicom.results import encoding, seg
from app.dicom.results.context import ResultContext, open_context
from app.dicom.results.encoding import file_bytes
from app.dicom.results.page.page import write_page
from app.dicom.results.policy import SegType, WritePolicy
from app.dicom.results.report.sr import write_report
from app.dicom.results.rtstruct import write_structure_set
from app.dicom.results.seg import write_segmentation
from app.domain.analysis import Quantified
from app.domain.volume import Grid, LabelMap
from app.imaging.labels import label_lesions
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE, as_bytes, small_grid

Make = Callable[..., Quantified]
SOURCES: dict[str, Make] = {
    "PET": sources.pet,
    "NM": sources.spect,
    "SPECT as PT": sources.spect_as_pt,
}


def bare(**attributes: object) -> Dataset:
    """A data set with file meta information and these attributes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def of_undefined_length() -> Dataset:
    dataset = bare(ReferencedStudySequence=[item(ReferencedSOPInstanceUID="1.2")])
    dataset["ReferencedStudySequence"].is_undefined_length = True
    return dataset


def with_delimited_item() -> Dataset:
    dataset = bare(ReferencedStudySequence=[item(ReferencedSOPInstanceUID="1.2")])
    dataset.ReferencedStudySequence[0].is_undefined_length_sequence_item = True
    return dataset


def with_group_length() -> Dataset:
    dataset = bare(PatientName="A^B")
    dataset.add(DataElement(0x00100000, "UL", 8))
    return dataset


def with_private_block() -> Dataset:
    dataset = bare(PatientName="A^B")
    block = dataset.private_block(0x0099, "OURS", create=True)
    block.add_new(0x01, "LO", "odd")
    block.add_new(0x02, "UN", b"\0\1")
    return dataset


def with_text_too_long_for_its_length() -> Dataset:
    dataset = bare()
    dataset.add(DataElement("PatientComments", "LT", "y" * 65_535, validation_mode=IGNORE))
    return dataset


def in_implicit_vr() -> Dataset:
    dataset = bare(PatientName="A^B", ReferencedStudySequence=[item(ReferencedSOPInstanceUID="1.2")])
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


ODD = {
    "texts": bare(
        SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg", StudyDescription="Müller",
        InstitutionName="odd", PatientComments="a\\b", ImageType=["A", "BC"], SoftwareVersions="",
        PatientID=None, ContentDescription="~", SeriesDescription="x" * 64,
    ),
    "long texts": bare(PatientComments="y" * 10_239, TextValue="z" * 70_001),
    "another set of characters in an item": bare(
        SpecificCharacterSet="ISO_IR 192",
        ContentSequence=[
            item(TextValue="Ω"),
            item(SpecificCharacterSet="ISO_IR 126", TextValue="Ω", MeasurementUnitsCodeSequence=[]),
        ],
    ),
    "japanese": bare(
        SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada=山田", StudyDescription="山田 a",
    ),
    "yen": bare(SpecificCharacterSet="ISO_IR 13", StudyDescription="a~b", PatientComments="a\\b"),
    "numbers": bare(
        Rows=4, DimensionIndexPointer=0x00200032, ImagePositionPatient=["1.5", "2", "-3.25"],
        PatientWeight="81.5",
        StudyDate="20260304", StudyTime="093000.25", InstanceNumber=7, FrameIncrementPointer=[1, 2],
    ),
    "a padding value": bare(PixelRepresentation=1, PixelPaddingValue=-5, BitsAllocated=16, PixelData=b"\1\2"),
    "an ambiguous value in an item": bare(
        PixelRepresentation=1, ReferencedStudySequence=[item(SmallestImagePixelValue=-5)]
    ),
    "private": with_private_block(),
    "empty sequence": bare(ReferencedStudySequence=Sequence()),
    "a sequence of undefined length": of_undefined_length(),
    "an item with a delimiter": with_delimited_item(),
    "a group length": with_group_length(),
    "implicit VR": in_implicit_vr(),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_any_data_set_is_written_as_pydicom_writes_it(case: str) -> None:
    assert file_bytes(ODD[case]) == as_bytes(ODD[case])


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_results_are_written_as_pydicom_writes_them_and_not_by_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_context(make(tmp_path), WritePolicy(rtstruct=True), PROVENANCE)
    segmentation = write_segmentation(context)
    rgb = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    results = [
        segmentation, write_report(context, segmentation), write_page(context, rgb),
        write_structure_set(context),
    ]  # fmt: skip
    expected = [as_bytes(result) for result in results if result is not None]
    one_file = encoding.written_by_pydicom

    def preface_alone(dataset: Dataset) -> bytes:
        assert len(dataset) == 2
        return one_file(dataset)

    monkeypatch.setattr(encoding, "written_by_pydicom", preface_alone)
    assert [file_bytes(result) for result in results if result is not None] == expected
    assert len(expected) == 4


def as_highdicom_does_with_all_slices(context: ResultContext, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The SEG with every slice shown to highdicom, and nothing restored."""
    monkeypatch.setattr(seg, "slices_with_lesions", lambda labels: np.arange(labels.grid.shape[0]))
    for name in ("_restore_spacing", "_refer_to_every_slice"):
        monkeypatch.setattr(seg, name, lambda *_: None)
    segmentation = write_segmentation(context)
    assert segmentation is not None
    return as_bytes(segmentation)


def in_slices(grid: Grid, *slices: int) -> LabelMap:
    """Two lesions in each slice."""
    mask = np.zeros(grid.shape, dtype=bool)
    for z in slices:
        mask[z, 4:9, 3:7] = mask[z, 14:16, 10:12] = True
    return label_lesions(mask, grid, 0.0).labels


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("slices", [(4,), (0, 3, 6), (0, 1, 2), (2, 3, 11), tuple(range(12))])
def test_a_seg_is_the_same_without_slices_that_show_no_lesion(
    make: Make,
    flipped: bool,
    oblique: bool,
    slices: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = in_slices(small_grid(flipped, oblique), *slices)
    for kind in SegType:
        context = open_context(make(tmp_path, labels), WritePolicy(seg_type=kind), PROVENANCE)
        segmentation = write_segmentation(context)
        assert segmentation is not None
        with monkeypatch.context() as patch:
            assert as_bytes(segmentation) == as_highdicom_does_with_all_slices(context, patch)


def test_lesions_in_one_slice_name_the_frame_of_the_file(tmp_path: Path) -> None:
    """The NM has 12 frames, from feet to head: its tenth lies at 806.25 mm, its fifth at 791.25 mm."""
    quantified = sources.spect(tmp_path, in_slices(small_grid(flipped=True), 2, 7))
    segmentation = write_segmentation(open_context(quantified, WritePolicy(), PROVENANCE))
    assert segmentation is not None
    named = [
        (
            float(frame.PlanePositionSequence[0].ImagePositionPatient[2]),
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber,
        )
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(named) == [(791.25, 5), (791.25, 5), (806.25, 10), (806.25, 10)]


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_highdicom_would_take_the_report_whole(make: Make, tmp_path: Path) -> None:
    """It gets a report without content, so it does not look for what the content refers to."""
    context = open_context(make(tmp_path), WritePolicy(), PROVENANCE)
    segmentation = write_segmentation(context)
    report = write_report(context, segmentation)
    [study] = report.CurrentRequestedProcedureEvidenceSequence
    evidence = [
        item(
            StudyInstanceUID=study.StudyInstanceUID, SeriesInstanceUID=series.SeriesInstanceUID,
            SOPClassUID=each.ReferencedSOPClassUID, SOPInstanceUID=each.ReferencedSOPInstanceUID,
        )
        for series in study.ReferencedSeriesSequence for each in series.ReferencedSOPSequence
    ]  # fmt: skip
    same_study, others = collect_evidence(evidence, report, study.StudyInstanceUID)
    assert (len(same_study), others) == (1, [])
    assert hd.sr.Comprehensive3DSR.from_dataset(report).content is not None
