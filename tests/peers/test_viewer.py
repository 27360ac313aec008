"""OHIF's own reader (cornerstone's adapters and dcmjs, run by Node) shows the label map that was meant."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.dicom.uids import ResultKind
from tests.peers.results import Case

READER = Path(__file__).parent / "node" / "node_modules" / ".read_seg.cjs"


def viewer_source(case: Case) -> dict[str, Any]:
    """The source image as a viewer knows it: its planes, with a frame number where it is multi-frame."""
    loaded = case.quantified.segmented.aligned.loaded
    grid = loaded.uptake.grid
    column_mm, row_mm, _ = grid.spacing_mm
    cosines = (grid.affine[:3, :3] / np.array(grid.spacing_mm)).T.tolist()
    positions = grid.to_lps(np.array([[0.0, 0.0, float(z)] for z in range(grid.shape[0])])).tolist()
    uids, frames = loaded.slice_sop_instance_uids, loaded.slice_frame_numbers
    multi_frame = len(set(uids)) == 1
    slices = [
        {
            "imageId": f"test:{uid}/frames/{frame}" if multi_frame else f"test:{uid}",
            "sopInstanceUID": uid,
            "position": position,
        }
        for uid, frame, position in zip(uids, frames, positions, strict=True)
    ]
    return {
        "seriesInstanceUID": loaded.selection.functional.series_instance_uid,
        "frameOfReferenceUID": loaded.uptake.frame_of_reference_uid,
        "rows": grid.shape[1],
        "columns": grid.shape[2],
        "rowCosines": cosines[0],
        "columnCosines": cosines[1],
        "pixelSpacing": [row_mm, column_mm],
        "slices": slices,
    }


def shown(case: Case, folder: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The viewer's label map ``(z, y, x)``, and what it says of the segments."""
    node = shutil.which("node")
    if node is None or not READER.exists():
        pytest.fail("the viewer's reader is not built: scripts/install-viewer-peer")
    source, seg, out = folder / "source.json", folder / "seg.dcm", folder / "labels"
    source.write_text(json.dumps(viewer_source(case)))
    seg.write_bytes(case.of_kind(ResultKind.SEG).content)
    done = subprocess.run([node, READER, source, seg, out], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shape = case.quantified.segmented.labels.grid.shape
    content = json.loads(done.stdout.splitlines()[-1])
    return np.frombuffer(out.read_bytes(), dtype=np.uint8).reshape(shape), content


@pytest.mark.parametrize("name", ["PET", "PET, other choices", "SPECT as PT", "NM", "NM, other choices"])
def test_the_viewer_shows_every_voxel_of_every_lesion(
    cases: dict[str, Case], name: str, tmp_path: Path
) -> None:
    labels, content = shown(cases[name], tmp_path)
    meant = cases[name].quantified.segmented.labels
    assert np.array_equal(labels, meant.array)
    assert content["overlapping"] is False
    found = [(segment["number"], segment["label"]) for segment in content["segments"] if segment["number"]]
    assert found == [(number, f"Lesion {number}") for number in range(1, meant.count + 1)]
