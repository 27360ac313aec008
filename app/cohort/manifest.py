"""The cohort's manifest, ``cohort.yaml``: who is in it, from which studies, who is not, and why.

A cohort is a folder::

    cohort.yaml
    patients/<id>/pet_suv.nii.gz  pet_ct.nii.gz  pet_truth.nii.gz        (PET grid)
                  spect_suv.nii.gz  spect_ct.nii.gz  spect_truth.nii.gz  (SPECT grid)

Images are in SUVbw and HU, truths are label maps (0 background, each lesion a number); all in the networks'
orientation with their true place in LPS (:mod:`app.imaging.nifti`). No patient name or ID is in it. The
record in a patient's folder is written last: a folder without it was interrupted and is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from app.domain.analysis import RegistrationFit
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.files.records import Record, read_json, read_record, write_json, write_record
from app.imaging.registration.policy import AlignPolicy

MANIFEST_FILE = "cohort.yaml"
PATIENTS_FOLDER = "patients"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]
"""A patient's or a centre's name: it becomes part of file names, where ``_`` ends the patient's part."""

Image = Literal["suv", "ct", "truth"]
IMAGES: tuple[Image, ...] = get_args(Image)
"""Every image of a scan."""

Row = tuple[float, float, float, float]


class TruthForm(StrEnum):
    """What a reader's outlines came as."""

    SEG = "SEG"
    RTSTRUCT = "RTSTRUCT"
    NIFTI = "NIFTI"
    STATED = "STATED"
    """No file: ``truth.csv`` says that there was no lesion to outline."""


class CohortScan(Record):
    """One pair of functional image and CT, with its truth.

    Attributes:
        source: the deepest folder that holds its DICOM files and names nobody, absolute.
        truth_file: its truth, below the folder of truths; empty when the reader found nothing and said so.
        lesions: components of the truth; 0 is a patient without lesions.
        warnings: what the readers found notable.
    """

    kind: StudyKind
    study_instance_uid: str
    series_instance_uid: str
    ct_series_instance_uid: str
    acquired_at: datetime | None
    tracer: str
    source: str
    truth_form: TruthForm
    truth_file: str
    lesions: int = Field(ge=0)
    tumour_ml: float = Field(ge=0)
    warnings: tuple[str, ...] = ()


class CtRegistration(Record):
    """The SPECT's CT on the PET's CT, by the node's own registration.

    Attributes:
        spect_to_pet: 4x4, LPS mm of the SPECT to LPS mm of the PET; ``None`` when there was no bone to go by.
        fit: how well the two CTs fit.
        reasons: every limit of section ``align`` that it breaks; empty when the node would use it.
        align: the limits that it was judged by, the site's; the uptake of M4's priors is judged by them too.
            ``None`` in cohorts from before they were kept, which had the defaults.
    """

    spect_to_pet: tuple[Row, Row, Row, Row] | None
    fit: RegistrationFit | None
    reasons: tuple[str, ...] = ()
    align: AlignPolicy | None = None

    @property
    def limits(self) -> AlignPolicy:
        """Section ``align`` of the site that built the patient."""
        return self.align or AlignPolicy()

    @property
    def fits(self) -> bool:
        """Whether the node would bring PET lesions on to the SPECT with it."""
        return self.spect_to_pet is not None and not self.reasons


class CohortPatient(Record):
    """One patient. ``registration`` is there when both scans are.

    Attributes:
        choices: which of several scans was taken and why, or that one kind is missing.
        simulated: the images came from the phantom.
    """

    id: Name
    centre: Name
    scans: tuple[CohortScan, ...]
    registration: CtRegistration | None = None
    choices: tuple[str, ...] = ()
    simulated: bool = False

    def scan(self, kind: StudyKind) -> CohortScan | None:
        """The patient's scan of that kind."""
        return next((scan for scan in self.scans if scan.kind is kind), None)


class Exclusion(Record):
    """A patient, a study or a truth that was found and not taken.

    Attributes:
        what: in words without personal data, with the study's or series' UID where it has one.
        source: the folder that was built when it was found; building that folder again replaces it.
        patient: the pseudonym; empty where nothing says whose it is.
        folder: where its DICOM lies, absolute; empty for what is no DICOM of the source.
    """

    centre: str
    what: str
    reason: str
    source: str = ""
    patient: str = ""
    folder: str = ""


