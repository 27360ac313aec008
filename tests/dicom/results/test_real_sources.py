"""Results drawn on real images: odd headers, many slices, a SPECT that calls itself PT."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.dicom.reading.loading import read_functional
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.dicom.results.policy import WritePolicy
from app.dicom.results.writer import write_results
from app.domain.analysis import Aligned, Loaded, Quantified, Segmented
from app.domain.decision import ModelRole, ModelUsed
from app.domain.findings.measurements import measure
from app.domain.selection.pair import Selection
from app.domain.selection.tracers import PSMA_11_GA68, PSMA_617_LU177
from app.domain.study import Series, Study, StudyKind
from app.domain.volume import LabelMap
from app.imaging.labels import label_lesions
from tests.dicom.results.sources import PROVENANCE

REAL = {
    "177Lu SPECT stored as PT": ("spect-lu177/SCAN_001/image", StudyKind.SPECT_CT),
    "PET in GML": ("pet-ge-sts001/pet-suv-cropped", StudyKind.PET_CT),
    "PET with uneven slices": ("pet-ge-sts001/pet", StudyKind.PET_CT),
}


@pytest.mark.parametrize("name", REAL)
def test_results_on_a_real_image_are_conformant_and_faithful(
    samples: Path, tmp_path: Path, name: str
) -> None:
    folder, kind = REAL[name]
    study = read_study(samples / folder)
    functional = next(series for series in study.series if series.modality == "PT")
    inherited = _errors(functional.instances[0].path)  # such as a Study ID longer than SH allows
    # write_results compares every voxel and number itself, and raises
    for result in write_results(_analysis(study, functional, kind), WritePolicy(), PROVENANCE).results:
        file = tmp_path / result.file_name
        file.write_bytes(result.content)
        assert _errors(file) - inherited == set()


def _errors(file: Path) -> set[str]:
    tool = Path(sys.executable).parent / "dciodvfy"
    done = subprocess.run([tool, file], check=False, capture_output=True, text=True)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def _analysis(study: Study, functional: Series, kind: StudyKind) -> Quantified:
    """The hottest quarter percent as lesions; the CT stands in as the image itself."""
    image = read_functional(functional, LoadPolicy())
    suv = image.suv or image.activity
    assert suv is not None
    mask = suv.array > np.quantile(suv.array, 0.9975)
    labels = _at_most(label_lesions(mask, suv.grid, 1.0).labels, 3)
    tracer = PSMA_11_GA68 if kind is StudyKind.PET_CT else PSMA_617_LU177
    loaded = Loaded(
        Selection(study, kind, functional, replace(functional, modality="CT"), tracer),
        suv,
        image.activity,
        suv,
        image.quantification,
        image.slice_sop_instance_uids,
        image.slice_frame_numbers,
        image.decisions,
    )
    model = ModelUsed("m", ModelRole.M1, "1", "00" * 32, demonstration_only=True)
    return Quantified(Segmented(Aligned(loaded), labels, model), measure(labels, suv, image.activity))


def _at_most(labels: LabelMap, count: int) -> LabelMap:
    return LabelMap(np.where(labels.array <= count, labels.array, 0), labels.grid)
