"""The SR: numbers, references, statements."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from app.dicom.results.context import open_context
from app.dicom.results.policy import SegType, SrClass, WritePolicy
from app.dicom.results.read_back import numbers_by_group, parse, texts
from app.dicom.results.report.quantities import processed_local
from app.dicom.results.report.sr import write_report
from app.dicom.results.seg import write_segmentation
from app.domain.analysis import Provenance, Quantified, SupersededReport
from app.domain.codes import SuvUnitSpelling
from app.domain.decision import Decision
from app.domain.findings.findings import ActivityInstant, DoseEstimate, InstantKind
from app.domain.quantities.body_size import OtherSuv
from app.domain.volume import Unit
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE, ROOT, as_bytes

SUV = "g/ml{SUVbw}"


def written(
    quantified: Quantified, policy: WritePolicy | None = None, provenance: Provenance = PROVENANCE
) -> Dataset:
    """The SR, from its bytes."""
    context = open_context(quantified, policy or WritePolicy(), provenance)
    return parse(as_bytes(write_report(context, write_segmentation(context))))


def second_revision(functional_series_instance_uid: str) -> Provenance:
    """Made after a first result on that series."""
    report_class = "1.2.840.10008.5.1.4.1.1.88.34"
    earlier = SupersededReport(
        f"{ROOT}.1", "2.25.7", report_class, "2.25.8", 1, functional_series_instance_uid
    )
    return replace(PROVENANCE, revision=2, supersedes=(earlier,))


def said(report: Dataset, code: str) -> list[str]:
    return [text for concept, text in texts(report) if concept == code]


@pytest.fixture(scope="module")
def pet(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.pet(tmp_path_factory.mktemp("pet"))


@pytest.fixture(scope="module")
def spect(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.spect(tmp_path_factory.mktemp("spect"))


@pytest.fixture(scope="module")
def spect_report(spect: Quantified) -> Dataset:
    return written(spect)


@pytest.fixture(scope="module")
def pet_report(pet: Quantified) -> Dataset:
    return written(pet)


def test_every_lesion_has_a_group_with_its_numbers(spect: Quantified, spect_report: Dataset) -> None:
    groups = numbers_by_group(spect_report)
    assert list(groups) == ["Whole body", "Lesion 1", "Lesion 2", "Lesion 3"]
    for lesion in spect.findings.lesions:
        group = groups[f"Lesion {lesion.number}"]
        assert group["118565006", "", "ml"] == pytest.approx(lesion.volume_ml, rel=1e-5)
        assert group["126401", "56851009", SUV] == pytest.approx(lesion.suv_max, rel=1e-5)
        assert group["126401", "373098007", SUV] == pytest.approx(lesion.suv_mean, rel=1e-5)
        assert group["TL-PSMA", "", "g"] == pytest.approx(lesion.tl_psma, rel=1e-5)
        assert group["LESION-ACTIVITY", "", "MBq"] == pytest.approx(lesion.activity_mbq, rel=1e-5)
        assert group["110821", "56851009", "Bq/ml"] == pytest.approx(lesion.concentration_max_bqml, rel=1e-5)
        assert ("126401", "126031", SUV) in group or lesion.suv_peak is None


def test_the_whole_body_has_the_burden(spect: Quantified, spect_report: Dataset) -> None:
    burden, group = spect.findings.burden, numbers_by_group(spect_report)["Whole body"]
    assert group["246206008", "", "{1}"] == 3
    assert group["PSMA-TV", "", "ml"] == pytest.approx(burden.psma_tv_ml, rel=1e-5)
    assert group["TL-PSMA", "", "g"] == pytest.approx(burden.tl_psma, rel=1e-5)


def test_a_pet_whose_activity_is_unknown_gives_suv_alone(pet: Quantified) -> None:
    lesions = tuple(
        replace(lesion, activity_mbq=None, concentration_max_bqml=None, concentration_mean_bqml=None)
        for lesion in pet.findings.lesions
    )
    report = written(replace(pet, findings=replace(pet.findings, lesions=lesions)))
    units = {unit for _, _, unit in numbers_by_group(report)["Lesion 1"]}
    assert units == {"ml", "mm", "g", SUV}


def test_the_other_spelling_of_the_suv_unit(pet: Quantified) -> None:
    report = written(pet, WritePolicy(suv_unit=SuvUnitSpelling.ANNOTATION_FIRST))
    units = {unit for _, _, unit in numbers_by_group(report)["Lesion 1"]}
    assert "{SUVbw}g/ml" in units
    assert SUV not in units


def test_suvs_that_the_site_wants_stand_next_to_suvbw(pet: Quantified) -> None:
    others = (OtherSuv(Unit.SUL, 0.7), OtherSuv(Unit.SUVBSA, 250.0))
    loaded = pet.segmented.aligned.loaded
    quantification = replace(loaded.quantification, other_suv=others)
    aligned = replace(pet.segmented.aligned, loaded=replace(loaded, quantification=quantification))
    with_others = replace(pet, segmented=replace(pet.segmented, aligned=aligned))
    group, lesion = numbers_by_group(written(with_others))["Lesion 1"], pet.findings.lesions[0]
    expected = {
        ("126405", "56851009", "g/ml{SUVlbm(Janma)}"): 0.7 * lesion.suv_max,
        ("126405", "373098007", "g/ml{SUVlbm(Janma)}"): 0.7 * lesion.suv_mean,
        ("126403", "56851009", "cm2/ml{SUVbsa}"): 250.0 * lesion.suv_max,
        ("126403", "373098007", "cm2/ml{SUVbsa}"): 250.0 * lesion.suv_mean,
    }
    for key, value in expected.items():
        assert group[key] == pytest.approx(value, rel=1e-5)
    assert group["126401", "56851009", SUV] == pytest.approx(lesion.suv_max, rel=1e-5)


@pytest.mark.parametrize(
    ("sr_class", "uid"),
    [
        (SrClass.COMPREHENSIVE_3D, "1.2.840.10008.5.1.4.1.1.88.34"),
        (SrClass.COMPREHENSIVE, "1.2.840.10008.5.1.4.1.1.88.33"),
    ],
)
def test_the_sop_class_is_the_sites_choice(pet: Quantified, sr_class: SrClass, uid: str) -> None:
    assert uid == written(pet, WritePolicy(sr_class=sr_class)).SOPClassUID


def test_it_is_a_measurement_report_of_template_1500(spect_report: Dataset) -> None:
    assert spect_report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert spect_report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (spect_report.CompletionFlag, spect_report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_the_private_scheme_is_identified(spect_report: Dataset) -> None:
    schemes = {item.CodingSchemeDesignator: item for item in spect_report.CodingSchemeIdentificationSequence}
    assert schemes["99PSMANODE"].CodingSchemeName


def test_every_input_instance_is_in_the_library_and_in_the_evidence(
    pet: Quantified, pet_report: Dataset
) -> None:
    report = pet_report
    selection = pet.segmented.aligned.loaded.selection
    expected = {item.sop_instance_uid for s in (selection.functional, selection.ct) for item in s.instances}
    library = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "111028")
    in_library = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for group in library.ContentSequence
        for item in group.ContentSequence
        if item.ValueType == "IMAGE"
    }
    assert in_library == expected
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert expected < evidence  # and the SEG


def test_it_is_for_research_and_says_that_the_model_is_a_demonstration(spect_report: Dataset) -> None:
    uses = said(spect_report, "INTENDED-USE")
    assert uses[0] == "Research use only - not for diagnosis"
    assert "Demonstration model" in uses[1]


def test_a_validated_model_is_not_called_a_demonstration(spect: Quantified) -> None:
    model = replace(spect.segmented.model, demonstration_only=False)
    report = written(replace(spect, segmented=replace(spect.segmented, model=model)))
    assert len(said(report, "INTENDED-USE")) == 1


def test_model_weights_software_and_settings_can_be_traced(spect_report: Dataset) -> None:
    assert said(spect_report, "111001")[0] == "M4 m4-demo"
    assert said(spect_report, "111003")[0] == "1.0.0"
    parameters = said(spect_report, "111002")
    assert f"weights SHA-256: {'cd' * 32}" in parameters
    assert "software version: 0.1.0" in parameters
    assert f"settings SHA-256: {'ab' * 32}" in parameters
    inputs = " ".join(said(spect_report, "INPUT"))
    assert f"{ROOT}.3" in inputs
    assert f"{ROOT}.5" in inputs


def test_the_report_states_the_prior_and_its_fit(spect_report: Dataset) -> None:
    (prior,) = said(spect_report, "PRIOR")
    for part in ("Prior used", "2026-01-20", f"{ROOT}.33", "bone Dice 0.81", "origins differ by 34.2 mm"):
        assert part in prior


def test_the_report_states_why_there_was_no_prior(spect: Quantified) -> None:
    (prior,) = said(written(sources.without_prior(spect)), "PRIOR")
    assert prior.startswith("No prior used: [prior-misfit] bone_dice: found 0.21")


def test_a_pet_says_nothing_of_priors(pet_report: Dataset) -> None:
    assert said(pet_report, "PRIOR") == []


def test_decisions_stand_in_order_in_letters_that_any_character_set_holds(spect_report: Dataset) -> None:
    assert said(spect_report, "DECISION") == [
        "select: tracer by its code; CT covers 100 % +/- 0 %",
        "segment: M4 by policy",
    ]


def test_any_letter_in_a_decision_can_be_written(pet: Quantified) -> None:
    odd = (Decision("segment", "naïve — 5 µm ≥ 3 → 日本"),)
    report = written(replace(pet, segmented=replace(pet.segmented, decisions=odd)))
    assert said(report, "DECISION")[-1] == "segment: naive - 5 um >= 3 -> ??"


def test_the_report_says_that_there_is_no_lesion_and_measures_none(pet: Quantified) -> None:
    report = written(sources.without_lesions(pet))
    assert said(report, "121111") == ["No lesion found"]
    groups = numbers_by_group(report)
    assert list(groups) == ["Whole body"]
    assert groups["Whole body"]["246206008", "", "{1}"] == 0
    assert groups["Whole body"]["PSMA-TV", "", "ml"] == 0


def test_a_later_revision_names_the_report_it_replaces(pet: Quantified) -> None:
    report = written(pet, provenance=second_revision(f"{ROOT}.3"))
    reference = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == "2.25.8"
    assert "revision: 2" in said(report, "111002")
    assert said(report, "REPLACES") == ["Revision 2: replaces the result of revision 1 (SR 2.25.8)"]
    assert report.SeriesDescription == "PSMA measurements M1 PET/CT r2 replaces r1 (research use only)"


def test_a_revision_does_not_replace_what_is_about_another_series(pet: Quantified) -> None:
    report = written(pet, provenance=second_revision(f"{ROOT}.4"))
    assert "PredecessorDocumentsSequence" not in report
    assert said(report, "REPLACES") == []


def test_numbers_are_written_with_six_digits(tmp_path: Path) -> None:
    quantified = sources.pet(tmp_path)
    lesion = replace(quantified.findings.lesions[0], suv_max=12.3456789)
    lesions = (lesion, *quantified.findings.lesions[1:])
    report = written(replace(quantified, findings=replace(quantified.findings, lesions=lesions)))
    assert numbers_by_group(report)["Lesion 1"]["126401", "56851009", SUV] == 12.3457


def timed(quantified: Quantified, kind: InstantKind = InstantKind.SCAN_START) -> Quantified:
    """With the instant of its activities, as the stage quantify gives it."""
    at = datetime(2026, 3, 4, 9, 30, 0, 250000) if kind is InstantKind.SCAN_START else None
    return replace(
        quantified, findings=replace(quantified.findings, activity_instant=ActivityInstant(kind, at))
    )


def children(report: Dataset, code: str) -> list[Dataset]:
    """What qualifies every number of that name."""
    found = [item for item in items(report) if item.ConceptNameCodeSequence[0].CodeValue == code]
    assert found
    return [child for item in found for child in item.get("ContentSequence", [])]


def items(item: Dataset) -> list[Dataset]:
    below = list(item.get("ContentSequence", []))
    return below + [deeper for child in below for deeper in items(child)]


def test_every_activity_says_at_which_instant_it_holds(spect: Quantified) -> None:
    report = written(timed(spect))
    for code in ("LESION-ACTIVITY", "110821"):
        numbers = sum(item.ConceptNameCodeSequence[0].CodeValue == code for item in items(report))
        instants = [
            (child.RelationshipType, str(child.DateTime))
            for child in children(report, code)
            if child.ConceptNameCodeSequence[0].CodeValue == "122712"
        ]
        assert instants == [("HAS OBS CONTEXT", "20260304093000.250000")] * numbers
        events = [
            c for c in children(report, code) if c.ConceptNameCodeSequence[0].CodeValue == "ACTIVITY-AT"
        ]
        assert [event.ConceptCodeSequence[0].CodeValue for event in events] == ["122712"] * numbers
    assert "activities as at: start of the scan, 2026-03-04 09:30:00" in said(report, "QUANTIFICATION")


def test_an_activity_at_the_injection_is_not_called_the_scans(spect: Quantified) -> None:
    report = written(timed(spect, InstantKind.INJECTION))
    codes = [child.ConceptCodeSequence[0].CodeValue for child in children(report, "LESION-ACTIVITY")]
    assert set(codes) == {"123003"}
    assert "122712" not in {item.ConceptNameCodeSequence[0].CodeValue for item in items(report)}


def test_concentration_in_pet_is_not_called_nuclear_medicines(
    pet_report: Dataset, spect_report: Dataset
) -> None:
    lesion_of_pet = numbers_by_group(pet_report)["Lesion 1"]
    lesion_of_spect = numbers_by_group(spect_report)["Lesion 1"]
    assert ("ACTIVITY-CONC", "373098007", "Bq/ml") in lesion_of_pet
    assert "110821" not in {name for name, _, _ in lesion_of_pet}
    assert "ACTIVITY-CONC" not in {name for name, _, _ in lesion_of_spect}


def test_a_dose_has_its_range_in_its_own_unit(spect: Quantified) -> None:
    lesions = tuple(replace(lesion, absorbed_dose_gy=10.0) for lesion in spect.findings.lesions)
    dose = DoseEstimate(48.0, lowest=0.93, highest=1.43)
    report = written(replace(spect, findings=replace(spect.findings, lesions=lesions, dose=dose)))
    found = {
        (
            child.ConceptNameCodeSequence[0].CodeValue,
            float(child.MeasuredValueSequence[0].NumericValue),
            child.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for child in children(report, "128513")
        if child.ValueType == "NUM"
    }
    assert found == {("371886008", 4.3, "Gy"), ("371885007", 0.7, "Gy")}
    assert "-7 % to +43 % for effective half-lives of 30 to 100 h" in said(report, "DOSE")[0]


def test_it_says_when_the_analysis_was_made_and_keeps_its_uid(pet: Quantified) -> None:
    first = written(pet)
    noon = datetime(2026, 3, 5, 12, 0, 7, tzinfo=timezone(timedelta(hours=1)))
    report = written(pet, provenance=replace(PROVENANCE, processed_at=noon))
    [processed] = [x for x in items(report) if x.ConceptNameCodeSequence[0].CodeValue == "111702"]
    local = noon.astimezone()
    assert str(processed.DateTime).startswith(f"{local:%Y%m%d%H%M%S}")
    assert (report.ContentDate, report.ContentTime) == (f"{local:%Y%m%d}", f"{local:%H%M%S}")
    assert (report.SeriesDate, report.SOPInstanceUID) == (first.SeriesDate, first.SOPInstanceUID)
    assert "111702" not in {x.ConceptNameCodeSequence[0].CodeValue for x in items(first)}


@pytest.mark.parametrize(
    ("offset", "local"),
    [
        ("-0500", "2026-03-05T17:00"),
        ("-0330", "2026-03-05T18:30"),
        ("-1200", "2026-03-05T10:00"),
        ("+1400", "2026-03-06T12:00"),
    ],
)
def test_a_zone_west_of_greenwich_is_behind_and_one_east_of_it_ahead(
    pet: Quantified, offset: str, local: str
) -> None:
    instant = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    context = open_context(pet, WritePolicy(), replace(PROVENANCE, processed_at=instant))
    context.header.TimezoneOffsetFromUTC = offset
    found = processed_local(context)
    assert found == instant
    assert f"{found:%Y-%m-%dT%H:%M %z}" == f"{local} {offset}"


@pytest.mark.parametrize("offset", ["-1201", "-1400", "+1401", "+0160", "0500", "+5", "+05:0", "-+100"])
def test_without_a_valid_zone_the_time_is_in_this_machines(pet: Quantified, offset: str) -> None:
    instant = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    context = open_context(pet, WritePolicy(), replace(PROVENANCE, processed_at=instant))
    with config.disable_value_validation():
        context.header.TimezoneOffsetFromUTC = offset
    found = processed_local(context)
    assert found is not None
    assert found.utcoffset() == instant.astimezone().utcoffset()


def test_the_instant_is_written_in_the_zone_of_the_sources_times(pet: Quantified) -> None:
    noon = datetime(2026, 3, 5, 22, 0, tzinfo=UTC)
    context = open_context(pet, WritePolicy(), replace(PROVENANCE, processed_at=noon))
    context.header.TimezoneOffsetFromUTC = "+0530"
    report = parse(as_bytes(write_report(context, write_segmentation(context))))
    assert (report.ContentDate, report.ContentTime) == ("20260306", "033000")
    assert report.TimezoneOffsetFromUTC == "+0530"
    [processed] = [x for x in items(report) if x.ConceptNameCodeSequence[0].CodeValue == "111702"]
    assert DT(str(processed.DateTime)) == noon


def test_the_uptake_time_of_a_pet_is_in_the_image_library_in_minutes(pet: Quantified) -> None:
    aligned = pet.segmented.aligned
    used = replace(aligned.loaded.quantification, uptake_s=3720.0)
    loaded = replace(aligned.loaded, quantification=used)
    changed = replace(pet, segmented=replace(pet.segmented, aligned=replace(aligned, loaded=loaded)))
    [uptake] = [x for x in items(written(changed)) if x.ConceptNameCodeSequence[0].CodeValue == "126203"]
    assert float(uptake.MeasuredValueSequence[0].NumericValue) == 62.0
    assert uptake.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "min"
    assert "uptake time 62 min" in said(written(changed), "QUANTIFICATION")[0]


def test_what_the_node_decided_before_the_chain_comes_first_and_makes_another_result(pet: Quantified) -> None:
    waited = (Decision.warning("receive", "did not wait longer than 3600 s for the PET/CT"),)
    report = written(pet, provenance=replace(PROVENANCE, decisions=waited))
    told = "receive: warning: did not wait longer than 3600 s for the PET/CT"
    assert said(report, "DECISION")[0] == told
    assert report.SOPInstanceUID != written(pet).SOPInstanceUID


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), []),
        (("warning: a",), ["1 warning: a"]),
        (("warning: a", "b", "warning: c", "warning: a"), ["2 warnings: (1) a; (2) c"]),
    ],
)
def test_warnings_stand_beside_the_summary_at_the_top_too(
    pet: Quantified, texts: tuple[str, ...], expected: list[str]
) -> None:
    decided = tuple(Decision.read(Decision("load", text)) for text in texts)
    report = written(pet, provenance=replace(PROVENANCE, decisions=decided))
    [_, *warned] = said(report, "121111")
    assert warned == expected
    spoken = [x.ConceptNameCodeSequence[0].CodeValue for x in items(report) if x.ValueType == "TEXT"]
    first = spoken.index("121111")
    assert spoken[first : first + len(expected) + 2] == ["121111"] * (len(expected) + 1) + ["INTENDED-USE"]


def test_a_labelmap_stands_among_the_decisions_and_is_no_warning_of_the_numbers(pet: Quantified) -> None:
    policy = WritePolicy(seg_type=SegType.LABELMAP)
    [told] = [x for x in said(written(pet, policy), "DECISION") if x.startswith("write:")]
    assert told.startswith("write: SEG as LABELMAP")
    assert not [x for x in said(written(pet), "DECISION") if x.startswith("write:")]
    assert not [x for x in said(written(sources.without_lesions(pet), policy), "DECISION") if "LABELMAP" in x]
