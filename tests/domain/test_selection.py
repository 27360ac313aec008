"""Which series are taken, and the reason for each that is not."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.quantities.administration import SiteAdministration
from app.domain.radionuclides import F18, GA68, IN111, LU177, TC99M, ZR89, Emission, Radionuclide
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.identification import with_site_entries
from app.domain.selection.pair import Selection, rejection_lines
from app.domain.selection.policy import IsotopeRule, SelectionPolicy, TextPattern
from app.domain.selection.selection import SelectionResult, select
from app.domain.study import Code, Instance, Patient, Radiopharmaceutical, Series, Study, StudyKind

PET, NM, CT, SC = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("128", "20", "2", "7"))
DEFAULT = SelectionPolicy()
PSMA_11 = Code("C118961", "NCIt")


def slices(uid: str, count: int = 40, step_mm: float = 5.0, start_mm: float = 0.0) -> tuple[Instance, ...]:
    return tuple(
        Instance(
            f"{uid}.{i}", PET, Path(), 50, 50, 1, (-100.0, -100.0, start_mm + i * step_mm),
            (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (4.0, 4.0),
        )
        for i in range(count)
    )  # fmt: skip


def drug(nuclide: object = GA68, code: Code | None = PSMA_11, name: str = "") -> Radiopharmaceutical:
    return Radiopharmaceutical(name, code, nuclide.codes[0])  # type: ignore[attr-defined]


def pet(uid: str = "1.1", **changes: object) -> Series:
    base = Series(
        uid, "PT", slices(uid), PET, "1.9", ("ORIGINAL", "PRIMARY"), ("DECY", "ATTN"), "BQML", "", drug(),
        datetime(2026, 3, 1),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def ct(uid: str = "1.2", **changes: object) -> Series:
    base = Series(uid, "CT", slices(uid), CT, "1.9", ("ORIGINAL", "PRIMARY", "AXIAL"))
    return replace(base, **changes)  # type: ignore[arg-type]


def spect(uid: str = "1.3", **changes: object) -> Series:
    frames = replace(slices(uid, 1)[0], number_of_frames=40, spacing_between_slices_mm=5.0)
    base = Series(
        uid, "NM", (frames,), NM, "1.9", ("ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"), ("ATTN",),
        radiopharmaceutical=drug(LU177, None),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def selected(*series: Series, policy: SelectionPolicy = DEFAULT) -> SelectionResult:
    return select(Study("1", Patient("P"), tuple(series)), policy)


def reason(result: SelectionResult, uid: str) -> Reason:
    found = next(verdict.reason for verdict in result.verdicts if verdict.series_instance_uid == uid)
    assert found is not None
    return found


def only(result: SelectionResult) -> Selection:
    assert result.rejection is None, result.rejection
    (selection,) = result.selections
    return selection


def test_a_pet_and_its_ct_are_a_pair() -> None:
    result = selected(pet(), ct())
    assert only(result).kind is StudyKind.PET_CT
    assert only(result).tracer.key == "68Ga-PSMA-11"
    assert [verdict.role for verdict in result.verdicts] == ["PET", "CT"]
    assert result.pairs == result.selections


def test_a_spect_and_its_ct_are_a_pair() -> None:
    selection = only(selected(spect(), ct()))
    assert selection.kind is StudyKind.SPECT_CT
    assert selection.tracer.key == "177Lu-PSMA-617"
    assert "site's rule for 177Lu" in selection.decisions[0].line


def test_a_tracer_that_the_isotope_alone_tells_is_warned_of() -> None:
    """A therapy with 177Lu-DOTATATE, whose header names no drug, looks the same."""
    assumed = only(selected(spect(radiopharmaceutical=drug(LU177, None)), ct())).decisions[0].line
    assert assumed.startswith("warning: tracer 177Lu-PSMA-617 by the site's rule")
    assert "another 177Lu drug (such as DOTATATE) would be taken for it" in assumed
    assert not only(selected(pet(), ct())).decisions[0].line.startswith("warning:")


@pytest.mark.parametrize(
    ("nuclide", "example"), [(TC99M, "MDP"), (F18, "FDG"), (IN111, "pentetreotide"), (ZR89, "")]
)
def test_what_would_be_taken_for_an_assumed_tracer_is_of_its_radionuclide(
    nuclide: Radionuclide, example: str
) -> None:
    own = f"{nuclide.key}-PSMA"
    policy = SelectionPolicy(additional_tracers=(own,), isotope_tracers=(IsotopeRule(nuclide.key, own),))
    image = spect if nuclide.emission is Emission.GAMMA else pet
    found = only(selected(image(radiopharmaceutical=drug(nuclide, None)), ct(), policy=policy))
    line = found.decisions[0].line
    assert "DOTATATE" not in line
    such = f" (such as {example})" if example else ""
    assert f"another {nuclide.key} drug{such} would be taken for it" in line


def test_the_advice_for_99m_tc_is_complete() -> None:
    """All of it, put into the settings, takes the image: no second refusal teaches the rest."""
    image = spect(radiopharmaceutical=drug(TC99M, None, "99mTc-PSMA"))
    refused = reason(selected(image, ct()), "1.3")
    assert refused.code is RefusalCode.TRACER_UNKNOWN
    assert "select.isotope_tracers: [{isotope: 99mTc, tracer: 99mTc-PSMA-I&S}]" in refused.advice
    assert "select.additional_tracers: [99mTc-PSMA-I&S]" in refused.advice
    rule = IsotopeRule("99mTc", "99mTc-PSMA-I&S")
    policy = SelectionPolicy(additional_tracers=("99mTc-PSMA-I&S",), isotope_tracers=(rule,))
    assert only(selected(image, ct(), policy=policy)).tracer.key == "99mTc-PSMA-I&S"
    named = spect(radiopharmaceutical=drug(TC99M, None), description="PSMA I&S SPECT")
    assert "[99mTc-PSMA-I&S]" in reason(selected(named, ct()), "1.3").advice
    allowed = SelectionPolicy(additional_tracers=("99mTc-PSMA-I&S",))
    assert only(selected(named, ct(), policy=allowed)).tracer.key == "99mTc-PSMA-I&S"


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"description": "Lu PSMA I&T d1"}, "177Lu-PSMA-I&T", "by SeriesDescription 'Lu PSMA I&T d1'"),
        ({"protocol_name": "PSMA-617"}, "177Lu-PSMA-617", "by ProtocolName 'PSMA-617'"),
        ({"study_texts": (("StudyDescription", "FDG PET, 177Lu-PSMA SPECT"),)}, "177Lu-PSMA-617", "rule for"),
        ({"description": "SPECT AC"}, "177Lu-PSMA-617", "the header names no drug"),
    ],
)
def test_a_text_that_names_an_allowed_drug_is_quoted(
    changes: dict[str, object], key: str, words: str
) -> None:
    found = only(selected(spect(**changes), ct()))
    assert found.tracer.key == key
    assert words in found.decisions[0].line


@pytest.mark.parametrize("level", ["drug", "series", "study"])
def test_a_text_that_names_another_drug_is_refused_unless_the_site_allows_it(level: str) -> None:
    text = "177Lu-FAP-2286"
    image = {
        "drug": spect(radiopharmaceutical=drug(LU177, None, text)),
        "series": spect(description=text),
        "study": spect(study_texts=(("StudyDescription", text),)),
    }[level]
    refused = reason(selected(image, ct()), "1.3")
    assert refused.code is RefusalCode.TRACER_NOT_ALLOWED
    assert repr(text) in refused.found
    assert "select.additional_tracers: [177Lu-FAP-2286]" in refused.advice
    policy = SelectionPolicy(additional_tracers=(text,))
    assert only(selected(image, ct(), policy=policy)).tracer.key == text


def test_the_nearest_text_counts_and_a_farther_one_is_doubt() -> None:
    image = spect(description="PSMA-617", study_texts=(("StudyDescription", "Lutathera"),))
    found = only(selected(image, ct()))
    assert found.tracer.key == "177Lu-PSMA-617"
    assert "reads as 177Lu-DOTATATE" in found.decisions[1].line
    contrary = spect(description="Lutathera", study_texts=(("StudyDescription", "PSMA-617"),))
    assert reason(selected(contrary, ct()), "1.3").code is RefusalCode.TRACER_NOT_ALLOWED


def test_a_sites_own_name_for_a_drug_goes_before_the_programs() -> None:
    policy = SelectionPolicy(
        additional_tracers=("68Ga-FAPI-46",), text_patterns=(TextPattern("fapi", "68Ga-FAPI-46"),)
    )
    image = pet(radiopharmaceutical=drug(GA68, None, "FAPI"))
    assert only(selected(image, ct(), policy=policy)).tracer.key == "68Ga-FAPI-46"


def entered(series: Series, **entry: str) -> SelectionResult:
    """With the site's entry for the study."""
    study = Study("1", Patient("P"), (series, ct()))
    return select(with_site_entries(study, [SiteAdministration("1", **entry)]), DEFAULT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "injected", [None, Radiopharmaceutical(), drug(GA68, None), drug(GA68, Code("L1", "99SITE"))]
)
def test_a_sites_entry_names_the_tracer_of_a_study(injected: Radiopharmaceutical | None) -> None:
    found = only(entered(pet(radiopharmaceutical=injected), tracer="68Ga-PSMA-11"))
    assert found.kind is StudyKind.PET_CT
    assert found.tracer.key == "68Ga-PSMA-11"
    assert "by the site's entry for this study" in found.decisions[0].line


