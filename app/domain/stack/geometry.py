"""From slices and their positions to one grid: the same rule for PET, CT and SPECT.

The grid is made from Image Position and Orientation alone; file order, names, instance numbers and
spacing attributes of single-frame images play no part. ``z`` always grows along the slice normal
row × column (PS3.3 C.7.6.2.1.1), so every grid is right-handed.

A stack may be slightly uneven: scanners that join bed positions round (real GE series have gaps of 3.19
to 3.29 mm), and writers round positions. It is then laid on the regular grid through its first and last
slice, provided that no slice moves by more than :data:`LARGEST_MISPLACEMENT` of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Instance, Series
from app.domain.volume import FloatArray, Grid

MINIMUM_SLICES = 3
"""Fewer give no step to check against another."""

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines are written with 4–6 digits; 1e-3 tilts a 500 mm image by 0.5 mm."""

PIXEL_SPACING_TOLERANCE_MM = 1e-3
"""Slices of one series repeat the same text; 1e-3 mm over 512 pixels is 0.5 mm."""

SAME_POSITION_MM = 0.01
"""Closer slices are two images of one position, not two positions."""

GAP = 1.5
"""A step above this many regular steps has lost a slice."""

FEWEST_OF_ANOTHER_STEP = 3
"""So many wide steps side by side, all alike, are a part of the scan with another spacing, with none lost."""

ROUNDING_MM = 0.1
"""Positions written with one decimal make steps differ by so much: 0.625 mm becomes 0.6 and 0.7."""

LARGEST_UNEVENNESS = 0.10
"""Relative; GE's bed joints reach 0.025, lost or doubled slices start at 0.5."""

LARGEST_MISPLACEMENT = 0.25
"""Of a step: what laying an uneven stack on a regular grid may move a slice by."""

LARGEST_SIDEWAYS_SHIFT_MM = 0.5
"""Of a slice against the normal through the first one; a tilted gantry shears by far more."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices on a grid.

    Attributes:
        grid: ``z`` along row × column.
        order: for each z the index of the slice (of the input sequence, or the 0-based frame).
        step_range_mm: smallest and largest distance of neighbouring slices.
    """

    grid: Grid
    order: tuple[int, ...]
    step_range_mm: tuple[float, float]


@dataclass(frozen=True)
class Gap:
    """Slices lost between two neighbours; positions along the stack's normal, mm."""

    count: int
    from_mm: float
    to_mm: float


def stack_series(series: Series) -> Stack | Reason:
    """The stack of a series, from its headers: one multi-frame instance, or single-frame instances."""
    multi = [instance for instance in series.instances if instance.number_of_frames > 1]
    if multi and len(series.instances) > 1:
        found = f"{len(series.instances)} instances, {len(multi)} of them multi-frame"
        stack: Stack | Reason = _inconsistent(
            "NumberOfFrames", found, "one multi-frame image or single frames"
        )
    elif multi:
        stack = stack_frames(multi[0])
    else:
        stack = stack_slices(series.instances)
    if isinstance(stack, Reason):
        return replace(stack, series_instance_uid=series.series_instance_uid)
    return stack


def stack_slices(instances: Sequence[Instance]) -> Stack | Reason:
    """Single-frame slices by their positions."""
    missing = next((reason for reason in map(_missing_geometry, instances) if reason), None)
    if missing is not None:
        return missing
    if len(instances) < MINIMUM_SLICES:
        return Reason(
            RefusalCode.TOO_FEW_SLICES,
            "SOPInstanceUID",
            f"{len(instances)} slices",
            f"{MINIMUM_SLICES} or more",
        )
    return _disagreement(instances) or _stack_positions(instances)


def stack_frames(instance: Instance) -> Stack | Reason:
    """Frames of an NM RECON TOMO image: frame i at IPP + i · SpacingBetweenSlices · (row × column).

    The spacing is signed (PS3.3 C.8.4.15); ``i`` counts by Slice Vector where it is given.
    """
    missing = _missing_geometry(instance)
    if missing is not None:
        return missing
    step_mm = instance.spacing_between_slices_mm
    if step_mm is None or abs(step_mm) < SAME_POSITION_MM:
        found = "nothing" if step_mm is None else f"{step_mm} mm"
        return _missing("SpacingBetweenSlices", found, "the signed distance of frames (PS3.3 C.8.4.15)")
    numbers = instance.slice_numbers or tuple(range(1, instance.number_of_frames + 1))
    if sorted(numbers) != list(range(1, instance.number_of_frames + 1)):
        found = f"{len(numbers)} slice numbers from {min(numbers)} to {max(numbers)}"
        return _inconsistent("SliceVector", found, f"each of 1 to {instance.number_of_frames} once")
    axes = _axes(instance)
    if isinstance(axes, Reason):
        return axes
    frame_of = np.argsort(np.array(numbers), kind="stable")
    origin = np.array(instance.image_position_mm)
    if step_mm < 0:
        frame_of = frame_of[::-1]
        origin = origin + axes[:, 2] * step_mm * (instance.number_of_frames - 1)
    grid = _grid(instance, axes, origin, abs(step_mm), instance.number_of_frames)
    return Stack(grid, tuple(int(frame) for frame in frame_of), (abs(step_mm), abs(step_mm)))


