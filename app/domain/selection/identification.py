"""Which tracer an image shows: by the site's entry, drug code or name, isotope rule, or text pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.decision import Decision
from app.domain.quantities.administration import SiteAdministration
from app.domain.radionuclides import (
    Radionuclide,
    radionuclide_coded,
    radionuclide_decaying,
    radionuclide_in,
    radionuclide_of,
    radionuclide_spelled,
)
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.tracers import (
    KNOWN_TRACERS,
    OTHER_TRACERS,
    Drug,
    Tracer,
    drugs_in,
    plain,
    tracer_named,
    tracer_of,
    unknown_words,
)
from app.domain.study import Radiopharmaceutical, Series, Study

SEQUENCE = "RadiopharmaceuticalInformationSequence"
NUCLIDE_CODE = "RadionuclideCodeSequence"
DRUG_CODE = "RadiopharmaceuticalCodeSequence"
DRUG_NAME = "Radiopharmaceutical"

MISTAKEN = {
    "177Lu": "DOTATATE", "68Ga": "DOTATATE", "64Cu": "DOTATATE", "18F": "FDG", "11C": "choline",
    "99mTc": "MDP", "111In": "pentetreotide", "123I": "MIBG", "131I": "MIBG",
}  # fmt: skip
"""What else a radionuclide is often given with."""

FOR_EXAMPLE = {"99mTc": "PSMA-I&S", "64Cu": "PSMA-617", "111In": "PSMA-I&T", "123I": "MIP-1072"}
"""A PSMA ligand of a radionuclide that no tracer of the tables has, for advice."""


@dataclass(frozen=True)
class Identified:
    """A tracer, and in words how it was found; assumed where the header names the radionuclide alone.

    ``attribute`` is where it was found; ``doubt`` what speaks against it, empty when nothing does; ``notes``
    what else a reader should know.
    """

    tracer: Tracer
    how: str
    attribute: str = DRUG_NAME
    is_assumed: bool = False
    doubt: str = ""
    notes: tuple[str, ...] = ()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """For the report: how the tracer was identified, and what speaks against it."""
        text = f"tracer {self.tracer.key} by {self.how}"
        found = Decision("select", text)
        if self.is_assumed:
            nuclide = self.tracer.radionuclide
            example = f" (such as {MISTAKEN[nuclide]})" if nuclide in MISTAKEN else ""
            found = Decision.warning(
                "select", f"{text}; another {nuclide} drug{example} would be taken for it"
            )
        doubts = (Decision.warning("select", self.doubt),) if self.doubt else ()
        return (found, *doubts, *(Decision("select", note) for note in self.notes))


@dataclass(frozen=True)
class _Named:
    """A drug that a text names."""

    drug: Drug
    words: str
    keyword: str
    text: str

    @property
    def quoted(self) -> str:
        return f"{self.keyword} {self.text!r}"


def with_site_entries(study: Study, entries: Sequence[SiteAdministration]) -> Study:
    """The study with the tracer or radionuclide that the site has entered for it on its PET and SPECT."""
    entry = next((item for item in entries if item.study_instance_uid == study.study_instance_uid), None)
    if entry is None or not entry.radionuclide:
        return study
    series = (_with_entry(item, entry) if item.modality in ("PT", "NM") else item for item in study.series)
    return replace(study, series=tuple(series))


def _with_entry(series: Series, entry: SiteAdministration) -> Series:
    injected = series.radiopharmaceutical or Radiopharmaceutical()
    named = replace(injected, site_radionuclide=entry.radionuclide, site_tracer=entry.tracer)
    return replace(series, radiopharmaceutical=named)


def identify_tracer(series: Series, policy: SelectionPolicy) -> Identified | Reason:
    """The tracer of a PET or SPECT series, if the site allows it; else the reason.

    A drug that the header names, in code or text, is never overruled by an isotope rule.
    """
    injected = series.radiopharmaceutical
    if injected is None:
        expected = f"one of {', '.join(policy.allowed)}"
        return series.reason(RefusalCode.TRACER_UNKNOWN, SEQUENCE, "nothing", expected, _advice(None))
    conflict = _conflict(series, injected)
    if conflict is not None:
        return conflict
    found = _by_site(injected) or _by_code(injected) or _by_name(series, injected, policy)
    found = found or _by_isotope(series, injected, policy) or _by_pattern(series, injected, policy)
    if isinstance(found, Identified):
        return _checked(found, series, injected, policy)
    nuclide = radionuclide_of(injected)
    stated = found or describe(injected)
    expected = f"a code of {', '.join(policy.allowed)}"
    return series.reason(RefusalCode.TRACER_UNKNOWN, DRUG_CODE, stated, expected, _advice(nuclide))


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


def _conflict(series: Series, injected: Radiopharmaceutical) -> Reason | None:
    """Witnesses of the radionuclide that contradict each other: code, its meaning, half-life, site."""
    code, life_s, by_header = injected.radionuclide_code, injected.half_life_s, radionuclide_in(injected)
    if injected.site_radionuclide and by_header and by_header.key != injected.site_radionuclide:
        expected = f"{injected.site_radionuclide}, by the site's entry for this study"
        code_ = RefusalCode.ATTRIBUTE_INCONSISTENT
        return series.reason(code_, NUCLIDE_CODE, f"{by_header.key} in the header", expected)
    if code is None or not life_s or radionuclide_coded(code) is not None:
        return None  # a known code and the half-life are compared where the half-life is used
    spelled, decaying = radionuclide_spelled(code.meaning), radionuclide_decaying(life_s)
    if not spelled or (decaying is not None and decaying.key == spelled):
        return None
    found = f"{life_s:g} s ({decaying.key if decaying else 'no known radionuclide'})"
    expected = f"the half-life of {spelled}, as {NUCLIDE_CODE} {code.value} {code.scheme} is called"
    return series.reason(RefusalCode.HALF_LIFE_MISMATCH, "RadionuclideHalfLife", found, expected)


def _by_site(injected: Radiopharmaceutical) -> Identified | None:
    if not injected.site_tracer:
        return None
    return Identified(tracer_named(injected.site_tracer), "the site's entry for this study", SEQUENCE)


def _by_code(injected: Radiopharmaceutical) -> Identified | None:
    code = injected.drug_code
    if code is None:
        return None
    for tracer in (*KNOWN_TRACERS, *OTHER_TRACERS):
        if tracer.coded_as(code):
            return Identified(tracer, f"{DRUG_CODE} {code.value} {code.scheme}", DRUG_CODE)
    return None


def _texts(series: Series, injected: Radiopharmaceutical) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Texts by keyword, the nearest to the injection first: of the drug, of the series, of the study."""
    drug, isotope = injected.drug_code, injected.radionuclide_code
    return (
        (
            (DRUG_NAME, injected.name),
            (DRUG_CODE, drug.meaning if drug else ""),
            (NUCLIDE_CODE, isotope.meaning if isotope else ""),
        ),
        (("SeriesDescription", series.description), ("ProtocolName", series.protocol_name)),
        series.study_texts,
    )


