"""What headers alone refuse is said as the chain says it, without a network, a pixel or a worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.chain.headers import HeaderJudge
from app.domain.outcome import EarlierRevisions, RunContext, Status
from app.errors import UnusableStudyError
from app.files.outcome import NAME
from app.phantom.dicom.writer import WrittenPatient
from app.settings import Settings
from tests.chain.conftest import processor
from tests.chain.test_revisions import earlier_of
from tests.defects.damage import Defect, forbidden_values
from tests.defects.studies import STUDIES, write_study
from tests.defects.table import TABLE

NOTHING, ALONE = EarlierRevisions(), RunContext()
FIRST_OF_CODE = {defect.code: (kind, defect) for kind, defect in reversed(TABLE) if defect.code is not None}
"""One damaged study for each reason."""


@pytest.fixture(autouse=True)
def any_value() -> Iterator[None]:
    with forbidden_values():
        yield


@pytest.mark.parametrize(("kind", "defect"), FIRST_OF_CODE.values(), ids=FIRST_OF_CODE)
def test_a_refusal_is_the_chains_to_the_last_byte(
    kind: str, defect: Defect, settings: Settings, tmp_path: Path
) -> None:
    images = STUDIES[kind]()
    defect.damage(images)
    folder, judged_in, chained_in = (tmp_path / name for name in ("study", "judged", "chained"))
    folder.mkdir()
    write_study(images, folder)
    paths = sorted(folder.iterdir())
    judged = HeaderJudge(settings).judge(paths, judged_in, 1, NOTHING, ALONE)
    if judged is None:  # it is refused for what is known only once its volumes are read
        assert not judged_in.exists()
        return
    assert judged == processor(settings).process(paths, chained_in, 1)
    assert (judged_in / NAME).read_bytes() == (chained_in / NAME).read_bytes()


def test_a_result_that_stands_is_withdrawn_as_the_chain_does(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    worker = processor(settings)
    [pair] = worker.process(patient.spect.images, tmp_path / "r1", 1).pairs
    earlier, paths = earlier_of(tmp_path / "r1", pair), patient.spect.functional
    judged = HeaderJudge(settings).judge(paths, tmp_path / "judged", 2, earlier, ALONE)
    assert judged == worker.process(paths, tmp_path / "chained", 2, earlier)
    assert judged is not None
    assert judged.status is Status.REJECTED
    assert len(judged.withdrawals) == 1


def test_a_study_with_a_pair_is_left_to_the_chain(
    patient: WrittenPatient, settings: Settings, tmp_path: Path
) -> None:
    assert HeaderJudge(settings).judge(patient.pet.images, tmp_path / "out", 1, NOTHING, ALONE) is None


def test_files_that_are_no_study_raise_what_the_chain_raises(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnusableStudyError, match="0 studies"):
        HeaderJudge(settings).judge([], tmp_path / "out", 1, NOTHING, ALONE)


def test_no_network_is_loaded_for_it() -> None:
    code = "import sys, app.chain.headers; sys.exit(bool({'torch', 'holoscan'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
