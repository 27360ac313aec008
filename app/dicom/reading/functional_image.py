"""A functional series in physical units, as PET and NM reading share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from app.dicom import header_values as header
from app.dicom.reading.injections import injections, radiopharmaceutical
from app.dicom.reading.pixels import SliceStack, scaled, unusable
from app.domain.decision import Decision
from app.domain.quantities.administration import Administration, BodySize, SiteAdministration
from app.domain.quantities.plausibility import retention_warnings, share_warnings
from app.domain.quantities.suv import Conversion
from app.domain.quantities.suv_scale import Quantification
from app.domain.radionuclides import radionuclide_of
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Radiopharmaceutical, Series
from app.domain.volume import Unit, Volume

HIGHEST_SUV = 1e5
"""A bladder or an injection site reaches hundreds to thousands; beyond this a unit is wrong."""

LOWEST_MAXIMUM_SUV = 0.1
"""The hottest voxel of a patient's image reaches 1 in any region; below this a unit or a dose is wrong."""

LARGEST_SHARE_IN_VIEW = 1.5
"""Of the injected activity: more than all of it can't be in the image, and calibrations err by a tenth. A
real whole body has 0.66. Dose, times, unit and slope all go into it."""

DEEPEST_NEGATIVE = -0.25
"""Of the maximum: filtered back projection undershoots a little; unsigned values read as signed go to −1."""

MOST_QUOTED = 40
"""Characters of a value that can't be read."""


@dataclass(frozen=True, eq=False)
class FunctionalImage:
    """A PET or SPECT in the units that its headers and the site establish.

    Attributes:
        suv: in SUVbw; ``None`` with ``no_suv`` saying why.
        activity: in Bq/ml; ``None`` when the image is SUV by itself, or in counts.
        counts: where no unit can be established and the site takes it so; on a scale of its own.
        slice_sop_instance_uids, slice_frame_numbers: for each z where it came from.
        body: as the header has it.
    """

    suv: Volume | None
    activity: Volume | None
    no_suv: Reason | None
    quantification: Quantification
    slice_sop_instance_uids: tuple[str, ...]
    slice_frame_numbers: tuple[int, ...]
    decisions: tuple[Decision, ...]
    body: BodySize = field(default_factory=BodySize)
    counts: Volume | None = None

    @property
    def volume(self) -> Volume | None:
        """In the best unit that there is."""
        return self.suv or self.activity or self.counts


def functional_image(
    series: Series, slices: SliceStack, slopes: NDArray[np.float64], conversion: Conversion
) -> FunctionalImage:
    """Stored values times slope and factor, slice by slice.

    Raises:
        UnusableStudyError: values that are not finite, or that no unit explains.
    """
    suv = _volume(series, slices, slopes, conversion.suv_factors, Unit.SUVBW)
    activity = _volume(series, slices, slopes, conversion.activity_factors, Unit.BQML)
    counts = _volume(series, slices, slopes, conversion.count_factors, Unit.COUNTS)
    for volume in (suv, activity, counts):
        if volume is not None:
            _refuse_implausible(volume, series)
    shared = () if suv is None else _share_decisions(suv, conversion.quantification, series)
    no_suv = conversion.no_suv and _as_written(conversion.no_suv, slices.headers[0])
    no_suv = no_suv and replace(no_suv, series_instance_uid=series.series_instance_uid)
    return FunctionalImage(
        suv,
        activity,
        no_suv,
        conversion.quantification,
        slices.sop_instance_uids,
        slices.frame_numbers,
        (*conversion.decisions, *shared),
        counts=counts,
    )


def _as_written(why: Reason, dataset: Dataset) -> Reason:
    """A reason that found nothing quotes what is written there, if anything is: a weight of "70,5", a NaN."""
    tag = tag_for_keyword(why.attribute)
    if why.found != "nothing" or tag is None:
        return why
    for item in (dataset, *injections(dataset)[0][:1]):
        written = item.get_item(tag).value if tag in item else None
        text = (written.decode("latin-1") if isinstance(written, bytes) else str(written or "")).strip(" \0")
        if text:
            return replace(why, found=f"{text[:MOST_QUOTED]!r}, which can't be read")
    return why


