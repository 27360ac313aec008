"""The report's tables, as text; ``templates/parts.html.j2`` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.measures import DICE, LESION_PPV, MEASURES, VOXEL_PPV, Measure
from app.domain.scores import ScanScore, Validation
from app.validation import study_table
from app.validation.groups import (
    M4_OR_M2,
    VALIDATION_NAMES,
    VALIDATIONS,
    Group,
    Rivals,
    compared,
    described,
    groups_of,
    rivals_of,
)
from app.validation.report.wording import interval_in_words, p_in_words, short_verdict, without_folders
from app.validation.scores import ReportAbout
from app.validation.statistics import PairedComparison

DASH = "–"


@dataclass(frozen=True)
class DetailedCell:
    """A number with what belongs to it, each detail on a line of its own."""

    main: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows. ``kind`` is its class in the style sheet."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str | DetailedCell]]
    kind: str = ""


def study_beside_ours(scores: Sequence[ScanScore]) -> Table:
    """DSC and PPV as the study published them, and as measured here."""
    header = (
        "Model", "Modality", "Validation", "DSC, study", "DSC, here", "PPV, study", "voxel PPV, here",
        "lesion PPV, here", "Patients, study / here",
    )  # fmt: skip
    rows = [_study_row(scores, group) for group in groups_of(scores)]
    return Table("The study and this evaluation: mean ± standard deviation over patients", header, rows)


def _study_row(scores: Sequence[ScanScore], group: Group) -> list[str]:
    dice, ppv = (
        None if group.fitted_only else study_table.published(group.model, group.kind, group.validation, name)
        for name in (study_table.DSC, study_table.PPV)
    )
    patients = study_table.PATIENTS[group.validation] if dice else DASH
    return [
        group.label,
        group.kind.value,
        group.validation.value,
        str(dice or DASH),
        mean_and_sd(scores, group, DICE),
        str(ppv or DASH),
        mean_and_sd(scores, group, VOXEL_PPV),
        mean_and_sd(scores, group, LESION_PPV),
        f"{patients} / {len(group.of(scores))}",
    ]


def mean_and_sd(scores: Sequence[ScanScore], group: Group, measure: Measure) -> str:
    """``0.78 ± 0.14``; a dash when the number is defined for no patient."""
    found = described(scores, group, measure)
    spread = "" if found.sd is None else f" ± {measure.shown(found.sd)}"
    return measure.shown(found.mean) + spread


def results(scores: Sequence[ScanScore], validation: Validation) -> Table:
    """Every measure of every model in one validation."""
    groups = [group for group in groups_of(scores) if group.validation is validation]
    header = ("Measure", *(f"{group.label}, {group.kind.value}" for group in groups))
    rows: list[list[str | DetailedCell]] = [
        [measure.title, *(_result(scores, group, measure) for group in groups)] for measure in MEASURES
    ]
    what = "mean ± SD and median, each with its 95 % bootstrap interval; n"
    caption = f"{VALIDATION_NAMES[validation]}: {what}"
    return Table(caption, header, rows)


def _result(scores: Sequence[ScanScore], group: Group, measure: Measure) -> DetailedCell:
    found = described(scores, group, measure)
    details = [] if found.interval is None else [f"95 % {interval_in_words(measure, found.interval)}"]
    if found.median is not None:
        details.append(f"median {measure.shown(found.median)}")
    if found.median_interval is not None:
        details.append(f"95 % {interval_in_words(measure, found.median_interval)}")
    details.append(f"n {found.n} of {found.patients}" if found.undefined else f"n {found.n}")
    return DetailedCell(mean_and_sd(scores, group, measure), tuple(details))


def comparisons(scores: Sequence[ScanScore]) -> list[Table]:
    """A table for each pair of models and validation."""
    return [
        _comparison(scores, rivals, validation)
        for validation in VALIDATIONS
        for rivals in rivals_of(scores, validation)
        if compared(scores, rivals, validation, DICE) is not None
    ]


def _comparison(scores: Sequence[ScanScore], rivals: Rivals, validation: Validation) -> Table:
    first, second = (group.label for group in rivals.groups(validation))
    header = (
        "Measure", "Pairs", f"Mean {rivals.first.value}", f"Mean {rivals.second.value}", "Difference ± SD",
        "95 % interval (t)", "Wilcoxon p", "Paired t p", "In words",
    )  # fmt: skip
    found = ((measure, compared(scores, rivals, validation, measure)) for measure in MEASURES)
    rows = [_comparison_row(rivals, measure, result) for measure, result in found if result is not None]
    study = study_table.published_p(rivals.first, rivals.second, rivals.kind, validation)
    published = f" (study: DSC {p_in_words(study)})" if study is not None and not rivals.fitted_only else ""
    where = f"{VALIDATION_NAMES[validation]}, {rivals.kind.value}"
    return Table(f"{where}: {first} minus {second}{published}", header, rows, kind="comparison")


def _comparison_row(rivals: Rivals, measure: Measure, found: PairedComparison) -> list[str]:
    left_out = f", {found.left_out} not defined" if found.left_out else ""
    zeros = f", {found.wilcoxon.zeros} equal" if found.wilcoxon and found.wilcoxon.zeros else ""
    spread = "" if found.sd_difference is None else f" ± {measure.shown(found.sd_difference)}"
    return [
        measure.title,
        f"{found.n}{left_out}{zeros}",
        measure.shown(found.mean_first),
        measure.shown(found.mean_second),
        measure.shown(found.mean_difference, signed=True) + spread,
        DASH if found.interval is None else interval_in_words(measure, found.interval, signed=True),
        _p(None if found.wilcoxon is None else found.wilcoxon.p),
        _p(found.paired_t_p),
        short_verdict(rivals, measure, found),
    ]


def over_seeds(scores_by_seed: Mapping[int, Sequence[ScanScore]]) -> Table | None:
    """The main comparison outside, once for each seed; ``None`` with less than two seeds."""
    groups = M4_OR_M2.groups(Validation.EXTERNAL)
    rows: list[list[str]] = []
    for seed, scores in scores_by_seed.items():
        found = compared(scores, M4_OR_M2, Validation.EXTERNAL, DICE)
        if found is not None:
            means = [mean_and_sd(scores, group, DICE) for group in groups]
            rows.append([str(seed), *means, *_comparison_row(M4_OR_M2, DICE, found)[4:]])
    header = (
        "Seed", *(f"DSC, {group.label}" for group in groups), "Difference ± SD", "95 % interval (t)",
        "Wilcoxon p", "Paired t p", "In words",
    )  # fmt: skip
    caption = "External validation: M4 minus M2, each trained on all patients again with another seed"
    return Table(caption, header, rows, kind="comparison") if len(rows) > 1 else None


def _p(p: float | None) -> str:
    return DASH if p is None else p_in_words(p).removeprefix("p = ").removeprefix("p ")


def patients(scores: Sequence[ScanScore], validation: Validation) -> Table:
    """Every scan of one validation."""
    header = (
        "Patient", "Centre", "Model", "Modality", "Ran", "True ml", "Found ml", "True lesions",
        "Found lesions", *(measure.title for measure in MEASURES),
    )  # fmt: skip
    groups = [
        group for group in groups_of(scores) if group.validation is validation and not group.fitted_only
    ]
    rows = [_patient_row(score) for group in groups for score in group.of(scores)]
    return Table(f"{VALIDATION_NAMES[validation]}: every scan", header, rows, kind="patients")


def _patient_row(score: ScanScore) -> list[str]:
    key = score.key
    ran = key.used.value if key.used is key.model else f"{key.used.value}: {key.why or 'no reason recorded'}"
    return [
        key.patient, key.centre, key.model.value, key.kind.value, ran,
        f"{score.true_ml:.1f}", f"{score.found_ml:.1f}", str(score.lesions.true), str(score.lesions.found),
        *(measure.shown(measure.of(score)) for measure in MEASURES),
    ]  # fmt: skip


def definitions() -> Table:
    """The definition of every measure, from the one table of them."""
    header = ("Measure", "Definition", "Not defined for", "Better", "Source")
    rows = [(m.title, m.formula, m.undefined, m.better.value, m.source) for m in MEASURES]
    return Table("Per patient; TP, FP, FN: voxels found and true, found and false, missed", header, rows)


def facts(about: ReportAbout) -> Table:
    """What was used to compute the scores."""
    rows = [("software", f"psma-node {about.software_version}")]
    rows += [(f"model {name}", identity) for name, identity in about.models.items()]
    rows += [(f"seed of {name}", str(seed)) for name, seed in about.seeds.items()]
    rows += [(f"hours, {step}", f"{hours:.2f}") for step, hours in about.hours.items()]
    return Table("What was used", ("What", "Value"), [[*map(without_folders, row)] for row in rows])
