"""Patients built several at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import get_context

from app.cohort.manifest import (
    IMAGES,
    CohortPatient,
    PatientRecord,
    Refused,
    image_file,
    read_patient_record,
    write_patient_record,
)
from app.cohort.patient import PatientTask, build_patient
from app.cohort.progress import progress
from app.errors import MisconfiguredError, describe_exception

_log = logging.getLogger(__name__)


def build_all(tasks: Sequence[PatientTask], jobs: int) -> list[PatientRecord]:
    """The record of every patient, in the order of ``tasks``; the unchanged are not made again.

    Raises:
        MisconfiguredError: a process was ended from outside, most likely for want of memory.
    """
    records = {task.name: found for task in tasks if (found := _complete(task)) is not None}
    waiting = [task for task in tasks if task.name not in records]
    if records:
        _log.info("%d patients are complete and unchanged, %d to build", len(records), len(waiting))
    with progress("patients", len(waiting)) as advance:
        for done, (name, record) in enumerate(_built(waiting, jobs), start=1):
            records[name] = record
            left = f"{done} of {len(waiting)}, {timedelta(seconds=advance(1))} left"
            _log.info("%s: %s (%s)", name, _in_words(record), left)
    return [records[task.name] for task in tasks]


def _built(tasks: Sequence[PatientTask], jobs: int) -> Iterator[tuple[str, PatientRecord]]:
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield task.name, build_safely(task)
        return
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(build_safely, task): task.name for task in tasks}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:  # an interruption waits for the patients under way, not for all
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        found = "a process that built a patient was ended from outside, perhaps for want of memory"
        raise MisconfiguredError(f"{found}: run it again with fewer --jobs; it goes on from here") from error


def build_safely(task: PatientTask) -> PatientRecord:
    """Build one patient; a fault of ours spares the others, is its reason, and is tried again next time."""
    try:
        return build_patient(task)
    except Exception as error:  # noqa: BLE001 - the one loop over patients
        refused = Refused(what=f"patient {task.name}", reason=f"failed: {describe_exception(error)}")
        return PatientRecord(digest="", patient=None, refused=(refused,))


def _complete(task: PatientTask) -> PatientRecord | None:
    """The patient's record, if it was built from the same input and its images are there."""
    record = read_patient_record(task.cohort, task.name)
    if record is None or record.digest != task.digest:
        return None
    if record.patient is not None and not _has_images(task, record.patient):
        return None
    if (record.person, record.salt) != (task.person, task.salt):
        fresh = {"person": task.person, "salt": task.salt, "has_birth_date": task.has_birth_date}
        record = record.model_copy(update=fresh)
        write_patient_record(record, task.cohort, task.name)
    return _with_limits(record, task)


def _with_limits(record: PatientRecord, task: PatientTask) -> PatientRecord:
    """A record from before the limits were kept; its digest says that these are the ones it was judged by."""
    patient = record.patient
    if patient is None or patient.registration is None or patient.registration.align is not None:
        return record
    registration = patient.registration.model_copy(update={"align": task.policy.align})
    record = record.model_copy(update={"patient": patient.model_copy(update={"registration": registration})})
    write_patient_record(record, task.cohort, task.name)
    return record


def _has_images(task: PatientTask, patient: CohortPatient) -> bool:
    return all(
        image_file(task.cohort, task.name, scan.kind, image).is_file()
        for scan in patient.scans
        for image in IMAGES
    )


def _in_words(record: PatientRecord) -> str:
    if record.patient is None:
        return "excluded"
    scans = record.patient.scans
    return ", ".join(f"{scan.kind} {scan.lesions} lesions {scan.tumour_ml:.1f} ml" for scan in scans)
