"""``about.json``: what an evaluation records about itself, apart from its scores."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from app.errors import MisconfiguredError
from app.files.durable import write_durably
from app.files.records import Record, faults
from app.validation.scores import SCORES_FILE

ABOUT_FILE = "about.json"
FOLDERS = re.compile(r"(?<![\w.:/~<])(?:~?/[\w.+@-]+)*~?/(?=[\w.+@-])")
"""The folders of an absolute path: everything before its last name."""


class ScoresDigest(Record):
    """The digest of ``scores.csv``, to notice a file that was cut short or belongs to another run."""

    lines: int
    sha256: str


class ReportAbout(Record):
    """What a report states besides the scores.

    Attributes:
        simulated: whether the patients are; the report says so in large letters.
        models: id of each measured model, by role or another name.
        commands: the commands that reproduce everything, in order.
        seeds: each by what it seeds.
        hours: of computing, by step.
        settings: text that is shown as it is.
        notes: what else a reader must know, a sentence each.
        scores: of the file in the same folder; :func:`write_about` fills it in. ``None`` in older files.
    """

    title: str = Field(min_length=1)
    simulated: bool
    software_version: str = Field(min_length=1)
    models: Mapping[str, str] = {}
    commands: tuple[str, ...] = ()
    seeds: Mapping[str, int] = {}
    hours: Mapping[str, float] = {}
    settings: str = ""
    notes: tuple[str, ...] = ()
    scores: ScoresDigest | None = None


def without_folders(text: str) -> str:
    """The text with absolute paths cut to their last name: a report reveals nothing about its machine."""
    return FOLDERS.sub("…/", text)


def read_about(path: Path) -> ReportAbout:
    """Read what :func:`write_about` wrote.

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
        raise MisconfiguredError(f"{path}: {faults(error)}") from error


def write_about(about: ReportAbout, path: Path) -> None:
    """Write it, whole or not at all, with the digest of the ``scores.csv`` in the same folder."""
    scores = path.with_name(SCORES_FILE)
    digest = _digest(scores) if scores.is_file() else None
    whole = about.model_copy(update={"scores": digest})
    write_durably(path, whole.model_dump_json(indent=2).encode() + b"\n")


def check_scores(about: ReportAbout, scores: Path) -> None:
    """Check that these are the scores of ``about.json``; a file of another name than ``scores.csv`` passes.

    Raises:
        MisconfiguredError: they are other scores.
    """
    if about.scores is None or scores.name != SCORES_FILE:
        return
    found = _digest(scores)
    if found != about.scores:
        raise MisconfiguredError(
            f"{scores}: {found.lines} lines, SHA-256 {found.sha256[:12]}…; {ABOUT_FILE} was written with "
            f"{about.scores.lines} lines, {about.scores.sha256[:12]}…: damaged, or changed since; bring back "
            "the file, or run the evaluation again"
        )


def _digest(scores: Path) -> ScoresDigest:
    content = scores.read_bytes()
    return ScoresDigest(lines=content.count(b"\n"), sha256=hashlib.sha256(content).hexdigest())
