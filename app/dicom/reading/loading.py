"""The stage ``load``: a pair's series become volumes in physical units, or a reason why not.

``Volume.array`` runs along the slice normal row × column for z, whatever the order of files or frames was. A
PET or SPECT is in SUVbw, and in Bq/ml where its source is not SUV already; a CT is in Hounsfield units. A
SPECT that no calibration fits may stay in counts, if the site wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.dicom import header_values as header
from app.dicom.reading.functional_image import FunctionalImage, same_in_all
from app.dicom.reading.nm import read_nm
from app.dicom.reading.pet import read_pet
from app.dicom.reading.pixels import read_stack, rescale_factors, settled, unusable
from app.dicom.reading.policy import LoadPolicy, SpectInCounts
from app.dicom.reading.series_header import slice_numbers
from app.domain.analysis import Loaded
from app.domain.decision import Decision
from app.domain.quantities.body_size import OtherSuv, OtherSuvKind, other_suv
from app.domain.quantities.plausibility import clock_doubts, ct_clock_doubts
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.selection.pair import Selection
from app.domain.selection.screening import NM_IMAGE
from app.domain.selection.tracers import PSMA_617_LU177
from app.domain.stack.slice_order import check_order
from app.domain.study import Series, Study, StudyKind
from app.domain.volume import AIR_HU, Unit, Volume
from app.errors import UnusableStudyError
from app.imaging.anatomy.relative_uptake import related_to_liver
from app.imaging.joined_parts import joined_parts
from app.imaging.registration.ct_agreement import check_ct
from app.imaging.slices import slice_by_slice

HIGHEST_PLAUSIBLE_MINIMUM_HU = 0.0
"""A CT of a patient holds fat, or air around them; without either its numbers are no Hounsfield units."""


@dataclass(frozen=True, eq=False)
class CtImage:
    """A CT in HU, and the decisions on it."""

    volume: Volume
    decisions: tuple[Decision, ...]


def read_ct(series: Series) -> Volume:
    """The volume of :func:`ct_image`, for callers that report nothing else.

    Raises:
        UnusableStudyError: as there.
    """
    return ct_image(series).volume


def ct_image(series: Series) -> CtImage:
    """A series of CT Image Storage in HU, values below :data:`AIR_HU` raised to it.

    Raises:
        UnusableStudyError: its rescale is missing or to something else than HU, or its pixels can't be used.
    """
    slices = read_stack(series, np.float32)
    slopes, intercepts = rescale_factors(series, slices)
    same_in_all(series, slices.headers, ("RescaleType",))
    kind = header.text(slices.headers[0], "RescaleType").upper()
    if kind not in ("", "HU", "HOUNSFIELD UNITS"):
        raise unusable(series, RefusalCode.UNITS_UNSUPPORTED, "RescaleType", kind, "HU")
    array: NDArray[np.float32] = slices.stored  # scaled where it is: of a whole body it is half a gigabyte
    factors = slopes.astype(np.float32), intercepts.astype(np.float32)

    def rescale(z: int) -> float:
        """A slice, in place; its lowest value that is no air, for what lies below is outside the image."""
        plane = array[z]
        plane *= factors[0][z]
        plane += factors[1][z]
        outside = slices.outside[z]
        if outside is not None:
            np.copyto(plane, -np.inf, where=outside)
        least = float(plane.min())
        if not least >= AIR_HU:  # or it is no number
            least = float(np.where(plane >= AIR_HU, plane, np.float32(np.inf)).min())
        np.maximum(plane, AIR_HU, out=plane)
        return least

    lowest = min(slice_by_slice(rescale, len(array)))
    if not lowest < HIGHEST_PLAUSIBLE_MINIMUM_HU:
        found = f"a minimum of {lowest:g}"
        raise unusable(series, RefusalCode.VALUES_IMPLAUSIBLE, "PixelData", found, "air or fat below 0 HU")
    order = settled(check_order(array, slice_numbers(slices.headers), AIR_HU), series)
    volume = Volume(array, slices.stack.grid, Unit.HU, series.frame_of_reference_uid)
    # the PET may give the same sentence, so this one says which image it is about
    return CtImage(volume, tuple(replace(one, text=f"of the CT, {one.text}") for one in order))


def load(selection: Selection, policy: LoadPolicy) -> Loaded | Rejection:
    """The pair in SUVbw, Bq/ml (where the source is not SUV already) and HU; or counts, where they may be."""
    try:
        with ThreadPoolExecutor(1) as beside:
            reading = beside.submit(ct_image, selection.ct)
            image = read_functional(selection.functional, policy)
            ct = reading.result()
    except UnusableStudyError as error:
        return error.rejection
    uptake = image.suv or image.counts
    if uptake is None:
        reason, uid = image.no_suv or _no_suv(selection.functional), selection.functional.series_instance_uid
        return Rejection((replace(reason, series_instance_uid=uid),))
    life_s, scan, ct_scan = image.quantification.half_life_s, selection.functional, selection.ct
    clocks = () if life_s is None else ct_clock_doubts(scan.acquired_at, ct_scan.acquired_at, life_s)
    return Loaded(
        selection=selection,
        uptake=uptake,
        activity=image.activity,
        ct=ct.volume,
        quantification=image.quantification,
        slice_sop_instance_uids=image.slice_sop_instance_uids,
        slice_frame_numbers=image.slice_frame_numbers,
        decisions=(*image.decisions, *clocks, *ct.decisions),
    )


def load_first_usable(selection: Selection, policy: LoadPolicy) -> Loaded | Rejection:
    """The pair as it lies on its CT, or else the first of its alternatives that can be used; the report says
    what failed.

    A series that can't be read takes every pair that it is in with it. Where image and CT don't lie on each
    other, nothing says which of them is wrong: that pair alone is out. A SPECT in counts serves where no
    other one is quantified.
    """
    failed: list[tuple[Selection, Reason]] = []
    unusable_uids: set[str] = set()
    in_counts: Loaded | None = None
    for pair in (selection, *selection.alternatives):
        if unusable_uids & pair.roles.keys():
            continue
        found = _load_on_ct(pair, policy)
        if isinstance(found, Loaded):
            found = replace(found, selection=_after(failed, pair)) if failed else found
            if found.liver_scale is None:
                return found
            in_counts = in_counts or found
            found = Rejection((_not_quantified(pair.functional),))
        failed += ((pair, reason) for reason in found.reasons)
        unusable_uids |= {
            one.series_instance_uid for one in found.reasons if one.code is not RefusalCode.CT_MISPLACED
        }
    return in_counts or Rejection(tuple(dict.fromkeys(reason for _, reason in failed)))


def _load_on_ct(pair: Selection, policy: LoadPolicy) -> Loaded | Rejection:
    found = load(pair, policy)
    if isinstance(found, Rejection):
        return found
    return related_to_liver(check_ct(found, policy.ct_agreement), policy.training_liver_suv)


def _not_quantified(series: Series) -> Reason:
    found, expected = "a SPECT in counts", "a quantified one, where the study has it"
    return series.reason(RefusalCode.CALIBRATION_MISSING, "load.calibrations", found, expected)


def _after(failed: Sequence[tuple[Selection, Reason]], pair: Selection) -> Selection:
    """A pair that took the place of others, and why they failed: of a misfit, the one that is not used."""
    reasons = []
    for earlier, reason in failed:
        is_used = reason.series_instance_uid in pair.roles
        uid = earlier.ct.series_instance_uid if is_used else reason.series_instance_uid
        reasons.append(replace(reason, series_instance_uid=uid))
    functional, ct = pair.roles
    told = tuple(
        Decision.warning(
            "load",
            f"series {reason.series_instance_uid} went first and can't be used: {reason.in_brief}; "
            f"used in its place is {pair.functional.modality} series {functional} with CT series {ct}",
        )
        for reason in dict.fromkeys(reasons)
    )
    return replace(pair, decisions=(*pair.decisions, *told), failed=tuple(dict.fromkeys(reasons)))


def read_functional(series: Series, policy: LoadPolicy) -> FunctionalImage:
    """A PET or SPECT series in every unit that can be established.

    Raises:
        UnusableStudyError: none can.
    """
    in_counts = policy.spect_in_counts is SpectInCounts.RELATIVE_TO_LIVER
    if series.sop_class_uid == NM_IMAGE:
        image = read_nm(series, policy.calibrations, policy.administrations, in_counts)
    else:
        image = read_pet(series, policy.administrations, policy.series_time_rules, in_counts)
    life_s = image.quantification.half_life_s
    if life_s is not None:
        image = replace(image, decisions=(*image.decisions, *clock_doubts(series.clocks, life_s)))
    return _with_other_suv(image, policy.other_suv)


def read_suv(series: Series, policy: LoadPolicy) -> Volume:
    """A PET or SPECT series in SUVbw.

    Raises:
        UnusableStudyError: it can't be had.
    """
    image = read_functional(series, policy)
    if image.suv is None:
        raise UnusableStudyError(image.no_suv or _no_suv(series))
    return image.suv


def read_joined_suv(study: Study, parts: Sequence[Series], ct: Series, policy: LoadPolicy) -> Volume:
    """As :func:`read_suv`, of a SPECT that was joined from parts of ``study`` with this CT.

    Raises:
        UnusableStudyError: they can't be read, or don't join any more.
    """
    said = Decision("select", "a part")
    kind, tracer = StudyKind.SPECT_CT, PSMA_617_LU177  # the tracer plays no part in where slices lie
    found = joined_parts(load(Selection(study, kind, one, ct, tracer, part=said), policy) for one in parts)
    refused = [reason for item in found if isinstance(item, Rejection) for reason in item.reasons]
    if refused or not isinstance(found[0], Loaded) or not found[0].joined:
        code, expected = RefusalCode.PRIOR_UNREADABLE, "the parts as they were joined"
        raise UnusableStudyError(*refused or (parts[0].reason(code, "", "parts that don't join", expected),))
    return found[0].uptake


def _with_other_suv(image: FunctionalImage, kinds: tuple[OtherSuvKind, ...]) -> FunctionalImage:
    """Factors of the SUVs that the site asks for; one that can't be had is no more than a warning."""
    weight_kg = image.quantification.weight_kg
    if image.suv is None or not kinds:
        return image
    factors, decisions = [], []
    for kind in kinds:
        found: OtherSuv | Reason = Reason(RefusalCode.WEIGHT_MISSING, "PatientWeight", "nothing", "kg")
        if weight_kg is not None:
            found = other_suv(kind, weight_kg, image.body.height_m, image.body.sex)
        if isinstance(found, Reason):
            decisions.append(Decision.warning("load", f"no {kind}, because {found}"))
        else:
            factors.append(found)
            decisions.append(Decision("load", f"{kind} = SUVbw x {found.per_suvbw:.5f}"))
    quantification = replace(image.quantification, other_suv=tuple(factors))
    return replace(image, quantification=quantification, decisions=(*image.decisions, *decisions))


def _no_suv(series: Series) -> Reason:
    return series.reason(RefusalCode.UNITS_UNSUPPORTED, "Units", "no SUV", "SUVbw")