def test_a_sites_entry_names_the_radionuclide_of_a_study() -> None:
    coded = Radiopharmaceutical(drug_code=PSMA_11)
    assert reason(selected(pet(radiopharmaceutical=coded), ct()), "1.1").code is RefusalCode.TRACER_UNKNOWN
    assert only(entered(pet(radiopharmaceutical=coded), radionuclide="68Ga")).tracer.key == "68Ga-PSMA-11"


def test_a_sites_entry_that_contradicts_the_header_is_refused_with_both_named() -> None:
    refused = reason(entered(pet(radiopharmaceutical=drug(F18, None)), tracer="68Ga-PSMA-11"), "1.1")
    assert refused.code is RefusalCode.ATTRIBUTE_INCONSISTENT
    assert "18F" in refused.found
    assert "68Ga" in refused.expected


def test_an_entry_is_for_its_study_alone() -> None:
    study = Study("1", Patient("P"), (pet(radiopharmaceutical=None), ct()))
    other = [SiteAdministration("2", tracer="68Ga-PSMA-11")]
    assert with_site_entries(study, other) is study


@pytest.mark.parametrize(
    "wrong",
    [{"radionuclide": "68-Ga"}, {"tracer": "PSMA-11"}, {"tracer": "68Ga-PSMA-11", "radionuclide": "18F"}],
)
def test_an_entry_that_cannot_be_meant_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"load\.administrations"):
        SiteAdministration("1", **wrong)  # type: ignore[arg-type]


