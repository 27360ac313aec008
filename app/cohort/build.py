"""``cohort build``: a centre's patients and truths become part of a cohort."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cohort.choice import Candidate, choose
from app.cohort.duplicates import without_repeated
from app.cohort.identity import (
    assign,
    folder_without_person,
    path_without_person,
    person_hash,
    read_assignment,
    read_salt,
    write_assignment,
    write_key,
)
from app.cohort.manifest import (
    MANIFEST_FILE,
    CohortManifest,
    Exclusion,
    read_unchecked,
    write_manifest,
)
from app.cohort.patient import PatientTask, ScanTask
from app.cohort.policy import CohortPolicy
from app.cohort.pool import build_all
from app.cohort.record import PatientRecord, read_record
from app.cohort.source import FoundPatient, Source, files_of, find_patients
from app.cohort.truth import Truth, TruthFolder, read_truth_folder, truth_of, unused
from app.durable_file import make_folder
from app.errors import MisconfiguredError

_log = logging.getLogger(__name__)

Refusals = list[tuple[str, str]]
"""What was not taken, and why."""


@dataclass(frozen=True)
class CohortRequest:
    """What to build.

    Attributes:
        source: folder of DICOM.
        truth: folder of truths.
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


def build_cohort(request: CohortRequest) -> CohortManifest:
    """Build a centre's patients into the cohort's folder; what is complete and unchanged stays as it is.

    Raises:
        MisconfiguredError: a folder is missing or holds no patient, ``truth.csv`` is malformed, or simulated
            and real patients would share a cohort.
    """
    before = _manifest_before(request.cohort)
    truths = read_truth_folder(request.truth)
    source = find_patients(request.source, request.policy.select, request.jobs)
    simulated = _are_simulated(source, before)
    make_folder(request.cohort)
    names = _pseudonyms(request, source, before)
    persons = list(zip(names, source.patients, strict=True))
    if request.key is not None:
        write_key(request.key, request.cohort, persons)
    _log.info("%d patients in %s", len(persons), request.source)
    tasks, refusals = _tasks(request, persons, truths)
    refusals += _unplaced(source, truths, names)
    records = build_all(tasks, request.jobs)
    refusals += [(each.what, each.reason) for record in records for each in record.refused]
    gone = frozenset(names)
    before = before.model_copy(update={"patients": tuple(p for p in before.patients if p.id not in gone)})
    manifest = _manifest(request, before, records, refusals)
    manifest = manifest.model_copy(update={"simulated": simulated})
    write_manifest(manifest, request.cohort)
    return manifest


def _manifest_before(cohort: Path) -> CohortManifest:
    return read_unchecked(cohort) if (cohort / MANIFEST_FILE).is_file() else CohortManifest()


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


def _pseudonyms(request: CohortRequest, source: Source, before: CohortManifest) -> list[str]:
    known = read_assignment(request.cohort, before)
    names = assign(source.patients, request.centre, known.setdefault(request.centre, {}))
    write_assignment(request.cohort, known)
    return names


def _tasks(
    request: CohortRequest, persons: Sequence[tuple[str, FoundPatient]], truths: TruthFolder
) -> tuple[list[PatientTask], Refusals]:
    salt = read_salt(request.cohort)
    taken = frozenset(scan.functional.series_instance_uid for _, found in persons for scan in found.scans)
    tasks: list[PatientTask] = []
    refusals: Refusals = []
    for name, found in persons:
        refusals += found.refusals
        candidates: list[Candidate] = []
        for scan in found.scans:
            truth = truth_of(scan, (found.patient.patient_id, name), truths, taken)
            if isinstance(truth, Truth):
                candidates.append((scan, truth))
            else:
                refusals.append((f"{scan.kind} series {scan.functional.series_instance_uid}", truth))
        choice = choose(candidates)
        refusals += [
            (f"{scan.kind} series {scan.functional.series_instance_uid}", why) for scan, why in choice.left
        ]
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
            folder_without_person(files_of(scan), request.source, found),
            "" if truth.path is None else path_without_person(truth.path, request.truth, found),
        )
        for scan, truth in taken
    )
    return PatientTask(
        name=name,
        centre=request.centre,
        scans=scans,
        choices=choices,
        simulated=found.is_simulated,
        person=person_hash(found.patient.patient_id, found.birth_date, salt),
        salt=hashlib.sha256(salt).hexdigest()[:12],
        has_birth_date=bool(found.birth_date),
        cohort=request.cohort,
        policy=request.policy,
    )


def _unplaced(source: Source, truths: TruthFolder, names: Sequence[str]) -> Refusals:
    """Files and rows that belong to nobody, told without their names, which may be people's."""
    scans = [scan for patient in source.patients for scan in patient.scans]
    known = {patient.patient.patient_id for patient in source.patients} | set(names)
    refusals = unused(truths, scans, known)
    expected = "nothing says whose scans these are: give every patient an ID when anonymising"
    refusals += [(f"study {uid}", f"no Patient ID; {expected}") for uid in source.without_id]
    return refusals + [(f"{count} file(s) of the source", reason) for reason, count in source.unreadable]


def _manifest(
    request: CohortRequest, before: CohortManifest, records: Sequence[PatientRecord], refusals: Refusals
) -> CohortManifest:
    """Patients of earlier builds come first: of two that are one person, the first one stays.

    ``before`` has no patient of this source any more.
    """
    earlier = [
        read_record(request.cohort, patient.id) or PatientRecord(digest="", patient=patient)
        for patient in before.patients
    ]
    sorted_out = without_repeated([*earlier, *records])
    refusals = refusals + [(f"patient {patient.id}", reason) for patient, reason in sorted_out.repeated]
    source = str(request.source.resolve())
    new = [
        Exclusion(centre=request.centre, what=what, reason=reason, source=source) for what, reason in refusals
    ]
    old = [each for each in before.exclusions if (each.centre, each.source) != (request.centre, source)]
    return CohortManifest(
        patients=tuple(sorted(sorted_out.kept, key=lambda patient: patient.id)),
        exclusions=(*old, *new),
        warnings=sorted_out.warnings,
    )