class CohortManifest(Record):
    """Everything a training needs to know of its patients.

    Attributes:
        simulated: true only for simulated patients; it follows into cards and reports.
        warnings: of the cohort as a whole, such as patients that may be the same person.
    """

    version: Literal[1] = 1
    simulated: bool = False
    patients: tuple[CohortPatient, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    warnings: tuple[str, ...] = ()

    def of_centre(self, centre: str) -> tuple[CohortPatient, ...]:
        """The patients of a centre, in order of id."""
        return tuple(sorted((p for p in self.patients if p.centre == centre), key=lambda p: p.id))

    @property
    def centres(self) -> tuple[str, ...]:
        """Every centre, in order."""
        return tuple(sorted({patient.centre for patient in self.patients}))


def prefix(kind: StudyKind) -> str:
    """How the files of a scan begin: ``pet`` or ``spect``."""
    return "pet" if kind is StudyKind.PET_CT else "spect"


def patient_folder(cohort: Path, patient: str) -> Path:
    """Where a patient's images lie."""
    return cohort / PATIENTS_FOLDER / patient


def image_file(cohort: Path, patient: str, kind: StudyKind, image: Image) -> Path:
    """One image of a patient."""
    return patient_folder(cohort, patient) / f"{prefix(kind)}_{image}.nii.gz"


def read_manifest(cohort: Path) -> CohortManifest:
    """The manifest of a cohort's folder, whose images are all there.

    Raises:
        MisconfiguredError: missing, not YAML, not a manifest, or it names an image that is not there.
    """
    manifest = read_unchecked(cohort)
    missing = missing_images(cohort, manifest.patients)
    if missing:
        found = f"{len(missing)} image(s) are not there, the first {missing[0]}"
        raise MisconfiguredError(f"{cohort / MANIFEST_FILE}: {found}; build the cohort again")
    return manifest


def read_unchecked(cohort: Path) -> CohortManifest:
    """The manifest alone, for a build that mends what is missing.

    Raises:
        MisconfiguredError: missing, not YAML, or not a manifest.
    """
    advice = "make it with `psma-node cohort build`"
    return read_record(CohortManifest, cohort / MANIFEST_FILE, "a cohort's manifest", advice)


def write_manifest(manifest: CohortManifest, cohort: Path) -> None:
    """Write ``cohort.yaml``, whole or not at all."""
    write_record(manifest, cohort / MANIFEST_FILE)


def missing_images(cohort: Path, patients: Sequence[CohortPatient]) -> list[Path]:
    """Images that the patients' records name and that are not there."""
    files = (
        image_file(cohort, patient.id, scan.kind, image)
        for patient in patients
        for scan in patient.scans
        for image in IMAGES
    )
    return [file for file in files if not file.is_file()]


RECORD_FILE = "patient.json"


class Refused(Record):
    """A study or scan of the patient that was not taken."""

    what: str
    reason: str


class PatientRecord(Record):
    """What became of one patient.

    Attributes:
        digest: of inputs and settings; as long as it is the same, nothing is made again.
        patient: ``None`` when no scan could be used.
        person: keyed hash of Patient ID and birth date, with ``salt`` telling which key it was.
        has_birth_date: without one, two equal hashes may be two persons.
        fingerprints: of each functional image, by Series Instance UID.
    """

    digest: str
    patient: CohortPatient | None
    refused: tuple[Refused, ...] = ()
    person: str = ""
    salt: str = ""
    has_birth_date: bool = False
    fingerprints: dict[str, tuple[float, ...]] = Field(default_factory=dict)


def read_patient_record(cohort: Path, name: str) -> PatientRecord | None:
    """The record of a patient; ``None`` when there is none, or none that this version understands."""
    return read_json(PatientRecord, patient_folder(cohort, name) / RECORD_FILE)


def write_patient_record(record: PatientRecord, cohort: Path, name: str) -> None:
    """Write the record, as the last of a patient's files."""
    write_json(record, patient_folder(cohort, name) / RECORD_FILE)
