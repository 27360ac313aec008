"""The container as the node: between DCMTK, which sends, and a live Orthanc, which archives."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.node import NODE_AE_TITLE, Node, send_images, study_instance_uid
from app.demo.pacs import PACS_AE_TITLE, Orthanc
from app.demo.processes import free_port
from app.demo.results import VIEWER_AE_TITLE, find_series
from app.phantom.dicom.writer import WrittenPatient
from tests.map.package import PODMAN, Package, mount, open_folder

DATA = "/var/lib/psma-node"
HEALTH = ("/bin/sh", "-c", "psma-map health")
"""As the health check of compose.yaml is run."""
PATIENCE_S = 600.0


class ContainedNode(Node):
    """The node of the demo, in the container; its data folder is outside, so it outlives it."""

    def __init__(self, folder: Path, pacs: Orthanc, package: Package) -> None:
        overrides = ["segment.models_dir=/opt/holoscan/models", f"node.data_dir={DATA}"]
        super().__init__(folder, pacs, free_port(), overrides)
        self._data = open_folder(folder / "data")
        self._package = package
        self._probe = f"--env=PSMA_NODE__NODE__PROBE_PORT={free_port()}"
        self._name = f"psma-node-{self.port}"

    def healthy(self) -> bool:
        """What the container's health check says."""
        command = [PODMAN, "exec", self._name, *HEALTH]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _command(self, *words: str) -> list[str]:
        options = ["--network=host", mount(self._data, DATA), self._probe]
        options += [f"--name={self._name}"] if words[0] == "serve" else []
        return self._package.command([*words, *self._settings()], options)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    peers = {NODE_AE_TITLE: free_port(), VIEWER_AE_TITLE: free_port()}
    archive = Orthanc(tmp_path_factory.mktemp("pacs"), PACS_AE_TITLE, free_port(), peers)
    archive.start()
    yield archive
    archive.stop()


def wait_until(node: Node, study_uid: str, states: tuple[str, ...]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    status = None
    while time.monotonic() < deadline:
        node.require_alive()
        status = node.status_of(study_uid)
        if status is not None and status.state in states:
            return
        time.sleep(2.0)
    pytest.fail(f"the study is {status}; the node's last lines:\n{node.last_lines(40)}")


def test_a_pet_and_then_a_spect_come_back_to_the_pacs_over_a_restart(
    package: Package, pacs: Orthanc, patient: WrittenPatient, tmp_path: Path
) -> None:
    node = ContainedNode(tmp_path, pacs, package)
    pet, spect = patient.pet.images, patient.spect.images
    node.start()
    try:
        assert node.healthy()
        send_images(pet, node.port)
        wait_until(node, study_instance_uid(pet), ("done",))
        send_images(spect, node.port)
        wait_until(node, study_instance_uid(spect), ("running",))
        # SIGTERM: what is under way ends or stays planned; nothing is lost and the exit code says so
        assert node.stop() == 0, node.last_lines(40)
        assert '"stopped"' in node.log.read_text().splitlines()[-1]
        node.start()
        wait_until(node, study_instance_uid(spect), ("done",))
    finally:
        node.stop()
    for images in (pet, spect):
        found = find_series(pacs, study_instance_uid(images))
        assert sorted(series.modality for series in found) == ["OT", "SEG", "SR"]
