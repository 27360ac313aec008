"""The dry run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
import typer
from pydicom import Dataset
from typer.testing import CliRunner

from app.cli.folder import inspect
from app.dicom.reading.inspection import inspect_folder
from app.dicom.reading.policy import LoadPolicy
from app.domain.quantities.body_size import OtherSuvKind
from app.domain.refusal import RefusalCode
from app.domain.selection.policy import SelectionPolicy
from tests.dicom.reading import tiny


def write_study(folder: Path) -> None:
    tiny.write_pet(folder, tiny.Scan(tiny.ramp()))
    tiny.write_ct(folder, tiny.Scan(tiny.ramp(), series_uid="1.2.3.2"))


def test_every_series_has_role_geometry_units_and_values(tmp_path: Path) -> None:
    write_study(tmp_path)
    (study,) = inspect_folder(tmp_path, SelectionPolicy(), LoadPolicy()).studies
    assert study.pairs == 1
    pet, ct = study.series
    assert (pet.verdict.role, pet.units, pet.tracer) == ("PET", "BQML", "68Ga-PSMA-11")
    assert pet.geometry is not None
    assert pet.geometry.size_xyz == (5, 4, 6)
    assert pet.geometry.first_voxel_mm == (-10.0, -20.0, -30.0)
    assert [item.unit for item in pet.statistics] == ["g/ml{SUVbw}", "Bq/ml"]
    assert pet.statistics[1].maximum == 120 * 3
    assert (ct.verdict.role, ct.units) == ("CT", "HU")
    assert ct.statistics[0].minimum == -1023.0


def test_volumes_are_written_in_place_even_without_a_ct(tmp_path: Path) -> None:
    tiny.write_nm(tmp_path / "in", tiny.Scan(tiny.ramp()), -5.0)
    found = inspect_folder(tmp_path / "in", SelectionPolicy(), LoadPolicy(), tmp_path / "out")
    assert found.studies[0].rejection is not None
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["NM_1.2.3.1_Bqml.nii.gz", "NM_1.2.3.1_SUVbw.nii.gz"]
    written = sitk.ReadImage(str(tmp_path / "out" / names[0]))
    # the first frame lies highest: the spacing is negative
    assert written.TransformContinuousIndexToPhysicalPoint((0, 0, 5)) == pytest.approx((-10.0, -20.0, -30.0))
    assert sitk.GetArrayFromImage(written)[5, 0, 0] == pytest.approx(100.0)


def test_a_series_without_suv_shows_its_bqml_and_why(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.PatientWeight = 0

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    (series,) = inspect_folder(tmp_path, SelectionPolicy(), LoadPolicy()).studies[0].series
    assert [item.unit for item in series.statistics] == ["Bq/ml"]
    assert [reason.code for reason in series.problems] == [RefusalCode.WEIGHT_MISSING]


def test_the_verdict_names_a_gap(tmp_path: Path) -> None:
    paths = tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(12)))
    paths[4].unlink()
    (series,) = inspect_folder(tmp_path, SelectionPolicy(), LoadPolicy()).studies[0].series
    assert series.geometry is None
    assert series.verdict.reason is not None
    assert series.verdict.reason.code is RefusalCode.SLICE_GAP


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(inspect)
    return app


def test_the_command_prints_json(tmp_path: Path, command: typer.Typer) -> None:
    write_study(tmp_path)
    result = CliRunner().invoke(command, [str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    pet = json.loads(result.stdout)["studies"][0]["series"][0]
    assert pet["verdict"]["role"] == "PET"
    assert np.isclose(pet["statistics"][1]["maximum"], 360.0)


def test_the_command_prints_a_table_and_takes_settings(tmp_path: Path, command: typer.Typer) -> None:
    write_study(tmp_path)
    result = CliRunner().invoke(command, [str(tmp_path), "--set", "select.tracers=[18F-PSMA-1007]"])
    assert result.exit_code == 0, result.output
    assert "rejected" in result.stdout
    assert "PT series 1.2.3.1: [tracer-not-allowed]" in " ".join(result.stdout.split())


def test_the_command_tells_each_unit_once_and_in_a_persons_words(
    tmp_path: Path, command: typer.Typer
) -> None:
    tiny.write_nm(tmp_path, tiny.Scan(tiny.ramp()), -5.0)
    tiny.write_ct(tmp_path, tiny.Scan(tiny.ramp(), series_uid="1.2.3.2"))
    shown = CliRunner().invoke(command, [str(tmp_path)]).stdout
    assert shown.count("RealWorldValueMappingSequence in Bq/ml") == 1
    assert "hnsf" not in shown


def test_how_the_tracer_was_identified_is_a_decision(tmp_path: Path, command: typer.Typer) -> None:
    tiny.write_nm(tmp_path, tiny.Scan(tiny.ramp()), -5.0)
    (series,) = inspect_folder(tmp_path, SelectionPolicy(), LoadPolicy()).studies[0].series
    assert series.verdict.role == ""  # there is no CT
    (first, *_) = series.decisions
    assert (first.stage, first.line.split(" by ")[0]) == ("select", f"warning: tracer {series.tracer}")
    told = CliRunner().invoke(command, [str(tmp_path)]).stdout
    assert f"{series.tracer} by" in told


def test_suv_by_lean_mass_and_by_surface_are_given_where_the_site_asks(tmp_path: Path) -> None:
    tiny.write_pet(tmp_path / "in", tiny.Scan(tiny.ramp()))
    policy = LoadPolicy(other_suv=(OtherSuvKind.SUL, OtherSuvKind.SUVBSA))
    (series,) = inspect_folder(tmp_path / "in", SelectionPolicy(), policy, tmp_path / "out").studies[0].series
    suv, _, sul, by_surface = series.statistics
    assert [item.unit for item in (sul, by_surface)] == ["g/ml{SUVlbm(Janma)}", "cm2/ml{SUVbsa}"]
    lean_kg = 9270.0 * 70.0 / (6680.0 + 216.0 * 70.0 / 1.8**2)
    assert sul.maximum == pytest.approx(suv.maximum * lean_kg / 70.0)
    surface_cm2 = 71.84 * 70.0**0.425 * 180.0**0.725
    assert by_surface.maximum == pytest.approx(suv.maximum * surface_cm2 / 70e3)
    names = sorted(path.name.rpartition("_")[2] for path in (tmp_path / "out").iterdir())
    assert names == ["Bqml.nii.gz", "SUL.nii.gz", "SUVbsa.nii.gz", "SUVbw.nii.gz"]


@pytest.mark.parametrize("changes", [{"PatientSize": None}, {"PatientSex": "O"}])
def test_suv_by_lean_mass_that_cannot_be_had_gives_a_warning_and_spoils_nothing(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    def change(dataset: Dataset, index: int) -> None:
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    policy = LoadPolicy(other_suv=(OtherSuvKind.SUL,))
    (series,) = inspect_folder(tmp_path, SelectionPolicy(), policy).studies[0].series
    assert [item.unit for item in series.statistics] == ["g/ml{SUVbw}", "Bq/ml"]
    assert any("warning: no SUL" in item.line for item in series.decisions)


def test_a_pet_shorter_than_announced_is_refused_yet_its_values_are_shown(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.NumberOfSlices = 8

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    tiny.write_ct(tmp_path, tiny.Scan(tiny.ramp(), series_uid="1.2.3.2"))
    (study,) = inspect_folder(tmp_path, SelectionPolicy(), LoadPolicy()).studies
    assert study.rejection is not None
    assert [reason.code for reason in study.rejection.reasons] == [RefusalCode.INCOMPLETE_SERIES]
    assert "6 slices, expected 8" in str(study.rejection)
    assert [item.unit for item in study.series[0].statistics] == ["g/ml{SUVbw}", "Bq/ml"]
    allowed = SelectionPolicy(fewer_slices_than_announced=True)
    assert inspect_folder(tmp_path, allowed, LoadPolicy()).studies[0].pairs == 1


def test_the_dry_run_lists_what_each_clock_says_of_the_start(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.FrameReferenceTime = 59800

    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp(), change=change))
    command = typer.Typer()
    command.command()(inspect)
    printed = " ".join(CliRunner().invoke(command, [str(tmp_path)]).output.replace("│", "").split())
    assert "times SeriesDateTime: 2026-03-01 11:00:00, taken AcquisitionDateTime + mean" in printed
    assert "AcquisitionDateTime of all slices: 2026-03-01 11:00:00, agrees" in printed
