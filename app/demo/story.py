"""The demo: a patient's PET/CT and SPECT/CT, weeks apart, go to the node, and the results to a PACS."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from app.demo.comparison import Comparison, compare, write_page, write_truth_beside_result
from app.demo.node import Node, new_node, send_images, study_instance_uid
from app.demo.pacs import Pacs, choose_pacs, running
from app.demo.processes import free_port
from app.demo.results import (
    VIEWER_AE_TITLE,
    ReportedLesion,
    Statement,
    StudyResults,
    algorithm_name,
    fetch_results,
    read_labels,
    reported_lesions,
    statements,
)
from app.domain.volume import LabelMap
from app.errors import PsmaNodeError
from app.phantom.acquisition import Acquisition
from app.phantom.centres import Centre
from app.phantom.dicom.writer import write_patient
from app.phantom.patient import simulate_patient

POLL_S = 3.0
WHITE_SUV = {"PET/CT": 15.0, "SPECT/CT": 10.0}


class DemoFailedError(PsmaNodeError):
    """The demo did not come to its end; the message says where, and shows the node's last lines."""


class Narrator(Protocol):
    """Shows how the demo gets on."""

    def step(self, text: str) -> None:
        """A new step begins; the one before has ended well."""

    def progress(self, text: str) -> None:
        """What is happening now within the step."""

    def note(self, text: str) -> None:
        """Something to remember from this step."""


@dataclass(frozen=True)
class DemoRequest:
    """What to show: a patient's number and centre, where to put pictures, how long to wait for a study."""

    out: Path
    patient: int
    centre: Centre
    patience_s: float = 600.0


@dataclass(frozen=True, eq=False)
class StudyShown:
    """One study, sent, processed, retrieved and compared.

    ``model`` is role and id as the SR names them.
    """

    title: str
    model: str
    comparison: Comparison
    lesions: tuple[ReportedLesion, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class _Stage:
    """The node and the PACS that the demo runs on."""

    request: DemoRequest
    node: Node
    pacs: Pacs
    narrator: Narrator


def run_demo(request: DemoRequest, narrator: Narrator) -> tuple[StudyShown, ...]:
    """Play the story; the PET/CT first, then the SPECT/CT.

    Everything it starts is stopped and its temporary folder removed when it returns or raises.

    Raises:
        DemoFailedError: a program ended, or a study gave no result.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="psma-node-demo-") as name:
        folder = Path(name)
        narrator.step(f"Simulating patient {request.patient} of centre {request.centre}")
        patient = simulate_patient(request.patient, request.centre)
        written = write_patient(patient, folder / "patient")
        with _stage(request, folder, narrator) as stage:
            pet = _show(stage, "PET/CT", written.pet.images, patient.pet)
            spect = _show(stage, "SPECT/CT", written.spect.images, patient.spect)
            narrator.step("Stopping node and PACS")
    return pet, spect


@contextmanager
def _stage(request: DemoRequest, folder: Path, narrator: Narrator) -> Iterator[_Stage]:
    pacs = choose_pacs(folder / "pacs", {"PSMA_NODE": free_port(), VIEWER_AE_TITLE: free_port()})
    narrator.step(f"Starting a PACS: {pacs.name}")
    with running(pacs):
        node = new_node(folder / "node", pacs)
        narrator.step("Starting the node: psma-node serve")
        try:
            node.start()
            narrator.note(f"listens on port {node.port}, delivers to {pacs.ae_title} on port {pacs.port}")
            yield _Stage(request, node, pacs, narrator)
        finally:
            node.stop()


def _show(stage: _Stage, title: str, images: Sequence[Path], truth: Acquisition) -> StudyShown:
    stage.narrator.step(f"Sending the {title} over C-STORE")
    send_images(images, stage.node.port)
    stage.narrator.note(f"{len(images)} instances sent, every one acknowledged as stored")
    study_uid = study_instance_uid(images)
    stage.narrator.step(f"Waiting for the results of the {title} in the PACS")
    _wait_until_done(stage, study_uid)
    results = fetch_results(stage.pacs, study_uid)
    kinds = [*(["SEG"] if results.segmentation is not None else []), "SR", "page"]
    stage.narrator.note(f"found there by query and retrieved: {', '.join(kinds)}")
    found = read_labels(results.segmentation, truth.functional.grid)
    _write_files(stage.request.out, title, results, truth, found)
    return StudyShown(
        title=title,
        model=algorithm_name(results.report),
        comparison=compare(truth.truth, found),
        lesions=reported_lesions(results.report),
        statements=statements(results.report),
    )


def _wait_until_done(stage: _Stage, study_uid: str) -> None:
    deadline = time.monotonic() + stage.request.patience_s
    while True:
        stage.node.require_alive()
        status = stage.node.status_of(study_uid)
        if status is not None and status.state == "done":
            return
        if status is not None and status.state in ("rejected", "failed"):
            raise DemoFailedError(_story_of(stage.node, f"the study is {status.state}: {status.reason}"))
        if time.monotonic() > deadline:
            state = "unknown to the node" if status is None else f"{status.state} ({status.reason})"
            raise DemoFailedError(
                _story_of(stage.node, f"after {stage.request.patience_s:.0f} s the study is {state}")
            )
        if status is not None:
            stage.narrator.progress(f"{status.state} {status.stage or status.reason}".strip())
        time.sleep(POLL_S)


def _story_of(node: Node, problem: str) -> str:
    return f"{problem}\nThe node's last lines:\n{node.last_lines()}"


def _write_files(out: Path, title: str, results: StudyResults, truth: Acquisition, found: LabelMap) -> None:
    stem = title.lower().replace("/", "-")
    write_page(results.page, out / f"{stem}-page.png")
    picture = out / f"{stem}-truth-and-result.png"
    write_truth_beside_result(truth.functional, truth.truth, found, WHITE_SUV[title], picture)
    for kind, dataset in (("seg", results.segmentation), ("sr", results.report), ("page", results.page)):
        if dataset is not None:
            dataset.save_as(out / f"{stem}-{kind}.dcm", enforce_file_format=True)
