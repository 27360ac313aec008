"""The patient's earlier PET lesions as M4's prior: which result, whether it fits, where it lies on the SPECT.

A safety function: M4 with a misplaced or empty prior is far worse than M2 without one. So a prior is used
only when every limit of :class:`AlignPolicy` is kept; otherwise the reasons go with the study, and M2 runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.domain.analysis import Aligned, Loaded, Prior, RegistrationFit
from app.domain.decision import Decision
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Volume
from app.errors import UnusableStudyError
from app.imaging.earlier_results import (
    ONE_DAY,
    EarlierResult,
    EarlierResults,
    named,
    prior_candidates,
    results_of,
)
from app.imaging.registration.policy import NOT_PLACED, AlignPolicy, broken_limits, broken_uptake_limits
from app.imaging.registration.registration import RigidRegistration, register_rigid
from app.imaging.registration.uptake_agreement import measure_uptake_agreement
from app.imaging.resampling import resample_mask

STAGE = "align"

MOST_TRIED = 4
"""So many earlier PETs are tried, each for some seconds."""

COVERS = 0.9
"""A PET of this share of the SPECT's length may cover it; whether it does, the CTs tell."""


@dataclass(frozen=True)
class PriorAligner:
    """The align stage: a policy, and the store that priors come from."""

    policy: AlignPolicy
    source: EarlierResults

    def align(self, loaded: Loaded) -> Aligned:
        """Add the prior or the reasons why there is none; a PET/CT passes through.

        Earlier PETs are tried in order until one fits, those that cover the SPECT's length before shorter
        ones, the latest first. One that covers it and shows no lesion ends the search: what was there before
        has gone. Others of the same day are still tried.
        """
        if loaded.selection.kind is not StudyKind.SPECT_CT:
            return Aligned(loaded)
        scanned_at = loaded.selection.functional.when or loaded.selection.study.study_datetime
        patient = loaded.selection.study.patient
        if scanned_at is None:
            expected = "a date, to know which PET came before it"
            return _without(loaded, _no_prior("no date of this SPECT", expected, "SeriesDate"))
        results = results_of(self.source, patient, scanned_at)
        if isinstance(results, str):
            return _without(loaded, _no_prior(results, "an identifier of one patient", "PatientID"))
        candidates = _young_enough(results, scanned_at, self.policy)
        return (
            _without(loaded, candidates)
            if isinstance(candidates, Reason)
            else self._first_that_fits(loaded, candidates)
        )

    def _first_that_fits(self, loaded: Loaded, latest_first: Sequence[EarlierResult]) -> Aligned:
        failed: list[tuple[EarlierResult, tuple[Reason, ...]]] = []
        queue = _covering_first(latest_first, loaded.facts.length_mm)
        while queue:
            candidate, covers = queue.pop(0)
            if len(failed) == MOST_TRIED:
                break
            found = _tried(loaded, candidate, self.policy)
            if isinstance(found, Aligned):
                return replace(found, decisions=(*found.decisions, *map(_passed_over, failed)))
            failed.append((candidate, found))
            if covers and any(reason.code is RefusalCode.PRIOR_EMPTY for reason in found):
                day_before = candidate.acquired_at - ONE_DAY
                queue = [each for each in queue if each[0].acquired_at > day_before]
        reasons = [reason for candidate, found in failed for reason in _naming(candidate, found, len(failed))]
        return _without(loaded, *reasons)


def _covering_first(
    latest_first: Sequence[EarlierResult], length_mm: float
) -> list[tuple[EarlierResult, bool]]:
    """Each with whether it is as long as the SPECT; images that can't be read come last."""
    if len(latest_first) == 1:
        return [(latest_first[0], True)]
    covers = [(each, _length_mm(each) >= COVERS * length_mm) for each in latest_first]
    return sorted(covers, key=lambda each: not each[1])


def _length_mm(candidate: EarlierResult) -> float:
    try:
        return candidate.facts().length_mm
    except UnusableStudyError:
        return 0.0  # the reason is given when it is tried


def _tried(loaded: Loaded, candidate: EarlierResult, policy: AlignPolicy) -> Aligned | tuple[Reason, ...]:
    try:
        return _aligned(loaded, candidate, policy)
    except UnusableStudyError as error:
        return tuple(_unreadable(reason, candidate) for reason in error.rejection.reasons)


def _naming(candidate: EarlierResult, reasons: tuple[Reason, ...], tried: int) -> Iterator[Reason]:
    """The reasons with the series that they are about, and its day where several were tried."""
    day = f"PET of {candidate.acquired_at.date()}: " if tried > 1 else ""
    for reason in reasons:
        uid = candidate.series_instance_uid
        yield replace(reason, found=f"{day}{reason.found}", series_instance_uid=uid)


def _passed_over(failed: tuple[EarlierResult, tuple[Reason, ...]]) -> Decision:
    candidate, reasons = failed
    text = f"{named(candidate)} was tried before it and is no prior: {'; '.join(map(str, reasons))}"
    return Decision(STAGE, text)


def _aligned(loaded: Loaded, candidate: EarlierResult, policy: AlignPolicy) -> Aligned | tuple[Reason, ...]:
    """The lesions on the SPECT, if the CTs fit and the uptake agrees that they lie there."""
    if candidate.lesion_count == 0:
        found = f"no lesion on the PET of {candidate.acquired_at.date()}"
        return (_empty(candidate, found, "at least one lesion"),)
    code, uid = RefusalCode.PRIOR_MISFIT, candidate.series_instance_uid
    contradiction = candidate.facts().patient.contradiction(loaded.selection.study.patient)
    if contradiction:
        return (Reason(code, contradiction.split()[0], contradiction, "one patient", NOT_PLACED, uid),)
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(candidate.suv)
        registration = register_rigid(loaded.ct, candidate.ct())
    if registration is None:
        found, expected = "too little bone in common on the two CTs", "at least two vertebrae's worth on both"
        return (Reason(code, "", found, expected, NOT_PLACED, uid),)
    broken = broken_limits(registration.fit, policy)
    if broken:
        return broken
    mask, fit = place_lesions(candidate.labels(), registration, loaded.network_uptake, reading.result())
    if fit is None:
        found = f"none of the {candidate.lesion_count} PET lesions in the SPECT's field of view"
        return (_empty(candidate, found, "at least one"),)
    return broken_uptake_limits(fit, policy) or _with(loaded, candidate, fit, mask)


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


def _no_prior(found: str, expected: str, attribute: str = "", advice: str = "") -> Reason:
    return Reason(RefusalCode.NO_PRIOR, attribute, found, expected, advice)


def _young_enough(
    found: Sequence[EarlierResult], scanned_at: datetime, policy: AlignPolicy
) -> Sequence[EarlierResult] | Reason:
    candidates = prior_candidates(found, scanned_at)
    if not candidates:
        advice = "Send the PET/CT to this node first"
        return _no_prior("no earlier PET result of this patient", "one before this SPECT", advice=advice)
    limit = timedelta(days=policy.max_prior_age_days)
    young = [each for each in candidates if scanned_at - each.acquired_at <= limit]
    return young or Reason(
        RefusalCode.PRIOR_TOO_OLD,
        "align.max_prior_age_days",
        f"{(scanned_at - candidates[0].acquired_at).days} days between the latest PET and this SPECT",
        f"at most {policy.max_prior_age_days:g}",
        series_instance_uid=candidates[0].series_instance_uid,
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
