"""The node's own chain on a labelled cohort: what left the node as SEG is compared with the truth."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from app.cli.evaluate import complete_cards
from app.cohort.build import CohortRequest, build_cohort
from app.cohort.manifest import CohortManifest
from app.cohort.policy import CohortPolicy
from app.domain.analysis import Aligned, ModelRole, ModelUsed, Segmented
from app.domain.scan_score import Validation
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.imaging.components import label_lesions
from app.inference.model_card import read_card
from app.inference.policy import SHIPPED_MODELS
from app.node_evaluation import evaluate_node
from app.settings import Settings, load_settings
from tests.application.conftest import use_segmentation
from tests.cohort.tiny_cohort import GRID, Person, lesion_mask, write_person, write_seg

PEOPLE = (Person(1), Person(2))


class HalfOfTheHottest:
    """A model that takes what is above half of the maximum: the tiny patients' true lesion."""

    def segment(self, aligned: Aligned) -> Segmented:
        selection, suv = aligned.loaded.selection, aligned.loaded.suv
        lesions = label_lesions(suv.array > suv.array.max() / 2, suv.grid, minimum_ml=0.1)
        role = ModelRole.M1 if selection.kind is StudyKind.PET_CT else ModelRole.M2
        model = ModelUsed("half", role, "1", "0" * 64, demonstration_only=True)
        return Segmented(aligned, lesions.labels, model)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    use_segmentation(monkeypatch, HalfOfTheHottest)
    return load_settings()


@pytest.fixture
def cohort(tmp_path: Path) -> CohortManifest:
    """Two patients; the reader drew one slice too many on the second one's PET."""
    for person in PEOPLE:
        write_person(tmp_path / "dicom", person)
        for kind in ("pet", "spect"):
            drawn = lesion_mask().astype(np.uint8)
            if person.number == 2 and kind == "pet":
                drawn[4] = drawn[3]
            write_seg(tmp_path / "truth" / f"{person.number}{kind}.dcm", drawn, GRID, person, kind)
    request = CohortRequest(tmp_path / "dicom", tmp_path / "truth", "A", tmp_path / "cohort", CohortPolicy())
    return build_cohort(request)


def test_what_left_the_node_is_scored_on_every_scan(
    cohort: CohortManifest, settings: Settings, tmp_path: Path
) -> None:
    found = evaluate_node(tmp_path / "cohort", cohort.patients, settings, tmp_path / "out")
    assert found.missing == ()
    dice = {(s.key.patient, s.key.kind): s.voxels.dice for s in found.scores}
    lesion = int(lesion_mask().sum())
    assert dice == {
        ("A0000", StudyKind.PET_CT): 1.0,
        ("A0000", StudyKind.SPECT_CT): 1.0,
        ("A0001", StudyKind.PET_CT): pytest.approx(2 * lesion / (lesion + lesion * 3 / 2)),
        ("A0001", StudyKind.SPECT_CT): 1.0,
    }
    assert {s.key.validation for s in found.scores} == {Validation.NODE}
    assert (tmp_path / "out" / "predictions" / "node" / "M1" / "A0000_pet.nii.gz").is_file()


def test_a_spect_that_m2_served_says_why_m4_did_not(
    cohort: CohortManifest, settings: Settings, tmp_path: Path
) -> None:
    found = evaluate_node(tmp_path / "cohort", cohort.patients[:1], settings, tmp_path / "out")
    spect = next(s.key for s in found.scores if s.key.kind is StudyKind.SPECT_CT)
    assert (spect.model, spect.used) == (ModelRole.M4, ModelRole.M2)
    assert "prior" in spect.why


def test_a_scan_that_the_node_refuses_is_named_with_its_reason(
    cohort: CohortManifest, settings: Settings, tmp_path: Path
) -> None:
    for path in (tmp_path / "dicom").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        if dataset.Modality == "PT" and dataset.StudyInstanceUID == PEOPLE[0].study("pet"):
            dataset.Units = "PROPCPS"
            dataset.save_as(path)
    found = evaluate_node(tmp_path / "cohort", cohort.patients, settings, tmp_path / "out")
    assert len(found.scores) == 3
    [line] = found.missing
    assert line.startswith("A0000 PET/CT: rejected")
    assert "PROPCPS" in line


def test_dicom_that_is_gone_is_an_error_that_names_the_patient(
    cohort: CohortManifest, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "dicom").rename(tmp_path / "elsewhere")
    with pytest.raises(MisconfiguredError, match="DICOM of A0000, A0001"):
        evaluate_node(tmp_path / "cohort", cohort.patients, settings, tmp_path / "out")


def test_the_nodes_metrics_go_into_the_cards_of_the_models_that_served(
    cohort: CohortManifest, settings: Settings, tmp_path: Path
) -> None:
    found = evaluate_node(tmp_path / "cohort", cohort.patients, settings, tmp_path / "out")
    models = tmp_path / "models"
    source = next(card.parent for card in SHIPPED_MODELS.glob("*/model.yaml") if "m1" in card.parent.name)
    shutil.copytree(source, models / source.name)
    site = load_settings(None, [f"segment.models_dir={models}"])
    served = replace(found, models={"M1": source.name})
    complete_cards(served, site, simulated=True, command="psma-node evaluate --node COHORT")
    card = read_card(models / source.name)
    dice = next(metric for metric in card.metrics if metric.name == "DSC")
    assert (dice.cohort, dice.patients) == ("the node's own chain, simulated patients of centre A", 2)
    assert dice.mean == pytest.approx((1.0 + 0.8) / 2, abs=1e-4)
    assert card.metric_source is not None
    assert card.metric_source.command == "psma-node evaluate --node COHORT"
