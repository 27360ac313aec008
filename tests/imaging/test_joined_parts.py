"""A SPECT in two bed positions: one image, each slice from the part that it came from, or told why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from app.dicom.reading.loading import load, read_joined_suv
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.dicom.results.policy import WritePolicy
from app.dicom.results.writer import Result, write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import Aligned, Loaded, Quantified, Segmented
from app.domain.decision import ModelRole, ModelUsed
from app.domain.findings.measurements import measure
from app.domain.refusal import Rejection
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from app.domain.volume import LabelMap
from app.errors import UnusableStudyError
from app.imaging.joined_parts import joined_parts
from tests.dicom.reading import tiny
from tests.dicom.results.conformance import errors_of
from tests.dicom.results.sources import PROVENANCE, as_bytes

SPACING_MM = (40.0, 40.0, 50.0)
ORIGIN_MM = (-10.0, -20.0, -30.0)
HALF_LIFE_S = 574300.0

WHOLE = np.random.default_rng(1).integers(20, 100, (12, 4, 5)).astype(np.int16)
"""Counts of the whole body, as if it had been scanned at once."""

LEGS, HEAD = "1.2.3.11", "1.2.3.12"


def write_bed(
    folder: Path,
    uid: str,
    slices: slice,
    minutes: int = 0,
    values: NDArray[np.int16] = WHOLE,
    **changes: object,
) -> None:
    """Those slices of the body, acquired so many minutes after 11:00, their activity decayed until then."""

    def change(dataset: Dataset, index: int) -> None:
        mapping = dataset.RealWorldValueMappingSequence[0]
        mapping.RealWorldValueSlope = float(2000.0 * 2.0 ** (-60.0 * minutes / HALF_LIFE_S))
        dataset.AcquisitionTime = f"{11 + minutes // 60:02d}{minutes % 60:02d}00"
        dataset.CorrectedImage = ["ATTN", "SCAT", "DECY"]
        dataset.PatientName, dataset.PatientBirthDate, dataset.StudyID = "Zorn^A", "19510203", "1"
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    origin = (*ORIGIN_MM[:2], ORIGIN_MM[2] + slices.start * SPACING_MM[2])
    scan = tiny.Scan(values[slices], uid, SPACING_MM, origin, change)
    tiny.write_nm(folder, scan, SPACING_MM[2])


def loaded_in(folder: Path) -> tuple[Loaded | Rejection, ...]:
    hu = np.full((14, 4, 5), 900, dtype=np.int16)
    tiny.write_ct(folder, tiny.Scan(hu, "1.2.3.2", SPACING_MM, (*ORIGIN_MM[:2], ORIGIN_MM[2] - 50.0)))
    result = select(read_study(folder), SelectionPolicy())
    assert result.rejection is None, result.rejection
    return tuple(load(selection, LoadPolicy()) for selection in result.selections)


def joined_in(folder: Path) -> Loaded:
    [found] = joined_parts(loaded_in(folder))
    assert isinstance(found, Loaded)
    return found


def parts_of(loaded: Loaded) -> list[str]:
    """For each slice the series that it came from."""
    return [uid.rpartition(".")[0] for uid in loaded.slice_sop_instance_uids]


def apart_in(folder: Path) -> str:
    """Why the parts of the folder are not joined."""
    found = joined_parts(loaded_in(folder))
    assert len(found) == 2
    told = []
    for one in found:
        assert isinstance(one, Loaded)
        assert one.joined == ()
        assert one.selection.part is not None
        told += [item.text for item in one.decisions if item.text.startswith("the parts are not joined")]
    assert told[0] == told[1]
    return told[0]


@pytest.mark.parametrize(("end", "start"), [(6, 6), (8, 5)])
def test_two_beds_at_two_times_are_the_whole_body_at_one(tmp_path: Path, end: int, start: int) -> None:
    """The oracle is the body in one series: its SUV does not depend on when a bed was measured."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "beds").mkdir()
    write_bed(tmp_path / "whole", LEGS, slice(0, 12))
    write_bed(tmp_path / "beds", HEAD, slice(start, 12), minutes=30)
    write_bed(tmp_path / "beds", LEGS, slice(0, end))
    [whole] = loaded_in(tmp_path / "whole")
    found = joined_in(tmp_path / "beds")
    assert isinstance(whole, Loaded)
    assert found.uptake.grid.matches(whole.uptake.grid)
    assert np.allclose(found.uptake.array, whole.uptake.array, rtol=1e-5)
    assert whole.activity is not None
    assert found.activity is not None
    assert np.allclose(found.activity.array, whole.activity.array, rtol=1e-5)
    seam = (end + start + 1) // 2  # in the middle of what both show
    assert parts_of(found) == [LEGS] * seam + [HEAD] * (12 - seam)
    assert found.slice_frame_numbers == (*range(1, seam + 1), *range(seam - start + 1, 12 - start + 1))
    assert [series.series_instance_uid for series in found.joined] == [LEGS, HEAD]
    assert "warning: part" not in "".join(item.line for item in (*found.selection.told, *found.decisions))
    assert any(item.text.startswith("joined from 2 parts") for item in found.decisions)


