"""What was found and not taken: whose, where and why, without a name or a Patient ID."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cohort.identity import folder_without_person, names_in_table, stray_file
from app.cohort.manifest import CohortPatient, Exclusion, PatientRecord
from app.cohort.patient import PatientTask
from app.cohort.source import FoundPatient, Refusal, Source, files_of_study
from app.cohort.truth import TruthFolder, unused

Persons = Sequence[tuple[str, FoundPatient]]
"""Everyone in the source, with pseudonyms."""


@dataclass(frozen=True)
class Exclusions:
    """Writes the exclusions of one build.

    Attributes:
        centre: that was built.
        root: the source.
    """

    centre: str
    root: Path

    def of_patient(self, name: str, found: FoundPatient, refusal: Refusal) -> Exclusion:
        """A study or scan of a patient, with the deepest folder that doesn't spell who it is."""
        folder = folder_without_person(refusal.files, self.root, found)
        return self._made(refusal.what, refusal.reason, name, folder)

    def of_records(
        self, tasks: Sequence[PatientTask], records: Sequence[PatientRecord]
    ) -> Iterator[Exclusion]:
        """What the building of patients refused; ``records`` are in the order of ``tasks``."""
        for task, record in zip(tasks, records, strict=True):
            folders = {scan.what: scan.source for scan in task.scans}
            for each in record.refused:
                folder = folders.get(each.what, task.scans[0].source)
                yield self._made(each.what, each.reason, task.name, folder)

    def of_repeated(self, patient: CohortPatient, reason: str) -> Exclusion:
        """A patient who is another one."""
        return self._made(f"patient {patient.id}", reason, patient.id, patient.scans[0].source)

    def of_nobody(self, source: Source, truths: TruthFolder, persons: Persons) -> Iterator[Exclusion]:
        """Files, rows and studies that belong to no patient of the source."""
        known = {name for names in names_in_table(persons) for name in names}
        scans = [scan for _, found in persons for scan in found.scans]
        for what, reason, path in unused(truths, scans, known):
            told, whose = ("", "") if path is None else stray_file(path, truths.root, persons)
            yield self._made(f"{what}, {told}" if told else what, reason, whose)
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
        return Exclusion(
            centre=self.centre,
            what=what,
            reason=reason,
            source=str(self.root.resolve()),
            patient=patient,
            folder=folder,
        )