def test_spect_stored_as_pet_is_known_by_its_isotope() -> None:
    code_only = selected(pet(radiopharmaceutical=drug(LU177, None)), ct())
    assert only(code_only).kind is StudyKind.SPECT_CT
    by_half_life = Radiopharmaceutical(half_life_s=574300.0)
    assert only(selected(pet(radiopharmaceutical=by_half_life), ct())).kind is StudyKind.SPECT_CT


@pytest.mark.parametrize(
    ("injected", "policy", "tracer"),
    [
        (drug(F18, Code("126758", "DCM")), DEFAULT, "18F-PSMA-1007"),
        (drug(F18, Code("C116352", "NCIt")), DEFAULT, "18F-DCFPyL"),
        (drug(LU177, Code("1263794005", "SCT")), DEFAULT, "177Lu-PSMA-617"),
        (
            drug(GA68, None),
            SelectionPolicy(isotope_tracers=(IsotopeRule("68Ga", "68Ga-PSMA-11"),)),
            "68Ga-PSMA-11",
        ),
        (
            drug(F18, Code("L1", "99SITE"), "our PSMA"),
            SelectionPolicy(text_patterns=(TextPattern("psma", "18F-PSMA-1007"),)),
            "18F-PSMA-1007",
        ),
        (drug(F18, Code("Y-X1743", "99SDM")), SelectionPolicy(additional_tracers=("18F-FDG",)), "18F-FDG"),
        (drug(F18, None, "FDG"), SelectionPolicy(additional_tracers=("18F-FDG",)), "18F-FDG"),
    ],
)
def test_a_tracer_is_found_by_code_then_isotope_rule_then_text(
    injected: Radiopharmaceutical, policy: SelectionPolicy, tracer: str
) -> None:
    assert only(selected(pet(radiopharmaceutical=injected), ct(), policy=policy)).tracer.key == tracer


