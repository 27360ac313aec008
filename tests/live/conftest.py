"""One Orthanc, one node and three simulated patients for all live tests: starting them is what takes time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.demo.node import NODE_AE_TITLE, Node, new_node, send_images, study_instance_uid
from app.demo.pacs import PACS_AE_TITLE, Orthanc, orthanc_program
from app.demo.processes import free_port
from app.demo.results import VIEWER_AE_TITLE, StudyResults, fetch_results
from app.node.policy import NodePolicy
from app.node.watch.status import StudyStatus, known_statuses
from app.phantom.centres import Centre
from app.phantom.dicom.writer import WrittenPatient, write_patient
from app.phantom.patient import SimulatedPatient, simulate_patient

PATIENCE_S = 600.0
"""On a machine busy with other tests; a study takes 10 to 30 s on a quiet one."""


@dataclass
class Hospital:
    """A PACS, a node, and the means to watch both."""

    folder: Path
    pacs: Orthanc
    node: Node
    _results: dict[str, StudyResults] = field(default_factory=dict)

    def wait_for(
        self, study_uid: str, reached: Callable[[StudyStatus], bool], pause_s: float = 0.2
    ) -> StudyStatus:
        """The status of a study once it is as wanted; fails with the node's last lines."""
        deadline = time.monotonic() + PATIENCE_S
        status = None
        while time.monotonic() < deadline:
            self.node.require_alive()
            status = self._status_of(study_uid)
            if status is not None and reached(status):
                return status
            if status is not None and status.state in ("rejected", "failed"):
                break
            time.sleep(pause_s)
        pytest.fail(f"the study is {status}; the node's last lines:\n{self.node.last_lines(40)}")

    def _status_of(self, study_uid: str) -> StudyStatus | None:
        """As ``psma-node status`` shows it, without the part of a second of a core that it takes to start."""
        studies = known_statuses(NodePolicy(data_dir=self.folder / "node" / "data"))
        return next((one for one in studies if one.study_instance_uid == study_uid), None)

    def wait_until_done(self, study_uid: str) -> StudyStatus:
        """The status of a study once its results are delivered."""
        return self.wait_for(study_uid, lambda status: status.state == "done")

    def results_of(self, images: tuple[Path, ...]) -> StudyResults:
        """What the PACS has of a study after it was sent with DCMTK; sent and waited for once only."""
        study_uid = study_instance_uid(images)
        if study_uid not in self._results:
            send_images(images, self.node.port)
            self.wait_until_done(study_uid)
            self._results[study_uid] = fetch_results(self.pacs, study_uid)
        return self._results[study_uid]


@pytest.fixture(scope="session", autouse=True)
def _peers() -> None:
    missing = [
        name
        for name, found in (("orthanc", orthanc_program()), ("dcmtk", shutil.which("dcmsend")))
        if found is None
    ]
    if missing:
        pytest.fail(f"the live tests need the Debian packages {' and '.join(missing)}: scripts/install-peers")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    peers = {NODE_AE_TITLE: free_port(), VIEWER_AE_TITLE: free_port()}
    pacs = Orthanc(folder / "pacs", PACS_AE_TITLE, free_port(), peers)
    node = new_node(folder / "node", pacs)
    try:
        pacs.start()
        node.start()
        yield Hospital(folder, pacs, node)
    finally:
        node.stop()
        pacs.stop()


@dataclass(frozen=True)
class Case:
    """A simulated patient and the files of both examinations."""

    patient: SimulatedPatient
    written: WrittenPatient


def make_case(number: int, centre: Centre, folder: Path) -> Case:
    patient = simulate_patient(number, centre)
    return Case(patient, write_patient(patient, folder))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Comes for PET/CT, then for SPECT/CT."""
    return make_case(2001, Centre.A, tmp_path_factory.mktemp("followed"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Of the other centre; the PET/CT was made elsewhere and never reaches this node."""
    return make_case(2001, Centre.B, tmp_path_factory.mktemp("stranger"))
