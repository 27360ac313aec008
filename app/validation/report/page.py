"""The report: one HTML file that a physician can read, offline, on screen or paper.

:func:`report_from` makes it from what an experiment left in its folder::

    scores.csv
    about.json
    predictions/<validation>/<model that ran>/<patient>_<pet|spect>.nii.gz   (optional)

``templates/`` holds its words, its look and its structure; HTML 5 that is well-formed XML too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from app.cohort.manifest import MANIFEST_FILE
from app.domain.measures import DICE
from app.domain.scores import ScanScore, Validation
from app.errors import MisconfiguredError
from app.files.durable import write_durably
from app.validation import study_table
from app.validation.groups import VALIDATION_NAMES, VALIDATIONS, check_unique, described, groups_of
from app.validation.report import tables
from app.validation.report.figures import (
    BOXED,
    agreement,
    bland_altman,
    box_plots,
    case_in_words,
    chosen_cases,
    draw_cases,
    volume_groups,
)
from app.validation.report.wording import (
    MODEL_MEANING,
    cohort_sentences,
    main_conclusions,
    other_conclusions,
    warnings,
    without_folders,
)
from app.validation.scores import (
    ABOUT_FILE,
    PREDICTIONS_FOLDER,
    SCORES_FILE,
    ReportAbout,
    check_scores,
    read_about,
    read_scores,
)
from app.validation.statistics import BOOTSTRAP_SEED, RESAMPLES

RESEARCH_USE = "For research use. Not for diagnosis or treatment."
COHORT_FOLDER = "cohort"
NO_SEEDS: Mapping[int, Sequence[ScanScore]] = {}
SEED_FOLDER = re.compile(r"all-(\d+)")
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that neither HTML nor XML has; a replacement sign stands for each."""


