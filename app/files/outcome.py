"""``outcome.json`` says how a study ended, for people, scripts and the node itself.

``shadow.json`` says what the shadow models found in folder mode; it is no result and is never sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app import __version__
from app.domain.decision import Decision
from app.domain.outcome import ShadowComparison, StudyOutcome
from app.errors import MisconfiguredError
from app.files.durable import sync_folder, write_durably

NAME = "outcome.json"

RESULT_FILES = "[A-Z]*.2.25.*.dcm"
"""How result files are named: kind, derived UID (:mod:`app.dicom.results.read_back`)."""

STUDY_FOLDER = "study-"
"""Folder mode has one folder for each study below that of its results, numbered from 1."""

_ADAPTER = TypeAdapter(StudyOutcome)


def write_outcome(outcome: StudyOutcome, folder: Path) -> Path:
    """Write ``outcome.json`` into ``folder``, whole or not at all; returns its path."""
    path = folder / NAME
    write_durably(path, _ADAPTER.dump_json(printed(outcome), indent=2) + b"\n")
    return path


def read_outcome(folder: Path) -> StudyOutcome:
    """The outcome written by :func:`write_outcome`.

    Raises:
        FileNotFoundError: the chain did not finish there.
        MisconfiguredError: the file is damaged, or of a version that this one can't read.
    """
    path = folder / NAME
    try:
        return _with_decisions(_ADAPTER.validate_json(path.read_bytes()), Decision.read)
    except ValidationError as error:
        raise MisconfiguredError(
            f"{path} is no outcome that version {__version__} reads ({error.error_count()} faults); "
            "move it away, and the study can be processed again"
        ) from error


def printed(outcome: StudyOutcome) -> StudyOutcome:
    """The outcome as its JSON has it: each decision in the words that are printed."""
    return _with_decisions(outcome, Decision.printed)


def _with_decisions(outcome: StudyOutcome, change: Callable[[Decision], Decision]) -> StudyOutcome:
    pairs = (replace(pair, decisions=tuple(map(change, pair.decisions))) for pair in outcome.pairs)
    return replace(outcome, pairs=tuple(pairs))


def remove_earlier_outcomes(folder: Path) -> None:
    """Remove what says how an earlier run of folder mode ended, of all and of each study.

    A run does this first: one that is stopped before it has begun, or that refuses its settings, would
    otherwise leave them behind as if they were its own.

    Raises:
        MisconfiguredError: they can't be removed.
    """
    try:
        for path in (folder / NAME, *folder.glob(f"{STUDY_FOLDER}*/{NAME}")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise MisconfiguredError(
            f"cannot write to {folder}: {error.strerror}; give a writable folder"
        ) from error


def remove_results(folder: Path) -> None:
    """Empty ``folder`` of an earlier run's outcome and DICOM objects; nothing else is touched.

    The outcome goes first, for good: a folder without it holds nothing that counts.
    """
    if not folder.is_dir():
        return
    (folder / NAME).unlink(missing_ok=True)
    sync_folder(folder)
    for path in folder.glob(RESULT_FILES):
        path.unlink()


SHADOW_NAME = "shadow.json"

_SHADOWS = TypeAdapter(tuple[ShadowComparison, ...])


def write_shadows(comparisons: Sequence[ShadowComparison], folder: Path) -> None:
    """Write ``shadow.json`` into ``folder``; one of an earlier run goes. Raises OSError."""
    if comparisons:
        write_durably(folder / SHADOW_NAME, _SHADOWS.dump_json(tuple(comparisons), indent=2) + b"\n")
    else:
        (folder / SHADOW_NAME).unlink(missing_ok=True)
