"""What a reconstructed NM image's header says against itself: spacing, frames, detectors, windows, its time.

Reasons and decisions on values that a header gave; reading them is :mod:`app.dicom.reading.nm`'s part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.decision import Decision
from app.domain.radionuclides import Radionuclide
from app.domain.refusal import Reason, RefusalCode

EnergyWindow = tuple[float, float]
"""Lower and upper limit, keV."""

CONTIGUOUS = (0.7, 1.5)
"""Spacing over thickness of reconstructed slices, which lie one against the other. Beyond it one is wrong."""

SAME_LENGTH = 0.03
"""Relative: two lengths with the digits that headers have."""

CUBIC = 0.1
"""Relative. Reconstructed SPECT voxels are cubes: what is as long as a pixel is the slices' distance."""

DETECTORS_APART_MM = 0.1
DETECTORS_TURNED = 1e-3
"""What items of Detector Information Sequence may differ by rounding."""

VIEW_S = (2.0, 120.0)
VIEWS = (12, 360)
DETECTORS = (2, 24)
BED_S = (120.0, 5400.0)
"""Of 177Lu: one projection, projections of one detector, detectors, one bed position. A reconstruction often
has 1 of each, its own number of slices, or ms for s; SPECT/CT with a single detector is out of use."""

MOST_ARC_DEG = 361.0
"""A detector turns once at most; a degree for rounded steps."""

TOTAL_OVER_BED = (0.9, 2.0)
"""Time of the whole acquisition over that of a bed: it holds at least one, and each at most twice."""

SHORTEST_BED_MM = 300.0
"""Of the field of view of cameras for whole bodies, less what two bed positions share."""


@dataclass(frozen=True)
class CameraTime:
    """For how long, and by how much camera, a tomogram was counted.

    Attributes:
        frame_duration_s: Actual Frame Duration, of one projection.
        projections: Number of Frames in Rotation: of each detector.
        detectors: Number of Detectors.
        angular_step_deg, scan_arc_deg: Angular Step and Scan Arc; 0 where not stated.
        rotations: more than one may be beds or passes over one bed.
        detector_items: of Detector Information Sequence.
        total_s: Effective Duration or Acquisition Duration of the whole; 0 where not stated.
    """

    frame_duration_s: float | None = None
    projections: int | None = None
    detectors: int | None = None
    angular_step_deg: float = 0.0
    scan_arc_deg: float = 0.0
    rotations: int = 1
    detector_items: int = 1
    total_s: float = 0.0

    @property
    def bed_s(self) -> float:
        """On the clock, for one bed position; 0 where unknown."""
        return (self.frame_duration_s or 0.0) * (self.projections or 0)


def check_spacing(
    spacing_mm: float, thickness_mm: float | None, pixel_mm: float
) -> tuple[Decision, ...] | Reason:
    """SpacingBetweenSlices, which places every slice, against SliceThickness and the pixels.

    A thickness as long as a pixel says that the spacing is wrong, and is refused. Where the spacing is as
    long as a pixel the thickness is; where neither is, one of both. ``spacing_mm`` is without its sign,
    ``pixel_mm`` the distance of rows.
    """
    if not thickness_mm or thickness_mm <= 0.0 or abs(spacing_mm / thickness_mm - 1.0) <= SAME_LENGTH:
        return ()
    attribute = "SpacingBetweenSlices, SliceThickness"
    found = f"{spacing_mm:g} mm and {thickness_mm:g} mm, with pixels of {pixel_mm:g} mm"
    is_far = not CONTIGUOUS[0] <= spacing_mm / thickness_mm <= CONTIGUOUS[1]
    if is_far and _is_cubic(thickness_mm, pixel_mm) and not _is_cubic(spacing_mm, pixel_mm):
        expected = "slices one against the other"
        advice = "Compare with the workstation: lengths and volumes hang on it"
        return Reason(RefusalCode.GEOMETRY_INCONSISTENT, attribute, found, expected, advice)
    text = f"{attribute}: {found}; slices are placed by the spacing, volumes hang on it"
    return (Decision.warning("load", text),)


def _is_cubic(length_mm: float, pixel_mm: float) -> bool:
    return abs(length_mm / pixel_mm - 1.0) <= CUBIC


def check_frames(frames: int, announced: int | None) -> Reason | None:
    """Frames that are here against Number of Slices (0054,0081) of an image counted by slices alone."""
    if announced is None or frames >= announced:
        return None
    code = RefusalCode.INCOMPLETE_SERIES
    advice = "Send the whole image: a stack that ends too early looks like a shorter patient"
    return Reason(code, "NumberOfSlices", f"{frames} frames", f"{announced} as announced", advice)


def check_detectors(
    positions_mm: Sequence[Sequence[float]], orientations: Sequence[Sequence[float]]
) -> Reason | None:
    """Image Position and Orientation of the items of Detector Information Sequence: one image has one."""
    import numpy as np

    for keyword, values, tolerance in (
        ("ImagePositionPatient", positions_mm, DETECTORS_APART_MM),
        ("ImageOrientationPatient", orientations, DETECTORS_TURNED),
    ):
        apart = max((float(np.abs(np.subtract(item, values[0])).max()) for item in values), default=0.0)
        if apart > tolerance:
            found = f"{keyword} of items that differ by {apart:g}"
            attribute, expected = "DetectorInformationSequence", "one place of the image in all items"
            return Reason(RefusalCode.GEOMETRY_INCONSISTENT, attribute, found, expected)
    return None


