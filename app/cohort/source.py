"""The patients of a folder of DICOM: their studies, and the pairs of images that a cohort takes.

:class:`CohortPolicy` holds what decides on the content of a cohort: the node's own settings, and which
outlines are lesions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from app.cohort.pool import in_processes
from app.cohort.truth import Truth
from app.dicom import header_values as header
from app.dicom.dicom_file import read_header
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import StudyReading, read_studies
from app.domain.refusal import Reason
from app.domain.selection.pair import Selection, rejection_lines
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from app.domain.study import Patient, Series, Study, StudyKind
from app.errors import MisconfiguredError
from app.imaging.registration.policy import AlignPolicy
from app.phantom.dicom.header import ISSUER as SIMULATED_ISSUER


@dataclass(frozen=True)
class Refusal:
    """A study or series of a patient that can't be used; ``what`` holds no personal data."""

    what: str
    reason: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class FoundPatient:
    """One person's studies in the source.

    Attributes:
        patient: with the Patient ID: never printed.
        name, birth_date: of the first image: never printed.
        scans: every pair that the node would analyse, earliest first.
        refusals: what of the studies can't be used, and the node's words why.
    """

    patient: Patient
    studies: tuple[Study, ...]
    scans: tuple[Selection, ...]
    refusals: tuple[Refusal, ...] = ()
    name: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)

    @property
    def first_acquired(self) -> datetime:
        """When the person first came; without any date last in order."""
        dates = [acquired_at(scan) for scan in self.scans] + [study.study_datetime for study in self.studies]
        return min((date for date in dates if date is not None), default=datetime.max)

    @property
    def is_simulated(self) -> bool:
        """What the phantom writes, and no hospital."""
        return self.patient.issuer == SIMULATED_ISSUER


@dataclass(frozen=True)
class Source:
    """What a folder holds.

    Attributes:
        patients: in order of acquisition.
        without_id: studies without a Patient ID, each alone: nothing says which belong together.
        unreadable: why files can't be read, and how many each; file names may hold names of people.
    """

    root: Path
    patients: tuple[FoundPatient, ...]
    without_id: tuple[FoundPatient, ...]
    unreadable: tuple[tuple[str, int], ...]


def find_patients(root: Path, policy: SelectionPolicy, jobs: int = 1) -> Source:
    """Read every header below ``root``.

    Raises:
        MisconfiguredError: no such folder.
    """
    try:
        reading = _read(root, jobs)
    except FileNotFoundError as error:
        raise MisconfiguredError(str(error)) from error
    by_patient: dict[Patient, list[Study]] = defaultdict(list)
    for study in reading.studies:
        by_patient[study.patient].append(study)
    anonymous = [study for study in reading.studies if study.patient.unidentified]
    patients = [
        _patient(patient, studies, policy)
        for patient, studies in by_patient.items()
        if not patient.unidentified
    ]
    patients.sort(key=lambda each: (each.first_acquired, each.studies[0].study_instance_uid))
    return Source(
        root,
        tuple(patients),
        tuple(FoundPatient(study.patient, (study,), (), (), *_person(study)) for study in anonymous),
        _counted(reading.unreadable),
    )


def acquired_at(scan: Selection) -> datetime | None:
    """When the functional image was taken, as the node orders PET and SPECT."""
    return scan.functional.when or scan.study.study_datetime


def _order(scan: Selection) -> tuple[datetime, str]:
    """Earliest first; a scan without a date comes last."""
    return acquired_at(scan) or datetime.max, scan.functional.series_instance_uid


def scan_in_words(scan: Selection) -> str:
    """Kind and Series Instance UID."""
    return f"{scan.kind} series {scan.functional.series_instance_uid}"


def files_of(scan: Selection) -> tuple[Path, ...]:
    """Every file of a pair."""
    return _files((scan.functional, scan.ct))


def files_of_study(study: Study) -> tuple[Path, ...]:
    """Every image of a study."""
    return _files(study.series)


