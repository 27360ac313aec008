"""The node's store of earlier results: what it has found in a patient's other studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from app.dicom.reading.loading import read_ct, read_functional, read_joined_suv, read_suv
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.dicom.results.read_back import ResultMismatchError, labels_on_grid
from app.dicom.uids import ResultKind
from app.domain.findings.comparability import ScanFacts
from app.domain.outcome import PairOutcome, Status
from app.domain.refusal import Reason, RefusalCode
from app.domain.stack.geometry import stack_series
from app.domain.study import Patient, Series, Study, StudyKind
from app.domain.volume import Grid, LabelMap, Volume
from app.errors import UnusableStudyError
from app.imaging.earlier_results import EarlierReport, EarlierResult
from app.node.records.results import RegisteredResult, SeriesSubject
from app.node.records.states import FINAL, RunKey
from app.node.records.stores import NodeStores


class NodeEarlierResults:
    """An :class:`~app.imaging.earlier_results.EarlierResults` over what this node has processed.

    A PET in the register may become a prior: its images say whose it is and when it was acquired. What the
    last word of a study reports may be compared with. As a rule both speak of the same results; a PET that
    could not be delivered, for example, stands in the register alone.
    """

    def __init__(self, stores: NodeStores, load_policy: LoadPolicy) -> None:
        self._stores = stores
        self._load_policy = load_policy

    def for_patient(self, patient: Patient, before: datetime) -> Sequence[EarlierResult]:
        """The patient's results from before ``before`` (local time)."""
        registered = {_identity(row): row for row in self._stores.results.of_patient(patient, before)}
        found = []
        for row, pair in self._last_words(patient, before):
            may_be_prior = registered.pop(_identity(row), None) is not None
            found.append(self._result(row, pair, may_be_prior, _report(pair)))
        for row in registered.values():
            found.append(self._result(row, self._pair(row), may_be_prior=True, report=None))
        return found

    def _last_words(
        self, patient: Patient, before: datetime
    ) -> Iterator[tuple[RegisteredResult, PairOutcome]]:
        """What the latest revision that ended has found, in each of the patient's earlier studies."""
        for study in self._stores.studies.of_patient(patient):
            times = {StudyKind.PET_CT: study.pet_acquired_at, StudyKind.SPECT_CT: study.spect_acquired_at}
            earlier = {kind: when for kind, when in times.items() if when is not None and when < before}
            key = self._latest_ended(study.study_instance_uid) if earlier else None
            outcome = self._stores.outbox.readable_outcome_of(key) if key else None
            if key is None or outcome is None or outcome.status is not Status.DONE:
                continue  # it has withdrawn what earlier ones had found
            for pair in outcome.pairs:
                if pair.kind in earlier:
                    yield RegisteredResult.of(key, SeriesSubject(patient, earlier[pair.kind]), pair), pair

    def _latest_ended(self, study_instance_uid: str) -> RunKey | None:
        runs = sorted(self._stores.runs.of_study(study_instance_uid), key=lambda run: -run.key.revision)
        return next((run.key for run in runs if run.state in FINAL and not self._left_open(run.key)), None)

    def _left_open(self, run: RunKey) -> bool:
        outcome = self._stores.outbox.readable_outcome_of(run)
        return outcome is not None and outcome.leaves_open

    def _pair(self, row: RegisteredResult) -> PairOutcome | None:
        """What the outcome says of a registered result; ``None`` when it can't be read."""
        outcome = self._stores.outbox.readable_outcome_of(row.run)
        pairs = outcome.pairs if outcome else ()
        series = row.functional_series_instance_uid
        return next((pair for pair in pairs if pair.functional_series_instance_uid == series), None)

    def _result(
        self,
        row: RegisteredResult,
        pair: PairOutcome | None,
        may_be_prior: bool,
        report: EarlierReport | None,
    ) -> EarlierResult:
        folder = self._stores.outbox.folder_of(row.run)
        segmentation = folder / row.segmentation_path if row.segmentation_path else None
        images = StoredImages(row, pair.parts if pair else (), segmentation, self._stores, self._load_policy)
        kind = pair.kind if pair else StudyKind.PET_CT
        return EarlierResult(
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.functional_series_instance_uid,
            acquired_at=row.acquired_at,
            kind=kind,
            lesion_count=row.lesion_count,
            segmentation_sop_instance_uid=row.segmentation_sop_instance_uid,
            report=report,
            may_be_prior=may_be_prior,
            facts=partial(images.facts, kind, pair.tracer if pair else ""),
            labels=images.labels,
            ct=images.ct,
            suv=images.suv,
        )


