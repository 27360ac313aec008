"""``cohort build``: a centre's patients and truths become part of a cohort."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cohort import identity
from app.cohort.checks import without_repeated
from app.cohort.manifest import (
    MANIFEST_FILE,
    CohortManifest,
    CohortPatient,
    Exclusion,
    PatientRecord,
    read_patient_record,
    read_unchecked,
    write_manifest,
)
from app.cohort.patient import PatientTask, ScanTask, build_all
from app.cohort.source import (
    Candidate,
    CohortPolicy,
    FoundPatient,
    Refusal,
    Source,
    choose_pair,
    files_of,
    files_of_study,
    find_patients,
    scan_in_words,
)
from app.cohort.truth import Truth, TruthFolder, read_truth_folder, truth_of, unused
from app.errors import MisconfiguredError
from app.files.durable import hold_folder

_log = logging.getLogger(__name__)


Persons = Sequence[tuple[str, FoundPatient]]
"""Everyone in the source, with their pseudonyms."""


@dataclass(frozen=True)
class Exclusions:
    """Writes down, without a name or a Patient ID, what a build found below ``root`` and did not take."""

    centre: str
    root: Path

    def of_patient(self, name: str, found: FoundPatient, refusal: Refusal) -> Exclusion:
        """A study or scan of a patient, with the deepest folder whose name does not identify the patient."""
        folder = identity.folder_without_person(refusal.files, self.root, found)
        return self._made(refusal.what, refusal.reason, name, folder)

    def of_records(
        self, tasks: Sequence[PatientTask], records: Sequence[PatientRecord]
    ) -> Iterator[Exclusion]:
        """What building the patients refused; ``records`` are in the order of ``tasks``."""
        for task, record in zip(tasks, records, strict=True):
            folders = {scan.what: scan.source for scan in task.scans}
            for each in record.refused:
                folder = folders.get(each.what, task.scans[0].source)
                yield self._made(each.what, each.reason, task.name, folder)

    def of_repeated(self, patient: CohortPatient, reason: str) -> Exclusion:
        """A patient who is in the cohort already."""
        return self._made(f"patient {patient.id}", reason, patient.id, patient.scans[0].source)

    def unattributed(self, source: Source, truths: TruthFolder, persons: Persons) -> Iterator[Exclusion]:
        """Files, rows and studies that belong to no patient of the source."""
        known = {name for names in identity.names_in_table(persons) for name in names}
        scans = [scan for _, found in persons for scan in found.scans]
        for what, reason, path in unused(truths, scans, known):
            shown, whose = ("", "") if path is None else identity.stray_file(path, truths.root, persons)
            yield self._made(f"{what}, {shown}" if shown else what, reason, whose)
        expected = "nothing says whose scans these are: give every patient an ID when anonymising"
        for found in source.without_id:
            study = found.studies[0]
            refusal = Refusal(
                f"study {study.study_instance_uid}", f"no Patient ID; {expected}", files_of_study(study)
            )
            yield self.of_patient("", found, refusal)
        for reason, count in source.unreadable:
            yield self._made(f"{count} file(s) of the source", reason)

    def _made(self, what: str, reason: str, patient: str = "", folder: str = "") -> Exclusion:
        source = str(self.root.resolve())
        return Exclusion(
            centre=self.centre, what=what, reason=reason, source=source, patient=patient, folder=folder
        )


@dataclass(frozen=True)
class CohortRequest:
    """What to build.

    Attributes:
        source, truth: folders of DICOM and of truths.
        key: file for the table of pseudonyms, outside the cohort; ``None`` writes none.
        jobs: patients at once.
    """

    source: Path
    truth: Path
    centre: str
    cohort: Path
    policy: CohortPolicy
    key: Path | None = None
    jobs: int = 1

    @property
    def exclusions(self) -> Exclusions:
        """Writes down what this build does not take."""
        return Exclusions(self.centre, self.source)


def build_cohort(request: CohortRequest) -> CohortManifest:
    """Build a centre's patients into the cohort's folder; what is complete and unchanged stays as it is.

    Folders and key are looked at before any image is read.

    Raises:
        MisconfiguredError: a folder is missing, can't be written to, holds no patient or is being built,
            the key can't be written, ``truth.csv`` is malformed, or simulated and real patients would share
            a cohort.
    """
    for folder, what in ((request.source, "DICOM"), (request.truth, "truths")):
        if not folder.is_dir():
            raise MisconfiguredError(f"no such folder of {what}: {folder}")
    if request.key is not None:
        identity.check_key(request.key, request.cohort)
    with hold_folder(request.cohort, "`psma-node cohort build`"):
        return _build(request)


def _build(request: CohortRequest) -> CohortManifest:
    is_begun = (request.cohort / MANIFEST_FILE).is_file()
    before = read_unchecked(request.cohort) if is_begun else CohortManifest()
    truths = read_truth_folder(request.truth)
    source = find_patients(request.source, request.policy.select, request.jobs)
    simulated = _are_simulated(source, before)
    known = identity.read_assignment(request.cohort, before)
    names = identity.assign(source.patients, request.centre, known.setdefault(request.centre, {}))
    identity.write_assignment(request.cohort, known)
    persons = list(zip(names, source.patients, strict=True))
    if request.key is not None:
        identity.write_key(request.key, request.cohort, persons)
    _log.info("%d patients in %s", len(persons), request.source)
    tasks, refusals = _tasks(request, persons, truths)
    refusals += request.exclusions.unattributed(source, truths, persons)
    records = build_all(tasks, request.jobs)
    refusals += request.exclusions.of_records(tasks, records)
    kept = tuple(patient for patient in before.patients if patient.id not in names)
    before = before.model_copy(update={"patients": kept})
    manifest = _manifest(request, before, records, refusals).model_copy(update={"simulated": simulated})
    write_manifest(manifest, request.cohort)
    return manifest


def _are_simulated(source: Source, before: CohortManifest) -> bool:
    """Whether all are the phantom's; never guessed: its DICOM says so."""
    if not source.patients:
        raise MisconfiguredError(f"{source.root}: found no DICOM study of a patient with a Patient ID")
    found = {patient.is_simulated for patient in source.patients}
    if before.patients:
        found.add(before.simulated)
    if len(found) > 1:
        raise MisconfiguredError(f"{source.root}: simulated and real patients can't share a cohort")
    return found.pop()


