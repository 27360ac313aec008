"""A whole experiment: data sets, trainings and predictions as steps, then the scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from app.cohort.manifest import read_manifest
from app.domain.decision import ModelRole
from app.errors import MisconfiguredError
from app.files.durable import hold_folder
from app.inference.policy import DeviceChoice
from app.training.experiment_settings import (
    ALL_PATIENTS,
    REPEATED,
    ExperimentSettings,
    PriorMask,
    is_on_all,
    open_experiment,
)
from app.training.steps import Step, StepRunner
from app.training.workplace import Workplace, child_environment

PREPARATION_EFFORT = 50.0
"""Planning and preprocessing take about as long as this many iterations of a training."""

ORDER = (ModelRole.M1, ModelRole.M4, ModelRole.M2, ModelRole.M3)
"""M4's data wait for M1's folds, so M1 goes first. What is for use comes before folds and further seeds."""


def begin(work: Path, settings: ExperimentSettings) -> ExperimentSettings:
    """Record what the experiment in ``work`` is, or check that it is the same.

    Raises:
        MisconfiguredError: the cohort lacks patients, or the folder belongs to another experiment.
    """
    manifest = read_manifest(settings.cohort_folder)
    settings.check_cohort(manifest)
    return open_experiment(work, settings, manifest)


def train_all(work: Path, settings: ExperimentSettings) -> None:
    """Every data set, training and prediction that isn't there yet.

    Raises:
        StepFailedError: see :meth:`~app.training.steps.StepRunner.run`.
    """
    _run(work, settings, tuple(experiment_steps(work, settings)))


def run_step(work: Path, settings: ExperimentSettings, name: str) -> None:
    """One step of :func:`step_names`, unless it is finished; never those it waits for.

    Raises:
        MisconfiguredError: no such step, or one that it waits for is not finished; both named.
        StepFailedError: see :meth:`~app.training.steps.StepRunner.run`.
    """
    steps = {step.name: step for step in experiment_steps(work, settings)}
    if name not in steps:
        raise MisconfiguredError(f"no step {name!r}; the steps are {', '.join(steps)}")
    missing = [need for need in steps[name].needs if not Workplace(work).done(need).exists()]
    if missing:
        commands = ", ".join(f"`--only {need}`" for need in missing)
        raise MisconfiguredError(f"{name} waits for {', '.join(missing)}: not finished; run {commands} first")
    _run(work, settings, (steps[name],))


def step_names(settings: ExperimentSettings) -> tuple[str, ...]:
    """The name of every step, in the order in which they should begin."""
    return tuple(step_name(*words) for words, _ in _outline(settings))


def lock_experiment(work: Path) -> AbstractContextManager[None]:
    """Hold the folder alone: two runs of one experiment would write the same patients and checkpoints.

    Raises:
        MisconfiguredError: another run holds it.
    """
    return hold_folder(work, "`psma-node experiment`")


def unfinished(work: Path, settings: ExperimentSettings) -> tuple[str, ...]:
    """Names of the steps that are still to be done."""
    place = Workplace(work)
    return tuple(s.name for s in experiment_steps(work, settings) if not place.done(s.name).exists())


def experiment_steps(work: Path, settings: ExperimentSettings) -> Iterator[Step]:
    """Every step, in the order in which they should begin."""
    place, on_gpu = Workplace(work.resolve()), _on_gpu(settings)
    for words, needs in _outline(settings):
        is_planning = words[0] == "prepare"
        yield Step(
            name=step_name(*words),
            command=(sys.executable, "-m", "app.training.worker", str(place.folder), *words),
            environment=child_environment(place, settings.threads, planning=is_planning, on_gpu=on_gpu),
            needs=needs,
            effort=PREPARATION_EFFORT if is_planning else float(settings.iterations),
        )


def step_name(*words: str) -> str:
    """``model-M1-all``."""
    return "-".join(words)


def _outline(settings: ExperimentSettings) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Words and needs of every step."""
    roles = [role for role in ORDER if role in settings.models]
    folds = [(role, split) for role in roles for split in settings.splits if split != ALL_PATIENTS]
    repeated = [(role, split) for split in settings.repeated_splits for role in roles if role in REPEATED]
    for role in roles:
        yield ("prepare", role.value), _before_preparation(settings, role)
        first = [fold for fold in folds if fold[0] is role is ModelRole.M1]
        yield from (_training(settings, *each) for each in (*first, (role, ALL_PATIENTS)))
    others = [fold for fold in folds if fold[0] is not ModelRole.M1]
    yield from (_training(settings, *each) for each in (*others, *repeated))


def _training(
    settings: ExperimentSettings, role: ModelRole, split: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return ("model", role.value, split), _before_training(settings, role, split)


def _run(work: Path, settings: ExperimentSettings, steps: Sequence[Step]) -> None:
    place = Workplace(work)
    StepRunner(settings.parallel, place.logs, place.done).run(steps)


def _before_preparation(settings: ExperimentSettings, role: ModelRole) -> tuple[str, ...]:
    """M4's training priors come from M1's results on the patients that each fold holds back."""
    if role is ModelRole.M4 and settings.prior is PriorMask.M1:
        folds = (split for split in settings.splits if split != ALL_PATIENTS)
        return tuple(step_name("model", "M1", fold) for fold in folds)
    return ()


def _before_training(settings: ExperimentSettings, role: ModelRole, split: str) -> tuple[str, ...]:
    """The external patients' priors come from the M1 that was trained on all, with the first seed."""
    own = step_name("prepare", role.value)
    if role is ModelRole.M4 and settings.prior is PriorMask.M1 and is_on_all(split):
        return own, step_name("model", "M1", ALL_PATIENTS)
    return (own,)


def _on_gpu(settings: ExperimentSettings) -> bool:
    if settings.device is not DeviceChoice.AUTO:
        return settings.device is DeviceChoice.CUDA
    import torch

    return bool(torch.cuda.is_available())
