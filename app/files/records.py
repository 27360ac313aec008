"""Records on disk: YAML where people read and edit them, else JSON; strict and frozen in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import CSafeLoader as SafeLoader  # written in C: a card takes 5 ms, not 50

from app.errors import MisconfiguredError
from app.files.durable import make_folder, write_durably


class Record(BaseModel):
    """Frozen, and strict about unknown keys: a misspelt key must not pass silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_record(kind: type[AnyRecord], path: Path, what: str, advice: str) -> AnyRecord:
    """The record in ``path``; ``what`` names its kind in messages, ``advice`` is for a missing file.

    Raises:
        MisconfiguredError: missing, not YAML, or not such a record.
    """
    try:
        return kind.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader))
    except FileNotFoundError as error:
        raise MisconfiguredError(f"{path}: not found; {advice}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{path}: not readable as YAML: {error}") from error
    except ValidationError as error:
        raise MisconfiguredError(f"{path}: not {what}: {faults(error)}") from error


def faults(error: ValidationError) -> str:
    """Every key that does not fit, and why."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())


def write_record(record: Record, path: Path) -> None:
    text = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    write_durably(path, text.encode())


def read_json(kind: type[AnyRecord], path: Path) -> AnyRecord | None:
    """The record in a JSON file; ``None`` when there is none, or none that this version understands."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_json(record: Record, path: Path) -> None:
    """Write it as JSON, whole or not at all; its folder is made when it is not there."""
    make_folder(path.parent)
    write_durably(path, record.model_dump_json(indent=1).encode())
