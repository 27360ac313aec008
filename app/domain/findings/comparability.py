"""May two scans of a patient be compared? What their headers say of it, before any pixel is laid on another.

SUV and volumes of the same disease differ with the radiopharmaceutical, the time after injection, the
reconstruction and the part of the body shown. A difference beyond a limit stops the comparison; a smaller
one, and all that is unknown, is stated next to its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from app.domain.ranges import Minutes, Range, Ranged, SomeShare
from app.domain.study import Patient, Series, StudyKind

if TYPE_CHECKING:
    from app.domain.volume import Grid

VOXEL_TOLERANCE = 0.05
"""Relative: voxels that differ by less are the same matrix, rounded."""

SECONDS_PER_MINUTE, SECONDS_PER_HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class ComparabilityLimits(Ranged):
    """How alike two scans have to be before their numbers are compared."""

    uptake_told_min: Minutes = 15.0
    """PET: a larger difference in time from injection to scan, minutes, is stated, and RECIP is not decided
    (repeated scans stay within 15 min: EANM 2.0, Eur J Nucl Med Mol Imaging 2015;42:328; QIBA FDG-PET)."""
    uptake_stops_min: Minutes = 50.0
    """PET: a larger one stops the comparison. 50 to 100 min is what EANM and SNMMI accept for 68Ga-PSMA-11
    (Eur J Nucl Med Mol Imaging 2023;50:1466)."""
    spect_uptake_told_h: Annotated[float, Range(0, 336)] = 6.0
    """SPECT: as ``uptake_told_min``, hours; in tumours 6 h are about 8 % of activity."""
    spect_uptake_stops_h: Annotated[float, Range(0, 336)] = 18.0
    """SPECT: as ``uptake_stops_min``, hours: less than from one day of imaging to the next."""
    min_shared_region: SomeShare = 0.5
    """Least share of this study's body that the other shows too, 0..1. Totals are over what both do."""
    recip_min_shared_region: SomeShare = 0.9
    """Least share of each study's body that the other shows, 0..1, for RECIP: it is about all disease."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.uptake_told_min <= self.uptake_stops_min:
            raise ValueError("uptake_stops_min is not below uptake_told_min")
        if not self.spect_uptake_told_h <= self.spect_uptake_stops_h:
            raise ValueError("spect_uptake_stops_h is not below spect_uptake_told_h")
        if not self.min_shared_region <= self.recip_min_shared_region:
            raise ValueError("recip_min_shared_region is not below min_shared_region")

    def uptake_s(self, kind: StudyKind) -> tuple[float, float]:
        """The two limits on time after injection, s: stated beyond, stopped beyond."""
        if kind is StudyKind.SPECT_CT:
            return self.spect_uptake_told_h * SECONDS_PER_HOUR, self.spect_uptake_stops_h * SECONDS_PER_HOUR
        return self.uptake_told_min * SECONDS_PER_MINUTE, self.uptake_stops_min * SECONDS_PER_MINUTE


@dataclass(frozen=True)
class ScanFacts:
    """What headers say that a comparison hangs on.

    Attributes:
        uptake_s: from injection to scan; ``None`` when unknown.
        reconstruction: name and value of each property; an empty value is unknown.
        voxel_mm: ``(x, y, z)``.
        length_mm: of the image from head to feet.
    """

    patient: Patient
    kind: StudyKind
    tracer: str
    uptake_s: float | None
    reconstruction: tuple[tuple[str, str], ...]
    voxel_mm: tuple[float, float, float]
    length_mm: float

    @classmethod
    def of(
        cls, patient: Patient, scan: tuple[StudyKind, str], series: Series, uptake_s: float | None, grid: Grid
    ) -> ScanFacts:
        """Of a functional series on ``grid``; ``scan`` is its kind and tracer."""
        reconstruction = (
            ("scanner", f"{series.manufacturer} {series.model_name}".strip()),
            ("reconstruction method", series.reconstruction_method),
            ("filter", series.convolution_kernel),
        )
        z_mm = grid.corners_mm()[:, 2]
        length_mm = float(z_mm.max() - z_mm.min())
        return cls(patient, *scan, uptake_s, reconstruction, grid.spacing_mm, length_mm)


@dataclass(frozen=True)
class Comparability:
    """An earlier scan against this one.

    Attributes:
        stops: why they can't be compared; empty when they can.
        told: what differs or is unknown, to be stated with the numbers.
        order: of several that may be compared the lowest is the best.
    """

    stops: tuple[str, ...]
    told: tuple[str, ...]
    order: tuple[float, ...]


def comparability(then: ScanFacts, now: ScanFacts, limits: ComparabilityLimits) -> Comparability:
    """Patient, radiopharmaceutical and time after injection may stop; reconstruction is stated."""
    contradiction = then.patient.contradiction(now.patient)
    stops = [contradiction] if contradiction else []
    if then.tracer != now.tracer:
        stops.append(f"another radiopharmaceutical: {then.tracer} then, {now.tracer} now")
    told = [*_reconstruction(then, now)]
    apart_s = _apart_s(then, now)
    told_s, stops_s = limits.uptake_s(now.kind)
    if apart_s is None:
        told.insert(0, "time after injection unknown then or now")
    elif apart_s > told_s:
        (stops if apart_s > stops_s else told).insert(0, _uptake_in_words(then, now))
    lengths = sorted((then.length_mm, now.length_mm))
    same_length = round(lengths[0] / lengths[1], 1) if lengths[1] > 0 else 1.0
    order = (len(stops), -same_length, len(told), float("inf") if apart_s is None else apart_s)
    return Comparability(tuple(stops), tuple(told), order)


def _apart_s(then: ScanFacts, now: ScanFacts) -> float | None:
    if then.uptake_s is None or now.uptake_s is None:
        return None
    return abs(then.uptake_s - now.uptake_s)


def _uptake_in_words(then: ScanFacts, now: ScanFacts) -> str:
    unit, name = (SECONDS_PER_HOUR, "h") if now.kind is StudyKind.SPECT_CT else (SECONDS_PER_MINUTE, "min")
    before, after = ((facts.uptake_s or 0.0) / unit for facts in (then, now))
    return f"time after injection {before:.0f} {name} then, {after:.0f} {name} now"


def _reconstruction(then: ScanFacts, now: ScanFacts) -> list[str]:
    """Differences; a filter that neither states is no filter, as most scanners leave it out."""
    found = []
    for (name, before), (_, after) in zip(then.reconstruction, now.reconstruction, strict=True):
        if before != after:
            found.append(f"another {name}: {before or 'not stated'} then, {after or 'not stated'} now")
        elif not before and name != "filter":
            found.append(f"{name} not stated")
    pairs = list(zip(then.voxel_mm, now.voxel_mm, strict=True))
    if any(abs(a - b) > VOXEL_TOLERANCE * max(a, b) for a, b in pairs):
        sizes = (" x ".join(f"{size:.2f}" for size in facts.voxel_mm) for facts in (then, now))
        found.append("other voxels: {} mm then, {} mm now".format(*sizes))
    return found