@pytest.mark.parametrize(
    ("injected", "policy", "code"),
    [
        (drug(GA68, None), DEFAULT, RefusalCode.TRACER_UNKNOWN),
        (drug(F18, None), DEFAULT, RefusalCode.TRACER_UNKNOWN),
        (drug(F18, Code("35321007", "SCT")), DEFAULT, RefusalCode.TRACER_NOT_ALLOWED),
        (drug(LU177, Code("781259000", "SCT")), DEFAULT, RefusalCode.TRACER_NOT_ALLOWED),
        (drug(LU177, None, "Lutathera"), DEFAULT, RefusalCode.TRACER_NOT_ALLOWED),
        (drug(LU177, Code("L7", "99SITE")), DEFAULT, RefusalCode.TRACER_UNKNOWN),
        (drug(TC99M, None), DEFAULT, RefusalCode.TRACER_UNKNOWN),
        (drug(F18, PSMA_11), DEFAULT, RefusalCode.TRACER_UNKNOWN),
        (drug(LU177, None), SelectionPolicy(isotope_tracers=()), RefusalCode.TRACER_UNKNOWN),
        (
            drug(F18, None, "FDG"),
            SelectionPolicy(isotope_tracers=(IsotopeRule("18F", "18F-PSMA-1007"),)),
            RefusalCode.TRACER_NOT_ALLOWED,
        ),
        (None, DEFAULT, RefusalCode.TRACER_UNKNOWN),
    ],
)
def test_a_tracer_is_never_guessed(
    injected: Radiopharmaceutical | None, policy: SelectionPolicy, code: RefusalCode
) -> None:
    result = selected(pet(radiopharmaceutical=injected), ct(), policy=policy)
    assert reason(result, "1.1").code is code
    assert result.rejection is not None
    assert [item.code for item in result.rejection.reasons] == [code]


