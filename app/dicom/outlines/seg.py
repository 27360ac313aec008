"""A reader's SEG as labels: BINARY, FRACTIONAL and LABELMAP, on whatever grid it was drawn (PS3.3 A.51)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from app.dicom import header_values as header
from app.dicom.dicom_file import read_with_pixels
from app.dicom.outlines.truth import Outlines, UnusableTruthError, being_read, chosen
from app.domain.volume import FloatArray, Grid, LabelMap
from app.imaging.labels import nearest_labels, share_outside

FRACTION = 0.5
"""A voxel of a FRACTIONAL SEG belongs to a segment from this share (or probability) on."""

PLANE_TOLERANCE_MM = 0.1
"""Positions of planes are rounded by many programs; labels are placed by nearest neighbour all the same."""


@dataclass(frozen=True, eq=False)
class _Plane:
    """Where one frame lies: LPS mm of its first voxel, and both in-plane steps as columns ``(3, 2)``."""

    position_mm: FloatArray
    steps_mm: FloatArray
    between_slices_mm: float | None
    thickness_mm: float | None


def read_segmentation(path: Path, grid: Grid, wanted: str = "") -> Outlines:
    """The segments of a SEG on ``grid``, which is in the same frame of reference.

    Args:
        grid: the functional image's.
        wanted: regular expression for Segment Label; empty takes all.

    Raises:
        UnusableTruthError: not readable, not evenly spaced, or no segment is wanted.
    """
    with being_read("SEG"):
        return _outlines(read_with_pixels(path), grid, wanted)


def _outlines(segmentation: Dataset, grid: Grid, wanted: str) -> Outlines:
    segments = [
        (int(item.SegmentNumber), str(item.get("SegmentLabel", ""))) for item in segmentation.SegmentSequence
    ]
    numbers = chosen(((number, name) for number, name in segments if number > 0), wanted)
    planes = _planes(segmentation)
    if not planes or not numbers:
        return Outlines(LabelMap(np.zeros(grid.shape, np.uint16), grid))
    own_grid, slices = _own_grid(planes, grid, (int(segmentation.Rows), int(segmentation.Columns)))
    labels, overlaps = _drawn(segmentation, own_grid, slices, numbers)
    warnings = () if not overlaps else (f"{overlaps} voxels lie in several segments; the last one has them",)
    same = own_grid.matches(grid) or _is_part_of(own_grid, grid)
    return Outlines(nearest_labels(labels, grid), share_outside(labels, grid), not same, warnings)


def _drawn(segmentation: Dataset, grid: Grid, slices: list[int], numbers: list[int]) -> tuple[LabelMap, int]:
    """Labels ``1..n`` in the order of ``numbers`` on the SEG's own grid; how many voxels were drawn twice."""
    labels, overlaps = np.zeros(grid.shape, np.uint16), 0
    frames = np.asarray(segmentation.pixel_array).reshape(len(slices), *grid.shape[1:])
    kind = str(segmentation.SegmentationType).upper()
    label_of = np.zeros(int(max(*numbers, int(frames.max(initial=0)))) + 1, np.uint16)
    label_of[numbers] = np.arange(1, len(numbers) + 1)
    if kind == "LABELMAP":
        for frame, z in zip(frames, slices, strict=True):
            labels[z] = label_of[frame]
        return LabelMap(labels, grid), 0
    least = _least(segmentation, kind)
    for frame, z, number in zip(frames, slices, _segment_numbers(segmentation), strict=True):
        if number in numbers:
            inside = frame >= least
            overlaps += int(np.count_nonzero(labels[z][inside]))
            labels[z][inside] = label_of[number]
    return LabelMap(labels, grid), overlaps


def _least(segmentation: Dataset, kind: str) -> float:
    """The least stored value that belongs to a segment."""
    if kind == "BINARY":
        return 1
    if kind == "FRACTIONAL":
        return FRACTION * float(segmentation.MaximumFractionalValue)
    raise UnusableTruthError(f"found Segmentation Type {kind}, expected BINARY, FRACTIONAL or LABELMAP")


def _segment_numbers(segmentation: Dataset) -> list[int]:
    shared = next(iter(header.items(segmentation, "SharedFunctionalGroupsSequence")), Dataset())
    holders = (
        group if "SegmentIdentificationSequence" in group else shared
        for group in segmentation.PerFrameFunctionalGroupsSequence
    )
    return [int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for holder in holders]


