"""What the numbers say, in sentences: computed, and no stronger than the tests allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.domain.analysis import ModelRole
from app.domain.measures import DICE, Better, Measure
from app.domain.scan_score import ScanScore, Validation
from app.domain.study import StudyKind
from app.training.score_groups import (
    M4_OR_M2,
    VALIDATIONS,
    Group,
    Rivals,
    compared,
    described,
    groups_of,
    rivals_of,
)
from app.training.statistics import SIGNIFICANT, Interval, PairedComparison

FEW, VERY_FEW = 30, 10
"""Patients: below the first, intervals are wide; below the second, a single patient can turn a result."""

VALIDATION_NAMES = {
    Validation.INTERNAL: "Internal validation",
    Validation.EXTERNAL: "External validation",
    Validation.NODE: "The node's own chain",
}
VALIDATION_MEANING = {
    Validation.INTERNAL: "cross-validation: patients were segmented by models that had not seen them",
    Validation.EXTERNAL: "another centre's patients, by models trained on all of the first centre's",
    Validation.NODE: "segmented by the node as it runs, with its installed models",
}
MODEL_MEANING = {
    ModelRole.M1: "PET/CT alone",
    ModelRole.M2: "SPECT/CT alone",
    ModelRole.M3: "one model for PET/CT and SPECT/CT, one at a time",
    ModelRole.M4: "SPECT/CT guided by the patient's lesions on PET; M2 where none could be aligned",
}


def p_in_words(p: float) -> str:
    """``p = 0.014``, ``p < 0.001``."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval_in_words(measure: Measure, interval: Interval, signed: bool = False) -> str:
    """``0.71 to 0.83``."""
    return f"{measure.shown(interval.low, signed)} to {measure.shown(interval.high, signed)}"


def cohort_sentences(scores: Sequence[ScanScore], simulated: bool) -> list[str]:
    """Who was tested, one sentence a validation."""
    sentences = []
    for validation in VALIDATIONS:
        own = [score for score in scores if score.key.validation is validation]
        if own:
            centres = Counter(centre for centre, _ in {(s.key.centre, s.key.patient) for s in own})
            who = ", ".join(f"{count} of centre {centre}" for centre, count in sorted(centres.items()))
            kinds = ", ".join(_scans(own, kind) for kind in StudyKind if _scans(own, kind))
            name, meaning = VALIDATION_NAMES[validation], VALIDATION_MEANING[validation]
            patients = "simulated patients" if simulated else "patients"
            sentences.append(f"{name} on {sum(centres.values())} {patients} ({who}; {kinds}): {meaning}.")
    return sentences


def _scans(scores: Sequence[ScanScore], kind: StudyKind) -> str:
    number = len({(s.key.centre, s.key.patient) for s in scores if s.key.kind is kind})
    return f"{number} {kind.value}" if number else ""


def comparison_sentence(
    rivals: Rivals, validation: Validation, measure: Measure, found: PairedComparison
) -> str:
    """One comparison in full: the numbers first, then what they show."""
    first, second = (group.label for group in rivals.groups(validation))
    head = f"{VALIDATION_NAMES[validation]}, {rivals.kind.value}, {first} against {second}"
    if found.mean_first is None or found.mean_second is None:
        return f"{head}: {found.why_no_p}."
    numbers = (
        f"mean {measure.name} {measure.shown(found.mean_first)} against {measure.shown(found.mean_second)} "
        f"in the same {_patients(found.n)}, difference {measure.shown(found.mean_difference, signed=True)}"
    )
    if found.interval is not None:
        numbers += f" (95 % interval {interval_in_words(measure, found.interval, signed=True)})"
    return f"{head}: {numbers}. {verdict(rivals, measure, found)}"


def verdict(rivals: Rivals, measure: Measure, found: PairedComparison) -> str:
    """What a comparison shows: by the rank test, with a word when the t test disagrees."""
    if found.wilcoxon is None:
        return f"No p-value: {found.why_no_p}."
    p = p_in_words(found.wilcoxon.p)
    t = "" if found.paired_t is None else f"; paired t {p_in_words(found.paired_t.p)}"
    if found.wilcoxon.p >= SIGNIFICANT:
        text = f"No difference could be shown (Wilcoxon {p}{t}), which does not prove that there is none."
        if found.wilcoxon.smallest_possible_p >= SIGNIFICANT:
            text += f" With {_patients(found.wilcoxon.n)} that differ, this test could not have shown any."
    else:
        ahead = found.wilcoxon.direction if measure.better is Better.HIGHER else -found.wilcoxon.direction
        better = rivals.first if ahead > 0 else rivals.second
        text = f"{better.value} was better (Wilcoxon {p}{t})."
        if found.mean_difference is not None and found.mean_difference * found.wilcoxon.direction < 0:
            text += " The mean points the other way: a few patients weigh heavily in it."
    disagree = found.paired_t is not None and (found.paired_t.p < SIGNIFICANT) != (
        found.wilcoxon.p < SIGNIFICANT
    )
    return f"{text} The two tests disagree at {SIGNIFICANT}: take it as a hint." if disagree else text


def conclusions(scores: Sequence[ScanScore]) -> list[str]:
    """The study's comparisons by DSC, M4 against M2 first."""
    found = []
    for rivals_first in (True, False):
        for validation in VALIDATIONS:
            for rivals in rivals_of(scores, validation):
                comparison = compared(scores, rivals, validation, DICE)
                if comparison is not None and (rivals == M4_OR_M2) is rivals_first:
                    found.append(comparison_sentence(rivals, validation, DICE, comparison))
    return found or ["No two models were measured on the same patients, so nothing can be compared."]


def warnings(scores: Sequence[ScanScore], simulated: bool) -> list[str]:
    """What limits these numbers."""
    found = (
        ["Simulated patients: nothing here says how well the models do on real ones."] if simulated else []
    )
    groups = groups_of(scores)
    smallest = min(len(group.of(scores)) for group in groups)
    if smallest < VERY_FEW:
        found.append(f"Very few patients ({smallest} in the smallest group): one patient can turn a result.")
    elif smallest < FEW:
        found.append(
            f"Few patients ({smallest} in the smallest group): read the intervals, not only the means."
        )
    found += [sentence for group in groups if (sentence := _fallback_sentence(scores, group))]
    found += [sentence for group in groups if (sentence := _undefined_sentence(scores, group))]
    found.append(
        "Main comparison: DSC of M4 against M2. All others are exploratory, and no p-value is corrected for "
        "their number: about one in twenty falls below 0.05 by chance."
    )
    return found


def _fallback_sentence(scores: Sequence[ScanScore], group: Group) -> str:
    own = group.of(scores)
    others = [score for score in own if score.key.used is not group.model]
    if not others:
        return ""
    models = ", ".join(sorted({score.key.used.value for score in others}))
    reasons = Counter(score.key.why or "no reason recorded" for score in others)
    why = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
    place = f"{VALIDATION_NAMES[group.validation]}, {group.kind.value}"
    instead = f"{models} ran in place of {group.model.value}"
    return f"{place}: in {len(others)} of {_patients(len(own))} {instead}: {why}."


def _undefined_sentence(scores: Sequence[ScanScore], group: Group) -> str:
    undefined = described(scores, group, DICE).undefined
    if not undefined:
        return ""
    place = f"{VALIDATION_NAMES[group.validation]}, {group.kind.value}, {group.label}"
    return (
        f"{place}: DSC is not defined in {_patients(undefined)} ({DICE.undefined}), who are left out of it."
    )


def _patients(number: int) -> str:
    return f"{number} patient" if number == 1 else f"{number} patients"
