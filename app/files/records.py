"""Records that people may read and edit: YAML on disk, strict and frozen in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import MisconfiguredError
from app.files.durable import write_durably


class Record(BaseModel):
    """Frozen, and strict about unknown keys: a misspelt key must not pass silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_record(kind: type[AnyRecord], path: Path, what: str, advice: str) -> AnyRecord:
    """The record in ``path``.

    Args:
        kind: its class.
        path: the file.
        what: names the kind in messages, as "a model card".
        advice: for a file that is not there.

    Raises:
        MisconfiguredError: missing, not YAML, or not such a record.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise MisconfiguredError(f"{path}: not found; {advice}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{path}: not readable as YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise MisconfiguredError(f"{path}: not {what}: {problems}") from error


def write_record(record: Record, path: Path) -> None:
    """Write it, whole or not at all."""
    text = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    write_durably(path, text.encode())