def _named(texts: Sequence[tuple[str, str]], nuclide: Radionuclide | None, of_study: bool) -> list[_Named]:
    """Every drug that these texts name.

    A text about a study comes from an order, and may be about another image of it: a drug that this image's
    radionuclide can't label is not this image's.
    """
    found = [_Named(*item, keyword, text) for keyword, text in texts for item in drugs_in(text)]
    return [item for item in found if not of_study or nuclide is None or item.drug.fits(nuclide.key)]


def _by_name(
    series: Series, injected: Radiopharmaceutical, policy: SelectionPolicy
) -> Identified | str | None:
    """The drug of the nearest text that names one; in words what is wrong where a text isn't enough."""
    nuclide, drug_texts = radionuclide_of(injected), _texts(series, injected)[0]
    for texts in _texts(series, injected):
        named = _named(texts, nuclide, of_study=texts is series.study_texts)
        tracers = {item: tracer_of(item.drug, item.words, nuclide.key if nuclide else None) for item in named}
        refused = [item for item, tracer in tracers.items() if tracer and tracer.key not in policy.allowed]
        if not named:
            continue
        chosen = (refused or named)[0]
        tracer = tracers[chosen]
        pattern = _by_pattern(series, injected, policy)
        if pattern is not None and chosen.drug.is_in(pattern.tracer):
            return pattern
        if tracer is None or (not refused and len(set(tracers.values())) > 1):
            return f"{', '.join(item.quoted for item in named)}, {describe(injected)}"
        rule = _isotope_rule(nuclide, policy) if injected.drug_code is None else None
        is_sites = rule is not None or pattern is not None or tracer.key in policy.additional_tracers
        if texts == drug_texts or refused or is_sites:
            return Identified(tracer, chosen.quoted, chosen.keyword)
        return f"{chosen.quoted} alone, {describe(injected)}"
    return None


