"""What an evaluation knows of itself beside its scores: ``about.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.durable_file import write_durably
from app.errors import MisconfiguredError

ABOUT_FILE = "about.json"

FOLDERS = re.compile(r"(?<![\w.:/~<])(?:~?/[\w.+@-]+)*~?/(?=[\w.+@-])")
"""The folders of an absolute path: what is before its last name."""


class ReportAbout(BaseModel):
    """Of a report.

    Attributes:
        title: of the report.
        simulated: whether the patients were; the report then says so in large letters.
        software_version: of this program.
        models: id of the model that was measured, by role or whatever tells them apart.
        commands: that make everything again, in order.
        seeds: by what they are the seed of.
        hours: of computing, by step.
        settings: as text, shown as it is.
        notes: what a reader must know beside, a sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    simulated: bool
    software_version: str = Field(min_length=1)
    models: Mapping[str, str] = {}
    commands: tuple[str, ...] = ()
    seeds: Mapping[str, int] = {}
    hours: Mapping[str, float] = {}
    settings: str = ""
    notes: tuple[str, ...] = ()


def without_folders(text: str) -> str:
    """Text whose absolute paths keep only their last name: a report tells nothing of its machine."""
    return FOLDERS.sub("…/", text)


def read_about(path: Path) -> ReportAbout:
    """What :func:`write_about` wrote.

    Raises:
        MisconfiguredError: missing or of another form.
    """
    try:
        return ReportAbout.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        message = (
            "not found; a report needs it, to say whether the patients were simulated and how to repeat it"
        )
        raise MisconfiguredError(f"{path}: {message}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise MisconfiguredError(f"{path}: {problems}") from error


def write_about(about: ReportAbout, path: Path) -> None:
    """Write it, whole or not at all."""
    write_durably(path, about.model_dump_json(indent=2).encode() + b"\n")
