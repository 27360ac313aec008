"""The node's own chain on a labelled cohort: what left the node as SEG is compared with the truth."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import typer

from app.chain.evaluation import NodeScores, evaluate_node
from app.chain.folder import FolderOutcome, process_folder
from app.cli.evaluate import NodeRun, complete_cards, evaluate_and_report, run_node
from app.cohort.build import CohortRequest, build_cohort
from app.cohort.manifest import CohortManifest, CohortPatient, image_file
from app.cohort.source import CohortPolicy
from app.domain.analysis import Aligned, Segmented
from app.domain.decision import ModelRole, ModelUsed
from app.domain.scores import Validation
from app.domain.study import StudyKind
from app.errors import MisconfiguredError
from app.files.durable import hold_folder
from app.imaging.labels import label_lesions
from app.inference.models.card import read_card, write_card
from app.inference.models.store import ModelStore, site_models
from app.inference.policy import SHIPPED_MODELS
from app.settings import Settings, load_settings
from tests.chain.conftest import use_segmentation
from tests.cohort.tiny_cohort import GRID, Person, lesion_mask, write_person, write_seg
from tests.validation.made_scores import M1, M2, M4, made

NODE = Validation.NODE
PEOPLE = (Person(1), Person(2))


class HalfOfTheHottest:
    """A model that takes what is above half of the maximum: the tiny patients' true lesion."""

    def segment(self, aligned: Aligned) -> Segmented:
        selection, suv = aligned.loaded.selection, aligned.loaded.uptake
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


