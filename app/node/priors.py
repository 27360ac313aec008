"""Priors from the node's own store: earlier PET results, read from disk only when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from app.dicom.reading.loading import LoadPolicy, read_ct, read_functional
from app.dicom.reading.studies import read_study
from app.dicom.results.read_back import ResultMismatchError, labels_on_grid
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.geometry import stack_series
from app.domain.study import Patient, Series, Study
from app.domain.volume import Grid, LabelMap, Volume
from app.errors import UnusableStudyError
from app.imaging.earlier_results import PriorCandidate
from app.node.inbox import Inbox
from app.node.pet_results import PetResult, PetResults


class NodePriors:
    """A :class:`~app.imaging.earlier_results.PriorSource` over what this node has processed."""

    def __init__(self, results: PetResults, inbox: Inbox, load_policy: LoadPolicy) -> None:
        self._results = results
        self._inbox = inbox
        self._load_policy = load_policy

    def candidates_for(self, patient: Patient, before: datetime) -> Sequence[PriorCandidate]:
        """PET results of this patient from before ``before`` (local time), the latest first."""
        return [self._candidate(result) for result in self._results.of_patient(patient, before)]

    def _candidate(self, result: PetResult) -> PriorCandidate:
        stored = StoredPet(result, self._inbox, self._load_policy)
        return PriorCandidate(
            study_instance_uid=result.study_instance_uid,
            series_instance_uid=result.functional_series_instance_uid,
            acquired_at=result.acquired_at,
            lesion_count=result.lesion_count,
            lesions=stored.lesions,
            ct=stored.ct,
            suv=stored.suv,
            segmentation_sop_instance_uid=result.segmentation_sop_instance_uid,
        )


@dataclass(frozen=True)
class StoredPet:
    """An earlier PET/CT in the inbox with its result; each method reads what it gives.

    All raise :class:`~app.errors.UnusableStudyError` when it can't be read any more.
    """

    result: PetResult
    inbox: Inbox
    load_policy: LoadPolicy

    def lesions(self) -> LabelMap:
        """The lesions on the PET's grid."""
        grid = self._pet_grid()
        if self.result.segmentation is None:
            return LabelMap(np.zeros(grid.shape, dtype=np.uint16), grid)
        try:
            return labels_on_grid(dcmread(self.result.segmentation), grid)
        except (OSError, InvalidDicomError, ResultMismatchError) as error:
            # a mismatch: late images have changed the PET since
            raise UnusableStudyError(
                _unreadable(f"{type(error).__name__}: the SEG does not lie on the PET", self.result)
            ) from error

    def ct(self) -> Volume:
        """The PET's CT in HU."""
        return read_ct(self._series(self.result.ct_series_instance_uid))

    def suv(self) -> Volume:
        """The PET in SUVbw."""
        series = self._series(self.result.functional_series_instance_uid)
        image = read_functional(series, self.load_policy)
        if image.suv is None:
            raise UnusableStudyError(image.no_suv or _unreadable("no SUV", self.result))
        return image.suv

    def _pet_grid(self) -> Grid:
        stack = stack_series(self._series(self.result.functional_series_instance_uid))
        if isinstance(stack, Reason):
            raise UnusableStudyError(stack)
        return stack.grid

    def _series(self, series_instance_uid: str) -> Series:
        found = [item for item in self._study.series if item.series_instance_uid == series_instance_uid]
        if not found:
            raise UnusableStudyError(_unreadable("a series that is gone from the inbox", self.result))
        return found[0]

    @cached_property
    def _study(self) -> Study:
        return read_study(self.inbox.image_paths(self.result.study_instance_uid))


def _unreadable(found: str, result: PetResult) -> Reason:
    return Reason(
        RefusalCode.PRIOR_UNREADABLE,
        "",
        found,
        "the PET with its CT and its SEG as they were when it was processed",
        series_instance_uid=result.functional_series_instance_uid,
    )
