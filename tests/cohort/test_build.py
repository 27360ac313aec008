"""A clinic's patients become a cohort: who is in, who is not, and why; nobody's name anywhere."""

from __future__ import annotations

import csv
import json
import logging
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray
from typer.testing import CliRunner

from app.cli.main import app
from app.cohort import patient as building
from app.cohort.build import CohortRequest, build_cohort
from app.cohort.manifest import CohortManifest, CohortPatient, Exclusion, TruthForm, image_file, read_manifest
from app.cohort.simulation import Simulation, simulate_cohort
from app.cohort.source import CohortPolicy
from app.domain.study import StudyKind
from app.domain.volume import Grid, Unit
from app.errors import MisconfiguredError
from app.files.durable import hold_folder
from app.imaging.nifti import read_labels, read_volume, write_array
from app.imaging.registration.policy import AlignPolicy
from app.phantom.centres import Centre
from app.phantom.dicom.header import ISSUER
from tests.cohort.tiny_cohort import GRID, SHAPE, Person, lesion_mask, write_person, write_seg

PET, SPECT = StudyKind.PET_CT, StudyKind.SPECT_CT
Build = Callable[..., CohortManifest]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build ``dicom-A`` and ``truth-A`` (or another centre's) into ``cohort``."""

    def run(centre: str = "A", **options: object) -> CohortManifest:
        align = options.pop("align", AlignPolicy())
        policy = CohortPolicy(roi=str(options.pop("roi", "")), align=align)  # type: ignore[arg-type]
        source, truth = tmp_path / f"dicom-{centre}", tmp_path / f"truth-{centre}"
        truth.mkdir(exist_ok=True)
        request = CohortRequest(source, truth, centre, tmp_path / "cohort", policy, **options)  # type: ignore[arg-type]
        return build_cohort(request)

    return run


def add(
    root: Path,
    person: Person,
    kinds: Sequence[str] = ("pet", "spect"),
    labels: NDArray[np.integer] | None = None,
    centre: str = "A",
) -> None:
    """A patient with a SEG for each scan."""
    write_person(root / f"dicom-{centre}", person, kinds)
    drawn = lesion_mask().astype(np.uint8) if labels is None else labels
    for kind in kinds:
        write_seg(seg_of(root, person, kind, centre), drawn, GRID, person, kind)


def seg_of(root: Path, person: Person, kind: str = "pet", centre: str = "A") -> Path:
    """Where :func:`add` writes a truth."""
    return root / f"truth-{centre}" / f"{person.number}-{kind}.dcm"


def write_rows(root: Path, *rows: tuple[str, str, str]) -> None:
    """``truth.csv`` of centre A."""
    folder = root / "truth-A"
    folder.mkdir(exist_ok=True)
    lines = [",".join(row) for row in (("patient_id", "kind", "file"), *rows)]
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")


def reasons(manifest: CohortManifest) -> str:
    """Every exclusion in one text."""
    return "\n".join(f"{each.what}: {each.reason}" for each in manifest.exclusions)


def only(manifest: CohortManifest) -> CohortPatient:
    """The cohort's one patient."""
    (patient,) = manifest.patients
    return patient


def test_images_are_what_the_node_would_hand_its_network(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1))
    patient = only(build())
    assert (patient.id, patient.centre, [scan.kind for scan in patient.scans]) == ("A0000", "A", [PET, SPECT])
    cohort = tmp_path / "cohort"
    suv = read_volume(image_file(cohort, "A0000", PET, "suv"), Unit.SUVBW)
    decay = 2 ** (-3600 / 4062.6)
    expected = 3000 * 2 * 70000 / (150e6 * decay)  # stored, slope, weight, activity at the scan's start
    assert float(suv.array[2, 3, 4]) == pytest.approx(expected, rel=1e-3)
    ct = read_volume(image_file(cohort, "A0000", PET, "ct"), Unit.HU)
    assert set(np.unique(ct.array)) == {-1024.0, 0.0}
    truth = read_labels(image_file(cohort, "A0000", SPECT, "truth"))
    np.testing.assert_array_equal(truth.mask, lesion_mask())
    assert truth.grid.matches(GRID)
    scan = patient.scans[0]
    assert (scan.lesions, scan.truth_form, scan.tracer) == (1, TruthForm.SEG, "68Ga-PSMA-11")
    assert scan.tumour_ml == pytest.approx(24 * 0.08)
    assert read_manifest(cohort).patients == (patient,)


