"""Which tracer an image shows: by drug code, then isotope with a site rule, then the site's text patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from app.domain.decision import Decision
from app.domain.radionuclides import radionuclide_of
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.tracers import KNOWN_TRACERS, OTHER_TRACERS, Tracer, tracer_named
from app.domain.study import Radiopharmaceutical, Series

SEQUENCE = "RadiopharmaceuticalInformationSequence"
DRUG_CODE = "RadiopharmaceuticalCodeSequence"


@dataclass(frozen=True)
class Identified:
    """A tracer, and in words how it was found; assumed where the header names the radionuclide alone.

    ``doubt`` is what speaks against it, in words; empty when nothing does.
    """

    tracer: Tracer
    how: str
    is_assumed: bool = False
    doubt: str = ""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """For the report: how the tracer was identified, and what speaks against it."""
        text = f"tracer {self.tracer.key} by {self.how}"
        found = Decision("select", text)
        if self.is_assumed:
            other = f"another {self.tracer.radionuclide} drug (such as DOTATATE)"
            found = Decision.warning("select", f"{text}; {other} would be taken for it")
        return (found, Decision.warning("select", self.doubt)) if self.doubt else (found,)


def identify_tracer(series: Series, policy: SelectionPolicy) -> Identified | Reason:
    """The tracer of a PET or SPECT series, if the site allows it; else the reason.

    A drug that the header names, in code or text, is never overruled by an isotope rule.
    """
    injected = series.radiopharmaceutical
    if injected is None:
        return series.reason(
            RefusalCode.TRACER_UNKNOWN, SEQUENCE, "nothing", f"one of {', '.join(policy.allowed)}"
        )
    found = _by_code(injected) or _other_by_name(injected)
    if found is None and injected.drug_code is None:
        found = _by_isotope(injected, policy)
    found = found or _by_text(series, injected, policy)
    if found is None:
        advice = (
            "Code the drug on the scanner, or add a rule to select.isotope_tracers or select.text_patterns"
        )
        expected = f"a code of {', '.join(policy.allowed)}"
        return series.reason(RefusalCode.TRACER_UNKNOWN, DRUG_CODE, describe(injected), expected, advice)
    return _checked(found, series, injected, policy)


def describe(injected: Radiopharmaceutical) -> str:
    """What the header says, for a refusal."""
    nuclide = radionuclide_of(injected)
    drug, isotope = injected.drug_code, injected.radionuclide_code
    parts = [
        f"drug code {drug.value} {drug.scheme} ({drug.meaning})" if drug else "no drug code",
        f"text {injected.name!r}" if injected.name else "no text",
    ]
    if nuclide is not None:
        parts.append(f"radionuclide {nuclide.key}")
    elif isotope is not None:
        parts.append(f"radionuclide code {isotope.value} {isotope.scheme} ({isotope.meaning})")
    else:
        parts.append("no radionuclide")
    return ", ".join(parts)


def _by_code(injected: Radiopharmaceutical) -> Identified | None:
    code = injected.drug_code
    if code is None:
        return None
    for tracer in (*KNOWN_TRACERS, *OTHER_TRACERS):
        if tracer.coded_as(code):
            return Identified(tracer, f"{DRUG_CODE} {code.value} {code.scheme}")
    return None


def _other_by_name(injected: Radiopharmaceutical) -> Identified | None:
    """A tracer that is not PSMA's, named in the header's own words for the drug."""
    text = f"{injected.name} {injected.drug_code.meaning if injected.drug_code else ''}"
    nuclide = radionuclide_of(injected)
    for tracer in OTHER_TRACERS:
        if tracer.named_in(text) and nuclide is not None and nuclide.key == tracer.radionuclide:
            return Identified(tracer, "the text of Radiopharmaceutical")
    return None


def _by_isotope(injected: Radiopharmaceutical, policy: SelectionPolicy) -> Identified | None:
    nuclide = radionuclide_of(injected)
    rule = next((rule for rule in policy.isotope_tracers if nuclide and rule.isotope == nuclide.key), None)
    if rule is None:
        return None
    evidence = "RadionuclideCodeSequence" if injected.radionuclide_code else "RadionuclideHalfLife"
    how = f"the site's rule for {rule.isotope} ({evidence}; the header names no drug)"
    return Identified(tracer_named(rule.tracer), how, is_assumed=True)


def _by_text(series: Series, injected: Radiopharmaceutical, policy: SelectionPolicy) -> Identified | None:
    codes = (injected.drug_code, injected.radionuclide_code)
    meanings = " ".join(code.meaning for code in codes if code is not None)
    text = f"{injected.name} {meanings} {series.description}"
    for item in policy.text_patterns:
        if re.search(item.pattern, text, re.IGNORECASE):
            return Identified(tracer_named(item.tracer), f"the site's text pattern {item.pattern!r}")
    return None


def _checked(
    found: Identified, series: Series, injected: Radiopharmaceutical, policy: SelectionPolicy
) -> Identified | Reason:
    """Allowed here, and labelled with the radionuclide that the header states."""
    tracer = found.tracer
    nuclide = radionuclide_of(injected)
    if tracer.key not in policy.allowed:
        advice = f"If it is meant to be segmented: select.additional_tracers: [{tracer.key}]"
        seen = f"{tracer.key} by {found.how} ({describe(injected)})"
        attribute = DRUG_CODE if found.how.startswith(DRUG_CODE) else "Radiopharmaceutical"
        expected = f"one of {', '.join(policy.allowed)}"
        return series.reason(RefusalCode.TRACER_NOT_ALLOWED, attribute, seen, expected, advice)
    if nuclide is None or nuclide.key != tracer.radionuclide:
        seen = f"{tracer.key} by {found.how}, but {describe(injected)}"
        code = RefusalCode.TRACER_UNKNOWN
        return series.reason(code, "RadionuclideCodeSequence", seen, tracer.radionuclide)
    return replace(found, doubt=_contradiction(tracer, injected.name))


def _contradiction(tracer: Tracer, text: str) -> str:
    """Another drug that the header's own text names; empty where it names none."""
    other = next((item for item in OTHER_TRACERS if item.named_in(text)), None)
    if other is None or tracer.named_in(text):
        return ""
    return f"Radiopharmaceutical {text!r} reads as {other.key}, not as {tracer.key}; which one was injected?"