def _planes(segmentation: Dataset) -> list[_Plane]:
    shared = next(iter(header.items(segmentation, "SharedFunctionalGroupsSequence")), Dataset())

    def macro(group: Dataset, keyword: str) -> Dataset:
        holder = group if keyword in group else shared
        return header.items(holder, keyword)[0]

    planes = []
    for group in header.items(segmentation, "PerFrameFunctionalGroupsSequence"):
        measures = macro(group, "PixelMeasuresSequence")
        cosines = np.array(macro(group, "PlaneOrientationSequence").ImageOrientationPatient, float)
        row_mm, column_mm = (float(value) for value in measures.PixelSpacing)
        planes.append(
            _Plane(
                np.array(macro(group, "PlanePositionSequence").ImagePositionPatient, float),
                np.column_stack([cosines[:3] * column_mm, cosines[3:] * row_mm]),
                header.number(measures, "SpacingBetweenSlices"),
                header.number(measures, "SliceThickness"),
            )
        )
    return planes


def _own_grid(planes: list[_Plane], functional: Grid, size: tuple[int, int]) -> tuple[Grid, list[int]]:
    """The grid that the frames lie on, and each frame's slice; empty frames may have been left out."""
    first = planes[0]
    if max(float(np.abs(plane.steps_mm - first.steps_mm).max()) for plane in planes) * max(size) > (
        PLANE_TOLERANCE_MM
    ):
        raise UnusableTruthError("the SEG's frames have several orientations or pixel spacings")
    normal = np.cross(first.steps_mm[:, 0], first.steps_mm[:, 1])
    normal /= np.linalg.norm(normal)
    positions = np.array([plane.position_mm for plane in planes])
    offsets = positions @ normal
    low, high = positions[int(offsets.argmin())], positions[int(offsets.argmax())]
    step_mm = _step_mm(offsets - offsets.min(), first, functional)
    slices = np.rint((offsets - offsets.min()) / step_mm).astype(int)
    steps = int(slices.max())
    across = normal * step_mm if steps == 0 else (high - low) / steps  # a tilted gantry shears its stack
    off_mm = np.abs(positions - (low + slices[:, None] * across)).max()
    if off_mm > PLANE_TOLERANCE_MM:
        raise UnusableTruthError(f"the SEG's frames are no stack: a frame lies {off_mm:.2f} mm off its slice")
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2], affine[:3, 3] = first.steps_mm, across, low
    return Grid((steps + 1, *size), affine), slices.tolist()


def _step_mm(offsets_mm: FloatArray, plane: _Plane, functional: Grid) -> float:
    """Distance of slices along the normal: as stated, as the frames lie, or as the functional image's."""
    gaps = np.diff(np.unique(np.round(offsets_mm, 3)))
    gaps = gaps[gaps > PLANE_TOLERANCE_MM]
    smallest = float(gaps.min()) if gaps.size else None
    candidates = (plane.between_slices_mm, smallest, functional.spacing_mm[2], plane.thickness_mm)
    for candidate in candidates:
        step = abs(candidate or 0.0)
        if step > PLANE_TOLERANCE_MM and _fits(offsets_mm, step):
            return step
    raise UnusableTruthError("the SEG's frames are not evenly spaced")


def _fits(offsets_mm: FloatArray, step_mm: float) -> bool:
    count = np.rint(offsets_mm / step_mm)
    if count.max() == 0:
        return bool(offsets_mm.max() <= PLANE_TOLERANCE_MM)
    exact_mm = offsets_mm.max() / count.max()  # a step rounded in the header must not add up
    if abs(exact_mm - step_mm) > 0.01 * step_mm:
        return False
    return bool(np.abs(offsets_mm - count * exact_mm).max() <= PLANE_TOLERANCE_MM)


def _is_part_of(own: Grid, functional: Grid) -> bool:
    """Whether every voxel of ``own`` is a voxel of ``functional``: empty slices at the ends were left out."""
    axes: NDArray[np.float64] = np.linalg.inv(functional.affine)[:3, :3] @ own.affine[:3, :3]
    index = functional.to_index(own.corners_mm())
    whole = np.abs(index - np.rint(index)).max() * max(functional.spacing_mm) <= PLANE_TOLERANCE_MM
    return bool(whole and np.abs(np.abs(axes).sum(axis=0) - 1.0).max() < 1e-3)
