"""RTSTRUCT: contours that hold exactly the mask's voxels, on the slices they were drawn on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from app.dicom.contours import filled, outlines
from app.dicom.results.context import open_context
from app.dicom.results.policy import WritePolicy
from app.dicom.results.read_back import ResultMismatchError, labels_from_contours, parse
from app.dicom.results.rtstruct import write_structure_set
from app.dicom.results.writer import write_results
from app.dicom.uids import ResultKind
from app.domain.analysis import Quantified
from app.domain.findings.findings import Site
from app.domain.volume import Grid, LabelMap
from tests.dicom.results import sources
from tests.dicom.results.conformance import errors_of
from tests.dicom.results.sources import PROVENANCE, as_bytes, small_grid, some_labels

Mask = NDArray[np.bool_]
Make = Callable[..., Quantified]
SOURCES = [sources.pet, sources.spect, sources.spect_as_pt]
WANTED = WritePolicy(rtstruct=True)


def written(quantified: Quantified) -> Dataset:
    """The RTSTRUCT, from its bytes."""
    structures = write_structure_set(open_context(quantified, WANTED, PROVENANCE))
    assert structures is not None
    return parse(as_bytes(structures))


def area(polygon: NDArray[np.float64]) -> float:
    x, y = polygon.T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2.0


@given(mask=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_comes_back_from_its_outlines_united_or_by_exclusive_or(mask: Mask) -> None:
    united, exclusive = np.zeros_like(mask), np.zeros_like(mask)
    polygons = outlines(mask)
    for polygon in polygons:
        united |= filled(polygon, mask.shape)
        exclusive ^= filled(polygon, mask.shape)
    assert np.array_equal(united, mask)
    assert np.array_equal(exclusive, mask)
    assert sum(map(area, polygons)) == pytest.approx(mask.sum())


def test_a_ring_is_cut_and_needs_no_keyhole() -> None:
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    assert [len(polygon) for polygon in outlines(ring)] == [4, 8]


def test_a_voxel_is_a_square_of_its_own_size() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    mask[1, 1] = True
    [square] = outlines(mask)
    assert square.tolist() == [[0.5, 0.5], [1.5, 0.5], [1.5, 1.5], [0.5, 1.5]]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("grid", [small_grid(), small_grid(True, True)])
def test_drawn_again_it_is_the_same_mask(tmp_path: Path, make: Make, grid: Grid) -> None:
    labels = some_labels(grid)
    found = labels_from_contours(written(make(tmp_path, labels)), grid)
    assert np.array_equal(found.array, labels.array)


def test_a_lesion_with_a_hole_keeps_it(tmp_path: Path) -> None:
    grid = small_grid()
    array = some_labels(grid).array.copy()
    array[3, 6, 5] = 0
    assert array[3, 5:8, 4:7].sum() == 8
    found = labels_from_contours(written(sources.pet(tmp_path, LabelMap(array, grid))), grid)
    assert np.array_equal(found.array, array)


@pytest.mark.parametrize("make", [sources.pet, sources.spect])
def test_dciodvfy_finds_no_error(tmp_path: Path, make: Make) -> None:
    assert errors_of(as_bytes(written(make(tmp_path))), tmp_path) == []


def test_each_contour_names_the_image_it_lies_on(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    functional = quantified.segmented.aligned.loaded.selection.functional
    height = {item.sop_instance_uid: item.image_position_mm[2] for item in functional.instances
              if item.image_position_mm}  # fmt: skip
    for region in written(quantified).ROIContourSequence:
        for contour in region.ContourSequence:
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            assert np.allclose(np.array(contour.ContourData[2::3], dtype=float), height[uid])


def test_of_a_multi_frame_image_it_names_the_frame(tmp_path: Path) -> None:
    quantified = sources.spect(tmp_path)
    grid, frames = quantified.segmented.labels.grid, quantified.segmented.aligned.loaded.slice_frame_numbers
    for contour in written(quantified).ROIContourSequence[0].ContourSequence:
        z = round(float(grid.to_index(np.array(contour.ContourData[:3], dtype=float))[0, 2]))
        assert contour.ContourImageSequence[0].ReferencedFrameNumber == frames[z]


def test_rois_are_the_segments_by_name_and_tracking_uid(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    written_results = write_results(quantified, WANTED, PROVENANCE).results
    results = {result.kind: result.dataset for result in written_results}
    segments = results[ResultKind.SEG].SegmentSequence
    regions = results[ResultKind.RTSTRUCT].StructureSetROISequence
    assert [(r.ROIName, r.TrackingUID) for r in regions] == [(s.TrackingID, s.TrackingUID) for s in segments]


def test_it_is_written_only_on_request_and_never_empty(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    kinds = [result.kind for result in write_results(quantified, WritePolicy(), PROVENANCE).results]
    assert ResultKind.RTSTRUCT not in kinds
    empty = write_results(sources.without_lesions(quantified), WANTED, PROVENANCE).results
    assert [result.kind for result in empty] == [ResultKind.SR, ResultKind.PAGE]


def test_contours_off_the_slices_are_noticed(tmp_path: Path) -> None:
    affine = small_grid().affine.copy()
    affine[2, 3] += 1.0
    with pytest.raises(ResultMismatchError, match="off the slices"):
        labels_from_contours(written(sources.pet(tmp_path)), Grid((12, 20, 16), affine))


def test_a_reason_of_any_length_fits_into_a_short_text(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    reason = "beside its CT " * 200
    lesions = tuple(replace(lesion, site_reason=reason) for lesion in quantified.findings.lesions)
    found = written(replace(quantified, findings=replace(quantified.findings, lesions=lesions)))
    told = [str(item.ROIObservationDescription) for item in found.RTROIObservationsSequence]
    assert [len(text) for text in told] == [1024] * len(lesions)  # PS3.5 6.2, ST
    assert all("beside its CT" in text for text in told)


def test_each_roi_says_in_words_where_its_lesion_sits(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    told = (
        (Site.BONE, "CT of bone in 80 %"),
        (Site.LYMPH_NODE, "beside the pelvic wall"),
        (Site.UNSPECIFIED, ""),
    )
    lesions = tuple(
        replace(lesion, site=site, site_reason=reason)
        for lesion, (site, reason) in zip(quantified.findings.lesions, told, strict=True)
    )
    found = written(replace(quantified, findings=replace(quantified.findings, lesions=lesions)))
    regions = [region.ROIDescription for region in found.StructureSetROISequence]
    assert regions == ["Lesion in bone", "Lesion in lymph node", "Lesion, site unspecified"]
    observed = [item.ROIObservationDescription for item in found.RTROIObservationsSequence]
    assert observed[:2] == [
        f"{region}: {reason}" for region, (_, reason) in zip(regions[:2], told[:2], strict=True)
    ]
    codes = [item.RTROIIdentificationCodeSequence[0].CodeValue for item in found.RTROIObservationsSequence]
    assert codes == ["108369006"] * 3
