"""A step of an experiment as a process: ``python -m app.training.worker FOLDER prepare|model MODEL [SPLIT]``.

A step is a process because nnU-Net and glibc read their settings when a process starts (see
:mod:`app.training.workplace`). What nnU-Net prints goes to a log file, our progress to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from app.cohort.manifest import read_manifest
from app.domain.decision import ModelRole
from app.errors import ExitCode, PsmaNodeError
from app.training.dataset import write_dataset, write_splits
from app.training.experiment_settings import read_experiment
from app.training.export import export_model
from app.training.model_training import ModelTraining, predict_held_out, train
from app.training.planning import KEPT_FILE, is_own, plan_and_preprocess, plans_name, read_own
from app.training.workplace import DATASET_NUMBERS, Workplace

POLL_S = 0.5


def prepare(folder: Path, role: ModelRole) -> None:
    """nnU-Net's data set, splits, fingerprint, plan and preprocessed cases of a model.

    The splits come first: a fold without a case is an error at once, not after hours of preprocessing.
    """
    place, settings = Workplace(folder), read_experiment(folder)
    manifest = read_manifest(settings.cohort_folder)
    write_dataset(settings, manifest, role, place)
    write_splits(settings, manifest, role, place)
    own = read_own(folder / KEPT_FILE) if is_own(settings.plans) else None
    name = plans_name(settings.plans)
    plan_and_preprocess(DATASET_NUMBERS[role], place.preprocessed(role), name, role, own)


def model(folder: Path, role: ModelRole, split: str) -> None:
    """Train, export, and segment the held-out patients."""
    settings = read_experiment(folder)
    manifest = read_manifest(settings.cohort_folder)
    training = ModelTraining(settings, role, split, Workplace(folder))
    train(training)
    export_model(training, manifest)
    predict_held_out(training, manifest)


def main() -> None:
    """Run the step named on the command line."""
    _log_apart()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    folder, step, role, *split = sys.argv[1:]
    try:
        if step == "prepare":
            prepare(Path(folder), ModelRole(role))
        else:
            model(Path(folder), ModelRole(role), *split)
    except PsmaNodeError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(ExitCode.FAILED)


def _log_apart() -> None:
    """Our progress and every warning go to the terminal; what libraries log, with paths, to the log file."""
    form = logging.Formatter("%(asctime)s %(message)s")
    terminal, file = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stdout)
    terminal.addFilter(_is_progress)
    file.addFilter(lambda record: not _is_progress(record))
    for handler in (terminal, file):
        handler.setFormatter(form)
    logging.basicConfig(level=logging.INFO, handlers=[terminal, file])


def _is_progress(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.split(".")[0] in ("app", "__main__")


def _end_with_parent(parent: int) -> None:
    """A command that was killed can't end its children: they notice, and what is on disk is whole."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(ExitCode.FAILED)


if __name__ == "__main__":
    main()