def stack_gaps(series: Series) -> tuple[Gap, ...]:
    """Where the slices of a single-frame series that are here leave gaps, whatever their order.

    Slices without a position or of another orientation than the first are left out: :func:`stack_series`
    tells about those.
    """
    placed = [item for item in series.instances if item.image_position_mm and item.image_orientation]
    axes = _axes(placed[0]) if placed else None
    if axes is None or isinstance(axes, Reason):
        return ()
    orientations = np.array([item.image_orientation for item in placed], dtype=np.float64)
    positions = np.array([item.image_position_mm for item in placed], dtype=np.float64)
    alike = np.abs(orientations - orientations[0]).max(axis=1) <= ORIENTATION_TOLERANCE
    along = np.sort(positions[alike] @ axes[:, 2])
    distinct = along[np.diff(along, prepend=-np.inf) >= SAME_POSITION_MM]
    return _gaps(distinct) if distinct.size >= MINIMUM_SLICES else ()


def _gaps(along_mm: FloatArray) -> tuple[Gap, ...]:
    """Gaps between sorted, distinct positions along the normal; none where the spacing varies by design."""
    steps = np.diff(along_mm)
    usual = float(np.median(steps))
    wide = np.flatnonzero(steps > GAP * usual + ROUNDING_MM)
    if _is_another_spacing(steps, wide):
        return ()
    return tuple(
        Gap(round(float(steps[i]) / usual) - 1, float(along_mm[i]), float(along_mm[i + 1])) for i in wide
    )


def _is_another_spacing(steps_mm: FloatArray, wide: NDArray[np.int64]) -> bool:
    """Whether some of the steps called ``wide`` are those of a part of the scan with a spacing of its own."""
    runs = np.split(wide, np.flatnonzero(np.diff(wide) > 1) + 1)
    return any(
        len(run) >= FEWEST_OF_ANOTHER_STEP and float(np.ptp(steps_mm[run])) <= 2 * ROUNDING_MM for run in runs
    )


def _stack_positions(instances: Sequence[Instance]) -> Stack | Reason:
    axes = _axes(instances[0])
    if isinstance(axes, Reason):
        return axes
    positions = np.array([instance.image_position_mm for instance in instances], dtype=np.float64)
    along = positions @ axes[:, 2]
    order = np.argsort(along, kind="stable")
    refusal = _uneven(along[order]) or _sheared(positions[order], axes[:, 2])
    if refusal is not None:
        return refusal
    steps = np.diff(along[order])
    step_mm = float((along[order[-1]] - along[order[0]]) / (len(instances) - 1))
    grid = _grid(instances[0], axes, positions[order[0]], step_mm, len(instances))
    return Stack(grid, tuple(int(i) for i in order), (float(steps.min()), float(steps.max())))


def _uneven(along_mm: FloatArray) -> Reason | None:
    """Why sorted slice positions are no regular stack."""
    steps = np.diff(along_mm)
    if steps.min() < SAME_POSITION_MM:
        at = along_mm[int(steps.argmin())]
        count = int((steps < SAME_POSITION_MM).sum())
        found = f"{count + 1} or more slices at one position, {at:.2f} mm along the slice normal"
        return Reason(RefusalCode.DUPLICATE_SLICE, "ImagePositionPatient", found, "one slice a position")
    usual = float(np.median(steps))
    gaps = _gaps(along_mm)
    if gaps:
        widest = max(gaps, key=lambda gap: gap.to_mm - gap.from_mm)
        found = (
            f"{widest.to_mm - widest.from_mm:.2f} mm between the slices at {widest.from_mm:.2f} and "
            f"{widest.to_mm:.2f} mm along the slice normal ({widest.count} lost)"
        )
        return Reason(RefusalCode.SLICE_GAP, "ImagePositionPatient", found, f"{usual:.2f} mm")
    regular = np.linspace(along_mm[0], along_mm[-1], len(along_mm))
    moved_mm = float(np.abs(along_mm - regular).max())
    uneven_mm = float(np.abs(steps - usual).max())
    limits_mm = [max(share * usual, ROUNDING_MM) for share in (LARGEST_UNEVENNESS, LARGEST_MISPLACEMENT)]
    if uneven_mm > limits_mm[0] + SAME_POSITION_MM or moved_mm > limits_mm[1] + SAME_POSITION_MM:
        return _varying(steps, usual, moved_mm)
    return None