def test_a_site_can_name_a_tracer_of_its_own() -> None:
    policy = SelectionPolicy(
        additional_tracers=("64Cu-PSMA-617",), isotope_tracers=(IsotopeRule("64Cu", "64Cu-PSMA-617"),)
    )
    copper = Radiopharmaceutical(half_life_s=45721.0)
    assert only(selected(pet(radiopharmaceutical=copper), ct(), policy=policy)).tracer.radionuclide == "64Cu"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SelectionPolicy(tracers=("FDG",)),
        lambda: IsotopeRule("68Ga", "18F-PSMA-1007"),
        lambda: TextPattern("(", "18F-FDG"),
        lambda: SelectionPolicy(minimum_ct_coverage=1.5),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"select|names no tracer|minimum_ct_coverage"):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (pet("1.5", corrected_image=("DECY",)), RefusalCode.NOT_ATTENUATION_CORRECTED),
        (pet("1.5", image_type=("DERIVED", "SECONDARY", "MIP")), RefusalCode.NOT_PRIMARY),
        (pet("1.5", series_type=("WHOLE BODY", "REPROJECTION")), RefusalCode.NOT_PRIMARY),
        (pet("1.5", image_type=("DERIVED", "SECONDARY")), RefusalCode.BETTER_SERIES_CHOSEN),
        (pet("1.5", instances=slices("1.5", 20)), RefusalCode.BETTER_SERIES_CHOSEN),
        (pet("1.5", modality="MR"), RefusalCode.OTHER_MODALITY),
        (ct("1.5", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), RefusalCode.NOT_PRIMARY),
        (ct("1.5", image_type=("DERIVED", "SECONDARY", "REFORMATTED")), RefusalCode.NOT_PRIMARY),
        (ct("1.5", frame_of_reference_uid="1.8"), RefusalCode.CT_OTHER_FRAME_OF_REFERENCE),
        (ct("1.5", instances=slices("1.5", 10)), RefusalCode.BETTER_SERIES_CHOSEN),
        (ct("1.5", instances=slices("1.5", 66, 3.0)[:30]), RefusalCode.BETTER_SERIES_CHOSEN),
        (ct("1.5", instances=slices("1.5", 2)), RefusalCode.TOO_FEW_SLICES),
        (ct("1.5", sop_class_uid=SC, modality="CT"), RefusalCode.NOT_PRIMARY),
        (ct("1.5", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.67", modality="SR"), RefusalCode.NOT_AN_IMAGE),
        (ct("1.5", sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4", modality="SEG"), RefusalCode.NOT_AN_IMAGE),
        (ct("1.5", sop_class_uid="1.2.840.10008.5.1.4.1.1.4", modality="MR"), RefusalCode.OTHER_MODALITY),
    ],
)
def test_series_outside_the_pair_are_left_out_for_what_they_are(odd: Series, code: RefusalCode) -> None:
    result = selected(pet(), ct(), odd)
    assert (only(result).functional.series_instance_uid, only(result).ct.series_instance_uid) == (
        "1.1",
        "1.2",
    )
    assert reason(result, "1.5").code is code


def test_projections_and_transmission_of_a_spect_are_left_out() -> None:
    projections = spect("1.4", image_type=("ORIGINAL", "PRIMARY", "TOMO", "EMISSION"))
    mu_map = spect("1.5", image_type=("ORIGINAL", "PRIMARY", "RECON TOMO", "TRANSMISSION"))
    uncorrected = spect("1.6", corrected_image=("SCAT",))
    result = selected(spect(), ct(), projections, mu_map, uncorrected)
    assert only(result).functional.series_instance_uid == "1.3"
    assert reason(result, "1.4").code is RefusalCode.NOT_RECONSTRUCTED
    assert reason(result, "1.5").code is RefusalCode.NOT_PRIMARY
    assert reason(result, "1.6").code is RefusalCode.NOT_ATTENUATION_CORRECTED


def test_a_spect_that_states_its_attenuation_correction_goes_before_one_that_does_not() -> None:
    assert only(selected(spect("1.0", corrected_image=()), spect("1.3"), ct())).functional.corrected_image


def test_descriptions_play_no_part() -> None:
    misnamed = selected(pet(description="NAC MIP SCOUT"), ct(description="Dose Report"))
    assert only(misnamed).functional.series_instance_uid == "1.1"


def test_the_thinnest_ct_that_is_not_too_thin_is_taken() -> None:
    thin = ct("1.4", instances=slices("1.4", 100, 2.0))
    too_thin = ct("1.3", instances=slices("1.3", 400, 0.5))
    assert only(selected(pet(), ct(), thin, too_thin)).ct.series_instance_uid == "1.4"


def test_a_derived_image_serves_only_where_no_original_does() -> None:
    derived = pet(image_type=("DERIVED", "SECONDARY"))
    assert "DERIVED" in only(selected(derived, ct())).decisions[1].line
    refused = selected(derived, ct(), policy=SelectionPolicy(derived_images=False))
    assert reason(refused, "1.1").code is RefusalCode.NOT_PRIMARY


def test_without_a_ct_the_reason_names_it() -> None:
    result = selected(pet())
    assert result.rejection is not None
    assert result.pairs == (result.rejection,)
    assert [item.code for item in result.rejection.reasons] == [RefusalCode.NO_CT]


def test_fdg_without_ct_is_rejected_for_both() -> None:
    result = selected(pet(radiopharmaceutical=drug(F18, Code("Y-X1743", "99SDM"))))
    assert result.rejection is not None
    assert [item.code for item in result.rejection.reasons] == [
        RefusalCode.TRACER_NOT_ALLOWED,
        RefusalCode.NO_CT,
    ]


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (ct(frame_of_reference_uid="1.8"), RefusalCode.CT_OTHER_FRAME_OF_REFERENCE),
        (ct(frame_of_reference_uid=""), RefusalCode.CT_OTHER_FRAME_OF_REFERENCE),
        (ct(instances=slices("1.2", 20)), RefusalCode.CT_DOES_NOT_COVER),
        (ct(instances=slices("1.2", start_mm=500.0)), RefusalCode.CT_DOES_NOT_COVER),
    ],
)
def test_a_ct_that_does_not_belong_is_refused(other: Series, code: RefusalCode) -> None:
    result = selected(pet(), other)
    assert reason(result, "1.1").code is code
    assert result.rejection is not None


