"""One patient: scans read as the node reads them, the reader's regions as numbered lesions, images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np

from app.cohort.checks import check_place, check_uptake, fingerprint
from app.cohort.manifest import (
    RECORD_FILE,
    CohortPatient,
    CohortScan,
    CtRegistration,
    PatientRecord,
    Refused,
    TruthForm,
    image_file,
    patient_folder,
    write_patient_record,
)
from app.cohort.source import CohortPolicy, acquired_at, content_key, scan_in_words
from app.cohort.truth import Truth
from app.dicom.outlines.rtstruct import read_structure_set
from app.dicom.outlines.seg import read_segmentation
from app.dicom.outlines.truth import Outlines, UnusableTruthError
from app.dicom.reading.loading import load
from app.domain.analysis import Loaded
from app.domain.decision import ModelRole, Severity
from app.domain.refusal import Rejection
from app.domain.selection.pair import Selection
from app.domain.study import StudyKind
from app.domain.volume import LabelMap
from app.errors import MisconfiguredError
from app.imaging.labels import CONNECTIVITY, label_lesions, nearest_labels, share_outside
from app.imaging.nifti import read_labels, write_array
from app.imaging.registration.ct_agreement import check_ct
from app.imaging.registration.policy import AlignPolicy, broken_limits
from app.imaging.registration.registration import register_rigid
from app.inference.models.channels import build_input, canonical


def numbered_lesions(regions: LabelMap) -> tuple[LabelMap, bool]:
    """Lesions as the product numbers them, unless the reader has numbered lesions already.

    One region is a mask: its connected components are the lesions, largest first. Of several regions, each
    part within one connected component of all that is outlined is a lesion. So regions in one place each are
    lesions as they are, in their order, also where they touch or where a small one cuts another in two; and a
    region in many places (``bone metastases``) is as many lesions, largest first.

    Returns:
        The lesions, and whether a region was taken apart.
    """
    outlined = regions.mask
    numbers = regions.array[outlined].astype(np.int64)
    present = len(np.unique(numbers))
    if present <= 1:
        return label_lesions(outlined, regions.grid, 0.0).labels, False
    places = cc3d.connected_components(outlined.astype(np.uint8), connectivity=CONNECTIVITY)
    parts = numbers * (int(places.max()) + 1) + places[outlined]
    known, part_of, sizes = np.unique(parts, return_inverse=True, return_counts=True)
    count = len(known)
    order = np.arange(count) if count == present else np.argsort(-sizes, kind="stable")
    lesion_of = np.zeros(count, np.uint16)
    lesion_of[order] = np.arange(1, count + 1)
    lesions = np.zeros(regions.array.shape, np.uint16)
    lesions[outlined] = lesion_of[part_of]
    return LabelMap(lesions, regions.grid), count != present


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


def read_outlines(truth: Truth, loaded: Loaded, roi: str) -> Outlines:
    """The reader's regions on the functional grid.

    Raises:
        UnusableTruthError: they can't be used for this scan.
    """
    grid = loaded.suv.grid
    if truth.path is None:
        return Outlines(LabelMap(np.zeros(grid.shape, np.uint16), grid))
    if truth.form is TruthForm.SEG:
        return read_segmentation(truth.path, grid, roi)
    if truth.form is TruthForm.RTSTRUCT:
        return read_structure_set(truth.path, grid, loaded.ct.grid, roi)
    try:
        labels = read_labels(truth.path)
    except MisconfiguredError as error:  # its message names the file, and that may name a person
        raise UnusableTruthError(str(error).replace(str(truth.path), "the truth")) from error
    same = labels.grid.matches(grid)
    return Outlines(nearest_labels(labels, grid), share_outside(labels, grid), not same)


def _build_scan(task: PatientTask, scan: ScanTask) -> _Built | str:
    """The scan written, or in words why not."""
    loaded = load(scan.selection, task.policy.load)
    if not isinstance(loaded, Rejection):
        loaded = check_ct(loaded, task.policy.load.ct_agreement)
    if isinstance(loaded, Rejection):
        return str(loaded)
    try:
        outlines = read_outlines(scan.truth, loaded, task.policy.roi)
    except UnusableTruthError as error:
        return str(error)
    network_input = build_input(ModelRole.M3, loaded.suv, loaded.ct)
    channels, orientation = canonical(network_input)
    regions = LabelMap(
        orientation.apply(outlines.labels.array).astype(np.uint16), orientation.grid(loaded.suv.grid)
    )
    lesions, parted = numbered_lesions(regions)
    place = check_place(outlines.share_outside)
    uptake = check_uptake(channels[0], channels[1], lesions)
    if place.refusal or uptake.refusal:
        return place.refusal or uptake.refusal
    for image, array in (("suv", channels[0]), ("ct", channels[1]), ("truth", lesions.array)):
        path = image_file(task.cohort, task.name, scan.selection.kind, image)  # type: ignore[arg-type]
        write_array(path, array, lesions.grid)
    warnings = (
        *_warnings_of_reading(loaded),
        *scan.truth.warnings,
        *_warnings_of_truth(scan.truth, outlines, lesions, parted),
        *(finding.warning for finding in (place, uptake) if finding.warning),
    )
    return _Built(_cohort_scan(scan, lesions, warnings), loaded, fingerprint(loaded.suv))


def _warnings_of_reading(loaded: Loaded) -> list[str]:
    decisions = (*loaded.selection.decisions, *loaded.decisions)
    return [item.text for item in decisions if item.severity is Severity.WARNING]


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