def _varying(steps_mm: FloatArray, usual_mm: float, moved_mm: float) -> Reason:
    """Uneven steps; several of another size side by side are a spacing that varies by design."""
    lowest, highest = float(steps_mm.min()), float(steps_mm.max())
    found = f"steps of {lowest:.3f} to {highest:.3f} mm, {moved_mm:.2f} mm off a regular grid"
    rare = np.flatnonzero(np.abs(steps_mm - usual_mm) > LARGEST_UNEVENNESS * usual_mm + ROUNDING_MM)
    if _is_another_spacing(steps_mm, rare):
        found = f"a spacing that varies from one part of the scan to another: {found}"
    return _inconsistent("ImagePositionPatient", found, f"even steps of {usual_mm:.3f} mm")


def _sheared(positions_mm: FloatArray, normal: FloatArray) -> Reason | None:
    """Why sorted positions don't lie one above the other (gantry tilt)."""
    offset = positions_mm - positions_mm[0]
    sideways = offset - np.outer(offset @ normal, normal)
    shift_mm = float(np.linalg.norm(sideways, axis=1).max())
    if shift_mm <= LARGEST_SIDEWAYS_SHIFT_MM:
        return None
    found = f"slices shifted sideways by up to {shift_mm:.2f} mm (tilted gantry)"
    return _inconsistent("ImagePositionPatient", found, "slices one above the other along their normal")


def _disagreement(instances: Sequence[Instance]) -> Reason | None:
    """The first attribute of the image plane in which slices differ."""
    first = instances[0]
    sizes = sorted({(instance.rows, instance.columns) for instance in instances}, key=str)
    if len(sizes) > 1:
        return _inconsistent("Rows, Columns", " and ".join(f"{r} x {c}" for r, c in sizes[:2]), "one size")
    for keyword, tolerance in (
        ("image_orientation", ORIENTATION_TOLERANCE),
        ("pixel_spacing_mm", PIXEL_SPACING_TOLERANCE_MM),
    ):
        values = np.array([getattr(instance, keyword) for instance in instances], dtype=np.float64)
        apart = np.abs(values - np.array(getattr(first, keyword)))
        if apart.max() > tolerance:
            other = getattr(instances[int(apart.max(axis=1).argmax())], keyword)
            name = "ImageOrientationPatient" if keyword == "image_orientation" else "PixelSpacing"
            return _inconsistent(name, f"{getattr(first, keyword)} and {other}", "the same on every slice")
    return None


def _missing_geometry(instance: Instance) -> Reason | None:
    """The first attribute without which an image has no place."""
    needed = (
        ("Rows, Columns", (instance.rows and instance.columns) or None),
        ("ImagePositionPatient", instance.image_position_mm),
        ("ImageOrientationPatient", instance.image_orientation),
        ("PixelSpacing", instance.pixel_spacing_mm),
    )
    for keyword, value in needed:
        if value is None:
            return _missing(keyword, "nothing", "a value on every image")
    if min(instance.pixel_spacing_mm or (0.0,)) <= 0:
        return _missing("PixelSpacing", f"{instance.pixel_spacing_mm}", "two positive distances")
    return None


def _axes(instance: Instance) -> NDArray[np.float64] | Reason:
    """3x3 with columns row direction (x), column direction (y), normal (z), orthonormal."""
    cosines = np.array(instance.image_orientation, dtype=np.float64)
    row, column = cosines[:3], cosines[3:]
    lengths_off = max(abs(np.linalg.norm(row) - 1.0), abs(np.linalg.norm(column) - 1.0))
    if lengths_off > ORIENTATION_TOLERANCE or abs(float(row @ column)) > ORIENTATION_TOLERANCE:
        return _inconsistent(
            "ImageOrientationPatient", f"{instance.image_orientation}", "two orthogonal unit vectors"
        )
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1) + 0.0  # no -0.0


def _grid(instance: Instance, axes: FloatArray, origin_mm: FloatArray, step_mm: float, slices: int) -> Grid:
    between_rows, between_columns = instance.pixel_spacing_mm or (0.0, 0.0)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([between_columns, between_rows, step_mm])
    affine[:3, 3] = origin_mm
    return Grid((slices, instance.rows or 0, instance.columns or 0), affine)


def _inconsistent(attribute: str, found: str, expected: str) -> Reason:
    return Reason(RefusalCode.GEOMETRY_INCONSISTENT, attribute, found, expected)


def _missing(attribute: str, found: str, expected: str) -> Reason:
    return Reason(RefusalCode.GEOMETRY_MISSING, attribute, found, expected)
