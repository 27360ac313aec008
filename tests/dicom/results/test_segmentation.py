"""The SEG lies where the image lies, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from app.dicom.results.context import ResultContext, open_context
from app.dicom.results.policy import SegType, WritePolicy
from app.dicom.results.read_back import ResultMismatchError, labels_on_grid, parse
from app.dicom.results.seg import write_segmentation
from app.domain.analysis import Quantified
from app.domain.volume import Grid
from app.imaging.labels import label_lesions
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE, as_bytes, small_grid, some_labels

Make = Callable[..., Quantified]
SOURCES = [sources.pet, sources.spect, sources.spect_as_pt]
GRIDS = [small_grid(), small_grid(flipped=True), small_grid(oblique=True), small_grid(True, True)]


def written(quantified: Quantified, policy: WritePolicy | None = None) -> Dataset:
    """The SEG, from its bytes."""
    segmentation = write_segmentation(open_context(quantified, policy or WritePolicy(), PROVENANCE))
    assert segmentation is not None
    return parse(as_bytes(segmentation))


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_voxel_comes_back_where_it_was(tmp_path: Path, make: Make, grid: Grid) -> None:
    labels = some_labels(grid)
    found = labels_on_grid(written(make(tmp_path, labels)), grid)
    assert np.array_equal(found.array, labels.array)


@pytest.mark.parametrize("make", SOURCES)
def test_a_label_map_comes_back_too(tmp_path: Path, make: Make) -> None:
    quantified = make(tmp_path)
    dataset = written(quantified, WritePolicy(seg_type=SegType.LABELMAP))
    labels = quantified.segmented.labels
    assert np.array_equal(labels_on_grid(dataset, labels.grid).array, labels.array)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), density=st.floats(0.001, 0.05), grid=st.sampled_from(GRIDS))
def test_any_mask_makes_the_round_trip(tmp_path: Path, seed: int, density: float, grid: Grid) -> None:
    mask = np.random.default_rng(seed).random(grid.shape) < density
    mask[3, 3, 3] = True
    labels = label_lesions(mask, grid, 0.0).labels
    quantified = sources.spect(tmp_path, labels)
    dataset = write_segmentation(open_context(quantified, WritePolicy(), PROVENANCE))
    assert dataset is not None
    assert np.array_equal(labels_on_grid(dataset, grid).array, labels.array)


def test_empty_frames_are_left_out_and_segments_are_ordered_by_size(tmp_path: Path) -> None:
    dataset = written(sources.pet(tmp_path))
    assert dataset.SegmentationType == "BINARY"
    assert dataset.NumberOfFrames == 4 + 2 + 1
    assert [segment.SegmentNumber for segment in dataset.SegmentSequence] == [1, 2, 3]
    voxels = [
        dataset.pixel_array[[f.SegmentIdentificationSequence[0].ReferencedSegmentNumber == n
                             for f in dataset.PerFrameFunctionalGroupsSequence]].sum() for n in (1, 2, 3)
    ]  # fmt: skip
    assert voxels == [80, 12, 1]


def test_a_segment_says_what_it_is_and_who_drew_it(tmp_path: Path) -> None:
    segment = written(sources.pet(tmp_path)).SegmentSequence[0]
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.TrackingID == "Lesion 1"
    assert segment.TrackingUID.startswith("2.25.")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == "1.0.0"
    assert f"weights_sha256={'cd' * 32}" in algorithm.AlgorithmParameters


def test_each_frame_refers_to_the_pet_slice_at_its_place(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    functional = quantified.segmented.aligned.loaded.selection.functional
    place = {item.sop_instance_uid: item.image_position_mm for item in functional.instances}
    for frame in written(quantified).PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
        assert position == pytest.approx(place[uid], abs=1e-6)


def test_each_frame_refers_to_the_nm_files_own_frame_number(tmp_path: Path) -> None:
    quantified = sources.spect(tmp_path)
    grid = quantified.segmented.labels.grid
    for frame in written(quantified).PerFrameFunctionalGroupsSequence:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        z = round(float(grid.to_index(position)[0, 2]))
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedFrameNumber == quantified.segmented.aligned.loaded.slice_frame_numbers[z]


def test_positions_carry_no_float_noise(tmp_path: Path) -> None:
    for frame in written(sources.pet(tmp_path)).PerFrameFunctionalGroupsSequence:
        for value in frame.PlanePositionSequence[0].ImagePositionPatient:
            assert len(str(value)) <= 8


@pytest.mark.parametrize("make", SOURCES)
def test_the_frame_of_reference_is_the_images(tmp_path: Path, make: Make) -> None:
    assert written(make(tmp_path)).FrameOfReferenceUID == sources.FRAME_OF_REFERENCE


def test_a_source_without_frame_of_reference_gets_a_derived_one(tmp_path: Path) -> None:
    quantified = sources.spect(tmp_path)
    loaded = quantified.segmented.aligned.loaded
    functional = replace(loaded.selection.functional, frame_of_reference_uid="")
    loaded = replace(
        loaded,
        uptake=replace(loaded.uptake, frame_of_reference_uid=""),
        selection=replace(loaded.selection, functional=functional),
    )
    aligned = replace(quantified.segmented.aligned, loaded=loaded)
    changed = replace(quantified, segmented=replace(quantified.segmented, aligned=aligned))
    assert written(changed).FrameOfReferenceUID.startswith("2.25.")


def test_a_slice_too_few_is_refused(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    loaded = quantified.segmented.aligned.loaded
    loaded = replace(loaded, slice_sop_instance_uids=loaded.slice_sop_instance_uids[:-1])
    aligned = replace(quantified.segmented.aligned, loaded=loaded)
    context = _context(replace(quantified, segmented=replace(quantified.segmented, aligned=aligned)))
    with pytest.raises(ValueError, match="found 11 source slices, expected the grid's 12"):
        write_segmentation(context)


def test_a_frame_off_the_grid_is_noticed(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    affine = quantified.segmented.labels.grid.affine.copy()
    affine[2, 3] += 1.0
    with pytest.raises(ResultMismatchError, match="off slice"):
        labels_on_grid(written(quantified), Grid((12, 20, 16), affine))


def test_a_grid_turned_in_plane_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ResultMismatchError, match="planes leave"):
        labels_on_grid(written(sources.pet(tmp_path)), small_grid(oblique=True))


def _context(quantified: Quantified) -> ResultContext:
    return open_context(quantified, WritePolicy(), PROVENANCE)