def _identity(row: RegisteredResult) -> tuple[RunKey, str, datetime]:
    return row.run, row.functional_series_instance_uid, row.acquired_at


def _report(pair: PairOutcome) -> EarlierReport:
    sop_instance_uid = next(file.sop_instance_uid for file in pair.files if file.kind == ResultKind.SR)
    return EarlierReport(sop_instance_uid, pair.tracer, pair.model, pair.findings)


@dataclass(frozen=True)
class StoredImages:
    """The images in the inbox that a result is about, and its SEG; each method reads what it gives.

    They are those that its run had: images that came later, or with another content, are left out.
    ``parts`` are of a SPECT that was joined from several series, else empty.

    All raise :class:`~app.errors.UnusableStudyError` when it can't be read any more.
    """

    result: RegisteredResult
    parts: tuple[str, ...]
    segmentation: Path | None
    stores: NodeStores
    load_policy: LoadPolicy

    def facts(self, kind: StudyKind, tracer: str) -> ScanFacts:
        """What a comparison with it hangs on."""
        series = self._series(self.result.functional_series_instance_uid)
        uptake_s = read_functional(series, self.load_policy).quantification.uptake_s
        return ScanFacts.of(self._study.patient, (kind, tracer), series, uptake_s, self._grid())

    def labels(self) -> LabelMap:
        """The lesions on the grid of the functional image."""
        grid = self._grid()
        if self.segmentation is None:
            return LabelMap(np.zeros(grid.shape, dtype=np.uint16), grid)
        try:
            return labels_on_grid(dcmread(self.segmentation), grid)
        except (OSError, InvalidDicomError, ResultMismatchError) as error:
            found = f"{type(error).__name__}: the SEG does not lie on the PET"
            raise UnusableStudyError(self._unreadable(found)) from error

    def _grid(self) -> Grid:
        if len(self._parts) > 1:
            return self.suv().grid
        stack = stack_series(self._parts[0])
        if isinstance(stack, Reason):
            raise UnusableStudyError(stack)
        return stack.grid

    def ct(self) -> Volume:
        """The CT in HU."""
        return read_ct(self._series(self.result.ct_series_instance_uid))

    def suv(self) -> Volume:
        """The functional image in SUVbw."""
        if len(self._parts) == 1:
            return read_suv(self._parts[0], self.load_policy)
        ct = self._series(self.result.ct_series_instance_uid)
        return read_joined_suv(self._study, self._parts, ct, self.load_policy)

    @cached_property
    def _parts(self) -> tuple[Series, ...]:
        named = self.parts or (self.result.functional_series_instance_uid,)
        return tuple(map(self._series, named))

    def _series(self, series_instance_uid: str) -> Series:
        found = [item for item in self._study.series if item.series_instance_uid == series_instance_uid]
        if not found:
            raise UnusableStudyError(self._unreadable("a series that is gone from the inbox"))
        if found[0].faults:
            raise UnusableStudyError(self._unreadable(f"a series with a fault: {found[0].faults[0]}"))
        return found[0]

    @cached_property
    def _study(self) -> Study:
        content = self.stores.inbox.content_of_run(self.stores.runs.get(self.result.run))
        if content is None:
            raise UnusableStudyError(self._unreadable("images that are not those it had any more"))
        if content.damaged():
            raise UnusableStudyError(
                self._unreadable("images that are damaged in the inbox, or gone from it")
            )
        return read_study(content.paths)

    def _unreadable(self, found: str) -> Reason:
        return Reason(
            RefusalCode.PRIOR_UNREADABLE,
            "",
            found,
            "the PET with its CT and its SEG as they were when it was processed",
            series_instance_uid=self.result.functional_series_instance_uid,
        )
