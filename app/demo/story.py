"""The demo: a patient's PET/CT and SPECT/CT, weeks apart, go to the node, and the results to a PACS.

The lesions found are shown against the lesions that are there, as numbers and as a picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

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
from app.domain.scores import count_voxels
from app.domain.volume import LabelMap, Volume
from app.errors import PsmaNodeError
from app.imaging.mip import anterior
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


Overlaps = NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """One row of the table: a true lesion with what was found for it, or something found where nothing is.

    Attributes:
        true_number, true_ml: of the true lesion; ``None`` for a false positive.
        found_number, found_ml: of the found lesion that overlaps it most; ``None`` for a miss.
    """

    true_number: int | None
    true_ml: float | None
    found_number: int | None
    found_ml: float | None


@dataclass(frozen=True)
class Comparison:
    """Truth against result on one image.

    Attributes:
        matches: true lesions, largest first, then the false positives, largest first.
        dice: of the two masks; ``None`` when both are empty.
        precision: share of found voxels that are true; ``None`` when nothing was found.
    """

    matches: tuple[Match, ...]
    dice: float | None
    precision: float | None

    @property
    def true_count(self) -> int:
        """Lesions that are there."""
        return sum(match.true_number is not None for match in self.matches)

    @property
    def hit_count(self) -> int:
        """Lesions that are there and were found."""
        return sum(None not in (match.true_number, match.found_number) for match in self.matches)

    @property
    def false_positive_count(self) -> int:
        """Lesions that were found and are not there."""
        return sum(match.true_number is None for match in self.matches)


def compare(truth: LabelMap, found: LabelMap) -> Comparison:
    """Match by overlap: to each true lesion the found one that shares most voxels with it.

    Raises:
        ValueError: the two lie on different grids.
    """
    if not truth.grid.matches(found.grid):
        raise ValueError("truth and result lie on different grids")
    overlaps = _overlaps(truth, found)
    true_ml = np.bincount(truth.array.ravel(), minlength=truth.count + 1) * truth.grid.voxel_ml
    found_ml = np.bincount(found.array.ravel(), minlength=found.count + 1) * found.grid.voxel_ml
    rows = []
    for number in _largest_first(true_ml):
        partner = int(overlaps[number, 1:].argmax()) + 1 if overlaps[number, 1:].any() else None
        size = None if partner is None else float(found_ml[partner])
        rows.append(Match(number, float(true_ml[number]), partner, size))
    false = [number for number in _largest_first(found_ml) if not overlaps[1:, number].any()]
    rows += [Match(None, None, number, float(found_ml[number])) for number in false]
    voxels = count_voxels(found.mask, truth.mask)
    return Comparison(tuple(rows), voxels.dice, voxels.ppv)


def _overlaps(truth: LabelMap, found: LabelMap) -> Overlaps:
    """Shared voxels, ``[true number, found number]``, background 0 included."""
    width = found.count + 1
    pairs = truth.array.astype(np.int64) * width + found.array
    counts: Overlaps = np.bincount(pairs.ravel(), minlength=(truth.count + 1) * width).astype(np.int64)
    return counts.reshape(truth.count + 1, width)


def _largest_first(volumes_ml: NDArray[np.floating[Any]]) -> list[int]:
    """Lesion numbers that have any voxel, the largest first."""
    numbers = [number for number in range(1, len(volumes_ml)) if volumes_ml[number] > 0]
    return sorted(numbers, key=lambda number: -volumes_ml[number])


PIXEL_MM = 2.0
GAP_PIXELS = 12
CAPTION_PIXELS = 20
TRUE_RGB = (0, 140, 60)
FOUND_RGB = (215, 40, 40)
Rgb = NDArray[np.uint8]


def write_page(page: Dataset, path: Path) -> None:
    """The secondary capture as PNG."""
    pixels = page.pixel_array
    Image.fromarray(pixels[0] if pixels.ndim == 4 else pixels).save(path)


def write_truth_beside_result(
    functional: Volume, truth: LabelMap, found: LabelMap, white_suv: float, path: Path
) -> None:
    """Two anterior MIPs side by side: true lesions outlined in green, found ones in red. PNG."""
    left = _outlined(functional, truth, white_suv, TRUE_RGB)
    right = _outlined(functional, found, white_suv, FOUND_RGB)
    gap = np.full((left.shape[0], GAP_PIXELS, 3), 255, dtype=np.uint8)
    views = Image.fromarray(np.concatenate([left, gap, right], axis=1))
    picture = Image.new("RGB", (views.width, views.height + CAPTION_PIXELS), "white")
    picture.paste(views, (0, CAPTION_PIXELS))
    write = ImageDraw.Draw(picture)
    write.text((4, 4), f"{truth.count} true lesions", fill=TRUE_RGB)
    write.text((left.shape[1] + GAP_PIXELS + 4, 4), f"{found.count} lesions found", fill=FOUND_RGB)
    picture.save(path)


def _outlined(functional: Volume, labels: LabelMap, white_suv: float, colour: tuple[int, int, int]) -> Rgb:
    view = anterior(functional.array, functional.grid)
    grey = (255 - 255 * np.clip(view.image / white_suv, 0, 1)).astype(np.uint8)
    mask = anterior(labels.mask.astype(np.uint8), labels.grid).image > 0
    height_mm = view.vertical_mm[1] - view.vertical_mm[0]
    width_mm = view.horizontal_mm[1] - view.horizontal_mm[0]
    size = (round(width_mm / PIXEL_MM), round(height_mm / PIXEL_MM))
    rgb = np.repeat(_resized(grey, size)[..., None], 3, axis=2)
    rgb[_edge(_resized(mask.astype(np.uint8) * 255, size) > 127)] = colour
    return rgb


def _resized(image: Rgb, size: tuple[int, int]) -> Rgb:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask that touch its outside."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    edge: NDArray[np.bool_] = mask & ~inner
    return edge
