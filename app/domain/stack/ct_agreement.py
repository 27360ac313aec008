"""Whether a functional image lies on its own CT: what was measured, the site's limits, the verdict in words.

:mod:`app.imaging.registration.ct_agreement` measures; docs/explanation/registration.md has the margins of
right and wrong pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from app.domain.ranges import Correlation, Range, Ranged, Share, SomeShare
from app.domain.refusal import Reason, RefusalCode

ADVICE = "Look at both images over each other; send the CT that was made with this image, at its true place"

_AXES = ("left-right", "front-back", "head-feet")


class Flip(StrEnum):
    """How one image may be reversed against the other."""

    LEFT_RIGHT = "mirrored left to right"
    FRONT_BACK = "mirrored front to back"
    HEAD_FEET = "mirrored head to feet"
    ABOUT_Z = "turned by 180 degrees about the long axis"
    ABOUT_Y = "turned by 180 degrees about the front-back axis"
    ABOUT_X = "turned by 180 degrees about the left-right axis"


class CtVerdict(StrEnum):
    """What is made of it."""

    FITS = "fits"
    UNCHECKED = "not checked"
    """The field of view cuts the body's outline, which then proves nothing."""
    DOUBTFUL = "doubtful"
    """Reported with a warning, without anything that is read from the CT at lesions and organs."""
    WRONG = "wrong"
    """Refused: the model would be given two bodies."""


@dataclass(frozen=True)
class CtAgreementPolicy(Ranged):
    """Limits on how a PET or SPECT lies on its CT."""

    max_shift_mm: Annotated[float, Range(0, 500, above=True)] = 15.0
    """Beyond this along any axis, mm, the image is reported with a warning, without sites and organs."""
    refused_shift_mm: Annotated[float, Range(0, 1000, above=True)] = 60.0
    """Beyond this along any axis, mm, the image is refused."""
    min_gain: SomeShare = 0.012
    """A shift counts when it raises the correlation of the outlines by this; short views fit anywhere."""
    min_gain_spect: SomeShare = 0.02
    """The same for SPECT, whose outline is blurred."""
    min_correlation: Correlation = 0.4
    """Least correlation of the outlines at the best place; below it, a warning."""
    flip_gain: SomeShare = 0.025
    """A warning when a mirrored or turned CT fits better by this, in correlation."""
    refused_flip_gain: SomeShare = 0.04
    """The image is refused when a mirrored or turned CT fits better by this."""
    min_side_correlation: Correlation = -0.1
    """Least correlation of left minus right in both images; below it, a warning: one seems mirrored."""
    refused_side_correlation: Correlation = -0.35
    """Below this correlation of left minus right, the image is refused."""
    max_cut_share: Share = 0.3
    """Largest share of the outline's ends, along rows or columns, that the field of view may cut; beyond it,
    the image is not judged: a crop's outline is where the crop ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = (
            ("max_shift_mm", self.max_shift_mm, "refused_shift_mm", self.refused_shift_mm),
            ("flip_gain", self.flip_gain, "refused_flip_gain", self.refused_flip_gain),
            (
                "refused_side_correlation",
                self.refused_side_correlation,
                "min_side_correlation",
                self.min_side_correlation,
            ),
        )
        for low_name, low, high_name, high in ordered:
            if not low <= high:
                raise ValueError(f"{low_name} is at most {high_name}, found {low:g} and {high:g}")


@dataclass(frozen=True)
class CtAgreement:
    """What was measured.

    Attributes:
        shift_mm: where the image lies against where it fits best, LPS mm ``(x, y, z)``; 0 at its best place.
        gains: how much of the correlation there each axis' shift is worth, ``(x, y, z)``, over the same parts
            of both images; near 0 the view fits anywhere along that axis, 0 if the body's edges on both sides
            don't agree on the shift.
        overlap: correlation of the outlines as the images are stated to lie, -1 to 1.
        best_overlap: the same at the best shift.
        flip: which reversal of the CT fits best, left and right apart.
        flip_gain: its best correlation less that of the CT as it is, each at its own best shift; above 0 it
            fits better, and well.
        side_correlation: of left minus right in both images; negative when one is mirrored, 0 when too little
            is seen to tell.
        cut_share: of the ends of lines across the body, the share that the view of either image cuts.
        is_long: whether enough length of the body is seen to tell a reversal.
    """

    shift_mm: tuple[float, float, float]
    gains: tuple[float, float, float]
    overlap: float
    best_overlap: float
    flip: Flip
    flip_gain: float
    side_correlation: float
    cut_share: float = 0.0
    is_long: bool = True

    def in_words(self) -> str:
        """The numbers, for the report."""
        x, y, z = self.shift_mm
        gains = ", ".join(f"{gain:.3f}" for gain in self.gains)
        reversal = f"reversed by {self.flip_gain:+.3f}; left minus right {self.side_correlation:+.2f}"
        return (
            f"outlines correlate by {self.overlap:.2f}, at best by {self.best_overlap:.2f} "
            f"({x:+.0f}, {y:+.0f}, {z:+.0f} mm off, worth {gains}); "
            f"{reversal if self.is_long else 'too short to tell whether one is reversed'}"
        )


@dataclass(frozen=True)
class CtJudgement:
    """A verdict and every reason for it; none when the image fits, and words when it was not judged."""

    verdict: CtVerdict
    reasons: tuple[Reason, ...] = ()
    why: str = ""


def judge_ct_agreement(
    found: CtAgreement, policy: CtAgreementPolicy, is_spect: bool, series_instance_uid: str = ""
) -> CtJudgement:
    """The measurement against the site's limits; the worst finding decides."""
    if found.cut_share > policy.max_cut_share:
        why = f"the field of view cuts a share of {found.cut_share:.2f} of the body's outline"
        return CtJudgement(
            CtVerdict.UNCHECKED, why=f"{why}, expected at most {_limit(policy, 'max_cut_share')}"
        )
    findings = tuple(_findings(found, policy, is_spect))
    reasons = tuple(
        Reason(RefusalCode.CT_MISPLACED, attribute, text, expected, ADVICE, series_instance_uid)
        for attribute, text, expected, _ in findings
    )
    if not findings:
        return CtJudgement(CtVerdict.FITS)
    wrong = any(is_wrong for *_, is_wrong in findings)
    return CtJudgement(CtVerdict.WRONG if wrong else CtVerdict.DOUBTFUL, reasons)


