"""Nothing of a shadow model leaves: results are, byte for byte, those of a site without."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from app.chain import application
from app.chain.folder import RunResults, process_folder
from app.domain.analysis import Segmented
from app.domain.outcome import MaskSummary, ShadowComparison, Status
from app.files.outcome import read_outcome
from app.phantom.dicom.writer import WrittenPatient
from app.settings import Settings
from tests.chain.conftest import links_to

MARK = "shadow-of-the-test"
SECOND = re.compile(rb"20\d{12}(\.\d{1,6})?")


class FoundMuch:
    """A shadow model that disagrees."""

    def compare(self, segmented: Segmented) -> tuple[ShadowComparison, ...]:
        selection = segmented.aligned.loaded.selection
        series = selection.functional.series_instance_uid
        served = MaskSummary(1, 1.0)
        found = MaskSummary(99, 12345.6)
        return (
            ShadowComparison(
                series, selection.kind, segmented.model, served, MARK, found=found, dice=0.125, problem=""
            ),
        )


@pytest.fixture
def shadowed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(application, "ShadowModels", lambda policy: FoundMuch())
    return replace(settings, segment=replace(settings.segment, shadow_models=(MARK,)))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, without the second at which it was made: the report tells it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): SECOND.sub(b"", path.read_bytes()) for path in files}


def test_results_with_a_shadow_are_those_without_byte_for_byte(
    patient: WrittenPatient, settings: Settings, shadowed: Settings, tmp_path: Path
) -> None:
    source = links_to(patient.spect.images, tmp_path / "in", str)
    process_folder(source, tmp_path / "plain", settings)
    outcome = process_folder(source, tmp_path / "shadowed", shadowed)
    assert outcome.status is Status.DONE
    plain, found = contents(tmp_path / "plain"), contents(tmp_path / "shadowed")
    table = found.pop("study-1/shadow.json")
    assert MARK.encode() in table
    assert found == plain  # outcome.json too: nothing there that could be sent
    [comparison] = json.loads(table)
    assert (comparison["shadow_id"], comparison["dice"]) == (MARK, 0.125)
    process_folder(source, tmp_path / "shadowed", settings)
    assert "study-1/shadow.json" not in contents(tmp_path / "shadowed")


def test_in_the_node_the_work_is_left_for_after_the_results(
    patient: WrittenPatient, shadowed: Settings, tmp_path: Path
) -> None:
    left: list[tuple[str, int, application.ShadowWork]] = []

    def desk(study_instance_uid: str, revision: int, work: application.ShadowWork) -> None:
        left.append((study_instance_uid, revision, work))

    chain = application.ChainProcessor(shadowed, RunResults(shadowed.load), shadow_queue=desk)
    outcome = chain.process(patient.spect.images, tmp_path, revision=3)
    assert read_outcome(tmp_path) == outcome
    assert not any(MARK.encode() in content for content in contents(tmp_path).values())
    [(study_instance_uid, revision, work)] = left
    assert (study_instance_uid, revision) == (outcome.study_instance_uid, 3)
    assert [item.shadow_id for item in work()] == [MARK]


def test_a_study_without_result_leaves_no_work(
    patient: WrittenPatient, shadowed: Settings, tmp_path: Path
) -> None:
    chain = application.ChainProcessor(
        shadowed, RunResults(shadowed.load), shadow_queue=lambda *_: pytest.fail("work")
    )
    assert chain.process(patient.spect.functional, tmp_path, revision=1).status is Status.REJECTED
