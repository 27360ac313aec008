"""What an earlier PET may be that is no prior of a SPECT: refused by its reason before any pixel is read."""

# ruff: noqa: E501  one defect a line, so that the table reads as one

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.findings.comparability import ScanFacts
from app.domain.refusal import RefusalCode as Code
from app.domain.study import Patient, StudyKind
from tests.defects.histories import gone
from tests.imaging.test_prior_alignment import VIEW, facts_of


@dataclass(frozen=True)
class Prior:
    """One line of the table. The SPECT is of patient "P"; the PET is his, 30 days before, with lesions.

    Attributes:
        changes: what the PET's result has otherwise.
        patient: whose the SPECT is.
    """

    name: str
    code: Code
    attribute: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    patient: Patient = field(default_factory=lambda: Patient("P"))


def born(day: str) -> Callable[[], ScanFacts]:
    return lambda: replace(facts_of(VIEW), patient=Patient("P", birth_date=day))


def called(name: str) -> Callable[[], ScanFacts]:
    return lambda: replace(facts_of(VIEW), patient=Patient("P", name=name))


PRIORS = (
    Prior("a PET after the SPECT", Code.NO_PRIOR, changes={"days_before": -1.0}),
    Prior("a PET older than the site's limit", Code.PRIOR_TOO_OLD, "align.max_prior_age_days", {"days_before": 91.0}),
    Prior("a PET without lesions", Code.PRIOR_EMPTY, changes={"lesion_count": 0}),
    Prior("an earlier SPECT", Code.NO_PRIOR, changes={"kind": StudyKind.SPECT_CT}),
    Prior("a PET whose result may be no prior", Code.NO_PRIOR, changes={"may_be_prior": False}),
    Prior("a PET whose CT is gone", Code.PRIOR_UNREADABLE, changes={"ct": gone}),
    Prior("a PET that is gone", Code.PRIOR_UNREADABLE, changes={"facts": gone}),
    Prior("another birth date", Code.PRIOR_MISFIT, "PatientBirthDate", {"facts": born("19500101")}, Patient("P", birth_date="19610203")),
    Prior("another name and no birth date", Code.PRIOR_MISFIT, "PatientName", {"facts": called("ROE^BERT")}, Patient("P", name="DOE^ADAM")),
    *(Prior(f"PatientID {one or 'empty'}", Code.NO_PRIOR, "PatientID", patient=Patient(one)) for one in ("", " ", "ANON", "0000", "N/A")),
)  # fmt: skip