def content_key(series: Series) -> str:
    """Changes when an image of the series is exchanged, added or removed; not when the folder is moved."""
    lines = []
    for item in series.instances:
        status = item.path.stat()
        lines.append(f"{item.sop_instance_uid} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(series: Iterable[Series]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(item.path for each in series for item in each.instances))


def _read(root: Path, jobs: int) -> StudyReading:
    """All headers; top folders at once in ``jobs`` processes, where none shares a study with another."""
    parts = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    loose = [entry for entry in root.iterdir() if entry.is_file()] if parts else []
    if jobs == 1 or len(parts) < 2:
        return read_studies(root)
    found = dict(in_processes(read_studies, parts, jobs))
    readings = [*(found[part] for part in parts), read_studies(loose)]
    seen: dict[str, list[Study]] = defaultdict(list)
    for study in (study for reading in readings for study in reading.studies):
        seen[study.study_instance_uid].append(study)
    whole = [studies[0] for studies in seen.values() if len(studies) == 1]
    spread = [study for studies in seen.values() if len(studies) > 1 for study in studies]
    if spread:
        paths = {item.path for study in spread for series in study.series for item in series.instances}
        whole += read_studies(paths).studies
    unreadable = tuple(reason for reading in readings for reason in reading.unreadable)
    return StudyReading(tuple(sorted(whole, key=lambda study: study.study_instance_uid)), unreadable)


def _patient(patient: Patient, studies: Sequence[Study], policy: SelectionPolicy) -> FoundPatient:
    scans: list[Selection] = []
    refusals = []
    for study in studies:
        result = select(study, policy)
        scans += result.selections
        if result.rejection is not None:
            lines = rejection_lines(result.rejection.reasons, result.verdicts)
            what = f"study {study.study_instance_uid}"
            refusals.append(Refusal(what, "; ".join(lines), files_of_study(study)))
        else:
            refusals += [
                Refusal(f"series {verdict.series_instance_uid}", str(verdict.reason), files_of_study(study))
                for verdict in result.verdicts
                if verdict.modality in ("PT", "NM") and verdict.reason is not None
            ]
    scans.sort(key=_order)
    name, birth_date = _person(studies[0])
    return FoundPatient(patient, tuple(studies), tuple(scans), tuple(refusals), name, birth_date)


def _person(study: Study) -> tuple[str, str]:
    path = study.series[0].instances[0].path
    with header.tolerant():
        dataset = read_header(path, ("SpecificCharacterSet", "PatientName", "PatientBirthDate"))
        return header.text(dataset, "PatientName"), header.text(dataset, "PatientBirthDate")


def _counted(reasons: Iterable[Reason]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = defaultdict(int)
    for reason in reasons:
        kind = re.sub(r"^.*: ", "", reason.found)
        advice = f"; {reason.advice}" if reason.advice != reason.code.advice else ""
        counts[f"{kind}; expected {reason.expected}{advice}"] += 1
    return tuple(sorted(counts.items()))


Candidate = tuple[Selection, Truth]
"""A scan with its truth."""


@dataclass(frozen=True)
class PairChoice:
    """The scans that are taken, why, and the others with the reason why not."""

    taken: tuple[Candidate, ...]
    reasons: tuple[str, ...]
    left: tuple[tuple[Selection, str], ...]


def choose_pair(candidates: Sequence[Candidate]) -> PairChoice:
    """The earliest SPECT that follows a PET, and the latest PET before it; else the earliest of each.

    So the SPECT is the first one after its PET, as in practice: a PET before therapy, the scan of the first
    cycle after it.
    """
    pets, spects = (_earliest_first(candidates, kind) for kind in StudyKind)
    pet, spect = _pair(pets, spects)
    taken = tuple(each for each in (pet, spect) if each is not None)
    reasons = [_missing(kind) for kind, each in zip(StudyKind, (pet, spect), strict=True) if each is None]
    if len(pets) > 1:
        reasons.append(f"one of {len(pets)} PET/CTs: the last before the SPECT/CT, or the first of all")
    if len(spects) > 1:
        reasons.append(f"one of {len(spects)} SPECT/CTs: the first after the PET/CT, or the first of all")
    if pet is not None and spect is not None and not _before(pet, spect):
        reasons.append("the SPECT/CT is not known to be after the PET/CT: no guide as in practice")
    chosen = {scan.functional.series_instance_uid for scan, _ in taken}
    left = tuple(
        (scan, f"another {scan.kind} of the patient was taken")
        for scan, _ in candidates
        if scan.functional.series_instance_uid not in chosen
    )
    return PairChoice(taken, tuple(reasons), left)


def _pair(
    pets: Sequence[Candidate], spects: Sequence[Candidate]
) -> tuple[Candidate | None, Candidate | None]:
    for spect in spects:
        earlier = [pet for pet in pets if _before(pet, spect)]
        if earlier:
            return earlier[-1], spect
    return next(iter(pets), None), next(iter(spects), None)


def _earliest_first(candidates: Sequence[Candidate], kind: StudyKind) -> list[Candidate]:
    return sorted((each for each in candidates if each[0].kind is kind), key=lambda each: _order(each[0]))


def _before(pet: Candidate, spect: Candidate) -> bool:
    first, second = acquired_at(pet[0]), acquired_at(spect[0])
    return first is not None and second is not None and first < second


def _missing(kind: StudyKind) -> str:
    usable = "M2 and M3 alone" if kind is StudyKind.PET_CT else "M1 and M3 alone"
    return f"no {kind} with a truth: for {usable}"


VERSION = 2
"""Raise it when the same input gives other images: every patient is then made again."""


@dataclass(frozen=True)
class CohortPolicy:
    """Sections ``select``, ``load`` and ``align`` of the site: a cohort holds what the node would take.

    Attributes:
        roi: regular expression for the names of regions that are lesions; empty takes all.
    """

    select: SelectionPolicy = field(default_factory=SelectionPolicy)
    load: LoadPolicy = field(default_factory=LoadPolicy)
    align: AlignPolicy = field(default_factory=AlignPolicy)
    roi: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        fields = TypeAdapter(CohortPolicy).dump_python(self, mode="json")
        return hashlib.sha256(json.dumps([VERSION, fields], sort_keys=True).encode()).hexdigest()
