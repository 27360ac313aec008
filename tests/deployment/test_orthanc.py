"""The shipped Lua script, in a real Orthanc: images of a stable study go to the node, once; results stay."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, SecondaryCaptureImageStorage

from app.demo.pacs import START_S, orthanc_program
from app.demo.processes import LOOPBACK, Program, free_port, start_program
from tests.deployment.manifests import MAP
from tests.node.workflow.fake_node import derived_uid, secondary_capture
from tests.node.workflow.peers import wait_until

STUDY = "1.2.826.0.1.77"


class Listener:
    """Counts what it is sent by modality."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: Counter[str] = Counter()
        self.start()

    def start(self) -> None:
        """Listen, for the first time or again."""
        entity = AE(ae_title="PSMA_NODE")
        entity.add_supported_context(CTImageStorage)
        entity.add_supported_context(SecondaryCaptureImageStorage)
        handlers = [(evt.EVT_C_STORE, self._on_store)]
        self.server = entity.start_server((LOOPBACK, self.port), block=False, evt_handlers=handlers)

    def _on_store(self, event: Any) -> int:
        self.received[str(event.dataset.Modality)] += 1
        return 0x0000


@pytest.fixture
def node() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()


@pytest.fixture
def http_port(tmp_path: Path, node: Listener) -> Iterator[int]:
    """The shipped configuration, with folders and ports that are free here."""
    program = orthanc_program()
    if program is None:
        pytest.fail("Orthanc is not installed: scripts/install-peers")
    shipped = json.loads((MAP / "orthanc" / "orthanc.json").read_text())
    port = free_port()
    here = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "DicomPort": free_port(),
        "HttpPort": port,
        "StableAge": 1,
        "LuaScripts": [str(MAP / "orthanc" / Path(shipped["LuaScripts"][0]).name)],
        "DicomModalities": {"psma-node": ["PSMA_NODE", LOOPBACK, node.port]},
    }
    assert here.keys() <= shipped.keys()
    configuration = tmp_path / "orthanc.json"
    configuration.write_text(json.dumps(shipped | here))
    orthanc: Program = start_program(
        "Orthanc", [program, str(configuration)], tmp_path / "log.txt", {**os.environ, "TCP_NODELAY": "1"}
    )
    try:
        orthanc.wait_for_port(port, START_S)
        yield port
    finally:
        orthanc.stop()


def give(http_port: int, folder: Path, modality: str, number: int, study: str = STUDY) -> None:
    """One instance of the study."""
    path = secondary_capture(folder / "one.dcm", study, derived_uid(modality, number))
    dataset = pydicom.dcmread(path)
    dataset.Modality, dataset.SeriesInstanceUID = modality, f"{study}.{len(modality)}{ord(modality[0])}"
    dataset.save_as(path, enforce_file_format=True)
    request = urllib.request.Request(f"http://{LOOPBACK}:{http_port}/instances", path.read_bytes())
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - loopback


def ask(http_port: int, path: str, data: bytes | None = None) -> Any:
    """Orthanc's answer; with data, to a POST."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{http_port}{path}", data, timeout=30) as answer:
        return json.loads(answer.read())


def sent_marks(http_port: int) -> list[str]:
    """What the script wrote on each study that it holds for sent."""
    marks = (ask(http_port, f"/studies/{study}/metadata?expand") for study in ask(http_port, "/studies"))
    return [mark["4211"] for mark in marks if "4211" in mark]


def failed_jobs(http_port: int) -> list[str]:
    """Jobs that can be sent again."""
    return [job["ID"] for job in ask(http_port, "/jobs?expand") if job["State"] == "Failure"]


def stable_studies(http_port: int) -> int:
    """How often Orthanc has told of a stable study."""
    changes = ask(http_port, "/changes?limit=1000")["Changes"]
    return sum(change["ChangeType"] == "StableStudy" for change in changes)


def test_images_go_to_the_node_once_and_results_never(http_port: int, node: Listener, tmp_path: Path) -> None:
    give(http_port, tmp_path, "CT", 1)
    wait_until(lambda: node.received == {"CT": 1}, "the image has come")
    give(http_port, tmp_path, "SR", 1)
    wait_until(lambda: stable_studies(http_port) == 2, "the study is stable again")
    give(http_port, tmp_path, "CT", 2)
    # all images once more, which is harmless; the result is not among them
    wait_until(lambda: node.received == {"CT": 3}, "the late image has come")
    time.sleep(1.0)
    assert node.received == {"CT": 3}
    assert sent_marks(http_port) == ["2"]


def test_no_study_is_lost_when_the_node_is_away(http_port: int, node: Listener, tmp_path: Path) -> None:
    node.server.shutdown()
    studies = 12  # more than the 10 ended jobs that Orthanc keeps of itself
    for number in range(1, studies + 1):
        give(http_port, tmp_path, "CT", number, f"{STUDY}.{number}")
    wait_until(lambda: len(failed_jobs(http_port)) == studies, "every study has failed, and is still known")
    assert sent_marks(http_port) == []

    node.start()
    for job in failed_jobs(http_port):
        ask(http_port, f"/jobs/{job}/resubmit", b"")
    wait_until(lambda: sent_marks(http_port) == ["1"] * studies, "every study is marked as sent")
    assert node.received == {"CT": studies}
