"""The report: one HTML file that a physician can read, offline, on screen or paper.

The report of an experiment's folder, made from what the experiment left there::

scores.csv
about.json
predictions/<validation>/<model that ran>/<patient>_<pet|spect>.nii.gz   (optional)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.cohort.manifest import MANIFEST_FILE
from app.domain.measures import DICE
from app.domain.scores import ScanScore, Validation
from app.errors import MisconfiguredError
from app.files.durable import write_durably
from app.validation import study_table
from app.validation.groups import VALIDATIONS, check_unique, described, groups_of
from app.validation.report import tables
from app.validation.report.about import ABOUT_FILE, ReportAbout, check_scores, read_about, without_folders
from app.validation.report.cases import Predictions, case_in_words, chosen_cases, draw_cases, predictions_in
from app.validation.report.figures import BOXED, agreement, bland_altman, box_plots, volume_groups
from app.validation.report.html import STYLE, Markup, element, figure, folded, items, joined, section, table
from app.validation.report.wording import (
    MODEL_MEANING,
    VALIDATION_NAMES,
    cohort_sentences,
    main_conclusions,
    other_conclusions,
    warnings,
)
from app.validation.scores import PREDICTIONS_FOLDER, SCORES_FILE, read_scores
from app.validation.statistics import BOOTSTRAP_SEED, RESAMPLES

RESEARCH_USE = "For research use. Not for diagnosis or treatment."

LANGUAGE = "en"


def write_report(
    scores: Sequence[ScanScore],
    cohort: Path | None,
    predictions: Predictions | Path | None,
    about: ReportAbout,
    out: Path,
) -> None:
    """Write the report of an evaluation; the same arguments give the same bytes.

    Args:
        scores: of every scan.
        cohort: folder of the patients' images; without it there are no pictures of cases.
        predictions: the results, as a function or a folder (:func:`predictions_in`).
        about: what the scores don't tell.
        out: the file; its folder exists.

    Raises:
        ValueError: no scores, or a scan scored twice.
        MisconfiguredError: an image of the cohort is missing, or a result lies on another grid.
    """
    if not scores:
        raise ValueError("found no score: there is nothing to report")
    check_unique(scores)
    results = predictions_in(predictions) if isinstance(predictions, Path) else predictions
    sections = (
        first_screen(scores, about),
        _results(scores),
        _comparisons(scores),
        _figures(scores),
        _cases(scores, cohort, results),
        _patients(scores),
        _definitions(),
        _repeat(about),
    )
    write_durably(out, page(about.title, sections).encode())


def page(title: str, content: Sequence[Markup]) -> str:
    """A whole document, HTML 5 that is well-formed XML too."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    footer = element("footer", element("p", RESEARCH_USE))
    body = element("body", element("main", *content), footer)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang=LANGUAGE)}\n"


def first_screen(scores: Sequence[ScanScore], about: ReportAbout) -> Markup:
    """Who was tested, the study's table beside ours, what the comparison says, and its limits."""
    models = sorted({score.key.model for score in scores})
    meanings = "; ".join(f"{model.value} {MODEL_MEANING[model]}" for model in models)
    return joined(
        _simulated_banner() if about.simulated else None,
        element("h1", about.title),
        element(
            "p",
            element("strong", RESEARCH_USE),
            " The lesions that the models found were compared with the true ones, patient by patient.",
        ),
        items([*cohort_sentences(scores, about.simulated), f"Models: {meanings}."]),
        element(
            "div", element("h3", "What the comparison says"), items(main_conclusions(scores)), class_="says"
        ),
        tables.study_beside_ours(scores),
        _study_reference(),
        element(
            "div",
            element("h3", "How far it can be trusted"),
            items([*warnings(scores, about.simulated), *map(without_folders, about.notes)]),
            class_="limits",
        ),
    )


def _simulated_banner() -> Markup:
    words = "No patient is in this report: images, lesions and truth come from a simulation."
    return element("div", element("strong", "SIMULATED"), words, class_="simulated", role="note")


def _study_reference() -> Markup:
    address = f"https://doi.org/{study_table.DOI}"
    link = element("a", f"doi {study_table.DOI}", href=address)
    sizes = ", ".join(f"{validation.value} {number}" for validation, number in study_table.PATIENTS.items())
    rest = f" Patients: {sizes}. It does not say whether its PPV is by voxel or by lesion."
    return element("p", f"The study: {study_table.TITLE}. {study_table.JOURNAL}, ", link, ".", rest)