def _tasks(
    request: CohortRequest, persons: Persons, truths: TruthFolder
) -> tuple[list[PatientTask], list[Exclusion]]:
    salt = identity.read_salt(request.cohort)
    taken = frozenset(scan.functional.series_instance_uid for _, found in persons for scan in found.scans)
    tasks: list[PatientTask] = []
    refusals: list[Exclusion] = []
    for (name, found), names in zip(persons, identity.names_in_table(persons), strict=True):
        candidates: list[Candidate] = []
        refused = list(found.refusals)
        for scan in found.scans:
            truth = truth_of(scan, names, truths, taken)
            if isinstance(truth, Truth):
                candidates.append((scan, truth))
            else:
                refused.append(Refusal(scan_in_words(scan), truth, files_of(scan)))
        choice = choose_pair(candidates)
        refused += [Refusal(scan_in_words(scan), why, files_of(scan)) for scan, why in choice.left]
        refusals += [request.exclusions.of_patient(name, found, each) for each in refused]
        if choice.taken:
            tasks.append(_task(request, name, found, choice.taken, choice.reasons, salt))
    return tasks, refusals


def _task(
    request: CohortRequest,
    name: str,
    found: FoundPatient,
    taken: Sequence[Candidate],
    choices: tuple[str, ...],
    salt: bytes,
) -> PatientTask:
    scans = tuple(
        ScanTask(
            scan,
            truth,
            identity.folder_without_person(files_of(scan), request.source, found),
            "" if truth.path is None else identity.path_without_person(truth.path, request.truth, found),
        )
        for scan, truth in taken
    )
    return PatientTask(
        name=name,
        centre=request.centre,
        scans=scans,
        choices=choices,
        simulated=found.is_simulated,
        person=identity.person_hash(found.patient.patient_id, found.birth_date, salt),
        salt=hashlib.sha256(salt).hexdigest()[:12],
        has_birth_date=bool(found.birth_date),
        cohort=request.cohort,
        policy=request.policy,
    )


def _manifest(
    request: CohortRequest,
    before: CohortManifest,
    records: Sequence[PatientRecord],
    refusals: Sequence[Exclusion],
) -> CohortManifest:
    """Patients of earlier builds come first: of two that are one person, the first one stays.

    ``before`` has no patient of this source any more.
    """
    earlier = [
        read_patient_record(request.cohort, patient.id) or PatientRecord(digest="", patient=patient)
        for patient in before.patients
    ]
    sorted_out = without_repeated([*earlier, *records])
    repeated = [request.exclusions.of_repeated(*each) for each in sorted_out.repeated]
    source = str(request.source.resolve())
    old = [each for each in before.exclusions if (each.centre, each.source) != (request.centre, source)]
    return CohortManifest(
        patients=tuple(sorted(sorted_out.kept, key=lambda patient: patient.id)),
        exclusions=(*old, *refusals, *repeated),
        warnings=sorted_out.warnings,
    )
