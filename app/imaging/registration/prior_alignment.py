"""The patient's earlier PET lesions as M4's prior: which result, whether it fits, where it lies on the SPECT.

A safety function: M4 with a misplaced or empty prior is far worse than M2 without one. So a prior is used
only when every limit of :class:`AlignPolicy` is kept; otherwise the reasons go with the study, and M2 runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.domain.analysis import Aligned, Loaded, Prior, RegistrationFit
from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Volume
from app.errors import UnusableStudyError
from app.imaging.earlier_results import EarlierResult, EarlierResults, prior_candidates
from app.imaging.registration.policy import NOT_PLACED, AlignPolicy, broken_limits, broken_uptake_limits
from app.imaging.registration.registration import RigidRegistration, register_rigid
from app.imaging.registration.uptake_agreement import measure_uptake_agreement
from app.imaging.resampling import resample_mask

STAGE = "align"


@dataclass(frozen=True)
class PriorAligner:
    """The align stage: a policy, and the store that priors come from."""

    policy: AlignPolicy
    source: EarlierResults

    def align(self, loaded: Loaded) -> Aligned:
        """Add the prior or the reasons why there is none; a PET/CT passes through.

        Only the latest earlier PET result is tried: an older one shows disease that has changed twice.
        """
        if loaded.selection.kind is not StudyKind.SPECT_CT:
            return Aligned(loaded)
        scanned_at = loaded.selection.functional.when or loaded.selection.study.study_datetime
        if scanned_at is None:
            expected = "a date, to know which PET came before it"
            return _without(
                loaded, Reason(RefusalCode.NO_PRIOR, "SeriesDate", "no date of this SPECT", expected)
            )
        results = self.source.for_patient(loaded.selection.study.patient, scanned_at)
        chosen = _chosen(results, scanned_at, self.policy)
        if isinstance(chosen, Reason):
            return _without(loaded, chosen)
        try:
            return _aligned(loaded, chosen, self.policy)
        except UnusableStudyError as error:
            return _without(loaded, *(_unreadable(reason, chosen) for reason in error.rejection.reasons))


def _aligned(loaded: Loaded, candidate: EarlierResult, policy: AlignPolicy) -> Aligned:
    """The lesions on the SPECT, if the CTs fit and the uptake agrees that they lie there."""
    if candidate.lesion_count == 0:
        found = f"no lesion on the PET of {candidate.acquired_at.date()}"
        return _without(loaded, _empty(candidate, found, "at least one lesion"))
    registration = register_rigid(loaded.ct, candidate.ct())
    if registration is None:
        found, expected = "too little bone in common on the two CTs", "at least two vertebrae's worth on both"
        code, uid = RefusalCode.PRIOR_MISFIT, candidate.series_instance_uid
        return _without(loaded, Reason(code, "", found, expected, NOT_PLACED, uid))
    broken = broken_limits(registration.fit, policy)
    if broken:
        return _without(loaded, *broken)
    mask, fit = place_lesions(candidate.labels(), registration, loaded.network_uptake, candidate.suv())
    if fit is None:
        found = f"none of the {candidate.lesion_count} PET lesions in the SPECT's field of view"
        return _without(loaded, _empty(candidate, found, "at least one"))
    broken = broken_uptake_limits(fit, policy)
    return _without(loaded, *broken) if broken else _with(loaded, candidate, fit, mask)


def place_lesions(
    lesions: LabelMap, registration: RigidRegistration, spect: Volume, pet: Volume
) -> tuple[LabelMap, RegistrationFit | None]:
    """PET lesions on the SPECT's grid, and the fit with what uptake (SUVbw) says of that place.

    The fit is ``None`` when no lesion is in the SPECT's field of view. The SPECT's CT is the fixed one of the
    registration, the PET's the moving one.
    """
    motion = registration.fixed_to_moving
    mask = resample_mask(lesions, spect.grid, motion)
    if mask.count == 0:
        return mask, None
    uptake = measure_uptake_agreement(spect, pet, lesions, mask, motion)
    return mask, replace(
        registration.fit,
        uptake_shift_mm=uptake.shift_mm,
        lesions_on_pet=uptake.lesions_on_pet,
        lesions_on_spect=uptake.lesions_on_spect,
    )


def _with(loaded: Loaded, candidate: EarlierResult, fit: RegistrationFit, mask: LabelMap) -> Aligned:
    prior = Prior(
        mask=mask,
        fit=fit,
        study_instance_uid=candidate.study_instance_uid,
        series_instance_uid=candidate.series_instance_uid,
        segmentation_sop_instance_uid=candidate.segmentation_sop_instance_uid,
        acquired_at=candidate.acquired_at,
    )
    text = (
        f"the prior is {mask.count} of {candidate.lesion_count} lesions of the PET of "
        f"{candidate.acquired_at.date()}; its CT fits the SPECT's: Dice of bone {fit.bone_dice:.2f}, "
        f"soft tissue correlation {fit.soft_tissue_correlation:.2f}, rotation {fit.rotation_deg:.1f} degrees"
    )
    return Aligned(loaded, prior, decisions=(Decision(STAGE, text),))


def _without(loaded: Loaded, *reasons: Reason) -> Aligned:
    text = f"no prior from PET: {'; '.join(str(reason) for reason in reasons)}"
    return Aligned(loaded, None, reasons, (Decision(STAGE, text),))


def _chosen(
    found: Sequence[EarlierResult], scanned_at: datetime, policy: AlignPolicy
) -> EarlierResult | Reason:
    candidates = prior_candidates(found, scanned_at)
    if not candidates:
        return Reason(
            RefusalCode.NO_PRIOR,
            "",
            "no earlier PET result of this patient",
            "one before this SPECT",
            "Send the PET/CT to this node first",
        )
    latest = candidates[0]
    age = scanned_at - latest.acquired_at
    if age <= timedelta(days=policy.max_prior_age_days):
        return latest
    return Reason(
        RefusalCode.PRIOR_TOO_OLD,
        "align.max_prior_age_days",
        f"{age.days} days between the latest PET and this SPECT",
        f"at most {policy.max_prior_age_days:g}",
        series_instance_uid=latest.series_instance_uid,
    )


def _empty(candidate: EarlierResult, found: str, expected: str) -> Reason:
    advice = "An empty prior makes M4 overlook lesions"
    return Reason(RefusalCode.PRIOR_EMPTY, "", found, expected, advice, candidate.series_instance_uid)


def _unreadable(reason: Reason, candidate: EarlierResult) -> Reason:
    return Reason(
        RefusalCode.PRIOR_UNREADABLE,
        reason.attribute,
        f"an earlier PET result that can't be read: {reason.found}",
        reason.expected,
        reason.advice,
        candidate.series_instance_uid,
    )
