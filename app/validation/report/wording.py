"""What the numbers say, in sentences: computed, and no stronger than the tests allow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from app.domain.decision import ModelRole
from app.domain.measures import DICE, Better, Measure
from app.domain.scores import ScanScore, Validation
from app.domain.study import StudyKind
from app.validation.groups import (
    M4_OR_M2,
    RIVALS,
    VALIDATION_NAMES,
    VALIDATIONS,
    Group,
    Rivals,
    compared,
    described,
    groups_of,
    rivals_of,
)
from app.validation.statistics import SIGNIFICANT, Interval, PairedComparison

FEW, VERY_FEW = 30, 10
"""Patients: below the first, intervals are wide; below the second, a single patient can turn a result."""

VALIDATION_MEANING = {
    Validation.INTERNAL: "cross-validation, each segmented by a model that had not seen that patient",
    Validation.EXTERNAL: "another centre, segmented by models trained on all of the first centre's patients",
    Validation.NODE: "segmented by the node as it runs, with its installed models",
}
MODEL_MEANING = {
    ModelRole.M1: "PET/CT alone",
    ModelRole.M2: "SPECT/CT alone",
    ModelRole.M3: "one model for PET/CT and SPECT/CT, one at a time",
    ModelRole.M4: "SPECT/CT guided by the patient's lesions on PET; M2 where none could be aligned",
}

FOLDERS = re.compile(r"(?<![\w.:/~<])(?:~?/[\w.+@-]+)*~?/(?=[\w.+@-])")
"""The folders of an absolute path: everything before its last name."""


def without_folders(text: str) -> str:
    """The text with absolute paths cut to their last name: a report reveals nothing about its machine."""
    return FOLDERS.sub("…/", text)


def p_in_words(p: float) -> str:
    """``p = 0.014``, ``p < 0.001``; never rounded on to the other side of 0.05."""
    if p < 0.001:
        return "p < 0.001"
    rounded = (f"{p:.{decimals}f}" for decimals in range(3 if p < 0.1 else 2, 17))
    shown = next(text for text in rounded if (float(text) < SIGNIFICANT) == (p < SIGNIFICANT))
    return f"p = {shown}"


def interval_in_words(measure: Measure, interval: Interval, signed: bool = False) -> str:
    """``0.71 to 0.83``."""
    return f"{measure.shown(interval.low, signed)} to {measure.shown(interval.high, signed)}"


def cohort_sentences(scores: Sequence[ScanScore], simulated: bool) -> list[str]:
    """Who was tested, a sentence for each validation."""
    sentences = []
    for validation in VALIDATIONS:
        own = [score for score in scores if score.key.validation is validation]
        if own:
            centres = Counter(centre for centre, _ in {(s.key.centre, s.key.patient) for s in own})
            who = " and ".join(f"{count} of centre {centre}" for centre, count in sorted(centres.items()))
            kinds = ", ".join(_scans(own, kind) for kind in StudyKind if _scans(own, kind))
            name, meaning = VALIDATION_NAMES[validation], VALIDATION_MEANING[validation]
            patients = "simulated patients" if simulated else "patients"
            sentences.append(f"{name}, {patients}: {who} ({kinds}); {meaning}.")
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
    """What a comparison shows, in sentences: by the rank test, with a word when the t test disagrees."""
    if found.wilcoxon is None:
        return f"No p-value: {found.why_no_p}."
    t = "" if found.paired_t_p is None else f"; paired t {p_in_words(found.paired_t_p)}"
    numbers = f"(Wilcoxon {p_in_words(found.wilcoxon.p)}{t})"
    better = ahead(rivals, measure, found)
    if better is None:
        text = f"No difference could be shown {numbers}, which does not prove that there is none."
        if _too_few_to_show(found):
            text += f" With {_patients(found.wilcoxon.n)} that differ, this test could not have shown any."
    else:
        text = f"{better.value} was better {numbers}."
        if found.mean_difference is not None and found.mean_difference * found.wilcoxon.direction < 0:
            text += " The mean points the other way: a few patients weigh heavily in it."
    return f"{text} The two tests disagree at {SIGNIFICANT}: take it as a hint." if _disagree(found) else text


def short_verdict(rivals: Rivals, measure: Measure, found: PairedComparison) -> str:
    """The verdict in a few words, for a table that has the numbers."""
    if found.wilcoxon is None:
        return f"no p-value: {found.why_no_p}"
    better = ahead(rivals, measure, found)
    text = "no difference shown" if better is None else f"{better.value} better"
    text += "; too few pairs to show any" if _too_few_to_show(found) else ""
    return text + ("; the tests disagree" if _disagree(found) else "")


def ahead(rivals: Rivals, measure: Measure, found: PairedComparison) -> ModelRole | None:
    """The model that the rank test finds better, ``None`` when it finds no difference."""
    if found.wilcoxon is None or found.wilcoxon.p >= SIGNIFICANT:
        return None
    way = found.wilcoxon.direction if measure.better is Better.HIGHER else -found.wilcoxon.direction
    return rivals.first if way > 0 else rivals.second


def _too_few_to_show(found: PairedComparison) -> bool:
    return found.wilcoxon is not None and found.wilcoxon.smallest_possible_p >= SIGNIFICANT


def _disagree(found: PairedComparison) -> bool:
    if found.wilcoxon is None or found.paired_t_p is None:
        return False
    return (found.paired_t_p < SIGNIFICANT) != (found.wilcoxon.p < SIGNIFICANT)


def main_conclusions(scores: Sequence[ScanScore]) -> list[str]:
    """M4 against M2 by DSC; every comparison where that one is not there."""
    found = _conclusions(scores, (M4_OR_M2,)) or other_conclusions(scores)
    return found or ["No two models were measured on the same patients, so nothing can be compared."]


def other_conclusions(scores: Sequence[ScanScore]) -> list[str]:
    """The study's other comparisons by DSC."""
    return _conclusions(scores, tuple(rivals for rivals in RIVALS if rivals != M4_OR_M2))


def _conclusions(scores: Sequence[ScanScore], wanted: Sequence[Rivals]) -> list[str]:
    pairs = ((r, v) for r in wanted for v in VALIDATIONS if r in rivals_of(scores, v))
    found = ((r, v, compared(scores, r, v, DICE)) for r, v in pairs)
    return [comparison_sentence(r, v, DICE, result) for r, v, result in found if result is not None]


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
    found += [sentence] if (sentence := _undefined_sentence(scores)) else []
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


def _undefined_sentence(scores: Sequence[ScanScore]) -> str:
    missing = [
        f"{group.validation.value} {group.label} {group.kind.value} {undefined}"
        for group in groups_of(scores)
        if not group.fitted_only and (undefined := described(scores, group, DICE).undefined)
    ]
    if not missing:
        return ""
    return f"Patients without a DSC ({DICE.undefined}), left out of its means: {', '.join(missing)}."


def _patients(number: int) -> str:
    return f"{number} patient" if number == 1 else f"{number} patients"
