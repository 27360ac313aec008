"""``psma-node experiment``: patients in, four models and their validation out."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import end_on_sigterm, log_to_terminal

if TYPE_CHECKING:
    from app.training.experiment_settings import ExperimentSettings

SIMULATED = "simulated"


class Size(StrEnum):
    """How large an experiment on simulated patients is."""

    TINY = "tiny"
    FULL = "full"


class Part(StrEnum):
    """The parts of an experiment, in order."""

    COHORT = "cohort"
    TRAIN = "train"
    REPORT = "report"


def experiment(
    cohort: Annotated[
        str,
        typer.Option(metavar="FOLDER|simulated", help="A cohort (`psma-node cohort build`), or `simulated`."),
    ],
    size: Annotated[
        Size | None,
        typer.Option(help="If simulated: `tiny` (default) shows that all works, `full` has 73 patients."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for all that is made. Default: .cache/experiments/ and size or cohort."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PART|STEP",
            help="One part, `cohort`, `train` or `report`, or one step by its name, such as `prepare-M1`, "
            "`model-M1-0` or `model-M1-all`. Default: every part, in this order.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, see docs/how-to/train.md; repeatable."),
    ] = None,
    install: Annotated[
        Path | None, typer.Option(help="Put the finished models into this folder too, for a node to use.")
    ] = None,
) -> None:
    """Train and validate M1 to M4 as the study did; goes on where an earlier run of the same stopped."""
    from app.training.experiment import lock_experiment
    from app.training.export import COHORT_PLACEHOLDER

    log_to_terminal()
    end_on_sigterm()
    is_simulated = cohort == SIMULATED
    _refuse_what_would_be_ignored(size, only, install, is_simulated)
    size = size or Size.TINY
    name = size.value if is_simulated else Path(cohort).resolve().name
    folder = (work or Path(".cache/experiments") / name).resolve()
    settings = _settings(cohort, size, folder, changes or ())
    _check_only(only, settings)
    with lock_experiment(folder):
        if is_simulated and only in (None, Part.COHORT):
            _simulate(folder, size, settings.parallel)
        if only not in (Part.COHORT, Part.REPORT):
            _train(folder, settings, only, is_simulated)
        if only in (None, Part.REPORT):
            _report(folder, settings, f"{SIMULATED} --size {size}" if is_simulated else COHORT_PLACEHOLDER)
            _list_models(folder, install)


def _refuse_what_would_be_ignored(
    size: Size | None, only: str | None, install: Path | None, is_simulated: bool
) -> None:
    if install is not None and only not in (None, Part.REPORT):
        text = f"models are installed with the report: leave out --only, or give --only {Part.REPORT}"
        raise typer.BadParameter(text, param_hint="--install")
    if size is not None and not is_simulated:
        text = f"only with --cohort {SIMULATED}; how long is trained is set with --set epochs=…"
        raise typer.BadParameter(text, param_hint="--size")
    if only == Part.COHORT and not is_simulated:
        text = f"only with --cohort {SIMULATED}; yours is made by `psma-node cohort build`"
        raise typer.BadParameter(text, param_hint=f"--only {Part.COHORT}")


def _check_only(only: str | None, settings: ExperimentSettings) -> None:
    from app.training.experiment import step_names

    known = (*Part, *step_names(settings))
    if only is not None and only not in known:
        text = f"no part or step {only!r}; there are {', '.join(known)}"
        raise typer.BadParameter(text, param_hint="--only")


def _settings(cohort: str, size: Size, folder: Path, changes: list[str] | tuple[()]) -> ExperimentSettings:
    from app.cohort.manifest import MANIFEST_FILE
    from app.training.experiment_settings import EXTENTS, with_changes
    from app.validation.report.page import COHORT_FOLDER

    if cohort == SIMULATED:
        return with_changes({"cohort": str(folder / COHORT_FOLDER), **EXTENTS[size].settings}, changes)
    home = Path(cohort).resolve()
    if not (home / MANIFEST_FILE).is_file():
        text = f"{cohort} has no {MANIFEST_FILE}; give a cohort's folder, or `{SIMULATED}`"
        raise typer.BadParameter(text, param_hint="--cohort")
    return with_changes({"cohort": str(home)}, changes)


def _simulate(folder: Path, size: Size, jobs: int) -> None:
    """Patients of both centres as DICOM with truths, and the cohort that a clinic would build of them."""
    import time

    from app.cohort.build import CohortRequest, build_cohort
    from app.cohort.simulation import DICOM_FOLDER, TRUTH_FOLDER, Simulation, simulate_cohort
    from app.cohort.source import CohortPolicy
    from app.phantom.centres import Centre
    from app.training.conclusion import COHORT_STEP
    from app.training.experiment_settings import EXTENTS
    from app.training.steps import write_mark
    from app.training.workplace import Workplace
    from app.validation.report.page import COHORT_FOLDER

    mark = Workplace(folder).done(COHORT_STEP)
    if mark.exists():
        return
    begun_s, extent = time.monotonic(), EXTENTS[size]
    for centre, patients in ((Centre.A, extent.internal), (Centre.B, extent.external)):
        home = folder / "patients" / centre.value
        home.mkdir(parents=True, exist_ok=True)
        simulate_cohort(Simulation(centre, range(patients), home, jobs=jobs))
        cohort = folder / COHORT_FOLDER
        source, truth = home / DICOM_FOLDER, home / TRUTH_FOLDER
        build_cohort(CohortRequest(source, truth, centre.value, cohort, CohortPolicy(), jobs=jobs))
    write_mark(mark, time.monotonic() - begun_s)


def _train(folder: Path, settings: ExperimentSettings, only: str | None, is_simulated: bool) -> None:
    from app.errors import MisconfiguredError
    from app.training.conclusion import COHORT_STEP
    from app.training.experiment import begin, run_step, train_all
    from app.training.workplace import Workplace

    if is_simulated and not Workplace(folder).done(COHORT_STEP).exists():
        raise MisconfiguredError(f"{folder}: the simulated cohort is not finished; run `--only cohort` first")
    settings = begin(folder, settings)
    if only in (None, Part.TRAIN):
        train_all(folder, settings)
    else:
        run_step(folder, settings, only)


def _report(folder: Path, settings: ExperimentSettings, cohort: str) -> None:
    from app.training.conclusion import write_report
    from app.training.experiment_settings import check_same_settings

    check_same_settings(folder, settings)
    typer.echo(f"report      {write_report(folder, cohort)}")


def _list_models(folder: Path, install: Path | None) -> None:
    from app.inference.importing.install import new_model
    from app.training.experiment_settings import ALL_PATIENTS
    from app.training.workplace import Workplace

    for model in sorted(Workplace(folder).models(ALL_PATIENTS).iterdir()):
        typer.echo(f"model       {model}")
        if install is not None:
            with new_model(install, model.name, replace=True) as new:
                shutil.copytree(model, new, dirs_exist_ok=True)
            typer.echo(f"installed   {install / model.name}")
