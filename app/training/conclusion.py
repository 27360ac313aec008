"""The end of an experiment: every held-out scan scored, the models' cards completed, the report written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from app import __version__
from app.cohort.manifest import CohortManifest, CohortPatient, image_file, read_manifest
from app.domain.analysis import KINDS
from app.domain.decision import ModelRole
from app.domain.scores import ScanKey, ScanScore, Validation
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit, Volume
from app.errors import MisconfiguredError
from app.imaging.nifti import read_labels, read_volume
from app.inference.models.card import MetricSource, read_card, write_card
from app.training.experiment import experiment_steps, unfinished
from app.training.experiment_settings import (
    ALL_PATIENTS,
    EXPERIMENT_FILE,
    REPEATED,
    ExperimentSettings,
    PriorMask,
    check_same_cohort,
    read_experiment,
)
from app.training.export import COHORT_PLACEHOLDER, command, model_id
from app.training.model_training import every_held_out, held_out, no_prior_reasons
from app.training.steps import read_mark
from app.training.workplace import Workplace, validation_of
from app.validation.cards import metrics_of
from app.validation.report.page import report_from
from app.validation.scores import ABOUT_FILE, ReportAbout, score_scan, write_about, write_scores

REPORT_FILE = "report.html"
COHORT_STEP = "cohort"


def _scores(settings: ExperimentSettings, manifest: CohortManifest, place: Workplace) -> Iterator[ScanScore]:
    """Compare every prediction with its truth; all predictions must be there."""
    for split, patient in every_held_out(settings, manifest):
        yield from _patient_scores(settings, settings.models, place, validation_of(split), patient)


def _patient_scores(
    settings: ExperimentSettings,
    roles: Iterable[ModelRole],
    place: Workplace,
    validation: Validation,
    patient: CohortPatient,
) -> Iterator[ScanScore]:
    for kind in StudyKind:
        for role in roles:
            if kind in KINDS[role] and patient.scan(kind) is not None:
                key = _key(place, role, kind, validation, patient)
                found = read_labels(place.prediction(validation, key.used, patient.id, kind))
                truth, suv = _scan(settings.cohort_folder, patient.id, kind)
                yield score_scan(key, found, truth, suv)


def _write_repeated_scores(settings: ExperimentSettings, manifest: CohortManifest, place: Workplace) -> None:
    """Of the trainings with further seeds, a file each; they stay out of every other table."""
    roles = [role for role in settings.models if role in REPEATED]
    for split in settings.repeated_splits:
        results, external = place.results(split), held_out(settings, manifest, split)
        scores = [
            score
            for patient in external
            for score in _patient_scores(settings, roles, results, validation_of(split), patient)
        ]
        write_scores(scores, results.scores)


def _key(
    place: Workplace, role: ModelRole, kind: StudyKind, validation: Validation, patient: CohortPatient
) -> ScanKey:
    """The scan, and the model that ran: in place of M4, M2 where the node would have no prior."""
    why = no_prior_reasons(place, validation, patient.id) if role is ModelRole.M4 else ()
    used = ModelRole.M2 if why else role
    return ScanKey(role, used, kind, validation, patient.centre, patient.id, "; ".join(why))


@lru_cache(maxsize=2)
def _scan(cohort: Path, patient: str, kind: StudyKind) -> tuple[LabelMap, Volume]:
    """Truth and image; kept for the next model."""
    truth = read_labels(image_file(cohort, patient, kind, "truth"))
    return truth, read_volume(image_file(cohort, patient, kind, "suv"), Unit.SUVBW)


def write_report(work: Path, cohort: str = COHORT_PLACEHOLDER) -> Path:
    """Score every held-out scan, complete the cards, write the report; returns the report's path.

    Args:
        cohort: the experiment's patients, as the report's command names them.

    Raises:
        MisconfiguredError: the experiment or its cohort is not there, a step is not finished, or the
            cohort is another than the models were trained on.
    """
    settings, place = read_experiment(work), Workplace(work)
    left = unfinished(work, settings)
    if left:
        raise MisconfiguredError(
            f"{work}: {len(left)} step(s) are not finished ({', '.join(left)}); "
            "run the experiment without --only"
        )
    manifest = read_manifest(settings.cohort_folder)
    check_same_cohort(settings, manifest)
    scores = tuple(_scores(settings, manifest, place))
    write_scores(scores, place.scores)
    _write_repeated_scores(settings, manifest, place)
    write_about(_about(settings, manifest, place, command(settings, cohort)), work / ABOUT_FILE)
    for role in settings.models:
        _complete_card(settings, role, scores, place)
    report = work / REPORT_FILE
    report_from(work, report, settings.cohort_folder)
    return report


def _complete_card(
    settings: ExperimentSettings, role: ModelRole, scores: tuple[ScanScore, ...], place: Workplace
) -> None:
    folder = place.models(ALL_PATIENTS) / model_id(settings, role)
    own = [score for score in scores if score.key.model is role]
    today = datetime.now(UTC).date().isoformat()
    source = MetricSource(command=command(settings), software_version=__version__, date=today)
    metrics = metrics_of(own, settings.simulated)
    write_card(read_card(folder).model_copy(update={"metrics": metrics, "metric_source": source}), folder)


def _about(
    settings: ExperimentSettings, manifest: CohortManifest, place: Workplace, again: str
) -> ReportAbout:
    return ReportAbout(
        title="M1 to M4 on simulated patients" if settings.simulated else f"M1 to M4: {settings.name}",
        simulated=settings.simulated,
        software_version=__version__,
        models={role.value: model_id(settings, role) for role in settings.models},
        commands=(again,),
        seeds={"folds, weights, sampling, disturbed priors": settings.seed},
        hours=_hours(settings, place),
        settings=(place.folder / EXPERIMENT_FILE).read_text(encoding="utf-8"),
        notes=_notes(settings, manifest),
    )


def _hours(settings: ExperimentSettings, place: Workplace) -> dict[str, float]:
    """The hours of the finished steps, each by its own clock; several ran at once."""
    seconds: dict[str, float] = {}
    if place.done(COHORT_STEP).exists():
        seconds["cohort"] = read_mark(place.done(COHORT_STEP))
    for step in experiment_steps(place.folder, settings):
        kind, role = step.name.split("-")[:2]
        words = {"prepare": f"{role}: plan and preprocess", "model": f"{role}: train and segment"}[kind]
        seconds[words] = seconds.get(words, 0.0) + read_mark(place.done(step.name))
    return {name: round(value / 3600.0, 2) for name, value in seconds.items()}


def _notes(settings: ExperimentSettings, manifest: CohortManifest) -> tuple[str, ...]:
    notes = [
        f"Internal validation: {settings.folds}-fold cross-validation by patient on centre "
        f"{settings.internal_centre}; nnU-Net plans once for all of them, held-out patients included, as it "
        "always does (voxel sizes, percentiles of intensity).",
        "One training a fold: other seeds would give other numbers"
        + (" (how far, see the spread over seeds)." if settings.more_seeds else "."),
    ]
    if settings.external_centre:
        notes.append(
            f"External validation: trained on all of centre {settings.internal_centre}, tested on centre "
            f"{settings.external_centre}."
        )
    if settings.simulated:
        notes.append("The patients are simulated: nothing here says how the models do on people.")
    if ModelRole.M4 in settings.models and settings.prior is PriorMask.M1:
        notes.append(
            "M4 is trained on priors from M1's folds. The fold of M1 that gave a training patient's prior "
            "may have seen patients that M4 is tested on here: they reach M4 through those priors only."
        )
    if manifest.exclusions:
        reasons = Counter(each.reason for each in manifest.exclusions)
        notes += [f"Not taken: {count} ({reason})" for reason, count in sorted(reasons.items())]
    if manifest.warnings:
        notes.append(f"The cohort's manifest has {len(manifest.warnings)} warning(s): psma-node cohort show.")
    return tuple(notes)
