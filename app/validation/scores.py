"""The scores of a validation: a mask is compared with its truth, and ``scores.csv`` has a line for each scan.

Every table and figure can be made from that file. The columns of :data:`COUNTS` are read back; the measures
after them are for people and spreadsheets. ``about.json`` in the same folder holds what else an evaluation
records about itself.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from app.cohort.manifest import prefix
from app.domain.decision import ModelRole
from app.domain.measures import MEASURES
from app.domain.scores import (
    LesionCounts,
    ScanKey,
    ScanScore,
    Validation,
    VoxelCounts,
    count_lesions,
    count_voxels,
)
from app.domain.study import StudyKind
from app.domain.volume import LabelMap, Unit, Volume
from app.errors import MisconfiguredError
from app.files.durable import write_durably
from app.files.records import Record, faults
from app.imaging.labels import label_lesions
from app.imaging.nifti import SUFFIX

SCORES_FILE = "scores.csv"
KEYS = ("model", "used", "why", "kind", "validation", "centre", "patient")
VOXELS = ("true_positive", "false_positive", "false_negative")
LESIONS = ("true", "detected", "found", "correct")
AMOUNTS = ("voxel_ml", "false_positive_ml", "false_negative_ml", "true_tl", "found_tl")
COUNTS = (*KEYS, *(f"voxels_{name}" for name in VOXELS), *(f"lesions_{name}" for name in LESIONS), *AMOUNTS)
DERIVED = ("true_ml", "found_ml")


def write_scores(scores: Sequence[ScanScore], path: Path) -> None:
    """Write every score, whole or not at all; numbers as Python's ``repr``, which loses nothing."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # ends lines as RFC 4180, so line breaks in a reason get quoted
    writer.writerow([*COUNTS, *DERIVED, *(measure.key for measure in MEASURES)])
    for score in scores:
        writer.writerow(_row(score))
    write_durably(path, text.getvalue().encode())


def read_scores(path: Path) -> tuple[ScanScore, ...]:
    """Read what :func:`write_scores` wrote.

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


ABOUT_FILE = "about.json"


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


def score_scan(key: ScanKey, found: LabelMap | NDArray[np.bool_], truth: LabelMap, suv: Volume) -> ScanScore:
    """Compare a result with its truth, both on the functional image's grid.

    Lesions are the connected components of either mask (18 neighbours, as in autoPET), so that a truth given
    as single lesions and one given as a single mask count alike, and touching lesions count as one on both
    sides. No lesion is dropped for its size: the segmenter applies the smallest size.

    Args:
        key: what was segmented by what.
        found: label map, or mask ``(z, y, x)`` bool on the grid of ``suv``.
        truth: the reader's lesions.
        suv: the functional image in SUVbw.

    Raises:
        ValueError: the grids differ, the image is not in SUVbw, or SUV inside a lesion is not a number.
    """
    if suv.unit is not Unit.SUVBW:
        raise ValueError(f"the functional image is in {suv.unit.value}, expected {Unit.SUVBW.value}")
    found_mask, true_mask = _mask_on(suv, found, "result"), _mask_on(suv, truth, "truth")
    found_lesions = label_lesions(found_mask, suv.grid, minimum_ml=0.0).labels.array
    true_lesions = label_lesions(true_mask, suv.grid, minimum_ml=0.0).labels.array
    return ScanScore(
        key=key,
        voxels=count_voxels(found_mask, true_mask),
        lesions=count_lesions(found_lesions, true_lesions),
        voxel_ml=suv.grid.voxel_ml,
        false_positive_ml=_ml_apart(found_lesions, true_mask, suv.grid.voxel_ml),
        false_negative_ml=_ml_apart(true_lesions, found_mask, suv.grid.voxel_ml),
        true_tl=_total_lesion_uptake(suv, true_mask),
        found_tl=_total_lesion_uptake(suv, found_mask),
    )


def _mask_on(suv: Volume, mask: LabelMap | NDArray[np.bool_], what: str) -> NDArray[np.bool_]:
    if isinstance(mask, LabelMap):
        if not mask.grid.matches(suv.grid):
            raise ValueError(f"the {what} is not on the functional image's grid: bring it there first")
        return mask.mask
    if mask.shape != suv.grid.shape:
        raise ValueError(f"the {what} {mask.shape} does not fit the functional image {suv.grid.shape}")
    return mask.astype(np.bool_, copy=False)


def _ml_apart(lesions: NDArray[np.uint16], other: NDArray[np.bool_], voxel_ml: float) -> float:
    """Volume of the components without a voxel of the other mask (autoPET's FPV, and FNV the other way)."""
    sizes = np.bincount(lesions.ravel())
    apart = np.ones(len(sizes), dtype=np.bool_)
    apart[0] = False
    apart[np.unique(lesions[other])] = False
    return float(sizes[apart].sum()) * voxel_ml


def _total_lesion_uptake(suv: Volume, mask: NDArray[np.bool_]) -> float:
    """Sum of SUV times volume, g/ml times ml."""
    total = float(suv.array[mask].sum(dtype=np.float64)) * suv.grid.voxel_ml
    if not np.isfinite(total):
        raise ValueError("SUV inside a lesion is not a finite number: TL-PSMA can't be measured")
    return total


PREDICTIONS_FOLDER = "predictions"


def prediction_file(
    predictions: Path, validation: Validation, model: ModelRole, patient: str, kind: StudyKind
) -> Path:
    """``<validation>/<model that ran>/<patient>_<pet|spect>.nii.gz``: a map in the cohort's orientation.

    Experiments, the node's evaluation and reports share this layout.
    """
    return predictions / validation.value / model.value / f"{patient}_{prefix(kind)}{SUFFIX}"
