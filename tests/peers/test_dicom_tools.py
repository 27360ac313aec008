"""dicom3tools, DCMTK and dcmqi read every kind of result, and find what was meant."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray
from pydicom.uid import SegmentationStorage

from app.dicom.results.read_back import Result, numbers_by_group, texts
from app.dicom.uids import NoticeKind, ResultKind
from tests.dicom.results.conformance import TOOLS, errors_of
from tests.peers.results import Case

LABELMAP_UNKNOWN = ("Invalid or unknown image SOP class", "Reading invalid/incomplete content item")
"""DCMTK 3.6.7 does not know Label Map Segmentation Storage, which the Standard has since 2024; 3.6.9 does."""

LABEL_MAP = b"1.2.840.10008.5.1.4.1.1.66.7"

CASES = [
    "PET", "PET, other choices", "PET, Comprehensive SR", "NM", "NM, other choices", "SPECT as PT",
    "no lesion", "replacing", "withdrawn",
]  # fmt: skip
REPORTS = (ResultKind.SR, NoticeKind.SR)


def report_of(case: Case) -> Result:
    return next(result for result in case.results if result.kind in REPORTS)


@pytest.mark.parametrize("name", CASES)
def test_dciodvfy_finds_no_error(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    for result in cases[name].results:
        errors = errors_of(result.content, tmp_path)
        if "other choices" in name and result.kind is ResultKind.SR:
            # it does not know Label Map Segmentation Storage (2024) among the SOP classes of images
            errors = [error for error in errors if not _is_about_the_label_map(error)]
        assert errors == [], result.kind


def _is_about_the_label_map(error: str) -> bool:
    return "1.2.840.10008.5.1.4.1.1.66.7" in error or "ReferencedSegmentNumber" in error


def dsrdump(content: bytes, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """DCMTK's view of a report."""
    file = folder / "sr.dcm"
    file.write_bytes(content)
    program = shutil.which("dsrdump", path="/usr/bin:/usr/local/bin")
    if program is None:
        pytest.fail("DCMTK is not installed: scripts/install-peers")
    command = [program, *options, "+Pu", "+Pl", str(file)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def dcmtk_version() -> tuple[int, ...]:
    """Of the installed DCMTK."""
    done = subprocess.run(["dsrdump", "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"dsrdump v(\d+)\.(\d+)\.(\d+)", done.stdout)
    assert found is not None, done.stdout
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize("name", CASES)
def test_dsrdump_shows_the_tree_without_complaint(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    report = report_of(cases[name])
    refers_to_label_map = "other choices" in name
    done = dsrdump(report.content, tmp_path, *(["-Ev"] if refers_to_label_map else []))
    complaints = done.stderr.splitlines()
    if refers_to_label_map:
        complaints = [line for line in complaints if not any(known in line for known in LABELMAP_UNKNOWN)]
    assert (done.returncode, complaints) == (0, [])
    for _, text in texts(report.dataset):
        assert text in done.stdout
    shown = done.stdout.count('Measurement Group"')
    assert shown == len(numbers_by_group(report.dataset))


@pytest.mark.parametrize("name", ["PET, other choices", "NM, other choices"])
def test_an_older_dsrdump_stumbles_over_the_class_of_a_labelmap_and_over_nothing_else(
    cases: dict[str, Case], name: str, tmp_path: Path
) -> None:
    """TID 1411 has no other item than IMAGE for a segment, so the report can't be written otherwise."""
    report = report_of(cases[name])
    dcmtk_knows_label_maps = dcmtk_version() >= (3, 6, 9)
    assert (dsrdump(report.content, tmp_path).returncode == 0) is dcmtk_knows_label_maps
    lenient = dsrdump(report.content, tmp_path, "-Ev")
    lesions = len(numbers_by_group(report.dataset)) - 1
    # -Ev shows every item but the references to segments, which are left without their value
    assert lenient.stderr.count(LABELMAP_UNKNOWN[0]) == (0 if dcmtk_knows_label_maps else lesions)
    in_the_place_of_the_class = str(SegmentationStorage).encode()
    assert len(in_the_place_of_the_class) == len(LABEL_MAP) == 28
    known = report.content.replace(LABEL_MAP, in_the_place_of_the_class)
    strict = dsrdump(known, tmp_path)
    assert (strict.returncode, strict.stderr) == (0, "")


@pytest.mark.parametrize("name", ["PET", "NM", "SPECT as PT"])
def test_dcmqi_reads_the_same_mask(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    case = cases[name]
    file = tmp_path / "seg.dcm"
    file.write_bytes(case.of_kind(ResultKind.SEG).content)
    tool, options = TOOLS / "segimage2itkimage", ["--outputType", "nrrd", "--prefix", "s"]
    subprocess.run(
        [tool, "--inputDICOM", file, "--outputDirectory", tmp_path, *options], check=True, capture_output=True
    )
    labels = case.quantified.segmented.labels
    for number in range(1, labels.count + 1):
        index = np.argwhere(labels.array == number)[:, ::-1].astype(float)
        assert _lesion_points(tmp_path / f"s-{number}.nrrd") == _rounded(labels.grid.to_lps(index))


def _lesion_points(nrrd: Path) -> set[tuple[float, ...]]:
    image = sitk.ReadImage(str(nrrd))
    found = np.argwhere(sitk.GetArrayFromImage(image) > 0)
    points = [image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in found]
    return _rounded(np.array(points))


def _rounded(points: NDArray[np.float64]) -> set[tuple[float, ...]]:
    return {tuple(row) for row in (np.round(points, 2) + 0.0).tolist()}


@pytest.mark.parametrize("name", [name for name in CASES if name != "withdrawn"])
def test_dcmqi_reads_the_same_numbers(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    report = report_of(cases[name])
    file, out = tmp_path / "sr.dcm", tmp_path / "sr.json"
    file.write_bytes(report.content)
    tool = TOOLS / "tid1500reader"
    subprocess.run([tool, "--inputDICOM", file, "--outputMetadata", out], check=True, capture_output=True)
    groups = json.loads(out.read_text())["Measurements"]
    found = {group["TrackingIdentifier"]: _numbers(group) for group in groups}
    assert found == numbers_by_group(report.dataset)


def _numbers(group: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    return {
        (
            item["quantity"]["CodeValue"],
            item.get("derivationModifier", {}).get("CodeValue", ""),
            item["units"]["CodeValue"],
        ): float(item["value"])
        for item in group["measurementItems"]
    }
