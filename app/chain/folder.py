"""Folder mode: the chain on every study of a folder, oldest first (the MAP contract)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from app.chain.application import ChainProcessor
from app.dicom.reading.loading import read_ct
from app.dicom.reading.studies import read_studies
from app.dicom.results.writer import Written
from app.dicom.uids import ResultKind
from app.domain.outcome import PairOutcome, ResultFile, Status, StudyOutcome
from app.domain.refusal import Reason
from app.domain.selection.rejection import rejection_lines
from app.domain.study import Patient, Study, StudyKind
from app.domain.volume import LabelMap
from app.errors import MisconfiguredError, RetryLaterError, UnusableStudyError, describe_exception
from app.files.durable import write_durably
from app.files.outcome import NAME, STUDY_FOLDER, printed, remove_results, write_outcome, write_shadows
from app.imaging.earlier_results import PreviousResult, PriorCandidate
from app.inference.devices import choose_device
from app.settings import Settings

logger = logging.getLogger(__name__)

NOTHING_FOUND = (
    "found no DICOM image in the input folder, expected a PSMA PET/CT or a 177Lu SPECT/CT study; "
    "give the folder that holds its files"
)
UNFINISHED = "the run did not come to its end: it was stopped, killed, or its disk was full"


@dataclass(frozen=True)
class FolderOutcome:
    """What a folder gave. ``status`` is the most urgent of its studies: failed, retry, done, rejected."""

    status: Status
    studies: tuple[StudyOutcome, ...] = ()
    unreadable: tuple[Reason, ...] = ()
    message: str = ""

    @classmethod
    def of(cls, studies: Sequence[StudyOutcome], unreadable: Sequence[Reason]) -> FolderOutcome:
        """Sum up: nothing usable at all is a rejection."""
        found = {study.status for study in studies}
        order = (Status.FAILED, Status.RETRY, Status.DONE, Status.REJECTED)
        status = next((status for status in order if status in found), Status.REJECTED)
        return cls(status, tuple(studies), tuple(unreadable), "" if studies else NOTHING_FOUND)

    def lines(self) -> list[str]:
        """The outcome in words, for a terminal."""
        lines = [f"{self.status}: {len(self.studies)} study(ies), {len(self.unreadable)} unreadable file(s)"]
        lines += [self.message] if self.message else []
        for number, study in enumerate(self.studies, start=1):
            lines.append(f"study {number}: {study.status} {study.message}".rstrip())
            lines += [f"  not used: {line}" for line in rejection_lines(study.reasons, study.verdicts)]
            for pair in study.pairs:
                lines += _pair_lines(pair)
        lines += [f"unreadable: {reason}" for reason in self.unreadable]
        return lines


class RunPriors:
    """The PET results of this run, as priors for a later SPECT/CT in the same folder."""

    def __init__(self) -> None:
        self._results: list[tuple[Patient, PriorCandidate]] = []

    def remember(self, written: Written) -> None:
        """Keep a PET result."""
        selection = written.quantified.segmented.aligned.loaded.selection
        if selection.kind is not StudyKind.PET_CT:
            return
        segs = [result.dataset for result in written.results if result.kind is ResultKind.SEG]
        seg_uid = str(segs[0].SOPInstanceUID) if segs else ""
        candidate = PriorCandidate.from_result(written.quantified, seg_uid)
        self._results.append((selection.study.patient, candidate))

    def candidates_for(self, patient: Patient, before: datetime) -> Sequence[PriorCandidate]:
        """PET results of this patient from before ``before``."""
        return [
            candidate
            for owner, candidate in self._results
            if owner == patient and candidate.acquired_at is not None and candidate.acquired_at < before
        ]


class RunResults:
    """The results of this run, for the comparison with a later study in the same folder.

    Only lesion voxels stay in memory; a CT is read again when it is needed.
    """

    def __init__(self) -> None:
        self._results: list[tuple[Patient, PreviousResult]] = []

    def remember(self, written: Written) -> None:
        """Keep a result that has a date."""
        quantified = written.quantified
        loaded = quantified.segmented.aligned.loaded
        selection = loaded.selection
        acquired_at = selection.functional.when or selection.study.study_datetime
        if acquired_at is None:
            return
        report = next(result for result in written.results if result.kind is ResultKind.SR)
        result = PreviousResult(
            study_instance_uid=selection.study.study_instance_uid,
            series_instance_uid=selection.functional.series_instance_uid,
            acquired_at=acquired_at,
            kind=selection.kind,
            tracer=selection.tracer.key,
            model=quantified.segmented.model,
            findings=quantified.findings,
            result_sop_instance_uid=str(report.dataset.SOPInstanceUID),
            labels=_kept(quantified.segmented.labels),
            ct=partial(read_ct, selection.ct),
        )
        self._results.append((selection.study.patient, result))

    def results_for(self, patient: Patient, kind: StudyKind, before: datetime) -> Sequence[PreviousResult]:
        """Results of this patient of that kind from before ``before``."""
        return [
            result
            for owner, result in self._results
            if owner == patient and result.kind is kind and result.acquired_at < before
        ]


def _kept(labels: LabelMap) -> Callable[[], LabelMap]:
    """A label map by its voxels alone: a thousandth of its size."""
    places = np.flatnonzero(labels.array)
    numbers, grid = labels.array.ravel()[places], labels.grid

    def unfold() -> LabelMap:
        array = np.zeros(int(np.prod(grid.shape)), dtype=np.uint16)
        array[places] = numbers
        return LabelMap(array.reshape(grid.shape), grid)

    return unfold


def process_folder(input_folder: Path, output_folder: Path, settings: Settings) -> FolderOutcome:
    """Run the chain on every study in ``input_folder``; write results and outcome.json.

    Raises:
        MisconfiguredError: a folder is missing or not writable, a model can't be used, or a GPU is demanded
            that is not there.
        RetryLaterError: the disk has no room for the outcome.
    """
    if not input_folder.is_dir():
        raise MisconfiguredError(f"{input_folder} is not a folder; give a folder with DICOM files")
    _prepare(output_folder)
    try:
        return _finished(_process_all(input_folder, output_folder, settings), output_folder)
    except MisconfiguredError as error:
        _finished(FolderOutcome(Status.FAILED, message=str(error)), output_folder)
        raise


def _finished(outcome: FolderOutcome, output_folder: Path) -> FolderOutcome:
    """Write outcome.json, the last of all files.

    Raises:
        RetryLaterError: the disk does not take it.
    """
    try:
        write_durably(output_folder / NAME, _as_json(outcome))
    except OSError as error:
        raise RetryLaterError(
            f"cannot write {output_folder / NAME}: {error.strerror}; free space or check permissions"
        ) from error
    return outcome


def _as_json(outcome: FolderOutcome) -> bytes:
    as_printed = replace(outcome, studies=tuple(map(printed, outcome.studies)))
    return TypeAdapter(FolderOutcome).dump_json(as_printed, indent=2) + b"\n"


def _process_all(input_folder: Path, output_folder: Path, settings: Settings) -> FolderOutcome:
    if settings.segment.device.startswith("cuda"):  # a GPU is demanded: better told before any work is done
        choose_device(settings.segment.device)
    reading = read_studies(input_folder)
    priors = RunPriors()
    results = RunResults()
    processor = ChainProcessor(settings, priors, previous_source=results)
    outcomes = []
    for number, study in enumerate(sorted(reading.studies, key=_by_time), start=1):
        name = f"{STUDY_FOLDER}{number}"
        outcome = _process_one(processor, study, output_folder / name, (priors, results))
        outcomes.append(_with_paths_below(outcome, name))
    return FolderOutcome.of(outcomes, reading.unreadable)


def _process_one(
    processor: ChainProcessor, study: Study, out: Path, memories: tuple[RunPriors, RunResults]
) -> StudyOutcome:
    try:
        folder = processor.process_study(lambda: study, out, revision=1)
    except MisconfiguredError:
        raise
    except UnusableStudyError as error:
        outcome = StudyOutcome(study.study_instance_uid, Status.REJECTED, error.rejection.reasons)
    except RetryLaterError as error:
        outcome = StudyOutcome(study.study_instance_uid, Status.RETRY, message=str(error))
    except Exception as error:  # noqa: BLE001  the study loop: one fault must not stop the others
        message = describe_exception(error)
        logger.error("the chain failed: %s", message)
        outcome = StudyOutcome(study.study_instance_uid, Status.FAILED, message=message)
    else:
        for written in folder.written:
            for memory in memories:
                memory.remember(written)
        _run_shadows(processor, folder.written, out)
        return folder.outcome
    _write_if_possible(outcome, out)
    return outcome


def _run_shadows(processor: ChainProcessor, written: Sequence[Written], out: Path) -> None:
    """After the results: they are whole on the disk, whatever becomes of the shadows."""
    work = processor.shadow_work(written)
    try:
        write_shadows(() if work is None else work(), out)
    except OSError as error:
        logger.error("no %s beside the study: %s", "shadow.json", error.strerror)


def _write_if_possible(outcome: StudyOutcome, out: Path) -> None:
    """The outcome beside the study; a disk that has no room for it is told by the folder's own outcome."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_outcome(outcome, out)
    except OSError as error:
        logger.error("no outcome beside the study: %s", error.strerror)