@dataclass(frozen=True)
class Picture:
    """A picture within the page, with what it shows in words for readers who don't see it."""

    png: bytes
    alt: str
    caption: str

    @property
    def source(self) -> str:
        """The picture as an address that holds it."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def write_report(
    scores: Sequence[ScanScore],
    cohort: Path | None,
    predictions: Path | None,
    about: ReportAbout,
    out: Path,
    by_seed: Mapping[int, Sequence[ScanScore]] = NO_SEEDS,
) -> None:
    """Write the report of an evaluation; the same arguments give the same bytes.

    Args:
        scores: of every scan.
        cohort: folder of the patients' images; without it there are no pictures of cases.
        predictions: folder of the results (:func:`~app.validation.scores.prediction_file`).
        about: what the scores don't say.
        out: the file; its folder exists.
        by_seed: scores of M2 and M4 on the external patients, trained with each of several seeds.

    Raises:
        ValueError: no scores, or a scan scored twice.
        MisconfiguredError: an image of the cohort is missing, or a result lies on another grid.
    """
    if not scores:
        raise ValueError("found no score: there is nothing to report")
    check_unique(scores)
    content = _of_scores(scores) | _of_about(scores, about)
    cases = None if cohort is None or predictions is None else _cases(scores, cohort, predictions)
    text = (
        environment()
        .get_template("report.html.j2")
        .render(content, cases=cases, over_seeds=tables.over_seeds(by_seed))
    )
    write_durably(out, text.encode())


def environment() -> Environment:
    """Reads the templates, escapes all text, and fails on a name that it does not know."""
    return Environment(
        loader=PackageLoader("app.validation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_allowed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _allowed(value: object) -> object:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return FORBIDDEN.sub("\ufffd", str(value)) if is_text else value


def _of_scores(scores: Sequence[ScanScore]) -> dict[str, object]:
    """What the template shows of the scores alone."""
    present = [v for v in VALIDATIONS if any(score.key.validation is v for score in scores)]
    sizes = ", ".join(f"{validation.value} {number}" for validation, number in study_table.PATIENTS.items())
    return {
        "research_use": RESEARCH_USE,
        "conclusions": main_conclusions(scores),
        "study_beside_ours": tables.study_beside_ours(scores),
        "study": study_table,
        "study_patients": sizes,
        "results": [tables.results(scores, validation) for validation in present],
        "other_conclusions": other_conclusions(scores),
        "comparisons": tables.comparisons(scores),
        "figures": [_box_figure(scores), *(_volume_figure(scores, validation) for validation in present)],
        "patients": [(VALIDATION_NAMES[v], tables.patients(scores, v)) for v in present],
        "definitions": tables.definitions(),
        "resamples": RESAMPLES,
        "bootstrap_seed": BOOTSTRAP_SEED,
    }


def _of_about(scores: Sequence[ScanScore], about: ReportAbout) -> dict[str, object]:
    """What the template shows of the evaluation apart from its scores; it names no folder of the machine."""
    models = sorted({score.key.model for score in scores})
    meanings = "; ".join(f"{model.value} {MODEL_MEANING[model]}" for model in models)
    return {
        "about": about,
        "patients_and_models": [*cohort_sentences(scores, about.simulated), f"Models: {meanings}."],
        "limits": [*warnings(scores, about.simulated), *map(without_folders, about.notes)],
        "commands": without_folders("\n".join(about.commands)),
        "facts": tables.facts(about),
        "settings": without_folders(about.settings),
    }


def _box_figure(scores: Sequence[ScanScore]) -> Picture:
    medians = "; ".join(
        f"{group.label} {group.kind.value} {group.validation.value} "
        f"{DICE.shown(described(scores, group, DICE).median)}"
        for group in groups_of(scores)
    )
    names = ", ".join(measure.title for measure in BOXED)
    caption = (
        "Box: the middle half of the patients, with the median; whiskers: up to 1.5 times its height; "
        "every dot a patient; diamond: the mean that the study published (its PPV is shown with both of "
        "ours)."
    )
    alt = f"Box plots of {names} by model and validation. Median DSC: {medians}."
    return Picture(box_plots(scores), alt, caption)


def _volume_figure(scores: Sequence[ScanScore], validation: Validation) -> Picture:
    found = []
    for group in volume_groups(scores, validation):
        bias, half = agreement(scores, group)
        limits = "" if half is None else f" (limits of agreement {bias - half:+.1f} to {bias + half:+.1f})"
        found.append(f"{group.label} {group.kind.value} {bias:+.1f} ml{limits}")
    name = VALIDATION_NAMES[validation]
    caption = (
        f"{name}: tumour volume (PSMA-TV) after Bland and Altman. Line: mean of found minus true; dashed: "
        "limits of agreement, mean ± 1.96 SD, which suppose differences that don't grow with volume. "
        f"{'; '.join(found)}."
    )
    alt = f"{name}: scatter of tumour volume, found minus true, against the mean of both. {'; '.join(found)}."
    return Picture(bland_altman(scores, validation), alt, caption)


def _cases(scores: Sequence[ScanScore], cohort: Path, predictions: Path) -> list[Picture]:
    pictures = []
    for group in groups_of(scores):
        cases = chosen_cases(group.of(scores))
        if cases and not group.fitted_only:
            name = f"{group.label}, {group.kind.value}, {VALIDATION_NAMES[group.validation].lower()}"
            words = f"{name}. {'; '.join(case_in_words(case) for case in cases)}."
            picture = draw_cases(cases, cohort, predictions)
            pictures.append(Picture(picture, f"Maximum intensity projections with outlines. {words}", words))
    return pictures


def report_from(source: Path, out: Path, cohort: Path | None = None) -> tuple[str, ...]:
    """Write the report again from an experiment's folder.

    Args:
        source: the folder, or its ``scores.csv`` (or another file of scores next to ``about.json``).
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
    results = predictions if predictions.is_dir() else None
    try:
        write_report(scores, cohort, results, about, out, _by_seed(scores, about, folder))
    except ValueError as error:
        raise MisconfiguredError(f"{scores_file}: {error}") from error
    return _lacking(cohort, predictions, own_cohort)


def _by_seed(scores: Sequence[ScanScore], about: ReportAbout, folder: Path) -> dict[int, Sequence[ScanScore]]:
    """The experiment's own seed, then those of ``all-<seed>/scores.csv``."""
    files = sorted(folder.glob(f"all-*/{SCORES_FILE}"))
    found = {int(m[1]): read_scores(file) for file in files if (m := SEED_FOLDER.fullmatch(file.parent.name))}
    return dict.fromkeys(about.seeds.values(), scores) | dict(sorted(found.items())) if found else {}


def _lacking(cohort: Path | None, predictions: Path, own_cohort: Path) -> tuple[str, ...]:
    found = [] if predictions.is_dir() else [f"the results are not there ({predictions})"]
    if cohort is None:
        found.append(f"there is no {own_cohort / MANIFEST_FILE}: give the patients' images with --cohort")
    return (f"no pictures of cases: {'; '.join(found)}",) if found else ()