def _isotope_rule(nuclide: Radionuclide | None, policy: SelectionPolicy) -> Tracer | None:
    rules = (rule.tracer for rule in policy.isotope_tracers if nuclide and rule.isotope == nuclide.key)
    return next(map(tracer_named, rules), None)


def _by_isotope(
    series: Series, injected: Radiopharmaceutical, policy: SelectionPolicy
) -> Identified | str | None:
    """What a radionuclide stands for at this site, where the header has no name for the drug at all."""
    nuclide = radionuclide_of(injected)
    tracer = _isotope_rule(nuclide, policy)
    if tracer is None or nuclide is None or injected.drug_code is not None:
        return None
    if unknown_words(injected.name):
        pattern = _by_pattern(series, injected, policy)
        return pattern or f"{DRUG_NAME} {injected.name!r}, which no tracer is known by, {describe(injected)}"
    evidence = NUCLIDE_CODE if injected.radionuclide_code else "RadionuclideHalfLife"
    how = f"the site's rule for {nuclide.key} ({evidence}; the header names no drug)"
    return Identified(tracer, how, is_assumed=True)


def _by_pattern(series: Series, injected: Radiopharmaceutical, policy: SelectionPolicy) -> Identified | None:
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
        if found.attribute != DRUG_CODE:
            advice += "; if the text is wrong, add the study's tracer to load.administrations"
        seen = f"{tracer.key} by {found.how} ({describe(injected)})"
        expected = f"one of {', '.join(policy.allowed)}"
        return series.reason(RefusalCode.TRACER_NOT_ALLOWED, found.attribute, seen, expected, advice)
    if nuclide is None or nuclide.key != tracer.radionuclide:
        seen = f"{tracer.key} by {found.how}, but {describe(injected)}"
        code = RefusalCode.TRACER_UNKNOWN
        advice = _advice(nuclide) if nuclide is None else ""
        return series.reason(code, NUCLIDE_CODE, seen, tracer.radionuclide, advice)
    return replace(found, doubt=_contradiction(found, series, injected), notes=_notes(injected, nuclide))


def _contradiction(found: Identified, series: Series, injected: Radiopharmaceutical) -> str:
    """Another drug that the header's own text names; empty where it names none, or this one too.

    An order for PSMA may be for several images: another radionuclide's drug beside it is no contradiction.
    """
    nuclide = radionuclide_of(injected)
    for texts in _texts(series, injected):
        orders_psma = texts is series.study_texts and any("psma" in plain(text) for _, text in texts)
        named = _named(texts, nuclide, of_study=orders_psma)
        if any(item.drug.is_in(found.tracer) for item in named):
            continue
        for item in named:
            other = tracer_of(item.drug, item.words, nuclide.key if nuclide else None)
            reads = other.key if other else item.drug.name
            return f"{item.quoted} reads as {reads}, not as {found.tracer.key}; which one was injected?"
    return ""


def _notes(injected: Radiopharmaceutical, nuclide: Radionuclide) -> tuple[str, ...]:
    notes = tuple(
        f"{SEQUENCE}: {name} is no radiopharmaceutical and is set aside" for name in injected.set_aside
    )
    code = injected.radionuclide_code
    if code is None or radionuclide_coded(code) is not None:
        return notes
    by = "the site's entry" if injected.site_radionuclide else "RadionuclideHalfLife"
    if not injected.site_radionuclide and not injected.half_life_s:
        by = "the code's meaning"
    unknown = f"{NUCLIDE_CODE} {code.value} {code.scheme} ({code.meaning}) is not known"
    return (*notes, f"{unknown}; it is {nuclide.key} by {by}")


def _advice(nuclide: Radionuclide | None) -> str:
    """All that a site must set, in one sentence, so that the next refusal isn't the next lesson."""
    entry = "for this study alone, add its tracer to load.administrations"
    if nuclide is None:
        return f"Code drug and radionuclide on the scanner; {entry}"
    known = next((item.key for item in KNOWN_TRACERS if item.radionuclide == nuclide.key), "")
    tracer = known or f"{nuclide.key}-{FOR_EXAMPLE.get(nuclide.key, 'PSMA')}"
    also = "" if known else f" and select.additional_tracers: [{tracer}]"
    rule = f"select.isotope_tracers: [{{isotope: {nuclide.key}, tracer: {tracer}}}]{also}"
    return (
        f"Code the drug on the scanner; or, if every {nuclide.key} image here shows {tracer} (else write "
        f"another), set {rule}; or name it by select.text_patterns; {entry}"
    )
