"""What real and reference series say of their decay correction and uptake time, as they are and rewritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from app.dicom.reading.functional_image import FunctionalImage
from app.dicom.reading.loading import read_functional
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.domain.quantities.decay import decay_factor, mean_activity_offset_s
from app.domain.radionuclides import F18
from app.domain.refusal import RefusalCode

UPTAKE_S, FRAME_S = 3600.0, 300.0
"""Of every reference object."""


def functional(folder: Path) -> FunctionalImage:
    study = read_study(folder.rglob("*.dcm"))
    (series,) = (item for item in study.series if item.modality == "PT")
    return read_functional(series, LoadPolicy())


def warnings_of(image: FunctionalImage) -> list[str]:
    """Those of decay, dose, weight, uptake and share."""
    subjects = ("Decay", "uptake", "injected", "weight")
    told = [item.line for item in image.decisions if item.line.startswith("warning:")]
    return [text for text in told if any(subject in text for subject in subjects)]


def rewritten(
    source: Path, folder: Path, decay_correction: str, scale: float, factor: float
) -> FunctionalImage:
    """A reference object whose values are corrected otherwise; CorrectedImage keeps DECY."""
    for path in (source / "PT").glob("*.dcm"):
        dataset = dcmread(path)
        dataset.DecayCorrection, dataset.DecayFactor = decay_correction, factor
        dataset.RescaleSlope = f"{float(dataset.RescaleSlope) * scale:.9g}"
        dataset.save_as(folder / path.name)
    return functional(folder)


SCALES = {
    "ADMIN": 1.0 / decay_factor(UPTAKE_S, F18.half_life_s),
    "NONE": decay_factor(mean_activity_offset_s(FRAME_S, F18.half_life_s), F18.half_life_s),
}


@pytest.mark.parametrize("decay_correction", SCALES)
def test_a_reference_object_corrected_otherwise_has_its_suv_and_a_warning(
    samples: Path, tmp_path: Path, decay_correction: str
) -> None:
    """Their CorrectedImage and DecayFactor are constants: neither may overrule Decay Correction."""
    source = samples / "suv-dro" / "DRO_0_0"
    found = rewritten(source, tmp_path, decay_correction, SCALES[decay_correction], 1.0)
    assert found.suv is not None, found.no_suv
    assert sorted({f"{value:.2f}" for value in np.unique(found.suv.array)}) == [
        "0.00",
        "0.20",
        "1.00",
        "4.00",
    ]
    assert any(
        f"DecayCorrection {decay_correction}" in text or "is NONE" in text for text in warnings_of(found)
    )


def test_a_reference_object_called_admin_with_the_factor_of_start_has_no_suv(
    samples: Path, tmp_path: Path
) -> None:
    found = rewritten(samples / "suv-dro" / "DRO_0_0", tmp_path, "ADMIN", 1.0, 1.0158)
    assert found.no_suv is not None
    assert found.no_suv.code is RefusalCode.DECAY_CORRECTION_CONTRADICTED


@pytest.mark.parametrize(
    ("folder", "uptake_min"),
    [
        ("suv-dro/DRO_0_0/PT", 60.0),
        ("suv-dro/DRO_2_0/PT", 60.0),
        ("suv-dro/DRO_3_2/PT", 60.0),
        ("suv-dro/DRO_4_0/PT", 60.0),
        ("pet-ge-sts001/pet", 45.2),
        ("pet-ge-sts001/pet-suv-cropped", 45.2),
        ("spect-lu177", 224.5),
    ],
)
def test_a_sample_has_its_uptake_time_and_no_warning(samples: Path, folder: str, uptake_min: float) -> None:
    found = functional(samples / folder)
    assert found.quantification.uptake_s == pytest.approx(uptake_min * 60.0, abs=5.0)
    assert warnings_of(found) == []


def test_the_cropped_suv_and_the_real_spect_tell_what_their_decay_factor_leaves_open(samples: Path) -> None:
    cropped = functional(samples / "pet-ge-sts001" / "pet-suv-cropped").decisions
    assert any("no effect, as the image is SUV already" in item.line for item in cropped)
    spect = functional(samples / "spect-lu177").decisions
    assert any("START would change SUV by 1.6%" in item.line for item in spect)


REAL_BEDS = 6
"""Of 44 slices and more, all with the scan's Acquisition Time, each with its own Frame Reference Time."""


@pytest.mark.parametrize("series_time", ["112011.00", "180000", ""])
def test_the_last_bed_of_the_real_ge_series_alone_has_the_suv_of_the_whole(
    samples: Path, tmp_path: Path, series_time: str
) -> None:
    """By the same Series Time; else by GE's private time."""
    headers = {path: dcmread(path) for path in (samples / "pet-ge-sts001" / "pet").rglob("*.dcm")}
    slices = {path: one for path, one in headers.items() if one.Modality == "PT"}
    beds = sorted({float(one.FrameReferenceTime) for one in slices.values()})
    assert len(beds) == REAL_BEDS
    for path, one in slices.items():
        if float(one.FrameReferenceTime) == beds[-1]:
            one.SeriesTime = series_time
            if series_time != "112011.00":
                one.private_block(0x0009, "GEMS_PETD_01").add_new(0x0D, "DT", "20000907112011.00")
            one.save_as(tmp_path / path.name)
    found = functional(tmp_path)
    whole = 71e3 / (3.88777472e8 * 2.0 ** (-2711.0 / 6588.0))
    assert found.quantification.suv_per_bqml == pytest.approx(whole, rel=1e-6)


def changed(source: Path, folder: Path, private: str = "", **changes: object) -> list[str]:
    """SUV of a reference object whose headers say something else of the times."""
    for path in (source / "PT").glob("*.dcm"):
        dataset = dcmread(path)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        if private:
            dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", private)
        dataset.save_as(folder / path.name)
    found = functional(folder)
    assert found.suv is not None, found.no_suv
    return sorted({f"{value:.2f}" for value in np.unique(found.suv.array)})


@pytest.mark.parametrize(
    ("private", "changes"),
    [
        ("20250101110000", {"AcquisitionTime": "113000"}),
        ("20250101110000", {"AcquisitionTime": "103000"}),
        ("20250101110000", {"SeriesTime": "150000", "FrameReferenceTime": 1500000}),
        ("", {"SeriesTime": "150000", "FrameReferenceTime": 0}),
        ("", {"SeriesTime": "110000", "FrameReferenceTime": 1500000}),
        (
            "",
            {
                "SeriesTime": "150000",
                "AcquisitionTime": "110500",
                "FrameReferenceTime": 300000,
                "Manufacturer": "GE MEDICAL SYSTEMS",
            },
        ),
    ],
)
def test_a_reference_object_with_times_as_scanners_write_them_has_its_suv(
    samples: Path, tmp_path: Path, private: str, changes: dict[str, object]
) -> None:
    """Its reference is 11:00; Acquisition Time alone wrong, a later processing, a bed's start or a crop."""
    found = changed(samples / "suv-dro" / "DRO_0_0", tmp_path, private, **changes)
    assert found == ["0.00", "0.20", "1.00", "4.00"]
