"""What a reconstructed NM image's header says against itself: spacing, frames, detectors, energy windows.

Reasons and decisions on values that a header gave; reading them is :mod:`app.dicom.reading.nm`'s part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
