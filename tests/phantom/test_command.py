"""``psma-node phantom`` says what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from app.cli.demo import phantom
from app.phantom import patient
from app.phantom.centres import Centre
from app.phantom.dicom import writer
from app.phantom.dicom.writer import WrittenPatient
from app.phantom.patient import SimulatedPatient


@pytest.fixture
def ready(
    monkeypatch: pytest.MonkeyPatch,
    patients: dict[Centre, SimulatedPatient],
    written: dict[Centre, WrittenPatient],
) -> None:
    """The command finds the patients of this session made already: writing them again takes long."""
    monkeypatch.setattr(patient, "simulate_patient", lambda number, centre, size: patients[centre])
    monkeypatch.setattr(writer, "write_patient", lambda simulated, out, rwvm: written[simulated.centre])


@pytest.mark.usefixtures("ready")
def test_the_command_lists_both_studies_and_draws_pictures(tmp_path: Path) -> None:
    command = typer.Typer()
    command.command()(phantom)
    asked = [
        "--patient",
        "5",
        "--centre",
        "B",
        "--out",
        str(tmp_path),
        "--pictures",
        str(tmp_path / "pictures"),
    ]
    answer = CliRunner().invoke(command, asked)
    assert answer.exit_code == 0, answer.output
    assert "SIMULATED^B0005" in answer.output
    assert "PET/CT" in answer.output
    assert "SPECT/CT" in answer.output
    for name in ("pet", "spect"):
        with Image.open(tmp_path / "pictures" / f"phantom_B0005_{name}.png") as picture:
            assert picture.mode == "RGB"
            assert picture.height > picture.width / 2


def test_a_negative_number_is_refused(tmp_path: Path) -> None:
    command = typer.Typer()
    command.command()(phantom)
    assert CliRunner().invoke(command, ["--patient", "-1", "--out", str(tmp_path)]).exit_code == 2
