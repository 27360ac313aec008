"""The contract of a MONAI Application Package: input read-only, output, exit code."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.map.package import ROOT, Package, Run, mount, open_folder

INPUT, OUTPUT = "/var/holoscan/input", "/var/holoscan/output"


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def process(package: Package, studies: Path, out: Path, options: Sequence[str] = ()) -> Run:
    places = [mount(studies, INPUT, read_only=True), mount(out, OUTPUT)]
    return package.run("process", options=[*places, *options])


@pytest.fixture(scope="module")
def processed(package: Package, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A PET/CT and a SPECT/CT through the container."""
    out = open_folder(tmp_path_factory.mktemp("contained") / "out")
    return process(package, studies, out), out


def test_both_studies_are_done(processed: tuple[Run, Path]) -> None:
    done, out = processed
    assert done.code == 0, done.errors
    assert len(list(out.rglob("outcome.json"))) == 3  # of the folder, and of each study
    assert len(list(out.rglob("*.dcm"))) >= 6


def test_the_results_are_those_of_the_same_version_outside(
    processed: tuple[Run, Path], studies: Path, tmp_path: Path
) -> None:
    _, contained = processed
    command = [sys.executable, "-m", "app", "process", str(studies), str(tmp_path / "out")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    outside = contents(tmp_path / "out")
    assert len(outside) >= 9
    assert contents(contained) == outside


def test_an_input_without_images_ends_with_a_reason(package: Package, tmp_path: Path) -> None:
    studies, out = open_folder(tmp_path / "in"), open_folder(tmp_path / "out")
    (studies / "letter.txt").write_text("Dear colleague")
    done = process(package, studies, out)
    assert done.code == 3
    assert "no DICOM" in done.output + done.errors


def test_a_missing_input_is_named(package: Package, tmp_path: Path) -> None:
    out = open_folder(tmp_path / "out")
    done = package.run("process", options=[mount(out, OUTPUT), "--env=HOLOSCAN_INPUT_PATH=/nowhere"])
    assert done.code == 2
    assert "/nowhere" in done.errors


def test_a_full_output_disk_is_a_failure_that_says_so(package: Package, studies: Path) -> None:
    small = "--mount=type=tmpfs,destination=/var/holoscan/output,tmpfs-size=100k,tmpfs-mode=1777"
    done = package.run("process", options=[mount(studies, INPUT, read_only=True), small])
    assert done.code not in (0, 3)
    assert "No space left" in done.errors.splitlines()[-1]
    only_our_own_lines(done)


def only_our_own_lines(done: Run) -> None:
    """The log's JSON and the sentence at the end: nothing of the framework's for a person to look through."""
    own = ("{", "psma-node: ", "psma-map: ")
    assert [line for line in done.errors.splitlines() if not line.startswith(own)] == []


def test_an_output_that_is_not_writable_is_a_failure_that_says_so(
    package: Package, studies: Path, tmp_path: Path
) -> None:
    out = open_folder(tmp_path / "out")
    places = [mount(studies, INPUT, read_only=True), mount(out, OUTPUT, read_only=True)]
    done = package.run("process", options=places)
    assert done.code not in (0, 3)
    assert "Read-only file system" in done.output + done.errors
    assert contents(out) == {}


def test_its_time_over_it_ends_and_says_so(package: Package, studies: Path, tmp_path: Path) -> None:
    out = open_folder(tmp_path / "out")
    (out / "outcome.json").write_text('{"status": "done"}')  # of an earlier run
    (out / "outcome.json").chmod(0o666)
    done = process(package, studies, out, ["--env=HOLOSCAN_TIMEOUT=1"])
    assert done.code == 124
    assert "timeout" in done.errors
    assert [path for path in out.rglob("outcome.json") if '"done"' in path.read_text()] == []


def test_a_gpu_that_is_demanded_and_absent_is_missed(package: Package, studies: Path, tmp_path: Path) -> None:
    out = open_folder(tmp_path / "out")
    done = process(package, studies, out, ["--env=PSMA_NODE__SEGMENT__DEVICE=cuda"])
    assert done.code == 2
    assert "CUDA" in done.errors
    only_our_own_lines(done)
    assert contents(out).keys() <= {"outcome.json"}


def test_without_a_folder_for_temporary_files_it_says_so(package: Package) -> None:
    command = [word for word in package.command(["check"], ["--network=none"]) if word != "--tmpfs=/tmp"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert "--tmpfs /tmp" in done.stderr


def test_the_site_s_settings_are_found_where_they_are_mounted(package: Package, tmp_path: Path) -> None:
    site = tmp_path / "app.yaml"
    site.write_text("receive: {porrt: 104}\n")
    done = package.run("check", options=[f"--volume={site}:/etc/psma-node/app.yaml:ro"])
    assert done.code == 2
    assert "porrt" in done.output + done.errors
