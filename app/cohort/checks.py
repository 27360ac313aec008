"""Checks of a cohort: whether a truth lies on uptake, and whether every patient is another person.

Two patients are one person when their UIDs, their hashed identity or the fingerprints of their images agree.
A fingerprint survives anonymisation, new UIDs, copying and compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.cohort.manifest import CohortPatient, PatientRecord
from app.domain.volume import LabelMap, Volume

BODY_HU = -500.0
"""Between air and lung."""

MOST_OUTSIDE = 0.5
"""A truth that lies mostly outside its image is another image's."""

CLEAR_OF_BODY = 2.0
"""Lesions of PSMA stand out by far; below this ratio to the body's median you should look."""

TELLTALE_GAIN = 3.0
"""Mirrored, a truth in a wrong orientation lies on lesions: this many times the uptake it has as it is."""

AXES = {0: "head to feet", 1: "front to back", 2: "left to right"}
"""The axes of canonical arrays ``(z, y, x)``."""


@dataclass(frozen=True)
class Finding:
    """Why a truth can't be used, or what you should look at; both are empty when all is well."""

    refusal: str = ""
    warning: str = ""


def check_place(share_outside: float) -> Finding:
    """Whether the truth lies within the functional image."""
    if share_outside > MOST_OUTSIDE:
        return Finding(refusal=f"{share_outside:.0%} of the truth lies outside the functional image")
    if share_outside > 0.0:
        return Finding(warning=f"{share_outside:.1%} of the truth lies outside the functional image")
    return Finding()


def check_uptake(suv: NDArray[np.float32], ct: NDArray[np.float32], truth: LabelMap) -> Finding:
    """Whether the truth lies on uptake; nothing to say of an empty one.

    Args:
        suv, ct: canonical ``(z, y, x)`` on one grid, SUVbw and HU.
        truth: on the same grid.
    """
    mask = truth.mask
    body = suv[(ct > BODY_HU) & ~mask]
    if not mask.any() or not body.size:
        return Finding()
    inside, around = float(np.median(suv[mask])), float(np.median(body))
    medians = f"median SUV {inside:.2f} in the truth, {around:.2f} in the body"
    mirrored = _better_mirrored(suv, mask, inside)
    if inside < around:
        return Finding(refusal=f"the truth does not lie on uptake: {medians}{mirrored}")
    if inside < CLEAR_OF_BODY * around or mirrored:
        return Finding(warning=f"the truth hardly lies on uptake: {medians}{mirrored}")
    return Finding()


def _better_mirrored(suv: NDArray[np.float32], mask: NDArray[np.bool_], inside: float) -> str:
    """A hint when the truth fits far better the other way round."""
    gains = {axis: float(np.median(suv[np.flip(mask, axis)])) / max(inside, 1e-3) for axis in AXES}
    best = max(gains, key=lambda axis: gains[axis])
    if gains[best] < TELLTALE_GAIN:
        return ""
    found = f"mirrored {AXES[best]} it would have {gains[best]:.0f} times the uptake"
    return f"; {found}: is its orientation wrong?"


PARTS = 4
"""Of the image, along each axis."""

SAME_WITHIN = 1e-5
"""A share of all uptake. Rounding of slopes moves it by 1e-6; two scans of one patient differ by 1e-3."""


def fingerprint(suv: Volume) -> tuple[float, ...]:
    """Share of the whole uptake in each of 4 x 4 x 4 parts: free of unit and of UIDs."""
    shares = np.maximum(np.asarray(suv.array, np.float64), 0.0)
    for axis, length in enumerate(suv.array.shape):
        starts = np.linspace(0, length, PARTS, endpoint=False).astype(int)
        shares = np.add.reduceat(shares, starts, axis=axis)
    total = float(shares.sum())
    return tuple(round(float(value) / total, 7) for value in shares.ravel())


def same_image(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two fingerprints are of one image."""
    return len(first) == len(second) and bool(np.abs(np.subtract(first, second)).max() <= SAME_WITHIN)


@dataclass(frozen=True)
class Sorted:
    """Patients that are different persons, those that are not, and warnings."""

    kept: tuple[CohortPatient, ...]
    repeated: tuple[tuple[CohortPatient, str], ...]
    warnings: tuple[str, ...]


def without_repeated(records: Sequence[PatientRecord]) -> Sorted:
    """Leave out every patient that an earlier record has already: of two the first is kept."""
    kept: list[tuple[CohortPatient, PatientRecord]] = []
    repeated, warnings = [], []
    for record in records:
        if record.patient is None:
            continue
        reason = ""
        for other, of_other in kept:
            reason = _same(record.patient, record, other, of_other)
            if reason:
                repeated.append((record.patient, reason))
                break
            if not record.has_birth_date and _one_person(record, of_other):
                words = "have one Patient ID and no birth date: they may be one person"
                warnings.append(f"{other.id} and {record.patient.id} {words}")
        if not reason:
            kept.append((record.patient, record))
    return Sorted(tuple(patient for patient, _ in kept), tuple(repeated), tuple(warnings))


def _same(
    patient: CohortPatient, record: PatientRecord, other: CohortPatient, of_other: PatientRecord
) -> str:
    """Why two are one person; empty when nothing says so."""
    if _uids(patient, "study_instance_uid") & _uids(other, "study_instance_uid"):
        return f"its study is {other.id}'s already: one Study Instance UID"
    if _uids(patient, "series_instance_uid") & _uids(other, "series_instance_uid"):
        return f"its images are {other.id}'s already: one Series Instance UID"
    if record.has_birth_date and _one_person(record, of_other):
        return f"it is {other.id} already: one Patient ID and birth date"
    for first in record.fingerprints.values():
        if any(same_image(first, second) for second in of_other.fingerprints.values()):
            return f"its images are {other.id}'s already, under other UIDs"
    return ""


def _one_person(record: PatientRecord, other: PatientRecord) -> bool:
    return bool(record.person) and (record.person, record.salt) == (other.person, other.salt)


def _uids(patient: CohortPatient, what: str) -> set[str]:
    return {str(getattr(scan, what)) for scan in patient.scans}
