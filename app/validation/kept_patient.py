"""One patient's scores, kept so that an evaluation that was stopped need not begin again."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from app.domain.scores import ScanScore
from app.durable_file import make_folder, write_durably


class KeptPatient(BaseModel):
    """What an evaluation found in one patient.

    Attributes:
        inputs: digest of everything that the result depends on; another one makes it worthless.
        missing: scans without a result, and why.
        models: id of each model that ran, by role.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str
    scores: tuple[ScanScore, ...]
    missing: tuple[str, ...]
    models: dict[str, str]


def read_kept(path: Path, inputs: str) -> KeptPatient | None:
    """What was kept; ``None`` when there is nothing, or it was made from other inputs or is damaged."""
    try:
        kept = KeptPatient.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # the patient is processed again, which mends both
    return kept if kept.inputs == inputs else None


def write_kept(kept: KeptPatient, path: Path) -> None:
    """Keep it, whole or not at all."""
    make_folder(path.parent)
    write_durably(path, kept.model_dump_json(indent=1).encode() + b"\n")