def check_energy(windows: Sequence[EnergyWindow], nuclide: Radionuclide | None) -> Reason | None:
    """Whether any energy window covers a photopeak of the radionuclide that was injected.

    An image may have scatter windows too; without a known window or photopeak there is nothing to check.
    """
    if not windows or nuclide is None or not nuclide.photopeaks_kev:
        return None
    if any(covers(windows, peak) for peak in nuclide.photopeaks_kev):
        return None
    found = " and ".join(f"{low:g} to {high:g} keV" for low, high in windows)
    peaks = " or ".join(f"{peak:g}" for peak in nuclide.photopeaks_kev)
    expected = f"a window over {peaks} keV of {nuclide.key}"
    advice = "Another radionuclide was measured than the header names, or its window was not set"
    code, attribute = RefusalCode.ATTRIBUTE_INCONSISTENT, "EnergyWindowInformationSequence"
    return Reason(code, attribute, found, expected, advice)


def covers(windows: Sequence[EnergyWindow], energy_kev: float) -> bool:
    """Whether a window has this energy in it, whichever limit is called lower."""
    return any(min(window) <= energy_kev <= max(window) for window in windows)


def check_camera_time(
    used: CameraTime, by_site: Sequence[str], slices: int, length_mm: float
) -> Reason | None:
    """Whether a header's time can be that of the acquisition; ``by_site``: fields that the site states.

    Counts become a rate by it, so that a placeholder is as wrong as a wrong calibration.
    """
    per_bed = ("frame_duration_s", "projections")
    judged = (
        ("ActualFrameDuration", per_bed[:1], _duration_doubt(used)),
        ("NumberOfFramesInRotation", per_bed[1:], _projections_doubt(used, slices)),
        ("NumberOfDetectors", ("detectors",), _detectors_doubt(used)),
        ("ActualFrameDuration, NumberOfFramesInRotation", per_bed, _bed_doubt(used, length_mm)),
    )
    doubts = {name: doubt for name, fields, doubt in judged if doubt and not set(fields) <= set(by_site)}
    if not doubts:
        return None
    if len(doubts) > 1:
        doubts.pop("ActualFrameDuration, NumberOfFramesInRotation", None)  # a consequence of the others
    found, expected = "; ".join(doubts.values()), "the acquisition's own, as the camera counted"
    return Reason(RefusalCode.CAMERA_TIME_IMPLAUSIBLE, ", ".join(doubts), found, expected)


def _duration_doubt(time: CameraTime) -> str:
    seconds = time.frame_duration_s or 0.0
    usual = VIEW_S[0] <= seconds <= VIEW_S[1]
    return "" if usual else f"{seconds:g} s for a projection (usual are {VIEW_S[0]:g} to {VIEW_S[1]:g} s)"


def _projections_doubt(time: CameraTime, slices: int) -> str:
    """Against what is usual, the angles, and the number of slices, which reconstructions write there."""
    views, step_deg, arc_deg = time.projections or 0, time.angular_step_deg, time.scan_arc_deg
    if time.rotations > 1:
        return f"{time.rotations} rotations, which may be bed positions or passes over one"
    if not VIEWS[0] <= views <= VIEWS[1]:
        return f"{views} projections of a detector (usual are {VIEWS[0]} to {VIEWS[1]})"
    if step_deg and step_deg * views > MOST_ARC_DEG:
        return f"{views} projections in steps of {step_deg:g} degrees, more than a turn"
    shares = {1, time.detectors or 1}  # the arc is that of one detector, or of all
    if step_deg and arc_deg and not any(abs(arc_deg / step_deg / n - views) <= 1.0 for n in shares):
        return f"{views} projections in steps of {step_deg:g} degrees over {arc_deg:g} degrees"
    if not step_deg and views == slices:
        return f"{views} projections, as many as slices, and no AngularStep to tell"
    return ""


def _detectors_doubt(time: CameraTime) -> str:
    detectors, items = time.detectors or 0, time.detector_items
    if not DETECTORS[0] <= detectors <= DETECTORS[1]:
        return f"{detectors} detectors (SPECT/CT has {DETECTORS[0]} to {DETECTORS[1]})"
    return f"{detectors} detectors, {items} described" if items not in (1, detectors) else ""


def _bed_doubt(time: CameraTime, length_mm: float) -> str:
    if not BED_S[0] <= time.bed_s <= BED_S[1]:
        return f"{time.bed_s:g} s for a bed position (usual are {BED_S[0]:g} to {BED_S[1]:g} s)"
    beds = max(math.ceil(length_mm / SHORTEST_BED_MM), 1)
    least, most = TOTAL_OVER_BED[0] * time.bed_s, TOTAL_OVER_BED[1] * time.bed_s * beds
    if time.total_s and not least <= time.total_s <= most:
        return f"{time.bed_s:g} s for a bed position, {time.total_s:g} s for the whole acquisition"
    return ""
