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
    """Every reason for which a series, study, prior or instance is not used; ``meaning`` is a sentence."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> RefusalCode:
        """A member whose value is the code alone."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # reading
    UNREADABLE = "unreadable", "A file is no DICOM file, is damaged, or lacks the UIDs that say what it is."
    CONFLICTING_DUPLICATE = (
        "conflicting-duplicate",
        "Two different contents came under one SOP Instance UID; which one is right is unknown.",
    )
    ATTRIBUTE_INCONSISTENT = (
        "attribute-inconsistent",
        "Images of one series, or items of one sequence, contradict each other in an attribute that decides "
        "on the numbers.",
    )
    PIXEL_DATA_MISSING = "pixel-data-missing", "Pixels are absent, cut off, or don't fit Rows and Columns."
    TRANSFER_SYNTAX_UNSUPPORTED = (
        "transfer-syntax-unsupported",
        "The image is compressed in a way that is not decoded here (video, or an unknown syntax).",
    )
    LOSSY_COMPRESSION = (
        "lossy-compression",
        "The functional image was compressed with loss: its values are no longer the measured ones.",
    )
    # selection
    NOT_AN_IMAGE = "not-an-image", "The object is no image: a report, a presentation state, a structure set."
    OTHER_MODALITY = (
        "other-modality",
        "An image of another kind than PET Image, NM Image and CT Image Storage; enhanced multi-frame PET "
        "and CT are among these.",
    )
    NOT_PRIMARY = "not-primary", "The image was made from other images: a projection, a scout, a capture."
    NOT_ATTENUATION_CORRECTED = (
        "not-attenuation-corrected",
        "The reconstruction has no attenuation correction, so its values are no activity.",
    )
    NOT_RECONSTRUCTED = "not-reconstructed", "NM data that are no reconstructed tomogram, but projections."
    TRACER_UNKNOWN = "tracer-unknown", "Neither a code nor a rule of the site tells which tracer is shown."
    TRACER_NOT_ALLOWED = "tracer-not-allowed", "The tracer is known, and is not one that is segmented here."
    NO_FUNCTIONAL_SERIES = "no-functional-series", "The study has no PET or SPECT."
    NO_CT = "no-ct", "The study has no usable CT for its functional image."
    CT_OTHER_FRAME_OF_REFERENCE = (
        "ct-other-frame-of-reference",
        "No CT shares the functional image's frame of reference: nothing says that they lie in one space.",
    )
    CT_DOES_NOT_COVER = "ct-does-not-cover", "The CT shows too little of what the functional image shows."
    CT_MISPLACED = (
        "ct-misplaced",
        "The functional image does not lie on its CT: far beside it, mirrored or turned.",
    )
    BETTER_SERIES_CHOSEN = "better-series-chosen", "Usable, but another series serves the same region better."
    # geometry
    GEOMETRY_MISSING = "geometry-missing", "An image does not say where it lies in the patient."
    GEOMETRY_INCONSISTENT = (
        "geometry-inconsistent",
        "Slices are no stack: tilted, uneven, of several orientations or sizes, or in several images.",
    )
    SLICE_GAP = "slice-gap", "A slice within the stack is missing."
    INCOMPLETE_SERIES = (
        "incomplete-series",
        "Fewer slices are here than the series announces: the stack ends too early at an end.",
    )
    DUPLICATE_SLICE = (
        "duplicate-slice",
        "Several images lie at one position: a doubled slice, or a dynamic or gated series.",
    )
    TOO_FEW_SLICES = "too-few-slices", "Too few slices to be a volume."
    # units
    UNITS_UNSUPPORTED = "units-unsupported", "The unit of the values is unknown, or can't become SUV."
    RESCALE_MISSING = "rescale-missing", "Rescale slope or intercept is absent, malformed or not positive."
    RESCALE_INTERCEPT = "rescale-intercept", "An intercept other than 0: activity has its zero at zero."
    DECAY_CORRECTION_UNKNOWN = (
        "decay-correction-unknown",
        "It is not stated to which instant the activity is decay corrected.",
    )
    DECAY_CORRECTION_CONTRADICTED = (
        "decay-correction-contradicted",
        "DecayCorrection, CorrectedImage and DecayFactor contradict each other by more than 5 % of SUV.",
    )
    NOT_DECAY_CORRECTED = (
        "not-decay-corrected",
        "The image is not decay corrected, and its slices don't say when and how long they were measured.",
    )
    DOSE_MISSING = "dose-missing", "The injected activity is absent."
    DOSE_IMPLAUSIBLE = "dose-implausible", "The injected activity fits neither Bq nor MBq."
    WEIGHT_MISSING = "weight-missing", "The patient's weight is absent or 0: Bq/ml is known, SUV is not."
    WEIGHT_IMPLAUSIBLE = "weight-implausible", "The patient's weight can't be in kg, or not with the height."
    HEIGHT_MISSING = "height-missing", "An SUV by lean mass or surface needs the patient's height."
    BODY_IMPLAUSIBLE = "body-implausible", "Height and weight give no lean mass, ideal weight or surface."
    HALF_LIFE_MISMATCH = "half-life-mismatch", "The half-life is not the radionuclide's, or none is stated."
    INJECTION_TIME_MISSING = (
        "injection-time-missing",
        "Date and time of the injection can't be known from the header.",
    )
    INJECTION_TIME_IMPLAUSIBLE = (
        "injection-time-implausible",
        "The injection lies after the scan, at the same instant, too long before it, has two times, or may "
        "be in another time zone than the scan.",
    )
    SERIES_TIME_MISSING = (
        "series-time-missing",
        "The instant to which the image is decay corrected can't be known.",
    )
    SERIES_TIME_IMPLAUSIBLE = (
        "series-time-implausible",
        "The scan's clocks contradict each other by more than a few per cent of SUV.",
    )
    CALIBRATION_MISSING = (
        "calibration-missing",
        "SPECT in counts, and no single calibration of the site for its camera, collimator and day.",
    )
    VALUES_IMPLAUSIBLE = (
        "values-implausible",
        "The values can't be in the unit stated: more activity than was injected, none, or wrapped around.",
    )
    # prior
    NO_PRIOR = "no-prior", "No earlier PET result of this patient, so the model without a prior is used."
    PRIOR_TOO_OLD = "prior-too-old", "The patient's PET results are older than the site allows."
    PRIOR_EMPTY = "prior-empty", "The earlier PET showed no lesion, or none within the SPECT's field of view."
    PRIOR_MISFIT = "prior-misfit", "The CTs of PET and SPECT could not be brought together well enough."
    PRIOR_UNREADABLE = "prior-unreadable", "An earlier PET result can't be read any more."


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
