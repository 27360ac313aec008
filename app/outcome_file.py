"""outcome.json: how a study ended, for people, scripts and the node itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from app.domain.outcome import StudyOutcome
from app.durable_file import sync_folder, write_durably

NAME = "outcome.json"
_ADAPTER = TypeAdapter(StudyOutcome)


def write_outcome(outcome: StudyOutcome, folder: Path) -> Path:
    """Write ``outcome.json`` into ``folder``, whole or not at all; returns its path."""
    path = folder / NAME
    write_durably(path, _ADAPTER.dump_json(outcome, indent=2) + b"\n")
    return path


def read_outcome(folder: Path) -> StudyOutcome:
    """The outcome written by :func:`write_outcome`.

    Raises:
        FileNotFoundError: the chain did not finish there.
        pydantic.ValidationError: the file is not an outcome.
    """
    return _ADAPTER.validate_json((folder / NAME).read_bytes())


def remove_outcome(folder: Path) -> None:
    """Take the outcome away, for good, before what it names is touched."""
    (folder / NAME).unlink()
    sync_folder(folder)
