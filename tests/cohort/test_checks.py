"""Checks of a truth against its image, of images against each other, and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.cohort.checks import check_place, check_uptake, fingerprint, same_image
from app.cohort.identity import person_hash
from app.domain.volume import Grid, LabelMap, Unit, Volume
from tests.cohort.tiny_cohort import GRID, SHAPE, Person, lesion_mask, write_person, write_seg


def uptake() -> np.ndarray:
    """Body at 1, a lesion at 8, a cold organ at 0.2."""
    suv = np.ones(SHAPE, np.float32)
    suv[lesion_mask()] = 8.0
    suv[0] = 0.2
    return suv


def labels(mask: np.ndarray) -> LabelMap:
    return LabelMap(mask.astype(np.uint16), GRID)


def soft() -> np.ndarray:
    return np.zeros(SHAPE, np.float32)


def test_a_truth_on_uptake_passes() -> None:
    finding = check_uptake(uptake(), soft(), labels(lesion_mask()))
    assert (finding.refusal, finding.warning) == ("", "")


def test_a_truth_on_a_cold_place_is_refused() -> None:
    mask = np.zeros(SHAPE, np.bool_)
    mask[0, 2:5, 2:5] = True
    assert "does not lie on uptake" in check_uptake(uptake(), soft(), labels(mask)).refusal


def test_a_truth_on_mere_background_is_a_doubt() -> None:
    mask = np.zeros(SHAPE, np.bool_)
    mask[6, 8:, 8:] = True
    finding = check_uptake(uptake(), soft(), labels(mask))
    assert finding.refusal == ""
    assert "hardly lies on uptake" in finding.warning


@pytest.mark.parametrize(("axis", "name"), [(0, "head to feet"), (1, "front to back"), (2, "left to right")])
def test_a_mirrored_truth_is_recognised(axis: int, name: str) -> None:
    suv, lesion = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.bool_)
    lesion[1:3, 1:4, 1:4] = True
    suv[lesion] = 8.0
    finding = check_uptake(suv, soft(), labels(np.flip(lesion, axis)))
    assert f"mirrored {name}" in finding.refusal + finding.warning


def test_an_empty_truth_has_no_uptake_to_check() -> None:
    finding = check_uptake(uptake(), soft(), labels(np.zeros(SHAPE, np.bool_)))
    assert (finding.refusal, finding.warning) == ("", "")


@pytest.mark.parametrize(
    ("share", "refused", "warned"), [(0.0, False, False), (0.2, False, True), (0.6, True, False)]
)
def test_what_lies_outside_warns_and_too_much_is_refused(share: float, refused: bool, warned: bool) -> None:
    finding = check_place(share)
    assert (bool(finding.refusal), bool(finding.warning)) == (refused, warned)


def image(seed: int, factor: float = 1.0) -> Volume:
    array = np.random.default_rng(seed).gamma(0.5, 2.0, (40, 30, 30)).astype(np.float32)
    grid = Grid.axis_aligned((40, 30, 30), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    return Volume(np.rint(array * 1000) / 1000 * np.float32(factor), grid, Unit.SUVBW)


def test_an_image_is_known_again_in_another_unit_and_rounded() -> None:
    assert same_image(fingerprint(image(1)), fingerprint(image(1, 1.7)))
    rounded = image(1)
    rounded = Volume(np.rint(rounded.array * 500) / 500, rounded.grid, Unit.SUVBW)
    assert same_image(fingerprint(image(1)), fingerprint(rounded))


def test_two_scans_have_different_fingerprints() -> None:
    assert not same_image(fingerprint(image(1)), fingerprint(image(2)))


def test_a_persons_hash_depends_on_id_birth_date_and_salt_alone() -> None:
    known = person_hash("AB-1", "19500101", b"salt")
    assert person_hash(" ab-1 ", "19500101", b"salt") == known
    others = {
        person_hash("AB-2", "19500101", b"salt"),
        person_hash("AB-1", "19500102", b"salt"),
        person_hash("AB-1", "19500101", b"other"),
    }
    assert known not in others
    assert len(others) == 3


def test_a_clinic_builds_and_looks_at_its_cohort(tmp_path: Path) -> None:
    person = Person(1)
    write_person(tmp_path / "dicom", person)
    write_seg(tmp_path / "truth" / "pet.dcm", lesion_mask(), GRID, person)
    cohort = str(tmp_path / "cohort")
    source, truth = str(tmp_path / "dicom"), str(tmp_path / "truth")
    arguments = ["cohort", "build", source, "--truth", truth, "--centre", "A", "--out", cohort]
    built = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert built.exit_code == 0
    shown = CliRunner().invoke(app, ["cohort", "show", cohort], catch_exceptions=False)
    assert shown.stdout == built.stdout
    for told in ("A0000", "2026-03-01", "centre A: 1 patients", "Excluded (1)", "no truth", "Warnings"):
        assert told in shown.stdout
    assert "MRN" not in shown.output


@pytest.mark.parametrize("wrong", [["--centre", "1_"], ["--centre", "A", "--roi", "("]])
def test_a_value_that_an_option_cannot_have_is_a_usage_error(tmp_path: Path, wrong: list[str]) -> None:
    arguments = ["cohort", "build", str(tmp_path), "--truth", str(tmp_path), "--out", str(tmp_path), *wrong]
    assert CliRunner().invoke(app, arguments).exit_code == 2
