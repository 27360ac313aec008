"""Refusals: why something can't be used, in words that tell what to do.

``RefusalCode`` is the one list of reasons; documentation and tests are made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

Item = TypeVar("Item")
Next = TypeVar("Next")


class RefusalCode(StrEnum):
    """Every reason for which a series, study, prior or instance is not used."""

    # reading
    UNREADABLE = "unreadable"
    CONFLICTING_DUPLICATE = "conflicting-duplicate"
    ATTRIBUTE_INCONSISTENT = "attribute-inconsistent"
    PIXEL_DATA_MISSING = "pixel-data-missing"
    TRANSFER_SYNTAX_UNSUPPORTED = "transfer-syntax-unsupported"
    # selection
    NOT_AN_IMAGE = "not-an-image"
    OTHER_MODALITY = "other-modality"
    NOT_PRIMARY = "not-primary"
    NOT_ATTENUATION_CORRECTED = "not-attenuation-corrected"
    NOT_RECONSTRUCTED = "not-reconstructed"
    TRACER_UNKNOWN = "tracer-unknown"
    TRACER_NOT_ALLOWED = "tracer-not-allowed"
    NO_FUNCTIONAL_SERIES = "no-functional-series"
    NO_CT = "no-ct"
    CT_OTHER_FRAME_OF_REFERENCE = "ct-other-frame-of-reference"
    CT_DOES_NOT_COVER = "ct-does-not-cover"
    BETTER_SERIES_CHOSEN = "better-series-chosen"
    # geometry
    GEOMETRY_MISSING = "geometry-missing"
    GEOMETRY_INCONSISTENT = "geometry-inconsistent"
    SLICE_GAP = "slice-gap"
    DUPLICATE_SLICE = "duplicate-slice"
    TOO_FEW_SLICES = "too-few-slices"
    # units
    UNITS_UNSUPPORTED = "units-unsupported"
    RESCALE_MISSING = "rescale-missing"
    RESCALE_INTERCEPT = "rescale-intercept"
    DECAY_CORRECTION_UNKNOWN = "decay-correction-unknown"
    NOT_DECAY_CORRECTED = "not-decay-corrected"
    DOSE_MISSING = "dose-missing"
    DOSE_IMPLAUSIBLE = "dose-implausible"
    WEIGHT_MISSING = "weight-missing"
    WEIGHT_IMPLAUSIBLE = "weight-implausible"
    HALF_LIFE_MISMATCH = "half-life-mismatch"
    INJECTION_TIME_MISSING = "injection-time-missing"
    INJECTION_TIME_IMPLAUSIBLE = "injection-time-implausible"
    SERIES_TIME_MISSING = "series-time-missing"
    CALIBRATION_MISSING = "calibration-missing"
    VALUES_IMPLAUSIBLE = "values-implausible"
    # prior
    NO_PRIOR = "no-prior"
    PRIOR_TOO_OLD = "prior-too-old"
    PRIOR_EMPTY = "prior-empty"
    PRIOR_MISFIT = "prior-misfit"
    PRIOR_UNREADABLE = "prior-unreadable"
    # model
    NO_MODEL = "no-model"


@dataclass(frozen=True)
class Reason:
    """One reason, complete enough to act on.

    Attributes:
        code: which kind of reason.
        attribute: DICOM keyword (or setting) it is about; empty when none.
        found: what was found (never a patient's name or identifier).
        expected: what would have been usable.
        advice: what a person can do.
        series_instance_uid: the series it is about; empty for the study.
    """

    code: RefusalCode
    attribute: str
    found: str
    expected: str
    advice: str = ""
    series_instance_uid: str = ""

    def __str__(self) -> str:
        subject = f"{self.attribute}: " if self.attribute else ""
        text = f"[{self.code}] {subject}found {self.found}, expected {self.expected}"
        return f"{text}. {self.advice}" if self.advice else text


@dataclass(frozen=True)
class Rejection:
    """An expected refusal, as a value."""

    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError("a rejection needs at least one reason")

    def __str__(self) -> str:
        return "; ".join(str(reason) for reason in self.reasons)


def advance(
    items: Iterable[Item | Rejection], step: Callable[[Item], Next | Rejection]
) -> tuple[Next | Rejection, ...]:
    """Apply a stage to every item that is still alive; rejections pass through unchanged."""
    return tuple(item if isinstance(item, Rejection) else step(item) for item in items)