def _present(scores: Sequence[ScanScore]) -> list[Validation]:
    return [v for v in VALIDATIONS if any(score.key.validation is v for score in scores)]


def _results(scores: Sequence[ScanScore]) -> Markup:
    return section(
        "results", "Every measure", *(tables.results(scores, validation) for validation in _present(scores))
    )


def _comparisons(scores: Sequence[ScanScore]) -> Markup:
    how = (
        "The same patients, the first model minus the second. The verdict is by Wilcoxon's signed-rank "
        "test; the paired t test stands beside it. Patients in whom a measure is not defined for one of "
        "the two are left out of that line."
    )
    others = other_conclusions(scores)
    return section(
        "comparisons",
        "Models compared",
        element("p", how),
        joined(element("h3", "Beside the main comparison, by DSC"), items(others)) if others else None,
        tables.comparisons(scores),
    )


def _figures(scores: Sequence[ScanScore]) -> Markup:
    volumes = (_volume_figure(scores, validation) for validation in _present(scores))
    return section("figures", "Figures", _box_figure(scores), *volumes)


def _box_figure(scores: Sequence[ScanScore]) -> Markup:
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
    return figure(box_plots(scores), alt, caption)


def _volume_figure(scores: Sequence[ScanScore], validation: Validation) -> Markup:
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
    return figure(bland_altman(scores, validation), alt, caption)


def _cases(scores: Sequence[ScanScore], cohort: Path | None, predictions: Predictions | None) -> Markup:
    title = "Best, median and worst case"
    if cohort is None or predictions is None:
        return section("cases", title, element("p", "No pictures: images or results were not kept."))
    how = (
        "By DSC. Seen from the front, the patient's right at the viewer's left; the darker, the more uptake. "
        "Blue: the true lesions; vermilion: the model's."
    )
    figures = []
    for group in groups_of(scores):
        cases = chosen_cases(group.of(scores))
        if cases and not group.fitted_only:
            name = f"{group.label}, {group.kind.value}, {VALIDATION_NAMES[group.validation].lower()}"
            words = f"{name}. {'; '.join(case_in_words(case) for case in cases)}."
            picture = draw_cases(cases, cohort, predictions)
            figures.append(figure(picture, f"Maximum intensity projections with outlines. {words}", words))
    return section("cases", title, element("p", how), *figures)


def _patients(scores: Sequence[ScanScore]) -> Markup:
    lists = (
        folded(f"{VALIDATION_NAMES[validation]}: open the table", tables.patients(scores, validation))
        for validation in _present(scores)
    )
    return section("patients", "Every patient", *lists)


def _definitions() -> Markup:
    return section(
        "definitions",
        "Definitions",
        tables.definitions(),
        items(
            [
                "Lesions are connected components of a mask (faces and edges join, corners don't), of "
                "truth and result alike; one shared voxel counts as found.",
                "PSMA-TV is the volume of all lesions, TL-PSMA the sum of SUV times volume over them. "
                "Their errors are sizes without sign; which way a model errs is in the Bland–Altman "
                "figures.",
                f"95 % interval of a mean or median: percentile bootstrap over patients, {RESAMPLES} "
                f"resamples, seed {BOOTSTRAP_SEED}; with few patients it is somewhat too narrow. Of a mean "
                "difference: by Student's t.",
                "Wilcoxon's signed-rank test: two-sided, exact, ties by mean rank; pairs without a "
                "difference are dropped and counted. Paired t test: two-sided.",
                "A number that is not defined is left out, in comparisons with its pair, and counted. With "
                "fewer than two pairs, or none that differ, there is no p-value.",
            ]
        ),
    )


def _repeat(about: ReportAbout) -> Markup:
    facts = [("software", f"psma-node {about.software_version}")]
    facts += [(f"model {name}", identity) for name, identity in about.models.items()]
    facts += [(f"seed of {name}", str(seed)) for name, seed in about.seeds.items()]
    facts += [(f"hours, {step}", f"{hours:.2f}") for step, hours in about.hours.items()]
    rows = [[without_folders(cell) for cell in fact] for fact in facts]
    commands = without_folders("\n".join(about.commands))
    return section(
        "repeat",
        "How to repeat this",
        element("pre", element("code", commands)) if commands else None,
        table("What was used", ("What", "Value"), rows),
        folded("Settings", element("pre", without_folders(about.settings))) if about.settings else None,
    )


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
