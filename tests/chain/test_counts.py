"""A SPECT in counts through the chain: refused, or by the site's choice its lesions over the liver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from app.dicom.reading.policy import SpectInCounts
from app.domain.outcome import PairOutcome, Status
from app.domain.refusal import RefusalCode
from app.files.outcome import read_outcome
from app.phantom.dicom.writer import WrittenPatient
from app.settings import Settings
from tests.chain import fakes
from tests.chain.conftest import processor


def images_in_counts(patient: WrittenPatient, folder: Path) -> tuple[Path, ...]:
    """The SPECT/CT without the mapping that makes Bq/ml of its counts."""
    [path] = patient.spect.functional
    dataset = pydicom.dcmread(path)
    del dataset.RealWorldValueMappingSequence
    folder.mkdir()
    dataset.save_as(folder / "nm.dcm")
    return (folder / "nm.dcm", *patient.spect.ct)


def test_lesions_of_counts_are_those_of_the_same_image_in_suv_and_their_uptake_is_over_the_liver(
    patient: WrittenPatient, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "HOT_SUV", 3.0)
    images = images_in_counts(patient, tmp_path / "images")
    refused = processor(settings).process(images, tmp_path / "refused", revision=1)
    assert refused.status is Status.REJECTED
    assert [reason.code for reason in refused.reasons] == [RefusalCode.CALIBRATION_MISSING]

    quantified = pair_of(patient.spect.images, settings, tmp_path / "suv")
    liver = quantified.findings.references[0].suv_mean
    assert liver is not None
    # so that the stand-in for a network sees the same image both times
    load = replace(settings.load, spect_in_counts=SpectInCounts.RELATIVE_TO_LIVER, training_liver_suv=liver)
    pair = pair_of(images, replace(settings, load=load), tmp_path / "counts")
    assert pair.findings.not_quantified
    assert len(pair.findings.lesions) == len(quantified.findings.lesions) > 0
    for found, true in zip(pair.findings.lesions, quantified.findings.lesions, strict=True):
        assert found.volume_ml == pytest.approx(true.volume_ml)
        assert found.centre_mm == pytest.approx(true.centre_mm)
        assert true.suv_max is not None
        assert found.to_liver_max == pytest.approx(true.suv_max / liver, rel=0.01)
        assert (found.suv_max, found.tl_psma, found.activity_mbq) == (None, None, None)
    files = {file.kind: pydicom.dcmread(tmp_path / "counts" / file.path) for file in pair.files}
    [before] = [file for file in quantified.files if file.kind == "SEG"]
    segments = pydicom.dcmread(tmp_path / "suv" / before.path).pixel_array
    assert np.array_equal(files["SEG"].pixel_array, segments)


def pair_of(images: tuple[Path, ...], settings: Settings, out: Path) -> PairOutcome:
    processor(settings).process(images, out, revision=1)
    [pair] = read_outcome(out).pairs
    return pair
