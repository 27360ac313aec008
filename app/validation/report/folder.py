"""The report of an experiment's folder, made from what the experiment left there::

scores.csv
about.json
predictions/<validation>/<model that ran>/<patient>_<pet|spect>.nii.gz   (optional)
"""

from __future__ import annotations

from pathlib import Path

from app.cohort.manifest import MANIFEST_FILE
from app.errors import MisconfiguredError
from app.validation.prediction_files import PREDICTIONS_FOLDER
from app.validation.report.about import ABOUT_FILE, check_scores, read_about
from app.validation.report.page import write_report
from app.validation.scores_file import SCORES_FILE, read_scores

COHORT_FOLDER = "cohort"


def report_from(source: Path, out: Path, cohort: Path | None = None) -> tuple[str, ...]:
    """Write the report again from an experiment's folder.

    Args:
        source: the folder, or its ``scores.csv`` (or another file of scores beside ``about.json``).
        out: the HTML file.
        cohort: folder of the patients' images; by default ``cohort`` in the folder, when it is there.

    Returns:
        What the report lacks and why, a sentence each.

    Raises:
        MisconfiguredError: scores or description are missing or damaged, or an image is.
    """
    folder, scores_file = (source, source / SCORES_FILE) if source.is_dir() else (source.parent, source)
    scores = read_scores(scores_file)
    about = read_about(folder / ABOUT_FILE)
    check_scores(about, scores_file)
    own_cohort = folder / COHORT_FOLDER
    if cohort is None and (own_cohort / MANIFEST_FILE).is_file():
        cohort = own_cohort
    predictions = folder / PREDICTIONS_FOLDER
    try:
        write_report(scores, cohort, predictions if predictions.is_dir() else None, about, out)
    except ValueError as error:
        raise MisconfiguredError(f"{scores_file}: {error}") from error
    return _lacking(cohort, predictions, own_cohort)


def _lacking(cohort: Path | None, predictions: Path, own_cohort: Path) -> tuple[str, ...]:
    found = [] if predictions.is_dir() else [f"the results are not there ({predictions})"]
    if cohort is None:
        found.append(f"there is no {own_cohort / MANIFEST_FILE}: give the patients' images with --cohort")
    return (f"no pictures of cases: {'; '.join(found)}",) if found else ()