def test_a_ct_that_misses_a_few_slices_is_taken_with_a_warning() -> None:
    selection = only(selected(pet(), ct(instances=slices("1.2", 38))))
    assert any("covers 98%" in item.line for item in selection.decisions)


def test_parts_of_a_ct_that_cover_the_pet_together_are_named() -> None:
    """40 slices of 5 mm; 22 lie in the lower part, 20 in the upper, and its edge is half a slice wide."""
    lower = ct("1.2", instances=slices("1.2", 22))
    upper = ct("1.3", instances=slices("1.3", 19, start_mm=105.0))
    found = reason(selected(pet(), lower, upper), "1.1")
    assert found.code is RefusalCode.CT_DOES_NOT_COVER
    assert found.found.startswith("2 CT series that cover 57% and 50% of the slices, together 100%")
    assert "one series" in found.advice


def test_a_ct_of_the_same_space_in_another_study_is_named() -> None:
    for series, code in ((pet(), RefusalCode.NO_CT), (pet(), RefusalCode.CT_OTHER_FRAME_OF_REFERENCE)):
        cts = () if code is RefusalCode.NO_CT else (ct(frame_of_reference_uid="1.8"),)
        elsewhere = (("1.9", "CT series 2.2 of study 2"), ("1.7", "CT series 3.2 of study 3"))
        study = Study("1", Patient("P"), (series, *cts), cts_elsewhere=elsewhere)
        rejection = select(study, DEFAULT).rejection
        assert rejection is not None
        assert [item.code for item in rejection.reasons] == [code]
        assert "in the same frame of reference lies CT series 2.2 of study 2" in rejection.reasons[0].found
        assert "one Study Instance UID" in rejection.reasons[0].advice


def test_a_gap_in_the_pet_is_the_reason_for_the_rejection() -> None:
    gapped = slices("1.1")[:10] + slices("1.1")[11:]
    result = selected(pet(instances=gapped), ct())
    assert result.rejection is not None
    assert [item.code for item in result.rejection.reasons] == [RefusalCode.SLICE_GAP]


def test_a_gap_in_the_ct_is_named_along_with_the_missing_ct() -> None:
    gapped = slices("1.2")[:10] + slices("1.2")[11:]
    result = selected(pet(), ct(instances=gapped))
    assert result.rejection is not None
    assert [item.code for item in result.rejection.reasons] == [RefusalCode.SLICE_GAP, RefusalCode.NO_CT]
    for missing in (result.rejection.reasons[1], reason(result, "1.1")):
        assert missing.code is RefusalCode.NO_CT
        assert missing.found.startswith("the CT series was refused: [slice-gap]")
        assert "Send the CT" not in missing.advice
    lines = rejection_lines(result.rejection.reasons, result.verdicts)
    assert lines[0].startswith("CT series 1.2: [slice-gap]")
    assert lines[1].startswith("[no-ct]")