def test_a_patient_that_is_finished_is_not_done_again(
    cohort: CohortManifest, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = evaluate_node(tmp_path / "cohort", cohort.patients[:1], settings, out)
    done = processed(monkeypatch)
    found = evaluate_node(tmp_path / "cohort", cohort.patients, settings, out)
    assert done == ["A0001"]
    assert found.scores[:2] == first.scores
    assert len(found.scores) == 4


@pytest.mark.parametrize("what", ["settings", "truth", "dicom", "record"])
def test_a_patient_whose_inputs_changed_is_done_again(
    cohort: CohortManifest, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out, patients = tmp_path / "out", cohort.patients[:1]
    evaluate_node(tmp_path / "cohort", patients, settings, out)
    if what == "settings":
        settings = load_settings(None, ["segment.minimum_lesion_ml=0.2"])
    elif what == "truth":
        truth = image_file(tmp_path / "cohort", "A0000", StudyKind.PET_CT, "truth")
        truth.write_bytes(image_file(tmp_path / "cohort", "A0001", StudyKind.PET_CT, "truth").read_bytes())
    elif what == "dicom":
        os.utime(min((tmp_path / "dicom").rglob("*1/*/*.dcm")), ns=(1, 1))
    else:
        (out / "patients" / "A0000.json").write_text('{"inputs": "cut sh')
    done = processed(monkeypatch)
    evaluate_node(tmp_path / "cohort", patients, settings, out)
    assert done == ["A0000"]


def test_a_patient_on_whom_the_chain_failed_is_tried_again(
    cohort: CohortManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        def segment(self, aligned: Aligned) -> Segmented:
            raise RuntimeError("out of memory")

    use_segmentation(monkeypatch, Fails)
    found = evaluate_node(tmp_path / "cohort", cohort.patients[:1], load_settings(), tmp_path / "out")
    assert [line.split(":")[1].strip() for line in found.missing] == ["failed", "failed"]
    use_segmentation(monkeypatch, HalfOfTheHottest)
    again = evaluate_node(tmp_path / "cohort", cohort.patients[:1], load_settings(), tmp_path / "out")
    assert again.missing == ()


def processed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The patients that go through folder mode from now on, as their result folders are called."""
    done: list[str] = []

    def spy(source: Path, out: Path, settings: Settings) -> FolderOutcome:
        done.append(out.name)
        return process_folder(source, out, settings)

    monkeypatch.setattr("app.chain.evaluation.process_folder", spy)
    return done


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The shipped models, to be written to; without metrics, as after an import."""
    folder = tmp_path / "models"
    shutil.copytree(SHIPPED_MODELS, folder)
    for path in folder.glob("*/model.yaml"):
        card = read_card(path.parent)
        write_card(card.model_copy(update={"metrics": (), "metric_source": None}), path.parent)
    return folder


def served(models: Path, *, m4_ran: bool, overrides: tuple[str, ...] = ()) -> tuple[NodeScores, NodeRun]:
    """Ten patients of centre B; M4 ran in eight of them, or in none."""
    fitted = 8 if m4_ran else 0
    asked = M2 if overrides else M4
    spect = [made(asked, f"B-{n}", 7, validation=NODE) for n in range(fitted)]
    spect += [made(asked, f"B-{n}", 4, validation=NODE, used=M2) for n in range(fitted, 10)]
    pet = [made(M1, f"B-{n}", 8, StudyKind.PET_CT, NODE) for n in range(10)]
    used = {score.key.used for score in [*spect, *pet]}
    ran = {role.value: f"psma-{role.value.lower()}-simulated" for role in used}
    site = load_settings(None, [f"segment.models_dir={models}", *overrides])
    serving = site_models(ModelStore(models), site.segment).serving.values()
    cards = tuple({card.id: card for card in serving}.values())
    patients = [CohortPatient(id=f"B-{n}", centre="B", scans=()) for n in range(10)]
    run = NodeRun(models, patients, True, site, cards, "psma-node evaluate --node COHORT")
    return NodeScores((*spect, *pet), (), ran), run


def dice_in(models: Path, role: str) -> dict[str, tuple[int, float | None]]:
    metrics = read_card(models / f"psma-{role}-simulated").metrics
    return {metric.modality: (metric.patients, metric.mean) for metric in metrics if metric.name == "DSC"}


def test_m4s_card_gets_all_patients_and_not_only_those_whose_prior_fitted(models: Path) -> None:
    complete_cards(*served(models, m4_ran=True))
    assert dice_in(models, "m4") == {"SPECT/CT": (10, 0.64), "SPECT/CT, prior fitted": (8, 0.7)}
    assert dice_in(models, "m1") == {"PET/CT": (10, 0.8)}
    source = read_card(models / "psma-m4-simulated").metric_source
    assert source is not None
    assert source.command == "psma-node evaluate --node COHORT"


def test_m2_that_only_stood_in_gets_no_metrics_and_the_way_to_get_some(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete_cards(*served(models, m4_ran=True))
    assert dice_in(models, "m2") == {}
    printed = capsys.readouterr().out
    assert "card unchanged: psma-m2-simulated: it ran only in place of another, in 2 scan(s)" in printed
    way = "segment.spect_model_with_prior=psma-m2-simulated"
    assert f"--set {way}" in printed
    complete_cards(*served(models, m4_ran=False, overrides=(way,)))
    assert dice_in(models, "m2") == {"SPECT/CT": (10, 0.4)}


def test_m4_that_never_ran_gets_no_metrics_of_m2(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete_cards(*served(models, m4_ran=False))
    assert dice_in(models, "m4") == {}
    assert "card unchanged: psma-m4-simulated: it did not run" in capsys.readouterr().out


def test_two_models_of_one_role_are_refused_before_cards_are_mixed(models: Path, tmp_path: Path) -> None:
    _, run = served(models, m4_ran=True)
    other = run.serving[0].model_copy(update={"id": "another"})
    mixed = replace(run, serving=(*run.serving, other))
    with pytest.raises(MisconfiguredError, match="psma-m1-simulated and another both serve as M1"):
        evaluate_and_report(mixed, tmp_path / "out", cards=True)
    assert not (tmp_path / "out").exists()


def test_cards_and_warnings_say_where_patients_may_have_been_trained_on(models: Path) -> None:
    found, run = served(models, m4_ran=True)
    assert run.caveats == ()  # all were trained on centre A
    at_home = replace(run, patients=[CohortPatient(id="A-1", centre="A", scans=())])
    assert len(at_home.caveats) == 3
    first, *_ = at_home.caveats
    assert "psma-m1-simulated (M1) was trained on patients of centre A, perhaps on these" in first
    moved = replace(found, scores=tuple(replace(s, key=replace(s.key, centre="A")) for s in found.scores))
    complete_cards(moved, run)
    cohorts = {metric.cohort for metric in read_card(models / "psma-m4-simulated").metrics}
    assert cohorts == {
        "the node's own chain, simulated patients of centre A; may include training patients (centre A)"
    }


def test_one_command_at_a_time_works_in_a_folder(models: Path, tmp_path: Path) -> None:
    _, run = served(models, m4_ran=True)
    with hold_folder(tmp_path / "out", "test"), pytest.raises(MisconfiguredError, match="is at work in this"):
        evaluate_and_report(run, tmp_path / "out", cards=False)


def test_the_whole_command_reports_warns_and_goes_on(
    cohort: CohortManifest, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = run_node(tmp_path / "cohort", "", (None, []))
    run = replace(run, simulated=True)  # so that the shipped models' centre A is the same
    done = processed(monkeypatch)
    for _ in range(2):
        with pytest.raises(typer.Exit) as ended:
            evaluate_and_report(run, tmp_path / "out", cards=False)
        assert ended.value.exit_code == 0
    assert done == ["A0000", "A0001"]
    shown = capsys.readouterr()
    assert "warning: psma-m1-simulated (M1) was trained on patients of centre A" in shown.err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "psma-m1-simulated (M1) was trained on patients of centre A, perhaps on these" in page


def test_a_centre_without_patients_is_refused_with_those_that_have_some(
    cohort: CohortManifest, tmp_path: Path
) -> None:
    with pytest.raises(typer.BadParameter, match="no patient of centre 'Z'; centres: A"):
        run_node(tmp_path / "cohort", "Z", (None, []))
