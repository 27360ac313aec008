"""The stage ``load``: a pair's series become volumes in physical units, or a reason why not.

``Volume.array`` runs along the slice normal row × column for z, whatever the order of files or frames was.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.dicom.ct_reader import read_ct
from app.dicom.functional_image import FunctionalImage
from app.dicom.nm_reader import read_nm
from app.dicom.pet_reader import read_pet
from app.domain.administration import SiteAdministration
from app.domain.analysis import Loaded, Selection
from app.domain.calibration import CameraCalibration
from app.domain.refusal import Reason, RefusalCode, Rejection
from app.domain.screening import NM_IMAGE
from app.domain.study import Series
from app.errors import UnusableStudyError

__all__ = ["CameraCalibration", "LoadPolicy", "SiteAdministration", "load", "read_functional"]


@dataclass(frozen=True)
class LoadPolicy:
    """Section ``load`` of app.yaml.

    Attributes:
        calibrations: Bq/cps of each camera and collimator with its dates, for SPECT without a mapping.
        administrations: injection date, activity or weight of studies whose headers lack them.
    """

    calibrations: tuple[CameraCalibration, ...] = ()
    administrations: tuple[SiteAdministration, ...] = ()


def load(selection: Selection, policy: LoadPolicy) -> Loaded | Rejection:
    """The pair in SUVbw, Bq/ml (where the source is not SUV already) and HU."""
    try:
        image = read_functional(selection.functional, policy)
        ct = read_ct(selection.ct)
    except UnusableStudyError as error:
        return error.rejection
    if image.suv is None:
        return Rejection((image.no_suv or _no_suv(selection.functional),))
    return Loaded(
        selection=selection,
        suv=image.suv,
        activity=image.activity,
        ct=ct,
        quantification=image.quantification,
        slice_sop_instance_uids=image.slice_sop_instance_uids,
        slice_frame_numbers=image.slice_frame_numbers,
        decisions=image.decisions,
    )


def read_functional(series: Series, policy: LoadPolicy) -> FunctionalImage:
    """A PET or SPECT series in every unit that can be established.

    Raises:
        UnusableStudyError: none can.
    """
    if series.sop_class_uid == NM_IMAGE:
        return read_nm(series, policy.calibrations, policy.administrations)
    return read_pet(series, policy.administrations)


def _no_suv(series: Series) -> Reason:
    uid = series.series_instance_uid
    return Reason(RefusalCode.UNITS_UNSUPPORTED, "Units", "no SUV", "SUVbw", series_instance_uid=uid)
