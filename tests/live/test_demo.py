"""The demo from end to end: what it shows, what it leaves behind, and what it doesn't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.demo.pacs import SmallArchive, choose_pacs
from app.demo.story import DemoRequest, run_demo
from app.domain.codes import PRIOR
from app.phantom.centres import Centre

PATIENCE_S = 300.0

WITHOUT_SIMULATION = """
from app.cli.main import main
from app.demo import story

def write(patient, folder):
    folder.mkdir(parents=True)
    (folder / "image.dcm").touch()

story.simulate_patient, story.write_patient = (lambda number, centre: None), write
main()
"""
"""The demo up to the node: a patient takes long to make, and its images are sent only then."""


class Silent:
    """Listens to the story and keeps its steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def progress(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def test_the_demo_needs_neither_orthanc_nor_dcmtk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.demo.pacs.orthanc_program", lambda: None)
    monkeypatch.setattr("app.demo.node.shutil.which", lambda _: None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert isinstance(choose_pacs(tmp_path / "any", {}), SmallArchive)
    out, tell = tmp_path / "out", Silent()

    pet, spect = run_demo(DemoRequest(out, 2007, Centre.A, patience_s=600.0), tell)

    assert pet.model.startswith("M1 ")
    assert spect.model.startswith("M4 ")
    assert any(item.about == PRIOR.meaning for item in spect.statements)
    for study in (pet, spect):
        assert study.comparison.hit_count > 0
        assert "Whole body" in {item.tracking_identifier for item in study.lesions}
    assert {"pet-ct-page.png", "spect-ct-page.png", "pet-ct-sr.dcm"} <= {path.name for path in out.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process_and_no_file(tmp_path: Path, stop: signal.Signals) -> None:
    told = tmp_path / "told"
    with told.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_SIMULATION, "demo", "--out", str(tmp_path / "out")],
            stdout=output,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
    try:
        wait_until_told(told, "Starting a PACS", process)  # ticked: so the node is starting now
        process.send_signal(stop)
        assert process.wait(PATIENCE_S) == 130
    finally:
        process.kill()
        process.wait()
    assert "stopped" in told.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "told"]
    assert programs_that_name(tmp_path) == []


def wait_until_told(told: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in told.read_text():
        assert process.poll() is None, told.read_text()
        assert time.monotonic() < deadline, told.read_text()
        time.sleep(0.2)


def programs_that_name(folder: Path) -> list[str]:
    """Command lines of running programs that have this folder in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if str(folder) in line:
            found.append(line)
    return found