def test_ids_follow_acquisition_and_stay_when_patients_come(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1, pet_day="20260305"), ["pet"])
    add(tmp_path, Person(2, pet_day="20260301"), ["pet"])
    studies = {p.id: p.scans[0].study_instance_uid for p in build().patients}
    assert studies == {"A0000": Person(2).study("pet"), "A0001": Person(1).study("pet")}
    add(tmp_path, Person(3, pet_day="20260201"), ["pet"])
    again = {p.id: p.scans[0].study_instance_uid for p in build().patients}
    assert again == {**studies, "A0002": Person(3).study("pet")}


def assigned(root: Path) -> dict[str, str]:
    """Study Instance UID to pseudonym, of centre A."""
    known: dict[str, str] = json.loads((root / "cohort" / "assignment.json").read_text())["A"]
    return known


def test_an_id_stays_when_the_patient_comes_again(tmp_path: Path, build: Build) -> None:
    one = Person(2).identifier
    add(tmp_path, Person(2), ["pet"])
    build()
    add(tmp_path, Person(1, one, pet_day="20260201"), ["pet"])  # its UID and its date come first
    build()
    assert assigned(tmp_path) == {Person(1).study("pet"): "A0000", Person(2).study("pet"): "A0000"}


def test_two_persons_who_stood_under_one_patient_id_get_an_id_each(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    add(tmp_path, Person(2, Person(1).identifier), ["spect"])
    assert [len(patient.scans) for patient in build().patients] == [2]
    write_person(tmp_path / "dicom-A", Person(2), ["spect"])  # the same study, its Patient ID corrected
    studies = {Person(1).study("pet"): "A0000", Person(2).study("spect"): "A0001"}
    for _ in range(2):  # and it stays so
        patients = build().patients
        assert {p.scans[0].study_instance_uid: p.id for p in patients} == studies
        assert [len(patient.scans) for patient in patients] == [1, 1]
        assert assigned(tmp_path) == studies


def test_an_interrupted_build_gives_the_same_ids(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, day in ((1, "20260305"), (2, "20260301"), (3, "20260303")):
        add(tmp_path, Person(number, pet_day=day), ["pet"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("app.cohort.build.build_all", killed)
        with pytest.raises(KeyboardInterrupt):
            build()
    add(tmp_path, Person(4, pet_day="20260302"), ["pet"])
    uids = [patient.scans[0].study_instance_uid for patient in build().patients]
    assert uids == [Person(number).study("pet") for number in (2, 3, 1, 4)]


def test_what_is_complete_and_unchanged_is_not_made_again(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        add(tmp_path, Person(number), ["pet"])
    first = build()
    made: list[str] = []
    really = building.build_safely
    monkeypatch.setattr(building, "build_safely", lambda task: made.append(task.name) or really(task))  # type: ignore[func-returns-value]
    assert build() == first
    assert made == []
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 2, 3] = 1
    write_seg(seg_of(tmp_path, Person(2)), labels, GRID, Person(2))
    assert [patient.scans[0].tumour_ml for patient in build().patients] == [1.92, 0.08]
    image_file(tmp_path / "cohort", "A0000", PET, "ct").unlink()
    # the manifest names an image that is gone, so it says that it is broken; building mends it
    with pytest.raises(MisconfiguredError, match="build the cohort again"):
        read_manifest(tmp_path / "cohort")
    assert build().patients[0].id == "A0000"
    assert made == ["A0001", "A0000"]


def test_other_settings_make_every_patient_again(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, Person(1), ["pet"])
    build()
    made: list[str] = []
    really = building.build_safely
    monkeypatch.setattr(building, "build_safely", lambda task: made.append(task.name) or really(task))  # type: ignore[func-returns-value]
    build(roi="lesion")
    assert made == ["A0000"]


def test_processes_give_the_same_cohort_as_one(tmp_path: Path, build: Build) -> None:
    for number in (1, 2):
        add(tmp_path, Person(number), ["pet"])
    several = build(jobs=2)
    (tmp_path / "cohort").rename(tmp_path / "other")
    assert build(jobs=1) == several


def test_no_name_and_no_patient_id_is_anywhere(
    tmp_path: Path, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    add(tmp_path, Person(1))
    truth = tmp_path / "truth-A"
    write_array(truth / "zorn alfred MRN-4713.nii.gz", lesion_mask().astype(np.uint8), GRID)
    (truth / "alfred.txt").write_text("MRN-4713")
    (tmp_path / "dicom-A" / "Zorn_Alfred_1" / "Zorn.txt").write_text("Zorn")
    write_person(tmp_path / "dicom-A", Person(2), ["pet"])
    write_rows(tmp_path, ("MRN-4713", "PET/CT", "zorn alfred MRN-4713.nii.gz"), ("MRN-1", "PET/CT", ""))
    manifest = build()
    assert len(manifest.patients) == 2
    files = [path for path in (tmp_path / "cohort").rglob("*") if path.suffix in (".yaml", ".json")]
    text = "\n".join(path.read_text() for path in files) + caplog.text + reasons(manifest)
    for secret in ("zorn", "alfred", "mrn-"):
        assert secret not in text.casefold().replace(str(tmp_path).casefold(), "")
    assert manifest.patients[1].scans[0].truth_file == "(withheld)"
    assert manifest.patients[0].scans[0].source == str((tmp_path / "dicom-A").resolve())


def test_the_key_lies_outside_and_is_its_owners_alone(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    key = tmp_path / "key.csv"
    build(key=key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with key.open() as file:
        assert list(csv.DictReader(file)) == [{"id": "A0000", "patient_id": "MRN-4712", "issuer": ""}]
    with pytest.raises(MisconfiguredError, match="must not lie in the cohort"):
        build(key=tmp_path / "cohort" / "key.csv")


def test_a_scan_without_a_truth_is_left_out_and_the_other_stays(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1))
    seg_of(tmp_path, Person(1), "spect").unlink()
    manifest = build()
    assert [scan.kind for scan in only(manifest).scans] == [PET]
    assert "no truth" in reasons(manifest)
    assert only(manifest).choices == ("no SPECT/CT with a truth: for M1 and M3 alone",)


def test_no_lesion_counts_only_when_the_table_states_it(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1))
    write_rows(tmp_path, (Person(1).identifier, "PET/CT", ""))
    manifest = build()
    scan = only(manifest).scans[0]
    assert (scan.kind, scan.lesions, scan.truth_form, scan.truth_file) == (PET, 0, TruthForm.STATED, "")
    assert len(manifest.exclusions) == 1
    write_rows(tmp_path, ("A0000", "SPECT/CT", ""))  # the pseudonym does as well
    assert [scan.kind for scan in only(build()).scans] == [SPECT]


def test_an_empty_file_is_taken_with_a_warning(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"], labels=np.zeros(SHAPE, np.uint8))
    scan = only(build()).scans[0]
    assert scan.lesions == 0
    assert "the truth is empty: nothing is outlined in its file" in scan.warnings


def test_a_truth_of_another_frame_of_reference_is_refused(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    seg = seg_of(tmp_path, Person(1))
    write_seg(seg, lesion_mask(), GRID, Person(1), frame="1.2.777")
    manifest = build()
    assert not manifest.patients
    assert "another frame of reference" in reasons(manifest)
    write_rows(tmp_path, (Person(1).identifier, "PET/CT", seg.name))
    assert "another frame of reference" in reasons(build())


def test_a_truth_of_another_scan_is_refused_even_when_the_table_names_it(
    tmp_path: Path, build: Build
) -> None:
    add(tmp_path, Person(1), ["pet"])
    write_person(tmp_path / "dicom-A", Person(2), ["pet"])
    write_rows(tmp_path, (Person(2).identifier, "PET/CT", seg_of(tmp_path, Person(1)).name))
    manifest = build()
    assert [p.scans[0].study_instance_uid for p in manifest.patients] == [Person(1).study("pet")]
    assert "drawn on another scan" in reasons(manifest)


def test_a_truth_of_an_unknown_series_is_matched_by_place_and_warned_of(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    write_seg(seg_of(tmp_path, Person(1)), lesion_mask(), GRID, Person(1), series="1.2.777")
    told = "\n".join(only(build()).scans[0].warnings)
    assert "matched by study and frame of reference" in told


def test_a_truth_drawn_on_the_ct_belongs_to_its_pair(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    ct_series = f"{Person(1).study('pet')}.2"
    write_seg(seg_of(tmp_path, Person(1)), lesion_mask(), GRID, Person(1), series=ct_series)
    assert "matched by" not in "\n".join(only(build()).scans[0].warnings)


def test_a_truth_outside_its_image_is_refused(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    away = Grid.axis_aligned(SHAPE, GRID.spacing_mm, (500.0, 0.0, 0.0))
    write_seg(seg_of(tmp_path, Person(1)), lesion_mask(), away, Person(1))
    assert "100% of the truth lies outside" in reasons(build())


def test_a_truth_off_the_uptake_is_refused_and_a_wrong_orientation_suspected(
    tmp_path: Path, build: Build
) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    flipped = np.flip(lesion_mask(), 0)
    write_seg(seg_of(tmp_path, Person(1)), flipped, GRID, Person(1))
    found = build()
    text = reasons(found) + "".join(w for p in found.patients for s in p.scans for w in s.warnings)
    assert "mirrored head to feet" in text
    assert "is its orientation wrong?" in text
    assert not found.patients
    assert "does not lie on uptake" in reasons(found)


def test_two_truths_of_one_scan_are_refused_until_one_is_named(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    second = write_seg(tmp_path / "truth-A" / "second.dcm", lesion_mask(), GRID, Person(1))
    assert "found 2 truths for one scan" in reasons(build())
    write_rows(tmp_path, (Person(1).identifier, "PET/CT", second.name))
    assert only(build()).scans[0].truth_file == "second.dcm"


def test_a_nifti_is_matched_by_the_series_in_its_name_and_placed_by_its_affine(
    tmp_path: Path, build: Build
) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    (tmp_path / "truth-A").mkdir()
    image = sitk.GetImageFromArray(np.ascontiguousarray(lesion_mask()[::-1, :, ::-1]).astype(np.uint8))
    x, y, z = GRID.to_lps(np.array([[SHAPE[2] - 1, 0, SHAPE[0] - 1]], float))[0]
    image.SetSpacing(GRID.spacing_mm)
    image.SetOrigin((x, y, z))
    image.SetDirection([-1.0, 0, 0, 0, 1, 0, 0, 0, -1])
    sitk.WriteImage(image, str(tmp_path / "truth-A" / f"{Person(1).series('pet')}.nii.gz"))
    scan = only(build()).scans[0]
    assert (scan.truth_form, scan.lesions) == (TruthForm.NIFTI, 1)
    assert any("another grid" in warning for warning in scan.warnings)
    truth = read_labels(image_file(tmp_path / "cohort", "A0000", PET, "truth"))
    np.testing.assert_array_equal(truth.mask, lesion_mask())


def test_a_nifti_that_is_no_label_map_is_refused_without_its_name(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    (tmp_path / "truth-A").mkdir()
    write_array(tmp_path / "truth-A" / "zorn.nii.gz", np.full(SHAPE, 0.5, np.float32), GRID)
    write_rows(tmp_path, (Person(1).identifier, "PET/CT", "zorn.nii.gz"))
    found = reasons(build())
    assert "no labels" in found
    assert "zorn" not in found


def test_what_the_node_refuses_is_excluded_in_its_words(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    add(tmp_path, Person(2), ["pet"])
    for path in (tmp_path / "dicom-A" / "Zorn_Alfred_1").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientWeight = None
        dataset.save_as(path)
    for path in (tmp_path / "dicom-A" / "Zorn_Alfred_2" / "pet").glob(f"{Person(2).study('pet')}.2-*"):
        path.unlink()
    found = reasons(build())
    assert "[weight-missing]" in found
    assert "[no-ct]" in found


def test_of_several_scans_the_first_spect_after_a_pet_is_taken(tmp_path: Path, build: Build) -> None:
    one = "MRN-1"
    add(tmp_path, Person(1, one, pet_day="20260101", spect_day="20251201"))
    add(tmp_path, Person(2, one, pet_day="20260201", spect_day="20260301"))
    add(tmp_path, Person(3, one, pet_day="20260401", spect_day="20260501"))
    manifest = build()
    patient = only(manifest)
    assert [scan.study_instance_uid for scan in patient.scans] == [
        Person(2).study("pet"),
        Person(2).study("spect"),
    ]
    assert len(patient.choices) == 2
    assert reasons(manifest).count("of the patient was taken") == 4


def test_a_spect_before_the_pet_is_recorded(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1, pet_day="20260401", spect_day="20260301"))
    assert "not known to be after the PET/CT" in only(build()).choices[0]


def test_two_cts_without_bone_are_not_brought_together(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1))
    registration = only(build()).registration
    assert registration is not None
    assert not registration.fits
    assert "too little bone" in registration.reasons[0]


def test_the_sites_limits_of_the_registration_are_kept_with_the_patient(tmp_path: Path, build: Build) -> None:
    limits = AlignPolicy(min_bone_dice=0.7, min_lesions_on_spect=0.25)
    add(tmp_path, Person(1))
    build(align=limits)
    registration = only(read_manifest(tmp_path / "cohort")).registration
    assert registration is not None
    assert registration.limits == limits


def test_a_patient_from_before_the_limits_were_kept_is_not_made_again_for_them(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = AlignPolicy(min_bone_dice=0.7)
    add(tmp_path, Person(1))
    build(align=limits)
    record = tmp_path / "cohort" / "patients" / "A0000" / "patient.json"
    content = json.loads(record.read_text())
    del content["patient"]["registration"]["align"]
    record.write_text(json.dumps(content))
    monkeypatch.setattr(building, "build_safely", lambda task: pytest.fail(f"{task.name} was made again"))
    registration = only(build(align=limits)).registration
    assert registration is not None
    assert registration.limits == limits


def test_a_second_centre_joins_the_first(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    build()
    add(tmp_path, Person(2), ["pet"], centre="B")
    manifest = build("B")
    assert [(p.id, p.centre) for p in manifest.patients] == [("A0000", "A"), ("B0000", "B")]
    assert manifest.exclusions == ()


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (Person(1), "one Study Instance UID"),
        (Person(2, Person(1).identifier), "one Patient ID and birth date"),
        (Person(2, pixels=1, birth_date="19600101"), "under other UIDs"),
    ],
    ids=["uids", "person", "pixels"],
)
def test_a_person_of_another_centre_is_left_out(
    tmp_path: Path, build: Build, second: Person, reason: str
) -> None:
    add(tmp_path, Person(1), ["pet"])
    build()
    add(tmp_path, second, ["pet"], centre="B")
    manifest = build("B")
    assert [patient.id for patient in manifest.patients] == ["A0000"]
    assert reason in reasons(manifest)
    assert build("B") == manifest


def test_one_patient_id_without_birth_dates_is_a_doubt(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1, "7", birth_date=""), ["pet"])
    build()
    add(tmp_path, Person(2, "7", birth_date=""), ["pet"], centre="B")
    manifest = build("B")
    assert len(manifest.patients) == 2
    assert manifest.warnings == (
        "A0000 and B0000 have one Patient ID and no birth date: they may be one person",
    )


def test_a_study_without_a_patient_id_is_nobodys(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    add(tmp_path, Person(2, " "), ["pet"])
    manifest = build()
    assert len(manifest.patients) == 1
    assert "no Patient ID" in reasons(manifest)


def test_rows_and_files_that_belong_to_nobody_are_listed(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    write_seg(tmp_path / "truth-A" / "x.dcm", lesion_mask(), GRID, Person(9))
    write_array(tmp_path / "truth-A" / "y.nii.gz", lesion_mask().astype(np.uint8), GRID)
    write_rows(tmp_path, ("somebody", "PET/CT", ""), (Person(1).identifier, "SPECT/CT", ""))
    found = reasons(build())
    assert "it refers to no scan" in found
    assert "NIfTI 1 of 1 in order of path, (withheld): named after no scan's series" in found
    assert "truth.csv, line 2: no such patient" in found


def test_a_row_is_of_the_patient_id_before_it_is_of_a_pseudonym_spelled_the_same(
    tmp_path: Path, build: Build
) -> None:
    clinics_own = {"A0001": Person(1, "A0001", pet_day="20260301"), "A0000": Person(2, "A0000")}
    for person in clinics_own.values():
        write_person(tmp_path / "dicom-A", person, ["pet"])
    write_rows(tmp_path, ("A0001", "PET/CT", ""))
    manifest = build()
    assert [p.scans[0].study_instance_uid for p in manifest.patients] == [clinics_own["A0001"].study("pet")]
    assert only(manifest).id == "A0000"  # the pseudonym A0001 is the other one's, who has no truth


def test_a_row_whose_patient_id_two_persons_have_is_nobodys(tmp_path: Path, build: Build) -> None:
    for number, born in ((1, "19500203"), (2, "19480405")):
        person = Person(number, "7", born, issuer=f"hospital {number}")
        write_person(tmp_path / "dicom-A", person, ["pet"])
    write_rows(tmp_path, ("7", "PET/CT", ""))
    manifest = build()
    assert not manifest.patients
    assert "truth.csv, line 2: no such patient in the source, or several with this Patient ID" in reasons(
        manifest
    )
    write_rows(tmp_path, ("A0001", "PET/CT", ""))
    assert only(build()).id == "A0001"


@pytest.mark.parametrize(
    "text", ["a,b\n", "patient_id,kind,file\nx,MR,\n", "patient_id,kind,file\n,PET/CT,\n", "\xff"]
)
def test_a_malformed_table_is_refused_by_line(tmp_path: Path, build: Build, text: str) -> None:
    add(tmp_path, Person(1), ["pet"])
    (tmp_path / "truth-A" / "truth.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(MisconfiguredError, match=r"truth\.csv"):
        build()


def test_simulated_is_what_the_phantom_wrote_and_never_mixed(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1, issuer=ISSUER), ["pet"])
    assert build().simulated
    add(tmp_path, Person(2), ["pet"], centre="B")
    with pytest.raises(MisconfiguredError, match="can't share a cohort"):
        build("B")


def test_a_real_patient_is_never_called_simulated(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1, comment="Simulated. Not a person."), ["pet"])
    assert not build().simulated


def test_a_fault_of_ours_spares_the_other_patients_and_is_tried_again(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        add(tmp_path, Person(number), ["pet"])
    really = building.build_patient

    def faulty(task):  # type: ignore[no-untyped-def]
        if task.name == "A0000":
            raise ZeroDivisionError("Zorn")
        return really(task)

    with monkeypatch.context() as patch:
        patch.setattr(building, "build_patient", faulty)
        manifest = build()
    assert [patient.id for patient in manifest.patients] == ["A0001"]
    assert "ZeroDivisionError" in reasons(manifest)
    assert "Zorn" not in reasons(manifest)
    assert [patient.id for patient in build().patients] == ["A0000", "A0001"]


def test_a_reason_that_no_longer_holds_is_gone(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A", Person(1), ["pet"])
    assert len(build().exclusions) == 1
    write_rows(tmp_path, (Person(1).identifier, "PET/CT", ""))
    assert build().exclusions == ()


def test_a_truth_taken_away_takes_its_patient_out(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    build()
    seg_of(tmp_path, Person(1)).unlink()
    assert build().patients == ()


def test_the_assignment_holds_study_uids_and_pseudonyms_alone(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1))
    build()
    known = json.loads((tmp_path / "cohort" / "assignment.json").read_text())
    assert known == {"A": {Person(1).study("pet"): "A0000", Person(1).study("spect"): "A0000"}}


def excluded(manifest: CohortManifest, words: str) -> Exclusion:
    """The one exclusion whose reason has these words."""
    (found,) = (each for each in manifest.exclusions if words in each.reason)
    return found


def test_an_exclusion_says_which_patient_and_in_which_folder(tmp_path: Path, build: Build) -> None:
    source = tmp_path / "dicom-A"
    add(tmp_path, Person(1), ["pet"])
    write_person(source / "site", Person(2), ["pet"])
    write_person(source / "other", Person(3, pet_day="20260401"))
    third = Person(3).identifier
    write_rows(tmp_path, (third, "PET/CT", ""), (third, "SPECT/CT", "away.nii.gz"))
    write_person(source / "nobody", Person(4, " "), ["pet"])
    for path in (source / "site").rglob(f"{Person(2).study('pet')}.2-*"):
        path.unlink()
    manifest = build()
    told = {
        words: (each.patient, each.folder.removeprefix(str(source.resolve())), each.source)
        for words in ("[no-ct]", "a file that is not there", "no Patient ID")
        for each in [excluded(manifest, words)]
    }
    home = str(source.resolve())
    assert told == {
        "[no-ct]": ("A0001", "/site", home),
        "a file that is not there": ("A0002", "/other", home),
        "no Patient ID": ("", "/nobody", home),
    }


def test_a_scan_whose_truth_is_unusable_names_patient_and_folder(tmp_path: Path, build: Build) -> None:
    source = tmp_path / "dicom-A"
    write_person(source / "site", Person(1), ["pet"])
    away = Grid.axis_aligned(SHAPE, GRID.spacing_mm, (500.0, 0.0, 0.0))
    write_seg(seg_of(tmp_path, Person(1)), lesion_mask(), away, Person(1))
    for _ in range(2):  # the second time from the patient's record
        found = excluded(build(), "lies outside")
        assert (found.patient, found.folder) == ("A0000", str((source / "site").resolve()))


def test_a_file_that_is_nobodys_is_shown_as_far_as_it_can_name_nobody(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    labels = lesion_mask().astype(np.uint8)
    names = {
        "1.2.3.99.1.7.nii.gz": "1.2.3.99.1.7.nii.gz",  # a UID that leads to no scan
        "pet/mask_07.nii.gz": "pet/mask_07.nii.gz",
        "pet/MRN-4712_pet.nii.gz": "pet/(withheld)",  # the patient's own
        "seg/Huber.nii.gz": "seg/(withheld)",  # of nobody in the source
        "seg/12-03-50.nii.gz": "seg/(withheld)",
    }
    for name in names:
        path = tmp_path / "truth-A" / name
        path.parent.mkdir(exist_ok=True)
        write_array(path, labels, GRID)
    found = [each for each in build().exclusions if each.what.startswith("NIfTI")]
    told = {each.what.split(", ")[1]: each.patient for each in found}
    assert sorted(each.what.split(", ")[1] for each in found) == sorted(names.values())
    assert told["pet/(withheld)"] == "A0000"
    assert told["seg/(withheld)"] == ""
    numbers = [int(each.what.split()[1]) for each in found]
    assert numbers == [1, 2, 3, 4, 5]


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading any image fails the test."""

    def fail(*_: object) -> None:
        pytest.fail("the images were read before the folders were looked at")

    monkeypatch.setattr("app.cohort.build.find_patients", fail)
    monkeypatch.setattr("app.cohort.build.read_truth_folder", fail)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cohort/key.csv", "must not lie in the cohort"),
        ("away/key.csv", "folder is not there"),
        ("letter.txt", "is there and is no key"),
        ("dicom-A", "is there and is no key"),
    ],
)
def test_a_key_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    add(tmp_path, Person(1), ["pet"])
    (tmp_path / "letter.txt").write_text("Dear colleague,\n")
    unread(monkeypatch)
    with pytest.raises(MisconfiguredError, match=words):
        build(key=tmp_path / key)
    assert not (tmp_path / "cohort").exists()
    assert (tmp_path / "letter.txt").read_text() == "Dear colleague,\n"


def test_a_cohort_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, Person(1), ["pet"])
    (tmp_path / "cohort").write_text("a file")
    unread(monkeypatch)
    with pytest.raises(MisconfiguredError, match="can't be written to"):
        build()


def test_two_builds_of_one_cohort_at_once_are_refused(tmp_path: Path, build: Build) -> None:
    add(tmp_path, Person(1), ["pet"])
    with (
        hold_folder(tmp_path / "cohort", "build"),
        pytest.raises(MisconfiguredError, match=r"another `psma-node cohort build` is at work"),
    ):
        build()
    assert len(build().patients) == 1


def test_two_simulations_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    with hold_folder(tmp_path, "x"), pytest.raises(MisconfiguredError, match="cohort simulate` is at work"):
        simulate_cohort(Simulation(Centre.A, range(1), tmp_path))


def test_a_cohort_is_shown_with_whose_each_exclusion_is(tmp_path: Path, build: Build) -> None:
    write_person(tmp_path / "dicom-A" / "site", Person(1), ["pet"])
    build()
    shown = CliRunner().invoke(app, ["cohort", "show", str(tmp_path / "cohort")]).output
    text = " ".join(shown.split())
    assert f"A0000: PET/CT series {Person(1).series('pet')}: no truth" in text
    assert text.endswith("(site)")
