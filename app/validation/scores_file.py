"""``scores.csv``: one line a scan, from which every table and figure can be made again.

The columns of :data:`COUNTS` are what is read back; the measures after them are for people and spreadsheets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.domain.decision import ModelRole
from app.domain.measures import MEASURES
from app.domain.scores import LesionCounts, ScanKey, ScanScore, Validation, VoxelCounts
from app.domain.study import StudyKind
from app.durable_file import write_durably
from app.errors import MisconfiguredError

SCORES_FILE = "scores.csv"

KEYS = ("model", "used", "why", "kind", "validation", "centre", "patient")
VOXELS = ("true_positive", "false_positive", "false_negative")
LESIONS = ("true", "detected", "found", "correct")
AMOUNTS = ("voxel_ml", "false_positive_ml", "false_negative_ml", "true_tl", "found_tl")
COUNTS = (*KEYS, *(f"voxels_{name}" for name in VOXELS), *(f"lesions_{name}" for name in LESIONS), *AMOUNTS)
DERIVED = ("true_ml", "found_ml")


def write_scores(scores: Sequence[ScanScore], path: Path) -> None:
    """Write every score, whole or not at all; numbers as Python repeats them, so that nothing is lost."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # ends lines as RFC 4180, so line breaks in a reason get quoted
    writer.writerow([*COUNTS, *DERIVED, *(measure.key for measure in MEASURES)])
    for score in scores:
        writer.writerow(_row(score))
    write_durably(path, text.getvalue().encode())


def read_scores(path: Path) -> tuple[ScanScore, ...]:
    """What :func:`write_scores` wrote.

    Raises:
        MisconfiguredError: missing, cut short, a column is not there, or a line is not a score.
    """
    try:
        text = path.read_bytes().decode()
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
    except FileNotFoundError as error:
        raise MisconfiguredError(f"{path}: not found; expected the scores of an evaluation") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MisconfiguredError(f"{path}: not readable as CSV: {error}") from error
    if not lines:
        raise MisconfiguredError(f"{path}: found no score")
    missing = [name for name in COUNTS if name not in lines[0]]
    if missing:
        raise MisconfiguredError(f"{path}: found no column {', '.join(missing)}")
    if not text.endswith("\n"):  # a spreadsheet may end lines its own way
        raise MisconfiguredError(f"{path}: its last line does not end: cut short? Bring back the whole file")
    return tuple(_score(path, number, line) for number, line in enumerate(lines, start=2))


def _row(score: ScanScore) -> list[str]:
    key = score.key
    names = (key.model, key.used, key.why, key.kind, key.validation, key.centre, key.patient)
    counts = [getattr(score.voxels, name) for name in VOXELS] + [
        getattr(score.lesions, name) for name in LESIONS
    ]
    amounts = [getattr(score, name) for name in (*AMOUNTS, *DERIVED)]
    measured = [measure.of(score) for measure in MEASURES]
    numbers = ["" if number is None else repr(number) for number in (*counts, *amounts, *measured)]
    return [*(str(name) for name in names), *numbers]


def _score(path: Path, number: int, line: Mapping[Any, Any]) -> ScanScore:
    if None in line or None in line.values():  # csv's marks of a line that is too long and too short
        problem = "another number of columns than the first line has"
        raise MisconfiguredError(f"{path}, line {number}: not a score: {problem}")
    try:
        return ScanScore(
            ScanKey(
                ModelRole(line["model"]), ModelRole(line["used"]), StudyKind(line["kind"]),
                Validation(line["validation"]), line["centre"], line["patient"], line["why"],
            ),
            VoxelCounts(*(int(line[f"voxels_{name}"]) for name in VOXELS)),
            LesionCounts(*(int(line[f"lesions_{name}"]) for name in LESIONS)),
            *(float(line[name]) for name in AMOUNTS),
        )  # fmt: skip
    except ValueError as error:
        raise MisconfiguredError(f"{path}, line {number}: not a score: {error}") from error
