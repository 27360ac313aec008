"""What a trained model finds in the patients that its training did not see, by the product's segmenter."""

from __future__ import annotations

import json
from collections.abc import Iterator

from app.cohort.manifest import CohortManifest, CohortPatient, image_file
from app.domain.analysis import KINDS
from app.domain.decision import ModelRole
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit
from app.imaging.labels import label_lesions
from app.imaging.nifti import read_volume, write_array
from app.inference.models.channels import NetworkInput, build_input
from app.inference.models.store import ModelStore
from app.inference.policy import SegmentPolicy
from app.inference.running.segmenter import Segmenter
from app.training.dataset import held_back_patients, pet_lesions
from app.training.experiment_settings import ALL_PATIENTS, ExperimentSettings
from app.training.model_training import ModelTraining
from app.training.priors import CarriedPrior, carry_prior
from app.training.workplace import Workplace, validation_of


def held_out(settings: ExperimentSettings, manifest: CohortManifest, split: str) -> tuple[CohortPatient, ...]:
    """The patients that a split's training did not see: a fold's, or those of the external centre."""
    if split == ALL_PATIENTS:
        return manifest.of_centre(settings.external_centre)
    names = set(held_back_patients(settings, manifest)[int(split)])
    return tuple(p for p in manifest.of_centre(settings.internal_centre) if p.id in names)


def predict_held_out(training: ModelTraining, manifest: CohortManifest) -> None:
    """Segment every held-out scan that the model serves; what is there already is kept."""
    settings, place = training.settings, training.place
    validation = validation_of(training.split)
    scans = [
        (patient, kind, place.prediction(validation, training.role, patient.id, kind))
        for patient in held_out(settings, manifest, training.split)
        for kind in KINDS[training.role]
        if patient.scan(kind) is not None
    ]
    missing = [scan for scan in scans if not scan[2].exists()]
    if not missing:
        return
    store = ModelStore(place.models(training.split))
    segmenter = Segmenter(store.load(training.role), settings.device)
    for patient, kind, path in missing:
        network_input = _input(training, patient, kind)
        if network_input is not None:
            lesions = segment(segmenter, network_input)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_array(path, lesions.array, lesions.grid)


def segment(segmenter: Segmenter, network_input: NetworkInput) -> LabelMap:
    """Numbered lesions; components below the product's smallest lesion are dropped as the product does."""
    mask = segmenter.segment(network_input)
    return label_lesions(mask, network_input.grid, SegmentPolicy().minimum_lesion_ml).labels


def _input(training: ModelTraining, patient: CohortPatient, kind: StudyKind) -> NetworkInput | None:
    """The model's channels; ``None`` for M4 where the node would give it no prior."""
    cohort = training.settings.cohort_folder
    suv = read_volume(image_file(cohort, patient.id, kind, "suv"), Unit.SUVBW)
    ct = read_volume(image_file(cohort, patient.id, kind, "ct"), Unit.HU)
    if training.role is not ModelRole.M4:
        return build_input(training.role, suv, ct)
    prior = _prior(training, patient)
    if prior.lesions is None or not prior.usable:
        path = training.place.no_prior(validation_of(training.split), patient.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"reasons": prior.reasons}))
        return None
    return build_input(training.role, suv, ct, prior.lesions.mask)


def _prior(training: ModelTraining, patient: CohortPatient) -> CarriedPrior:
    if patient.scan(StudyKind.PET_CT) is None:
        return CarriedPrior(None, ("no PET of this patient",))
    validation = validation_of(training.split)
    lesions = pet_lesions(training.settings, training.place, patient, validation)
    return carry_prior(training.settings.cohort_folder, patient, lesions)


def no_prior_reasons(place: Workplace, validation: Validation, patient: str) -> tuple[str, ...]:
    """Why M4 did not run on a held-out SPECT; empty when it did."""
    path = place.no_prior(validation, patient)
    return tuple(json.loads(path.read_text())["reasons"]) if path.exists() else ()


def every_held_out(
    settings: ExperimentSettings, manifest: CohortManifest
) -> Iterator[tuple[str, CohortPatient]]:
    """Each split with each patient that it holds back."""
    return ((split, patient) for split in settings.splits for patient in held_out(settings, manifest, split))
