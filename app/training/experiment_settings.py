"""What an experiment is: one frozen record, written to ``experiment.yaml`` before anything else.

A folder with another record is refused: results of two experiments must not mix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from app.cohort.manifest import MANIFEST_FILE, RECORD_FILE, CohortManifest, Name, image_file, patient_folder
from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.files.records import Record, read_record, write_record
from app.inference.policy import DeviceChoice
from app.training.planning import NOT_RUN, TrainingPlans, is_own, keep_own, read_own

EXPERIMENT_FILE = "experiment.yaml"
ALL_PATIENTS = "all"
"""The training on every patient of the internal centre, in addition to the folds 0, 1, …; nnU-Net's word."""

REPEATED = (ModelRole.M2, ModelRole.M4)
"""The main comparison: these models are trained on all patients again with ``more_seeds``."""


def is_on_all(split: str) -> bool:
    """Whether a training holds nobody back: ``all``, or ``all-2`` with another seed."""
    return split.startswith(ALL_PATIENTS)


def is_repeated(split: str) -> bool:
    """Whether it is a training on all patients with a further seed."""
    return is_on_all(split) and split != ALL_PATIENTS


class PriorMask(StrEnum):
    """Which PET lesions become M4's prior; the study doesn't say which it used."""

    TRUTH = "truth"
    """The readers' outlines: what a perfect M1 would give."""
    M1 = "m1"
    """M1's result on patients that it was not trained on: what the node will give."""


class ExperimentSettings(Record):
    """One experiment.

    Attributes:
        name: part of the models' ids, ``psma-m1-<name>``.
        cohort: its folder.
        cohort_sha256: of its manifest, so that a cohort that changed is noticed.
        simulated: taken from the cohort; cards and report say so.
        internal_centre: trained and cross-validated on.
        external_centre: only tested on; empty when there is none.
        models: which of M1 to M4. M4 wants M2, which runs where no prior fits, and M1 if ``prior`` is ``m1``.
        plans: nnU-Net's plans, ``psma-small`` for two cores, or the name of a file of plans.
        plans_source: that file, as given; its copy is kept with the experiment, its place is not.
        folds: of the cross-validation; 0 is none.
        epochs, iterations_per_epoch: of every training; nnU-Net's own are 1000 and 250.
        prior: see :class:`PriorMask`.
        varied_priors: show M4 every training patient a second time, with a prior that was disturbed.
        seed: of folds, weights, sampling and disturbed priors.
        more_seeds: trainings on all patients of :data:`REPEATED` with the seeds that follow (weights and
            sampling alone), to see how much the external comparison depends on the seed.
        device, parallel, threads: where trainings run, how many at once, and compute threads of each.
    """

    name: Name = "local"
    cohort: str
    cohort_sha256: str = ""
    simulated: bool = False
    internal_centre: str = "A"
    external_centre: str = "B"
    models: tuple[ModelRole, ...] = tuple(ModelRole)
    plans: str = TrainingPlans.RES_ENC_L.value
    plans_source: str = Field("", exclude=True)
    folds: int = Field(5, ge=0)
    epochs: int = Field(1000, ge=1)
    iterations_per_epoch: int = Field(250, ge=1)
    prior: PriorMask = PriorMask.M1
    varied_priors: bool = True
    seed: int = Field(1, ge=0)
    more_seeds: int = Field(0, ge=0)
    device: DeviceChoice = DeviceChoice.AUTO
    parallel: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentSettings:
        if self.folds == 1:
            raise ValueError("folds: 1 holds nobody back; give 2 or more, or 0 for no cross-validation")
        if self.internal_centre == self.external_centre:
            raise ValueError("external_centre: the same as internal_centre would test on what was trained on")
        if self.folds == 0 and not self.external_centre:
            raise ValueError("folds: 0 and no external_centre leave nothing to test on")
        if len(set(self.models)) != len(self.models) or not self.models:
            raise ValueError(f"models: name each once, found {', '.join(self.models) or 'none'}")
        needed = {ModelRole.M2, ModelRole.M1} if self.prior is PriorMask.M1 else {ModelRole.M2}
        missing = needed - set(self.models)
        if ModelRole.M4 in self.models and missing:
            found = ", ".join(sorted(missing))
            raise ValueError(f"models: M4 wants {found} as well (its prior, and where no prior fits)")
        if ModelRole.M4 in self.models and self.prior is PriorMask.M1 and self.folds == 0:
            raise ValueError("prior: m1 takes M1's held-out results for training M4, which folds: 0 has not")
        return self

    @property
    def cohort_folder(self) -> Path:
        """Where the cohort is."""
        return Path(self.cohort)

    @property
    def iterations(self) -> int:
        """Optimiser steps of each training."""
        return self.epochs * self.iterations_per_epoch

    @property
    def splits(self) -> tuple[str, ...]:
        """Trainings of each model: ``0`` … and ``all``."""
        return (*(str(fold) for fold in range(self.folds)), ALL_PATIENTS)

    @property
    def repeated_splits(self) -> tuple[str, ...]:
        """Further trainings of :data:`REPEATED`, named after their seeds: ``all-2`` …"""
        seeds = range(self.seed + 1, self.seed + 1 + self.more_seeds) if self.external_centre else ()
        return tuple(f"{ALL_PATIENTS}-{seed}" for seed in seeds)

    def seed_of(self, split: str) -> int:
        """The seed of a training."""
        return int(split.removeprefix(f"{ALL_PATIENTS}-")) if is_repeated(split) else self.seed

    def check_cohort(self, manifest: CohortManifest) -> None:
        """Whether the cohort has the patients that this experiment wants.

        Raises:
            MisconfiguredError: a centre is missing, or has fewer patients than folds.
        """
        for centre in filter(None, (self.internal_centre, self.external_centre)):
            if centre not in manifest.centres:
                found = ", ".join(manifest.centres) or "none"
                raise MisconfiguredError(
                    f"{self.cohort}: no patient of centre {centre}, found centres {found}; "
                    "build it into the cohort, or name another centre"
                )
        patients = len(manifest.of_centre(self.internal_centre))
        if patients < max(2, self.folds):
            raise MisconfiguredError(
                f"{self.cohort}: {patients} patient(s) of centre {self.internal_centre}, "
                f"expected at least {max(2, self.folds)} for {self.folds} folds"
            )


