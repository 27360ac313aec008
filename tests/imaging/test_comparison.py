"""This study against the previous one: which one, what is compared, and what is not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.analysis import Quantified
from app.domain.decision import Decision
from app.domain.findings.findings import Change, Findings, LinkKind, RecipCategory
from app.domain.findings.measurements import measure
from app.domain.findings.policy import QuantifyPolicy
from app.domain.refusal import Reason, RefusalCode
from app.domain.study import Patient, StudyKind
from app.domain.volume import LabelMap, Volume
from app.errors import UnusableStudyError
from app.imaging import quantification as comparing
from app.imaging.earlier_results import EarlierReport, EarlierResult
from app.imaging.quantification import StudyComparison
from app.imaging.registration.policy import AlignPolicy
from app.imaging.registration.registration import RigidRegistration
from tests.defects.histories import FITTING, NOW
from tests.dicom.results import sources


@dataclass
class Source:
    """A store of results."""

    results: Sequence[EarlierResult]

    def for_patient(self, patient: Patient, before: datetime) -> Sequence[EarlierResult]:
        return [r for r in self.results if r.acquired_at < before]


@pytest.fixture(scope="module")
def pet(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return dated(sources.pet(tmp_path_factory.mktemp("pet")))


@pytest.fixture(autouse=True)
def _fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    lay_on_each_other(monkeypatch, RigidRegistration(np.eye(4), FITTING))


def lay_on_each_other(monkeypatch: pytest.MonkeyPatch, registration: RigidRegistration | None) -> None:
    monkeypatch.setattr(comparing, "register_rigid", lambda fixed, moving: registration)


def dated(quantified: Quantified) -> Quantified:
    """The same, acquired now, an hour after the injection, by a known reconstruction."""
    segmented = quantified.segmented
    loaded = segmented.aligned.loaded
    functional = replace(
        loaded.selection.functional,
        series_datetime=NOW,
        manufacturer="MAKER",
        reconstruction_method="OSEM 3i21s",
    )
    quantification = replace(loaded.quantification, uptake_s=3600.0)
    selection = replace(loaded.selection, functional=functional)
    loaded = replace(loaded, selection=selection, quantification=quantification)
    aligned = replace(segmented.aligned, loaded=loaded)
    return replace(quantified, segmented=replace(segmented, aligned=aligned))


def previous_of(quantified: Quantified, days: float = 60.0, labels: LabelMap | None = None) -> EarlierResult:
    """A result like this one, ``days`` earlier, with these lesions."""
    loaded = quantified.segmented.aligned.loaded
    found = labels or quantified.segmented.labels
    return EarlierResult(
        study_instance_uid="1.2.3",
        series_instance_uid=f"1.2.3.{days:g}",
        acquired_at=NOW - timedelta(days=days),
        kind=loaded.selection.kind,
        lesion_count=found.count,
        segmentation_sop_instance_uid="1.2.3.8",
        report=EarlierReport(
            "1.2.3.9",
            loaded.selection.tracer.key,
            quantified.segmented.model,
            measure(found, loaded.uptake, loaded.activity),
        ),
        may_be_prior=True,
        facts=lambda: loaded.facts,
        labels=lambda: found,
        ct=lambda: loaded.ct,
        suv=lambda: loaded.uptake,
    )


def compared(
    quantified: Quantified, *previous: EarlierResult, policy: QuantifyPolicy | None = None
) -> Findings:
    comparison = StudyComparison(policy or QuantifyPolicy(), AlignPolicy(), Source(previous))
    return comparison.compare(quantified.segmented, quantified.findings)


def test_what_is_not_quantified_is_compared_with_nothing(pet: Quantified) -> None:
    earlier = previous_of(pet)
    assert compared(pet, earlier).change is not None
    in_counts = replace(pet.findings, not_quantified="SPECT in counts")
    found = compared(replace(pet, findings=in_counts), earlier)
    assert found.change is None
    assert found.no_change_because == "this study is not quantified"
    assert earlier.report is not None
    report = replace(earlier.report, findings=replace(earlier.report.findings, not_quantified="counts"))
    assert compared(pet, replace(earlier, report=report)).change is None


def change_of(quantified: Quantified, *previous: EarlierResult) -> Change:
    change = compared(quantified, *previous).change
    assert change is not None
    return change


def only(labels: LabelMap, *numbers: int) -> LabelMap:
    """Some of the lesions, numbered anew in their order."""
    array = np.zeros_like(labels.array)
    for new, old in enumerate(numbers, start=1):
        array[labels.array == old] = new
    return LabelMap(array, labels.grid)


def test_nothing_changed_is_stable_with_every_lesion_matched(pet: Quantified) -> None:
    change = change_of(pet, previous_of(pet))
    assert [link.kind for link in change.links] == [LinkKind.MATCHED] * 3
    assert (change.psma_tv_percent, change.tl_psma_percent, change.suv_max_percent) == (0.0, 0.0, 0.0)
    assert change.recip is not None
    assert change.recip.category is RecipCategory.STABLE_DISEASE
    assert change.registration.startswith("CTs laid on each other: Dice of bone 0.90")


def test_a_new_lesion_with_more_volume_is_progression(pet: Quantified) -> None:
    change = change_of(pet, previous_of(pet, labels=only(pet.segmented.labels, 2, 3)))
    assert change.lesions_that_are(LinkKind.NEW) == 1
    assert change.recip is not None
    assert change.recip.category is RecipCategory.PROGRESSIVE_DISEASE


def test_the_latest_of_its_kind_and_old_enough_is_taken(pet: Quantified) -> None:
    spect = replace(previous_of(pet, 20), kind=StudyKind.SPECT_CT)
    change = change_of(pet, previous_of(pet, 90), previous_of(pet, 30), previous_of(pet, 3), spect)
    assert change.series_instance_uid == "1.2.3.30"


def test_a_scan_of_the_same_cycle_is_no_previous_study(pet: Quantified) -> None:
    findings = compared(pet, previous_of(pet, 13.9))
    assert findings.change is None
    assert findings.no_change_because == "no result of an earlier PET/CT of this patient"
    nearer = QuantifyPolicy(min_days_to_previous=1.0)
    assert compared(pet, previous_of(pet, 13.9), policy=nearer).change is not None


def test_a_study_is_never_compared_with_itself(pet: Quantified) -> None:
    own = pet.segmented.aligned.loaded.selection.study.study_instance_uid
    assert compared(pet, replace(previous_of(pet), study_instance_uid=own)).change is None


def why_not(quantified: Quantified, *previous: EarlierResult) -> str:
    """The one reason, where there is no change."""
    findings = compared(quantified, *previous)
    assert findings.change is None
    assert findings.no_change_because == "no earlier result can be compared with this one"
    (reason,) = findings.not_compared
    (decision,) = findings.decisions
    assert decision == Decision.warning("quantify", f"not compared with {reason}")
    named, _, words = reason.partition("): ")
    assert named == "PET/CT of 2026-01-03 (series 1.2.3.60"
    return words


def test_cts_that_do_not_fit_leave_no_totals_and_say_so(
    pet: Quantified, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_on_each_other(monkeypatch, RigidRegistration(np.eye(4), replace(FITTING, bone_dice=0.1)))
    previous = previous_of(pet, labels=only(pet.segmented.labels, 2, 3))
    assert why_not(pet, previous) == "Dice of bone 0.1, expected at least 0.5"


def test_cts_that_share_half_of_the_body_leave_no_totals(
    pet: Quantified, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(FITTING, overlap_fraction=0.498)
    lay_on_each_other(monkeypatch, RigidRegistration(np.eye(4), half))
    assert why_not(pet, previous_of(pet)).startswith("share of the body that both CTs show 0.498")


def test_without_common_bone_there_is_no_change(pet: Quantified, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_on_each_other(monkeypatch, None)
    assert why_not(pet, previous_of(pet)) == "too little bone in common on the two CTs"


@pytest.mark.parametrize("what", ["ct", "labels", "facts"])
def test_a_previous_result_that_is_gone_leaves_no_totals(pet: Quantified, what: str) -> None:
    def gone() -> Volume:
        raise UnusableStudyError(Reason(RefusalCode.PRIOR_UNREADABLE, "", "a series that is gone", "it"))

    assert "can't be read: a series that is gone" in why_not(pet, replace(previous_of(pet), **{what: gone}))


def with_facts(previous: EarlierResult, **changes: Any) -> EarlierResult:
    facts = replace(previous.facts(), **changes)
    return replace(previous, facts=lambda: facts)


def test_another_tracer_is_not_compared(pet: Quantified) -> None:
    words = why_not(pet, with_facts(previous_of(pet), tracer="18F-PSMA-1007"))
    assert words == "another radiopharmaceutical: 18F-PSMA-1007 then, 68Ga-PSMA-11 now"


def test_another_model_is_a_caution_and_no_recip(pet: Quantified) -> None:
    model = replace(pet.segmented.model, weights_sha256="ef" * 32)
    previous = previous_of(pet)
    assert previous.report is not None
    report = replace(previous.report, model=model)
    change = change_of(pet, replace(previous, report=report))
    assert change.cautions == ("another model: m1-demo 1.0.0 (efefefef) then, m1-demo 1.0.0 (cdcdcdcd) now",)
    assert change.recip is not None
    assert change.recip.category is None


def test_spect_is_compared_without_recip(tmp_path: Path) -> None:
    spect = dated(sources.spect(tmp_path))
    change = change_of(spect, previous_of(spect))
    assert change.psma_tv_percent == 0.0
    assert change.recip is None


def test_lesions_in_neither_study_need_no_registration(
    pet: Quantified, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_on_each_other(monkeypatch, None)
    empty = sources.without_lesions(pet)
    change = change_of(empty, previous_of(empty, labels=empty.segmented.labels))
    assert (change.links, change.psma_tv_percent) == ((), None)


def test_an_undated_study_is_not_compared(tmp_path: Path) -> None:
    pet = sources.pet(tmp_path)
    loaded = pet.segmented.aligned.loaded
    study = replace(loaded.selection.study, study_datetime=None)
    loaded = replace(loaded, selection=replace(loaded.selection, study=study))
    segmented = replace(pet.segmented, aligned=replace(pet.segmented.aligned, loaded=loaded))
    findings = compared(replace(pet, segmented=segmented), previous_of(pet))
    assert findings.no_change_because.startswith("no date of this study")


def test_the_site_can_leave_the_comparison_out(pet: Quantified) -> None:
    findings = compared(pet, previous_of(pet), policy=QuantifyPolicy(compare_with_previous=False))
    assert (findings.change, findings.no_change_because) == (None, "the site's settings leave it out")


def test_a_store_without_results_gives_no_change(pet: Quantified) -> None:
    findings = compared(pet)
    assert findings.change is None
    assert findings.no_change_because == "no result of an earlier PET/CT of this patient"


def test_a_result_that_its_study_does_not_stand_by_is_passed_over(pet: Quantified) -> None:
    late = replace(previous_of(pet, 20), report=None)
    assert change_of(pet, late, previous_of(pet, 90)).series_instance_uid == "1.2.3.90"


def test_of_two_results_of_one_instant_the_last_series_uid_is_taken_in_any_order(pet: Quantified) -> None:
    twins = [replace(previous_of(pet), series_instance_uid=uid) for uid in ("1.2", "1.10")]
    for found in (twins, twins[::-1]):
        assert change_of(pet, *found).series_instance_uid == "1.2"
