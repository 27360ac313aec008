"""Evaluation: the product's segmenter on unseen patients, and the numbers' way into the cards."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from app.domain.analysis import ModelRole
from app.domain.segmentation_metrics import LesionCounts, VoxelCounts
from app.inference.channels import NetworkInput
from app.inference.model_card import MetricSource, ModelCard, read_card
from app.phantom.centres import Centre
from app.phantom.patient import SimulatedPatient, simulate_patient
from app.training.evaluate import Cohort, Score, scans, score_scan
from app.training.report import metrics_of, rows, update_cards, write_csv
from tests.inference.tiny_model import write_tiny_model

COHORT = Cohort("B", 1000, 1001)
GOOD = Score(ModelRole.M2, "SPECT", COHORT, 1000, VoxelCounts(8, 2, 2), LesionCounts(4, 3, 5, 4), 10.0, 10.0)
EMPTY = replace(GOOD, patient=1001, voxels=VoxelCounts(0, 0, 0), lesions=LesionCounts(0, 0, 0, 0))


@pytest.fixture(scope="module")
def patient() -> SimulatedPatient:
    return simulate_patient(3, Centre.A)


class Oracle:
    """A segmenter that gives the mask it was made with."""

    def __init__(self, card: ModelCard, mask: NDArray[np.bool_]) -> None:
        self.card = card
        self._mask = mask

    def segment(self, network_input: NetworkInput) -> NDArray[np.bool_]:
        assert network_input.channels.shape[1:] == self._mask.shape
        return self._mask


def test_a_perfect_mask_scores_perfectly(patient: SimulatedPatient, tmp_path: Path) -> None:
    card = write_tiny_model(tmp_path)
    modality, scan, network_input = next(scans(ModelRole.M2, patient))
    oracle = Oracle(card, scan.truth.mask)
    score = score_scan(oracle, scan, network_input, (modality, COHORT, 3))
    assert score.voxels.dice == 1.0
    assert score.lesions.sensitivity == score.lesions.ppv == 1.0
    assert score.found_ml == score.true_ml > 0


def test_m4_is_measured_with_a_fitting_an_empty_and_a_misplaced_prior(patient: SimulatedPatient) -> None:
    shown = {
        modality: network_input.channels[2] for modality, _, network_input in scans(ModelRole.M4, patient)
    }
    assert list(shown) == ["SPECT, fitting prior", "SPECT, empty prior", "SPECT, misplaced prior"]
    assert not shown["SPECT, empty prior"].any()
    assert (shown["SPECT, fitting prior"] != shown["SPECT, misplaced prior"]).any()


def test_m3_is_measured_on_both_modalities(patient: SimulatedPatient) -> None:
    assert [modality for modality, _, _ in scans(ModelRole.M3, patient)] == ["PET", "SPECT"]


def test_a_patient_without_lesions_is_counted_and_said() -> None:
    dice = next(metric for metric in metrics_of([GOOD, EMPTY]) if metric.name == "DSC")
    assert (dice.patients, dice.n, dice.mean, dice.sd) == (2, 1, 0.8, None)
    assert dice.note == "not defined for 1 of them (nothing to divide by)"
    assert dice.cohort == "simulated patients 1000 to 1001 of centre B"


def test_metrics_go_into_the_card_with_the_command_that_gives_them(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    source = MetricSource(command="psma-node evaluate", software_version="0", date="2026-01-01")
    update_cards(tmp_path, [GOOD, EMPTY], source)
    card = read_card(tmp_path / "tiny")
    assert card.metric_source == source
    assert {metric.name for metric in card.metrics} >= {
        "DSC",
        "voxel PPV",
        "lesion sensitivity",
        "lesion PPV",
    }


def test_every_patient_has_a_line_with_its_counts(tmp_path: Path) -> None:
    write_csv([GOOD, EMPTY], tmp_path / "patients.csv")
    with (tmp_path / "patients.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["patient"] for line in lines] == ["1000", "1001"]
    assert lines[0]["DSC"] == "0.8"
    assert lines[1]["DSC"] == ""
    assert rows([GOOD, EMPTY])[0][:5] == ("M2", "SPECT", "B:1000-1001", "2", "0.80")


@pytest.mark.parametrize("text", ["A", "A:5", "A:9-3", ":1-2", "A:x-y"])
def test_a_cohort_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected centre:first-last"):
        Cohort.parse(text)


def test_a_cohort_is_written_as_it_is_read() -> None:
    assert str(Cohort.parse("A:1000-1014")) == "A:1000-1014"


def test_an_unknown_model_is_a_usage_error() -> None:
    import typer

    from app.cli.train import evaluate, train

    for command in (evaluate, train):
        one = typer.Typer()
        one.command()(command)
        result = CliRunner().invoke(one, ["--models", "M7"])
        assert result.exit_code == 2
        assert "M7" in result.output


def test_models_are_listed_and_verified(tmp_path: Path) -> None:
    from app.cli.models import app as models_app

    write_tiny_model(tmp_path)
    listed = CliRunner().invoke(models_app, ["list", "--models-dir", str(tmp_path)])
    verified = CliRunner().invoke(models_app, ["verify", "--models-dir", str(tmp_path)])
    assert listed.exit_code == verified.exit_code == 0
    assert "tiny" in listed.output
    assert verified.output == "tiny: 3 files as in its card\n"