SETTABLE = tuple(
    key
    for key in ExperimentSettings.model_fields
    if key not in ("cohort", "cohort_sha256", "simulated", "plans_source")
)
"""What you may set; the others follow from the cohort."""

FREE = ("parallel", "threads", "device")
"""These may change between runs: they don't affect what is trained."""


@dataclass(frozen=True)
class Extent:
    """Patients of the two simulated centres A and B, and what an experiment on them sets."""

    internal: int
    external: int
    settings: Mapping[str, object]


_TWO_CORES = {"name": "simulated", "plans": TrainingPlans.SMALL.value, "folds": 2, "parallel": 2}
EXTENTS = {
    "tiny": Extent(4, 2, _TWO_CORES | {"epochs": 2, "iterations_per_epoch": 25, "prior": PriorMask.TRUTH}),
    "full": Extent(
        48,
        25,
        _TWO_CORES | {"epochs": 60, "iterations_per_epoch": 50, "more_seeds": 2, "prior": PriorMask.M1},
    ),
}
"""``tiny`` shows in a quarter of an hour that everything works; its results mean nothing, and its hardly
trained M1 finds nothing that could be a prior. ``full`` has as many patients as the study. Epochs are short,
so that a checkpoint comes every minute or so."""


def open_experiment(work: Path, settings: ExperimentSettings, manifest: CohortManifest) -> ExperimentSettings:
    """Begin an experiment in ``work``, or go on with the same one.

    Only those of :data:`FREE` may change between runs. Whether the patients are simulated, and what they
    are, the cohort says.

    Raises:
        MisconfiguredError: the folder belongs to an experiment with other settings, or on other patients.
    """
    digest = cohort_sha256(settings.cohort_folder, manifest)
    settings = settings.model_copy(update={"cohort_sha256": digest, "simulated": manifest.simulated})
    path = work / EXPERIMENT_FILE
    if path.exists():
        _refuse_other(path, read_experiment(work), settings, tuple(ExperimentSettings.model_fields))
    work.mkdir(parents=True, exist_ok=True)
    if settings.plans_source:
        keep_own(Path(settings.plans_source), work)
    write_record(settings, path)
    return settings