def _prepare(folder: Path) -> None:
    """Results of an earlier run go: beside those of this one, nobody could tell them apart."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"{STUDY_FOLDER}*"):
            remove_results(earlier)
        write_durably(folder / NAME, _as_json(FolderOutcome(Status.FAILED, message=UNFINISHED)))
    except OSError as error:
        raise MisconfiguredError(
            f"cannot write to {folder}: {error.strerror}; give a writable folder"
        ) from error


def _by_time(study: Study) -> tuple[datetime, str]:
    return study.study_datetime or datetime.min, study.study_instance_uid


def _with_paths_below(outcome: StudyOutcome, name: str) -> StudyOutcome:
    """The same outcome with its files named from the folder above."""

    def moved(file: ResultFile) -> ResultFile:
        return replace(file, path=f"{name}/{file.path}")

    pairs = tuple(replace(pair, files=tuple(map(moved, pair.files))) for pair in outcome.pairs)
    return replace(outcome, pairs=pairs)


def _pair_lines(pair: PairOutcome) -> list[str]:
    burden = pair.findings.burden
    prior = ", with prior" if pair.prior_used else ""
    lines = [
        f"  {pair.kind} {pair.tracer}: {pair.model.role} ({pair.model.model_id}{prior}), "
        f"{burden.lesion_count} lesion(s), PSMA-TV {burden.psma_tv_ml:.1f} ml, TL-PSMA {burden.tl_psma:.1f} g"
    ]
    lines += [f"    {file.kind}: {file.path}" for file in pair.files]
    return lines + [f"    no prior used: {reason}" for reason in pair.no_prior]