_Finding = tuple[str, str, str, bool]
"""DICOM keyword, what was found, what was expected, and whether the image is refused for it."""


def _findings(found: CtAgreement, policy: CtAgreementPolicy, is_spect: bool) -> Iterator[_Finding]:
    yield from _reversals(found, policy)
    min_gain = policy.min_gain_spect if is_spect else policy.min_gain
    for axis, off_mm, gain in zip(_AXES, found.shift_mm, found.gains, strict=True):
        if gain >= min_gain and abs(off_mm) > policy.max_shift_mm:
            text = f"the image {abs(off_mm):.0f} mm ({axis}) beside its CT by the outlines of both"
            is_wrong = abs(off_mm) > policy.refused_shift_mm
            limit = _limit(policy, "refused_shift_mm" if is_wrong else "max_shift_mm", " mm")
            yield "ImagePositionPatient", text, f"at most {limit}", is_wrong
    if found.best_overlap < policy.min_correlation:
        text = f"outlines of image and CT that correlate by {found.best_overlap:.2f} at the best place"
        yield "ImagePositionPatient", text, f"at least {_limit(policy, 'min_correlation')}", False


def _reversals(found: CtAgreement, policy: CtAgreementPolicy) -> Iterator[_Finding]:
    attribute, side, gain = "ImageOrientationPatient", found.side_correlation, found.flip_gain
    if side < policy.min_side_correlation:
        text = f"image and CT {Flip.LEFT_RIGHT} against each other (organs correlate by {side:.2f})"
        is_wrong = side < policy.refused_side_correlation
        limit = _limit(policy, "refused_side_correlation" if is_wrong else "min_side_correlation")
        yield attribute, text, f"at least {limit}", is_wrong
    if gain > policy.flip_gain:
        outlines = f"the outlines then correlate better by {gain:.3f}"
        text = f"image and CT {found.flip} against each other ({outlines})"
        is_wrong = gain > policy.refused_flip_gain
        limit = _limit(policy, "refused_flip_gain" if is_wrong else "flip_gain")
        yield attribute, text, f"at most {limit} better", is_wrong


def _limit(policy: CtAgreementPolicy, name: str, unit: str = "") -> str:
    """The limit that was passed, and the setting that moves it."""
    return f"{getattr(policy, name):g}{unit} (load.ct_agreement.{name})"