def test_what_is_wrong_with_several_series_stands_once() -> None:
    fdg = drug(F18, Code("Y-X1743", "99SDM"))
    result = selected(pet(radiopharmaceutical=fdg), pet("1.4", radiopharmaceutical=fdg), ct())
    assert result.rejection is not None
    assert [item.code for item in result.rejection.reasons] == [RefusalCode.TRACER_NOT_ALLOWED]
    (line,) = rejection_lines(result.rejection.reasons, result.verdicts)
    assert line.startswith("2 PT series: [tracer-not-allowed]")


def test_a_series_with_a_fault_found_in_reading_is_not_used() -> None:
    fault = Reason(RefusalCode.CONFLICTING_DUPLICATE, "SOPInstanceUID", "two", "one")
    assert reason(selected(pet(faults=(fault,)), ct()), "1.1").code is RefusalCode.CONFLICTING_DUPLICATE


def test_two_sessions_in_one_study_are_two_pairs() -> None:
    second = spect("1.4", frame_of_reference_uid="1.8", series_datetime=datetime(2026, 3, 4))
    first = spect("1.3", series_datetime=datetime(2026, 3, 2))
    result = selected(second, first, ct(), ct("1.6", frame_of_reference_uid="1.8"))
    assert [item.functional.series_instance_uid for item in result.selections] == ["1.3", "1.4"]


def test_a_spect_without_frame_of_reference_is_paired_only_by_the_sites_rule() -> None:
    blind = spect(frame_of_reference_uid="")
    assert selected(blind, ct()).rejection is not None
    allowed = only(selected(blind, ct(), policy=SelectionPolicy(pair_without_frame_of_reference=True)))
    assert any("no FrameOfReferenceUID" in item.line for item in allowed.decisions)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_series_and_slices_makes_no_difference(seed: int) -> None:
    shuffle = random.Random(seed)  # noqa: S311  a shuffle, no secret
    series = [pet(), pet("1.5"), ct(), ct("1.6"), spect("1.7")]
    mixed = [
        replace(item, instances=tuple(shuffle.sample(item.instances, len(item.instances)))) for item in series
    ]
    shuffle.shuffle(mixed)
    expected, found = selected(*series), selected(*mixed)
    assert found.verdicts == expected.verdicts
    assert [(s.functional.series_instance_uid, s.ct.series_instance_uid) for s in found.selections] == [
        (s.functional.series_instance_uid, s.ct.series_instance_uid) for s in expected.selections
    ]


def test_every_series_has_a_role_or_a_reason() -> None:
    odd = [ct("1.8", sop_class_uid="1.2.3.4"), pet("1.9", instances=())]
    for verdict in selected(pet(), ct(), spect(), *odd).verdicts:
        assert bool(verdict.role) is (verdict.reason is None)


def test_nm_images_of_another_modality_are_taken_by_the_sites_rule_alone() -> None:
    """GE's Xeleris writes OT into its reconstructions."""
    by_name = reason(selected(spect(modality="OT"), ct()), "1.3")
    assert (by_name.code, by_name.attribute) == (RefusalCode.OTHER_MODALITY, "Modality")
    assert "select.nm_modalities" in by_name.advice
    taken = only(selected(spect(modality="OT"), ct(), policy=SelectionPolicy(nm_modalities=("OT",))))
    assert taken.functional.series_instance_uid == "1.3"
    foreign = selected(pet(modality="OT"), ct(), policy=SelectionPolicy(nm_modalities=("OT",)))
    assert reason(foreign, "1.1").code is RefusalCode.OTHER_MODALITY
