"""A SPECT in counts related to its liver: ratios instead of SUV.

Counts have a scale of their own, the camera's and the workstation's. Over the mean of the liver it drops out,
and with it decay, camera time and dose: any factor on the counts leaves every ratio as it is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from app.domain.analysis import LiverScale, Loaded
from app.domain.decision import Decision
from app.domain.findings.findings import Findings, Organ, ReferenceUptake
from app.domain.refusal import RefusalCode, Rejection
from app.domain.volume import LabelMap, Unit
from app.imaging.anatomy.landmarks import find_landmarks
from app.imaging.anatomy.reference_organs import LIVER_MAX_NOISE, body_uptake, find_liver
from app.imaging.anatomy.sites import NO_BODY
from app.imaging.registration.working_ct import working_ct

STAGE = "load"

LIVER_AGREEMENT = 0.15
"""Between the liver found before lesions are known and after; another sphere of it differs by less."""

WHY = "SPECT in counts, and no calibration for its camera"


def related_to_liver(loaded: Loaded | Rejection, assumed_suv: float) -> Loaded | Rejection:
    """An image in counts over the mean of its liver, marked as not quantified; any other as it is.

    ``assumed_suv`` is what the networks are shown the liver with, g/ml SUVbw.
    """
    if isinstance(loaded, Rejection) or loaded.uptake.unit is not Unit.COUNTS:
        return loaded
    liver = _liver(loaded)
    if liver.suv_mean is None:
        functional, because = loaded.selection.functional, liver.method.removeprefix("not told: ")
        found = f"a SPECT in counts, and no liver to relate it to: {because}"
        expected = "a calibration of its camera, or a liver on SPECT and CT"
        code, attribute = RefusalCode.CALIBRATION_MISSING, "load.calibrations"
        return Rejection((functional.reason(code, attribute, found, expected),))
    uptake = loaded.uptake.scaled(1.0 / liver.suv_mean, Unit.TO_LIVER)
    scale = LiverScale(replace(liver, suv_mean=None, to_liver=1.0), assumed_suv, WHY)
    text = (
        f"not quantified: {WHY}; uptake is relative to the mean of the liver ({liver.method}), and "
        "standardised uptake, activity and dose are unknown"
    )
    shown = (
        f"the network alone is shown the liver at SUVbw {assumed_suv:g} (load.training_liver_suv), its mean "
        "in the images of its training"
    )
    decisions = (*loaded.decisions, Decision.warning(STAGE, text), Decision(STAGE, shown))
    return replace(loaded, uptake=uptake, liver_scale=scale, decisions=decisions)


def _liver(loaded: Loaded) -> ReferenceUptake:
    """The liver's mean in counts, before any lesion is known; its ``method`` says why there is none."""
    if loaded.ct_doubt:
        return ReferenceUptake(Organ.LIVER, None, loaded.ct_doubt)
    ct, uptake = working_ct(loaded.ct), loaded.uptake
    no_lesion = LabelMap(np.zeros(uptake.grid.shape, dtype=np.uint16), uptake.grid)
    body = body_uptake(ct, partial(find_landmarks, ct, loaded.ct), uptake, no_lesion)
    if body is None:
        return ReferenceUptake(Organ.LIVER, None, NO_BODY)
    return find_liver(body, LIVER_MAX_NOISE).uptake


def liver_doubts(findings: Findings) -> tuple[Decision, ...]:
    """A warning where the liver, 1 before lesions were known, is another without them."""
    again = findings.reference(Organ.LIVER)
    if again is None or again.suv_mean is None or abs(again.suv_mean - 1.0) <= LIVER_AGREEMENT:
        return ()
    text = f"without the lesions found in it, the liver has {again.suv_mean:.2f} times the uptake that all is"
    return (Decision.warning("quantify", f"{text} relative to: lesions may have raised it"),)


def relative_findings(findings: Findings, scale: LiverScale) -> Findings:
    """What was measured on an image over its liver, as ratios: nothing that only an SUV has is left.

    The liver is the one that was found before lesions were: its mean is 1.
    """
    lesions = tuple(
        replace(
            lesion, suv_max=None, suv_mean=None, suv_peak=None, tl_psma=None, to_liver=lesion.suv_mean,
            to_liver_max=lesion.suv_max, to_liver_peak=lesion.suv_peak,
        )
        for lesion in findings.lesions
    )  # fmt: skip
    burden = replace(findings.burden, tl_psma=None, suv_max=None, to_liver_max=findings.burden.suv_max)
    others = (item for item in findings.references if item.organ is not Organ.LIVER)
    references = (scale.liver, *(replace(item, suv_mean=None, to_liver=item.suv_mean) for item in others))
    return replace(findings, lesions=lesions, burden=burden, references=references, not_quantified=scale.why)
