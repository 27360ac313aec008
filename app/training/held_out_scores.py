"""The scores of an experiment: every held-out scan, every model, as the node's policy would use it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from app.cohort.manifest import CohortManifest, CohortPatient, image_file
from app.cohort.nifti import read_labels, read_volume
from app.domain.analysis import KINDS
from app.domain.decision import ModelRole
from app.domain.scores import ScanKey, ScanScore, Validation
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit, Volume
from app.training.experiment_settings import ExperimentSettings
from app.training.prediction import every_held_out, no_prior_reasons
from app.training.workplace import Workplace, validation_of
from app.validation.scoring import score_scan


def score_experiment(
    settings: ExperimentSettings, manifest: CohortManifest, place: Workplace
) -> tuple[ScanScore, ...]:
    """Compare every prediction with its truth; all predictions must be there."""
    return tuple(_scores(settings, manifest, place))


def _scores(
    settings: ExperimentSettings, manifest: CohortManifest, place: Workplace
) -> Iterator[ScanScore]:
    for split, patient in every_held_out(settings, manifest):
        validation = validation_of(split)
        for kind in StudyKind:
            for role in settings.models:
                if kind in KINDS[role] and patient.scan(kind) is not None:
                    key = _key(place, role, kind, validation, patient)
                    found = read_labels(place.prediction(validation, key.used, patient.id, kind))
                    truth, suv = _scan(settings.cohort_folder, patient.id, kind)
                    yield score_scan(key, found, truth, suv)


def _key(
    place: Workplace, role: ModelRole, kind: StudyKind, validation: Validation, patient: CohortPatient
) -> ScanKey:
    """What ran: of M4, M2 where the node would have no prior."""
    why = no_prior_reasons(place, validation, patient.id) if role is ModelRole.M4 else ()
    used = ModelRole.M2 if why else role
    return ScanKey(role, used, kind, validation, patient.centre, patient.id, "; ".join(why))


@lru_cache(maxsize=2)
def _scan(cohort: Path, patient: str, kind: StudyKind) -> tuple[LabelMap, Volume]:
    """Truth and image; kept for the next model."""
    truth = read_labels(image_file(cohort, patient, kind, "truth"))
    return truth, read_volume(image_file(cohort, patient, kind, "suv"), Unit.SUVBW)
