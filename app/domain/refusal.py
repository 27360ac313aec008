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
    """Every reason for which a series, study, prior or instance is not used.

    ``meaning`` is a sentence; ``advice`` is what a person can do where the place that refuses knows nothing
    nearer, empty where nothing is to be done.
    """

    meaning: str
    advice: str

    def __new__(cls, value: str, meaning: str = "", advice: str = "") -> RefusalCode:
        """A member whose value is the code alone."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.advice = advice
        return member

    # reading
    UNREADABLE = (
        "unreadable",
        "A file is no DICOM file, is damaged, or lacks the UIDs that say what it is.",
        "Send it again if it belongs to a study",
    )
    CONFLICTING_DUPLICATE = (
        "conflicting-duplicate",
        "Two different contents came under one SOP Instance UID; which one is right is unknown.",
        "Have the one who changed it give it a UID of its own, and send the scanner's images alone",
    )
    ATTRIBUTE_INCONSISTENT = (
        "attribute-inconsistent",
        "Images of one series, or items of one sequence, contradict each other in an attribute that decides "
        "on the numbers.",
        "Compare with the scanner's own copy, and send the series again from there",
    )
    PIXEL_DATA_MISSING = (
        "pixel-data-missing",
        "Pixels are absent, cut off, or don't fit Rows and Columns.",
        "Send the image again from its source",
    )
    TRANSFER_SYNTAX_UNSUPPORTED = (
        "transfer-syntax-unsupported",
        "The image is compressed in a way that is not decoded here (video, or an unknown syntax).",
        "Have the sender transfer it uncompressed",
    )
    LOSSY_COMPRESSION = (
        "lossy-compression",
        "The functional image was compressed with loss: its values are no longer the measured ones.",
        "Send the images as the scanner made them",
    )
    # selection
    NOT_AN_IMAGE = "not-an-image", "The object is no image: a report, a presentation state, a structure set."
    OTHER_MODALITY = (
        "other-modality",
        "An image of another kind than PET, NM and CT Image Storage, and PET and CT in their enhanced forms.",
    )
    NOT_PRIMARY = "not-primary", "The image was made from other images: a projection, a scout, a capture."
    NOT_ATTENUATION_CORRECTED = (
        "not-attenuation-corrected",
        "The reconstruction has no attenuation correction, so its values are no activity.",
        "Send the attenuation-corrected reconstruction",
    )
    NOT_RECONSTRUCTED = (
        "not-reconstructed",
        "NM data that are no reconstructed tomogram, but projections.",
        "Send the reconstruction",
    )
    TRACER_UNKNOWN = (
        "tracer-unknown",
        "Neither a code nor a rule of the site tells which tracer is shown.",
        "Code drug and radionuclide on the scanner",
    )
    TRACER_NOT_ALLOWED = (
        "tracer-not-allowed",
        "The tracer is known, and is not one that is segmented here.",
        "If it is meant to be segmented: select.additional_tracers",
    )
    NO_FUNCTIONAL_SERIES = "no-functional-series", "The study has no PET or SPECT.", "Send it"
    NO_CT = "no-ct", "The study has no usable CT for its functional image.", "Send the CT"
    CT_OTHER_FRAME_OF_REFERENCE = (
        "ct-other-frame-of-reference",
        "No CT shares the functional image's frame of reference: nothing says that they lie in one space.",
        "Send the CT of the same session",
    )
    CT_DOES_NOT_COVER = (
        "ct-does-not-cover",
        "The CT shows too little of what the functional image shows.",
        "Send the CT that the attenuation was corrected with",
    )
    CT_MISPLACED = (
        "ct-misplaced",
        "The functional image does not lie on its CT: far beside it, mirrored or turned.",
        "Compare both on the workstation; send them again from the scanner",
    )
    BETTER_SERIES_CHOSEN = "better-series-chosen", "Usable, but another series serves the same region better."
    # geometry
    GEOMETRY_MISSING = (
        "geometry-missing",
        "An image does not say where it lies in the patient.",
        "Send the images with all their geometry, as the scanner made them",
    )
    GEOMETRY_INCONSISTENT = (
        "geometry-inconsistent",
        "Slices are no stack: tilted, uneven, of several orientations or sizes, or in several images.",
        "Send the scanner's own reconstruction, whole and as one series",
    )
    SLICE_GAP = "slice-gap", "A slice within the stack is missing.", "Send all slices"
    INCOMPLETE_SERIES = (
        "incomplete-series",
        "Fewer slices are here than the series announces: the stack ends too early at an end.",
        "Send all slices",
    )
    DUPLICATE_SLICE = (
        "duplicate-slice",
        "Several images lie at one position: a doubled slice, or a dynamic or gated series.",
        "Send one volume as a series of its own, without doubled slices, time frames or gates",
    )
    TOO_FEW_SLICES = "too-few-slices", "Too few slices to be a volume.", "Send the whole series"
    # units
    UNITS_UNSUPPORTED = (
        "units-unsupported",
        "The unit of the values is unknown, or can't become SUV.",
        "Have it reconstructed or exported in a unit that is expected here",
    )
    RESCALE_MISSING = (
        "rescale-missing",
        "Rescale slope or intercept is absent, malformed or not positive.",
        "Send the series again as the scanner made it",
    )
    RESCALE_INTERCEPT = (
        "rescale-intercept",
        "An intercept other than 0: activity has its zero at zero.",
        "Send the series again as the scanner made it",
    )
    DECAY_CORRECTION_UNKNOWN = (
        "decay-correction-unknown",
        "It is not stated to which instant the activity is decay corrected.",
        "Have scanner and anonymiser keep DecayCorrection (0054,1102)",
    )
    DECAY_CORRECTION_CONTRADICTED = (
        "decay-correction-contradicted",
        "DecayCorrection, CorrectedImage and DecayFactor contradict each other by more than 5 % of SUV.",
        "Correct DecayCorrection where the image was made, or send the series as the scanner wrote it",
    )
    NOT_DECAY_CORRECTED = (
        "not-decay-corrected",
        "The image is not decay corrected, and its slices don't say when and how long they were measured.",
        "Send the decay corrected reconstruction",
    )
    DOSE_MISSING = (
        "dose-missing",
        "The injected activity is absent.",
        "Fill it on the scanner, or add the study to load.administrations",
    )
    DOSE_IMPLAUSIBLE = (
        "dose-implausible",
        "The injected activity fits neither Bq nor MBq.",
        "Correct it, or add the study to load.administrations",
    )
    WEIGHT_MISSING = (
        "weight-missing",
        "The patient's weight is absent or 0: Bq/ml is known, SUV is not.",
        "Fill it on the scanner, or add the study to load.administrations",
    )
    WEIGHT_IMPLAUSIBLE = (
        "weight-implausible",
        "The patient's weight can't be in kg, or not with the height.",
        "Correct it, or add the study to load.administrations",
    )
    HEIGHT_MISSING = (
        "height-missing",
        "An SUV by lean mass or surface needs the patient's height.",
        "Fill it on the scanner",
    )
    BODY_IMPLAUSIBLE = (
        "body-implausible",
        "Height, weight and sex give no lean mass, ideal weight or surface.",
        "Correct them where the image was made",
    )
    HALF_LIFE_MISMATCH = (
        "half-life-mismatch",
        "The half-life is not the radionuclide's, or none is stated.",
        "Correct RadionuclideHalfLife (in s) or RadionuclideCodeSequence where the image was made",
    )
    INJECTION_TIME_MISSING = (
        "injection-time-missing",
        "Date and time of the injection can't be known from the header.",
        "Fill it on the scanner, or add the study to load.administrations",
    )
    INJECTION_TIME_IMPLAUSIBLE = (
        "injection-time-implausible",
        "The injection lies after the scan, at the same instant, too long before it, has two times, or may "
        "be in another time zone than the scan.",
        "Correct the injection's date or time, or add the study to load.administrations",
    )
    SERIES_TIME_MISSING = (
        "series-time-missing",
        "The instant to which the image is decay corrected can't be known.",
        "Have scanner and anonymiser keep the dates and times of series and acquisition",
    )
    SERIES_TIME_IMPLAUSIBLE = (
        "series-time-implausible",
        "The scan's clocks contradict each other by more than a few per cent of SUV.",
        "Correct the clock that is wrong",
    )
    CALIBRATION_MISSING = (
        "calibration-missing",
        "SPECT in counts, and no single calibration of the site for its camera, collimator and day.",
        "Add the camera's Bq/cps with its dates to load.calibrations",
    )
    CAMERA_TIME_IMPLAUSIBLE = (
        "camera-time-implausible",
        "SPECT in counts whose header can't have the acquisition's time: a placeholder, or a contradiction.",
        "State frame_duration_s, projections and detectors in the camera's entry of load.calibrations",
    )
    VALUES_IMPLAUSIBLE = (
        "values-implausible",
        "The values can't be in the unit stated: more activity than was injected, none, or wrapped around.",
        "Compare them with the scanner's workstation, and send the series again from there",
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
        advice: what a person can do; the code's own where none is given.
        series_instance_uid: the series it is about; empty for the study.
    """

    code: RefusalCode
    attribute: str
    found: str
    expected: str
    advice: str = ""
    series_instance_uid: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "advice", self.advice or self.code.advice)

    @property
    def in_brief(self) -> str:
        """What was found, without what was expected and the advice."""
        subject = f"{self.attribute}: " if self.attribute else ""
        return f"[{self.code}] {subject}found {self.found}"

    def __str__(self) -> str:
        text = f"{self.in_brief}, expected {self.expected}"
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


def quoted_codes(words: str) -> list[RefusalCode]:
    """Codes of the reasons that are quoted in a text (:attr:`Reason.in_brief`), in alphabetical order."""
    return sorted(code for code in RefusalCode if f"[{code}]" in words)


def advance(
    items: Iterable[Item | Rejection], step: Callable[[Item], Next | Rejection]
) -> tuple[Next | Rejection, ...]:
    """Apply a stage to every item that is still alive; rejections pass through unchanged."""
    return tuple(item if isinstance(item, Rejection) else step(item) for item in items)
