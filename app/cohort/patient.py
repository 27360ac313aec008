"""The patients, several at a time: scans read as the node reads them, and written with their truth.

What is complete and unchanged is not made again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from app.cohort.checks import check_place, check_uptake, fingerprint
from app.cohort.manifest import (
    RECORD_FILE,
    CohortPatient,
    CohortScan,
    CtRegistration,
    PatientRecord,
    Refused,
    image_file,
    missing_images,
    patient_folder,
    read_patient_record,
    write_patient_record,
)
from app.cohort.pool import in_processes, progress
from app.cohort.source import CohortPolicy, acquired_at, content_key, scan_in_words
from app.cohort.truth import Truth, numbered_lesions, read_outlines
from app.dicom.outlines.truth import Outlines, UnusableTruthError
from app.dicom.reading.loading import load
from app.dicom.reading.policy import SpectInCounts
from app.domain.analysis import Loaded
from app.domain.decision import ModelRole, Severity
from app.domain.refusal import Rejection
from app.domain.selection.pair import Selection
from app.domain.study import StudyKind
from app.domain.volume import LabelMap
from app.errors import describe_exception
from app.imaging.nifti import write_array
from app.imaging.registration.ct_agreement import check_ct
from app.imaging.registration.policy import AlignPolicy, broken_limits
from app.imaging.registration.registration import register_rigid
from app.inference.models.channels import build_input, canonical

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanTask:
    """A scan to build. ``source`` and ``truth_file`` are what the manifest may say of its paths."""

    selection: Selection
    truth: Truth
    source: str
    truth_file: str

    @property
    def what(self) -> str:
        """The scan in words."""
        return scan_in_words(self.selection)


@dataclass(frozen=True)
class PatientTask:
    """All that a process needs to build one patient.

    Attributes:
        person, salt, has_birth_date: as in :class:`~app.cohort.manifest.PatientRecord`.
    """

    name: str
    centre: str
    scans: tuple[ScanTask, ...]
    choices: tuple[str, ...]
    simulated: bool
    person: str
    salt: str
    has_birth_date: bool
    cohort: Path
    policy: CohortPolicy

    @property
    def digest(self) -> str:
        """The digest of every input: files by size and time, settings, and what the manifest will say."""
        lines = [self.policy.digest, self.name, self.centre, repr(self.choices), str(self.simulated)]
        for scan in self.scans:
            series = (scan.selection.functional, scan.selection.ct)
            lines += [scan.source, scan.truth_file, scan.truth.form, repr(scan.truth.warnings)]
            lines += [content_key(item) for item in series]
            if scan.truth.path is not None:
                status = scan.truth.path.stat()
                lines.append(f"{status.st_size} {status.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Built:
    """A scan on disk, and what is still needed of it."""

    scan: CohortScan
    loaded: Loaded
    fingerprint: tuple[float, ...]


def build_patient(task: PatientTask) -> PatientRecord:
    """Read, check, register and write one patient; the record is written last."""
    folder = patient_folder(task.cohort, task.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    built: list[_Built] = []
    refused: list[Refused] = []
    for scan in task.scans:
        found = _build_scan(task, scan)
        if isinstance(found, str):
            refused.append(Refused(what=scan.what, reason=found))
        else:
            built.append(found)
    patient = CohortPatient(
        id=task.name,
        centre=task.centre,
        scans=tuple(each.scan for each in built),
        registration=_registration(built, task.policy.align),
        choices=task.choices,
        simulated=task.simulated,
    )
    record = PatientRecord(
        digest=task.digest,
        patient=patient if built else None,
        refused=tuple(refused),
        person=task.person,
        salt=task.salt,
        has_birth_date=task.has_birth_date,
        fingerprints={each.scan.series_instance_uid: each.fingerprint for each in built},
    )
    write_patient_record(record, task.cohort, task.name)
    return record


def _build_scan(task: PatientTask, scan: ScanTask) -> _Built | str:
    """The scan written, or in words why not."""
    loaded = load(scan.selection, replace(task.policy.load, spect_in_counts=SpectInCounts.REFUSE))
    if not isinstance(loaded, Rejection):
        loaded = check_ct(loaded, task.policy.load.ct_agreement)
    if isinstance(loaded, Rejection):
        return str(loaded)
    try:
        outlines = read_outlines(scan.truth, loaded, task.policy.roi)
    except UnusableTruthError as error:
        return str(error)
    network_input = build_input(ModelRole.M3, loaded.uptake, loaded.ct)
    channels, orientation = canonical(network_input)
    regions = LabelMap(
        orientation.apply(outlines.labels.array).astype(np.uint16), orientation.grid(loaded.uptake.grid)
    )
    lesions, parted = numbered_lesions(regions)
    place = check_place(outlines.share_outside)
    uptake = check_uptake(channels[0], channels[1], lesions)
    if place.refusal or uptake.refusal:
        return place.refusal or uptake.refusal
    for image, array in (("suv", channels[0]), ("ct", channels[1]), ("truth", lesions.array)):
        path = image_file(task.cohort, task.name, scan.selection.kind, image)  # type: ignore[arg-type]
        write_array(path, array, lesions.grid)
    decisions = (*loaded.selection.decisions, *loaded.decisions)
    warnings = (
        *(each.text for each in decisions if each.severity is Severity.WARNING),
        *scan.truth.warnings,
        *_warnings_of_truth(scan.truth, outlines, lesions, parted),
        *(finding.warning for finding in (place, uptake) if finding.warning),
    )
    return _Built(_cohort_scan(scan, lesions, warnings), loaded, fingerprint(loaded.uptake))


def _warnings_of_truth(truth: Truth, outlines: Outlines, lesions: LabelMap, parted: bool) -> list[str]:
    warnings = list(outlines.warnings)
    if outlines.resampled:
        warnings.append("the truth was drawn on another grid; it was resampled by nearest neighbour")
    if parted:
        warnings.append("an outlined region lies in several places; each place counts as a lesion")
    if lesions.count == 0 and truth.path is not None:
        warnings.append("the truth is empty: nothing is outlined in its file")
    return warnings


def _cohort_scan(scan: ScanTask, lesions: LabelMap, warnings: tuple[str, ...]) -> CohortScan:
    selection = scan.selection
    return CohortScan(
        kind=selection.kind,
        study_instance_uid=selection.study.study_instance_uid,
        series_instance_uid=selection.functional.series_instance_uid,
        ct_series_instance_uid=selection.ct.series_instance_uid,
        acquired_at=acquired_at(selection),
        tracer=selection.tracer.key,
        source=scan.source,
        truth_form=scan.truth.form,
        truth_file=scan.truth_file,
        lesions=lesions.count,
        tumour_ml=round(float(np.count_nonzero(lesions.mask)) * lesions.grid.voxel_ml, 3),
        warnings=warnings,
    )


def _registration(built: Sequence[_Built], policy: AlignPolicy) -> CtRegistration | None:
    """The SPECT's CT on the PET's, when both are there."""
    loaded = {each.scan.kind: each.loaded for each in built}
    if len(loaded) < len(StudyKind):
        return None
    found = register_rigid(loaded[StudyKind.SPECT_CT].ct, loaded[StudyKind.PET_CT].ct)
    if found is None:
        why = "too little bone in common on the two CTs"
        return CtRegistration(spect_to_pet=None, fit=None, reasons=(why,), align=policy)
    rows = tuple(tuple(float(value) for value in row) for row in found.fixed_to_moving)
    reasons = tuple(str(reason) for reason in broken_limits(found.fit, policy))
    return CtRegistration.model_validate(
        {"spect_to_pet": rows, "fit": found.fit, "reasons": reasons, "align": policy}
    )


def build_all(tasks: Sequence[PatientTask], jobs: int) -> list[PatientRecord]:
    """The record of every patient, in the order of ``tasks``; the unchanged are not made again.

    Raises:
        MisconfiguredError: as :func:`~app.cohort.pool.in_processes`.
    """
    records = {task.name: found for task in tasks if (found := _complete(task)) is not None}
    waiting = [task for task in tasks if task.name not in records]
    if records:
        _log.info("%d patients are complete and unchanged, %d to build", len(records), len(waiting))
    with progress("patients", len(waiting)) as advance:
        for done, (task, record) in enumerate(in_processes(build_safely, waiting, jobs), start=1):
            records[task.name] = record
            left = f"{done} of {len(waiting)}, {timedelta(seconds=advance(1))} left"
            _log.info("%s: %s (%s)", task.name, _in_words(record), left)
    return [records[task.name] for task in tasks]


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
    if record.patient is not None and missing_images(task.cohort, (record.patient,)):
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


def _in_words(record: PatientRecord) -> str:
    if record.patient is None:
        return "excluded"
    scans = record.patient.scans
    return ", ".join(f"{scan.kind} {scan.lesions} lesions {scan.tumour_ml:.1f} ml" for scan in scans)