def check_same_settings(work: Path, settings: ExperimentSettings) -> None:
    """Whether the experiment in ``work`` has these settings; its cohort may have been moved.

    Raises:
        MisconfiguredError: there is none, or it has other settings.
    """
    _refuse_other(work / EXPERIMENT_FILE, read_experiment(work), settings, SETTABLE)


def check_same_cohort(settings: ExperimentSettings, manifest: CohortManifest) -> None:
    """Whether its cohort is still what an experiment was begun with.

    Raises:
        MisconfiguredError: a patient or a truth is another now.
    """
    if cohort_sha256(settings.cohort_folder, manifest) != settings.cohort_sha256:
        raise MisconfiguredError(
            f"{settings.cohort}: not the cohort that its models were trained on: the manifest, a patient or "
            "a truth changed since; bring it back, or begin another experiment in another folder"
        )


def with_changes(fields: Mapping[str, Any], changes: Sequence[str]) -> ExperimentSettings:
    """Settings from ``fields``, changed by words as ``epochs=250`` (values are YAML, lists with commas).

    Raises:
        MisconfiguredError: a word of another form, an unknown key, or a value that doesn't fit.
    """
    wanted = dict(fields)
    for word in changes:
        key, equals, value = word.partition("=")
        if not equals:
            raise MisconfiguredError(f"--set {word}: expected KEY=VALUE, for example epochs=250")
        if key not in SETTABLE:
            raise MisconfiguredError(f"--set {word}: no key {key!r}; the keys are {', '.join(SETTABLE)}")
        wanted[key] = _value(key, value)
    wanted |= _plans(str(wanted["plans"])) if "plans" in wanted else {}
    try:
        return ExperimentSettings.model_validate(wanted)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise MisconfiguredError(f"the experiment's settings don't fit: {problems}") from error


def _plans(plans: str) -> dict[str, str]:
    if is_own(plans):
        path = Path(plans).resolve()
        read_own(path)
        return {"plans": path.name, "plans_source": str(path)}
    if plans in NOT_RUN:
        raise MisconfiguredError(f"plans: {plans} is nnU-Net's, and the node can't run what it would train")
    if plans not in tuple(TrainingPlans):
        known = ", ".join(TrainingPlans)
        raise MisconfiguredError(f"plans: no plans {plans!r}; there are {known}, or give a file: PLANS.json")
    return {}


def _value(key: str, text: str) -> Any:
    """Numbers and truth values as YAML has them; a name is taken as it stands, empty too."""
    if key == "models":
        return text.split(",")
    return text if ExperimentSettings.model_fields[key].annotation is str else yaml.safe_load(text)


def cohort_sha256(cohort: Path, manifest: CohortManifest) -> str:
    """The digest of the manifest, of every patient's record and of every truth."""
    files = [cohort / MANIFEST_FILE]
    for patient in manifest.patients:
        record = patient_folder(cohort, patient.id) / RECORD_FILE
        files += [record] if record.is_file() else []
        files += [image_file(cohort, patient.id, scan.kind, "truth") for scan in patient.scans]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_experiment(work: Path) -> ExperimentSettings:
    """The record of an experiment's folder.

    Raises:
        MisconfiguredError: there is none, or it is damaged.
    """
    advice = "begin with `psma-node experiment`"
    return read_record(ExperimentSettings, work / EXPERIMENT_FILE, "an experiment's record", advice)


def _refuse_other(
    path: Path, found: ExperimentSettings, wanted: ExperimentSettings, keys: Collection[str]
) -> None:
    asked = set(keys) - set(FREE)
    old, new = found.model_dump(mode="json", include=asked), wanted.model_dump(mode="json", include=asked)
    changed = [key for key in old if old[key] != new[key]]
    if changed:
        words = "; ".join(f"{key}: {_short(old[key])}, now {_short(new[key])}" for key in changed)
        raise MisconfiguredError(
            f"{path}: this folder belongs to another experiment ({words}); "
            "give the same settings to go on, or another folder"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