def test_a_slice_in_both_is_the_one_farther_from_its_edge(tmp_path: Path) -> None:
    write_bed(tmp_path, LEGS, slice(0, 8))
    write_bed(tmp_path, HEAD, slice(4, 12), values=(WHOLE * 1.1).astype(np.int16))
    found = joined_in(tmp_path)
    assert parts_of(found)[4:8] == [LEGS, LEGS, HEAD, HEAD]
    [ratio] = [item.line for item in found.decisions if "that two parts show" in item.text]
    assert ratio.startswith("in the 4 slices that two parts show, the upper has 1.09 times")


def test_parts_of_another_scale_are_warned_of(tmp_path: Path) -> None:
    write_bed(tmp_path, LEGS, slice(0, 8))
    write_bed(tmp_path, HEAD, slice(5, 12), values=(WHOLE * 2).astype(np.int16))
    found = joined_in(tmp_path)
    [warning] = [item.line for item in found.decisions if "that two parts show" in item.text]
    assert warning.startswith("warning: ")


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"slices": slice(7, 12)}, "1 slices are missing between them"),
        ({"slices": slice(6, 12), "minutes": 200}, "not acquired within 2 hours"),
        ({"slices": slice(6, 12), "PatientWeight": 90}, "dose, weight or the times"),
        ({"slices": slice(6, 12), "PixelSpacing": [39, 40]}, "voxels, sizes or orientations differ"),
    ],
)
def test_parts_that_are_no_one_image_stay_apart_and_say_why(
    tmp_path: Path, second: dict[str, object], why: str
) -> None:
    write_bed(tmp_path, LEGS, slice(0, 6))
    write_bed(tmp_path, HEAD, **second)  # type: ignore[arg-type]
    assert why in apart_in(tmp_path)


def test_beds_off_one_lattice_stay_apart(tmp_path: Path) -> None:
    found = loaded_of_two(tmp_path)
    moved = found[1].uptake.grid.affine.copy()
    moved[2, 3] += 20.0
    grid = replace(found[1].uptake.grid, affine=moved)
    found[1] = replace(found[1], uptake=replace(found[1].uptake, grid=grid))
    told = joined_parts(found)
    assert len(told) == 2
    assert isinstance(told[0], Loaded)
    assert "0.40 of a slice off one lattice" in told[0].decisions[-1].text


def test_a_joined_image_is_read_again_as_it_was(tmp_path: Path) -> None:
    [found] = joined_parts(loaded_of_two(tmp_path))
    assert isinstance(found, Loaded)
    selection = found.selection
    again = read_joined_suv(selection.study, found.joined, selection.ct, LoadPolicy())
    assert np.array_equal(again.array, found.uptake.array)
    assert again.grid.matches(found.uptake.grid)
    with pytest.raises(UnusableStudyError):
        read_joined_suv(selection.study, found.joined[:1], selection.ct, LoadPolicy())


def write_two_beds(folder: Path) -> None:
    write_bed(folder, LEGS, slice(0, 6))
    write_bed(folder, HEAD, slice(6, 12), minutes=30)


def loaded_of_two(folder: Path) -> list[Loaded]:
    write_two_beds(folder)
    found = loaded_in(folder)
    return [item for item in found if isinstance(item, Loaded)]


def quantified_of(loaded: Loaded, has_lesions: bool = True) -> Quantified:
    labels = np.zeros(loaded.uptake.grid.shape, dtype=np.uint16)
    if has_lesions:
        labels[4:8, 1:3, 1:4] = 1  # across the seam
        labels[10, 0, 0] = 2
    lesions = LabelMap(labels, loaded.uptake.grid)
    model = ModelUsed("m", ModelRole.M2, "1", "00" * 32, demonstration_only=True)
    segmented = Segmented(Aligned(loaded), lesions, model)
    return Quantified(segmented, measure(lesions, loaded.uptake, loaded.activity))


def results_of(loaded: Loaded, rtstruct: bool = True) -> dict[ResultKind, Result]:
    written = write_results(quantified_of(loaded), WritePolicy(rtstruct=rtstruct), PROVENANCE)
    return {item.kind: item for item in written.results}  # type: ignore[misc]


def test_results_refer_to_every_part_and_its_own_frames(tmp_path: Path) -> None:
    found = results_of(joined_parts(loaded_of_two(tmp_path))[0])  # type: ignore[arg-type]
    seg, report = found[ResultKind.SEG].dataset, found[ResultKind.SR].dataset
    places = {z: (f"{LEGS}.1", z + 1) if z < 6 else (f"{HEAD}.1", z - 5) for z in (4, 5, 6, 7, 10)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        height_mm = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        z = round((height_mm - ORIGIN_MM[2]) / SPACING_MM[2])
        assert (source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber) == places[z]
    assert series_in(seg.ReferencedSeriesSequence) == [LEGS, HEAD]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {LEGS, HEAD} <= set(series_in(evidence))
    assert [item.ReferencedSOPInstanceUID for item in found[ResultKind.PAGE].dataset.SourceImageSequence] == [
        f"{LEGS}.1",
        f"{HEAD}.1",
    ]
    frames = found[ResultKind.RTSTRUCT].dataset.ReferencedFrameOfReferenceSequence[0]
    assert series_in(frames.RTReferencedStudySequence[0].RTReferencedSeriesSequence) == [LEGS, HEAD]
    for kind in (ResultKind.SEG, ResultKind.SR):
        assert errors_of(as_bytes(found[kind].dataset), tmp_path) == []


def series_in(sequence: Sequence[Dataset]) -> list[str]:
    return [str(item.SeriesInstanceUID) for item in sequence]