def injection(
    series: Series, dataset: Dataset, administrations: Sequence[SiteAdministration], is_nm: bool
) -> Administration:
    """What was injected into whom, with the site's entry for this study."""
    study = header.uid(dataset, "StudyInstanceUID")
    site = next((entry for entry in administrations if entry.study_instance_uid == study), None)
    body = BodySize(
        header.number(dataset, "PatientWeight"),
        header.number(dataset, "PatientSize"),
        header.text(dataset, "PatientSex").upper(),
    )
    injected = series.radiopharmaceutical or radiopharmaceutical(dataset) or Radiopharmaceutical()
    return Administration(injected, body, site, is_nm)


def same_in_all(series: Series, headers: Sequence[Dataset], keywords: Sequence[str]) -> None:
    """Refuse a series whose slices differ in an attribute that decides on its numbers.

    Raises:
        UnusableStudyError: naming the first such attribute.
    """
    for keyword in keywords:
        values = {_value(dataset, keyword) for dataset in headers}
        if len(values) > 1:
            found, expected = f"{len(values)} values in one series", "the same on every image"
            raise unusable(series, RefusalCode.ATTRIBUTE_INCONSISTENT, keyword, found, expected)


def _value(dataset: Dataset, keyword: str) -> str | float | None:
    """A number as a number and a time without trailing zeros: 112.3 and 112.30 are one weight."""
    kind = dictionary_VR(keyword)
    if kind == "DS":
        return header.number(dataset, keyword)
    text = header.text(dataset, keyword)
    return text.rstrip("0").rstrip(".") if kind == "TM" and "." in text else text


def _volume(
    series: Series,
    slices: SliceStack,
    slopes: NDArray[np.float64],
    factors: tuple[float, ...] | None,
    unit: Unit,
) -> Volume | None:
    if factors is None:
        return None
    per_slice = (slopes * np.array(factors)).astype(np.float32)
    return Volume(scaled(slices.stored, per_slice), slices.stack.grid, unit, series.frame_of_reference_uid)


def _refuse_implausible(volume: Volume, series: Series) -> None:
    code = RefusalCode.VALUES_IMPLAUSIBLE
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    # a NaN or an infinity anywhere shows in the sum
    is_finite = np.isfinite(float(volume.array.sum(dtype=np.float64)))
    if not is_finite or highest <= 0.0:
        found = f"a maximum of {highest:g} {volume.unit}"
        raise unusable(series, code, "PixelData", found, "finite values above 0")
    if lowest < DEEPEST_NEGATIVE * highest:
        found = f"{lowest:g} to {highest:g} {volume.unit}"
        raise unusable(series, code, "PixelRepresentation", found, "hardly any values below 0")


def _share_decisions(suv: Volume, quantification: Quantification, series: Series) -> tuple[Decision, ...]:
    """SUV times volume over weight is the share of the injected activity that the image shows."""
    highest = float(suv.array.max())
    code, attribute = RefusalCode.VALUES_IMPLAUSIBLE, "Units, RescaleSlope, RadionuclideTotalDose"
    if not LOWEST_MAXIMUM_SUV <= highest <= HIGHEST_SUV:
        expected = f"{LOWEST_MAXIMUM_SUV:g} to {HIGHEST_SUV:g}: unit, dose or times are wrong"
        raise unusable(series, code, attribute, f"a maximum of SUV {highest:g}", expected)
    if quantification.weight_kg is None:
        return ()
    body_g = 1000.0 * quantification.weight_kg
    share = float(suv.array.sum(dtype=np.float64)) * suv.grid.voxel_ml / body_g
    if share > LARGEST_SHARE_IN_VIEW:
        found = f"{share:.1f} times the injected activity in the image"
        expected = "at most all of it: unit, dose or times are wrong"
        raise unusable(series, code, attribute, found, expected)
    nuclide = radionuclide_of(series.radiopharmaceutical)
    length_mm = suv.grid.shape[0] * suv.grid.spacing_mm[2]
    usual = retention_warnings(share, length_mm, nuclide, quantification.uptake_s)
    return share_warnings(share, length_mm, nuclide) or usual
