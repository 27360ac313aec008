"""A model's folder takes its place whole: under another name until every file is written and flushed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.durable_file import make_folder, sync_folder
from app.errors import MisconfiguredError
from app.inference.model_card import FileName

STAGING = ".importing"
"""Below the models' folder, where a rename is enough; one level deeper than a model, so that none is seen."""


def refuse_taken_id(models: Path, model_id: str, replace: bool) -> None:
    """Before any work is done.

    Raises:
        MisconfiguredError: the id is no folder's name, or is taken and not to be replaced.
    """
    try:
        TypeAdapter(FileName).validate_python(model_id)
    except ValidationError as error:
        raise MisconfiguredError(
            f"{model_id!r} can't be a model's id; use letters, digits, '.', '_' and '-'"
        ) from error
    if (models / model_id).exists() and not replace:
        raise MisconfiguredError(
            f"{models / model_id} exists; give another --id, or --replace to put the new model in its place"
        )


@contextmanager
def new_model(models: Path, model_id: str, replace: bool) -> Iterator[Path]:
    """An empty folder, called ``model_id``, that becomes ``models/<model_id>`` when the block ends well.

    After an exception nothing of it remains. With ``replace`` there is an instant between two renames in
    which neither model is there; a node that is running keeps the one it has loaded.

    Raises:
        MisconfiguredError: as :func:`refuse_taken_id`, or the folder can't be written to.
    """
    refuse_taken_id(models, model_id, replace)
    work = models / STAGING / uuid.uuid4().hex
    staged = work / model_id
    try:
        with _writing_to(models):
            make_folder(models)
            staged.mkdir(parents=True)
        yield staged  # what fails in there has its own words: it reads files from elsewhere
        refuse_taken_id(models, model_id, replace)  # another import may have been quicker
        with _writing_to(models):
            _flush(staged)
            _take_place(staged, models / model_id, work / "replaced")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # another import is under way there
            (models / STAGING).rmdir()


@contextmanager
def _writing_to(models: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MisconfiguredError(f"{models}: can't be written to ({error.strerror})") from error


def _take_place(staged: Path, final: Path, aside: Path) -> None:
    """The new folder where the old one was, which comes back if that fails."""
    if final.exists():
        final.rename(aside)
    try:
        staged.rename(final)
    except OSError:
        if aside.exists():
            aside.rename(final)
        raise
    sync_folder(final.parent)


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
