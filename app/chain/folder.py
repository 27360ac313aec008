"""Folder mode: the chain on every study of a folder, oldest first (the MAP contract)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from app.dicom.dicom_file import archive_kind
from app.dicom.reading.loading import read_ct, read_joined_suv, read_suv
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_studies
from app.dicom.results.writer import Written
from app.dicom.uids import ResultKind
from app.domain.outcome import PairOutcome, ResultFile, Status, StudyOutcome
from app.domain.refusal import Reason
from app.domain.selection.pair import rejection_lines
from app.domain.study import Patient, Study
from app.domain.volume import LabelMap
from app.errors import MisconfiguredError, RetryLaterError, UnusableStudyError, describe_exception
from app.files.durable import write_durably
from app.files.outcome import NAME, STUDY_FOLDER, printed, remove_results, write_outcome, write_shadows
from app.imaging.earlier_results import EarlierReport, EarlierResult
from app.inference.devices import choose_device
from app.settings import Settings

if TYPE_CHECKING:
    from app.chain.application import ChainProcessor

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
        lines = [f"{self.status}: {len(self.studies)} study(ies), {len(self.unreadable)} unreadable file(s)"]
        lines += [self.message] if self.message else []
        for number, study in enumerate(self.studies, start=1):
            lines.append(f"study {number}: {study.status} {study.message}".rstrip())
            lines += [f"  not used: {line}" for line in rejection_lines(study.reasons, study.verdicts)]
            for pair in study.pairs:
                lines += _pair_lines(pair)
        lines += [f"unreadable: {reason}" for reason in self.unreadable]
        return lines


class RunResults:
    """What this run has found so far, for a later study in the same folder.

    Only lesion voxels stay in memory; images are read again when they are needed.
    """

    def __init__(self, load_policy: LoadPolicy) -> None:
        self._load_policy = load_policy
        self._results: list[tuple[Patient, EarlierResult]] = []

    def remember(self, written: Written) -> None:
        """Keep a result that has a date."""
        quantified = written.quantified
        segmented = quantified.segmented
        selection = segmented.aligned.loaded.selection
        acquired_at = selection.functional.when or selection.study.study_datetime
        if acquired_at is None:
            return
        uids = {result.kind: str(result.dataset.SOPInstanceUID) for result in written.results}
        report = EarlierReport(
            uids[ResultKind.SR], selection.tracer.key, segmented.model, quantified.findings
        )
        loaded = segmented.aligned.loaded
        facts, suv = loaded.facts, partial(read_suv, selection.functional, self._load_policy)
        if loaded.joined:
            suv = partial(read_joined_suv, selection.study, loaded.joined, selection.ct, self._load_policy)
        result = EarlierResult(
            study_instance_uid=selection.study.study_instance_uid,
            series_instance_uid=selection.functional.series_instance_uid,
            acquired_at=acquired_at,
            kind=selection.kind,
            lesion_count=segmented.labels.count,
            segmentation_sop_instance_uid=uids.get(ResultKind.SEG, ""),
            report=report,
            may_be_prior=True,
            facts=lambda: facts,
            labels=_kept(segmented.labels),
            ct=partial(read_ct, selection.ct),
            suv=suv,
        )
        self._results.append((selection.study.patient, result))

    def for_patient(self, patient: Patient, before: datetime) -> Sequence[EarlierResult]:
        """Nobody without an identity has earlier results."""
        if patient.unidentified:
            return []
        return [result for owner, result in self._results if owner == patient and result.acquired_at < before]


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
        archive = archive_kind(input_folder) if input_folder.is_file() else ""
        kind = f"a {archive} archive: unpack it, and" if archive else "not a folder;"
        raise MisconfiguredError(f"{input_folder} is {kind} give a folder with DICOM files")
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
    if settings.segment.device.startswith("cuda"):  # a GPU is demanded: refuse before any work is done
        choose_device(settings.segment.device)
    reading = read_studies(input_folder)
    if not reading.studies:
        return FolderOutcome.of((), reading.unreadable)
    from app.chain.application import ChainProcessor  # its libraries take seconds

    results = RunResults(settings.load)
    processor = ChainProcessor(settings, results)
    outcomes = []
    for number, study in enumerate(sorted(reading.studies, key=_by_time), start=1):
        name = f"{STUDY_FOLDER}{number}"
        outcome = _process_one(processor, study, output_folder / name, results)
        outcomes.append(_with_paths_below(outcome, name))
    return FolderOutcome.of(outcomes, reading.unreadable)


def _process_one(processor: ChainProcessor, study: Study, out: Path, results: RunResults) -> StudyOutcome:
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
            results.remember(written)
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
        logger.error("no shadow.json beside the study: %s", error.strerror)


def _write_if_possible(outcome: StudyOutcome, out: Path) -> None:
    """The study's own outcome; where the disk has no room for it, the folder's outcome says how it ended."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_outcome(outcome, out)
    except OSError as error:
        logger.error("no outcome beside the study: %s", error.strerror)


def _prepare(folder: Path) -> None:
    """Remove the results of an earlier run, which could be taken for those of this one."""
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
    burden, tl_psma = pair.findings.burden, pair.findings.burden.tl_psma
    uptake = "not quantified" if tl_psma is None else f"TL-PSMA {tl_psma:.1f} g"
    prior = ", with prior" if pair.prior_used else ""
    lines = [
        f"  {pair.kind} {pair.tracer}: {pair.model.role} ({pair.model.model_id}{prior}), "
        f"{burden.lesion_count} lesion(s), PSMA-TV {burden.psma_tv_ml:.1f} ml, {uptake}"
    ]
    lines += [f"    {file.kind}: {file.path}" for file in pair.files]
    return lines + [f"    no prior used: {reason}" for reason in pair.no_prior]
