"""The node's own chain on a labelled cohort: what is validated is what runs.

Each patient's DICOM goes through folder mode with the site's settings and models, as a node would process it
(PET first, so that its lesions can guide the SPECT); the SEG that it wrote is read back and compared with the
truth. Each patient's scores are kept, so that an evaluation that was stopped goes on with the next patient.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app import __version__
from app.chain.folder import FolderOutcome, process_folder
from app.cohort.manifest import CohortPatient, CohortScan, image_file
from app.dicom.outlines.seg import read_segmentation
from app.dicom.reading.studies import read_studies
from app.dicom.uids import ResultKind
from app.domain.outcome import PairOutcome, Status
from app.domain.scores import ScanKey, ScanScore, Validation
from app.domain.volume import Grid, LabelMap, Unit
from app.errors import MisconfiguredError
from app.files.records import Record, read_json, write_json
from app.imaging.nifti import read_labels, read_volume, write_array
from app.inference.models.store import ModelStore, choose_setting, serving_model, site_models
from app.settings import Settings
from app.validation.scores import PREDICTIONS_FOLDER, prediction_file, score_scan


class KeptPatient(Record):
    """What an evaluation found in one patient.

    Attributes:
        inputs: digest of everything that the result depends on; with another one the record is worthless.
        missing: scans without a result, and why.
        models: id of each model that ran, by role.
    """

    inputs: str
    scores: tuple[ScanScore, ...]
    missing: tuple[str, ...]
    models: dict[str, str]


log = logging.getLogger(__name__)
RESULTS_FOLDER = "results"
PATIENTS_FOLDER = "patients"
Files = Mapping[str, tuple[Path, ...]]
"""The files of each study, by its UID."""


@dataclass(frozen=True)
class NodeScores:
    """``missing`` says, scan by scan, why there is no result to compare: it must not vanish from a table."""

    scores: tuple[ScanScore, ...]
    missing: tuple[str, ...]
    models: dict[str, str]


def evaluate_node(
    cohort: Path, patients: Sequence[CohortPatient], settings: Settings, out: Path
) -> NodeScores:
    """Process every patient and score every scan; a patient that an earlier run finished is not done again.

    ``out`` gets ``results/<patient>/``, the lesions as ``predictions/node/…``, ``patients/<patient>.json``.

    Raises:
        MisconfiguredError: the DICOM of a patient is not where the manifest says, or a model can't be used.
    """
    evaluation = _Evaluation(cohort, settings, out, _dicom_of(patients))
    found: list[KeptPatient] = []
    for done, patient in enumerate(patients, start=1):
        kept = out / PATIENTS_FOLDER / f"{patient.id}.json"
        inputs = evaluation.digest(patient)
        earlier = read_json(KeptPatient, kept)
        if earlier is not None and earlier.inputs == inputs:
            found.append(earlier)
        else:
            found.append(evaluation.evaluate(patient, kept, inputs))
        log.info("%d of %d patients%s", done, len(patients), " (done before)" if found[-1] is earlier else "")
    return NodeScores(
        tuple(score for each in found for score in each.scores),
        tuple(line for each in found for line in each.missing),
        {role: model for each in found for role, model in each.models.items()},
    )


@dataclass(frozen=True)
class _Evaluation:
    """As the arguments of :func:`evaluate_node`; ``dicom`` has the files of every study."""

    cohort: Path
    settings: Settings
    out: Path
    dicom: Files

    def digest(self, patient: CohortPatient) -> str:
        """Of all that the scores depend on; of the many DICOM files, names, sizes and times."""
        policy = self.settings.segment
        digest = hashlib.sha256(f"{__version__} {self.settings.digest} {patient.model_dump_json()}".encode())
        for card in site_models(ModelStore(policy.models_folder), policy).serving.values():
            digest.update(f"{card.id} {sorted(card.files.items())} {card.inference}".encode())
        for scan in patient.scans:
            for image in ("suv", "truth"):
                content = image_file(self.cohort, patient.id, scan.kind, image).read_bytes()
                digest.update(hashlib.sha256(content).digest())
            for file in sorted(self.dicom[scan.study_instance_uid]):
                found = file.stat()
                digest.update(f"{file} {found.st_size} {found.st_mtime_ns}".encode())
        return digest.hexdigest()

    def evaluate(self, patient: CohortPatient, kept: Path, inputs: str) -> KeptPatient:
        """Kept only when the chain came to its end: what failed may go better the next time."""
        kept.unlink(missing_ok=True)  # the results that it speaks of go
        results = self.out / RESULTS_FOLDER / patient.id
        outcome = self._process(patient, results)
        scores: list[ScanScore] = []
        missing: list[str] = []
        models: dict[str, str] = {}
        for scan in patient.scans:
            pair = _pair_of(outcome, scan)
            if pair is None:
                missing.append(f"{patient.id} {scan.kind}: {_why(outcome, scan)}")
                continue
            models[pair.model.role.value] = pair.model.model_id
            scores.append(self._score(self._key(patient, scan, pair), pair, results))
        found = KeptPatient(inputs=inputs, scores=tuple(scores), missing=tuple(missing), models=models)
        if outcome.status in (Status.DONE, Status.REJECTED):
            write_json(found, kept)
        return found

    def _process(self, patient: CohortPatient, results: Path) -> FolderOutcome:
        with tempfile.TemporaryDirectory(prefix="psma-evaluate-") as folder:
            files = (file for scan in patient.scans for file in self.dicom[scan.study_instance_uid])
            for number, file in enumerate(files):
                (Path(folder) / f"{number:06d}.dcm").symlink_to(file)
            return process_folder(Path(folder), results, self.settings)

    def _key(self, patient: CohortPatient, scan: CohortScan, pair: PairOutcome) -> ScanKey:
        """Of the score, with the model that the site's policy means to run and the one that ran."""
        policy = self.settings.segment
        setting = choose_setting(scan.kind, has_prior=True)
        asked = serving_model(ModelStore(policy.models_folder), policy, setting).role
        why = "; ".join(str(reason) for reason in pair.no_prior) if pair.model.role is not asked else ""
        return ScanKey(asked, pair.model.role, scan.kind, Validation.NODE, patient.centre, patient.id, why)

    def _score(self, key: ScanKey, pair: PairOutcome, results: Path) -> ScanScore:
        suv = read_volume(image_file(self.cohort, key.patient, key.kind, "suv"), Unit.SUVBW)
        truth = read_labels(image_file(self.cohort, key.patient, key.kind, "truth"))
        found = _found(pair, results, suv.grid)
        predictions = self.out / PREDICTIONS_FOLDER
        path = prediction_file(predictions, Validation.NODE, key.used, key.patient, key.kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_array(path, found.array, found.grid)
        return score_scan(key, found, truth, suv)


def _dicom_of(patients: Sequence[CohortPatient]) -> Files:
    """The files of every study, by its UID, from the folders that the cohort was built from."""
    wanted = {scan.study_instance_uid: patient.id for patient in patients for scan in patient.scans}
    found: dict[str, tuple[Path, ...]] = {}
    for source in sorted({scan.source for patient in patients for scan in patient.scans}):
        for study in read_studies(Path(source)).studies if Path(source).is_dir() else ():
            paths = (item.path.resolve() for series in study.series for item in series.instances)
            found[study.study_instance_uid] = tuple(dict.fromkeys(paths))
    missing = sorted({name for uid, name in wanted.items() if uid not in found})
    if missing:
        raise MisconfiguredError(
            f"the DICOM of {', '.join(missing)} is not where the cohort was built from; bring it back there"
        )
    return found


def _pair_of(outcome: FolderOutcome, scan: CohortScan) -> PairOutcome | None:
    pairs = (pair for study in outcome.studies for pair in study.pairs)
    wanted = scan.series_instance_uid
    return next((pair for pair in pairs if pair.functional_series_instance_uid == wanted), None)


def _why(outcome: FolderOutcome, scan: CohortScan) -> str:
    for study in outcome.studies:
        if study.study_instance_uid == scan.study_instance_uid:
            reasons = "; ".join(str(reason) for reason in study.reasons) or study.message
            return f"{study.status}: {reasons or 'another series was taken'}"
    return "its study was not found"


def _found(pair: PairOutcome, results: Path, grid: Grid) -> LabelMap:
    """The lesions as they left the node; no SEG is no lesion."""
    segs = [file for file in pair.files if file.kind == ResultKind.SEG]
    if not segs:
        return LabelMap(np.zeros(grid.shape, np.uint16), grid)
    return read_segmentation(results / segs[0].path, grid).labels
