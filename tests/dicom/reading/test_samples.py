"""Real and reference data with stated answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray
from pydicom import dcmread

from app.dicom.reading.functional_image import FunctionalImage
from app.dicom.reading.inspection import StudyInspection, inspect_folder
from app.dicom.reading.loading import load, read_ct, read_functional
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.domain.analysis import Loaded
from app.domain.refusal import RefusalCode
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from app.domain.stack.ct_agreement import CtAgreementPolicy, CtVerdict, judge_ct_agreement
from app.domain.study import StudyKind
from app.domain.volume import Grid, Volume
from app.imaging.registration.ct_agreement import measure_ct_agreement
from tests.dicom.reading import tiny

REFERENCE_OBJECTS = ("0_0", "1_0", "2_0", "2_2", "2_4", "3_0", "3_2", "4_0")
FDG_ALLOWED = SelectionPolicy(additional_tracers=("18F-FDG",))


def contoured(grid: Grid, structure_set: Path, name: str) -> NDArray[np.bool_]:
    """Voxels whose centre lies inside the planar contours of an ROI (even-odd rule)."""
    dataset = dcmread(structure_set)
    number = next(roi.ROINumber for roi in dataset.StructureSetROISequence if roi.ROIName == name)
    roi = next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number)
    mask = np.zeros(grid.shape, dtype=bool)
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]]
    for contour in roi.ContourSequence:
        points = grid.to_index(np.array(contour.ContourData, dtype=float).reshape(-1, 3))
        low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int) + 1
        box = slice(low[1], high[1]), slice(low[0], high[0])
        mask[round(float(points[:, 2].mean()))][box] ^= _inside(points[:, :2], columns[box], rows[box])
    return mask


def _inside(polygon: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def functional(folder: Path) -> FunctionalImage:
    return read_functional(read_study(path for path in folder.rglob("*.dcm")).series[0], LoadPolicy())


@pytest.mark.parametrize("name", REFERENCE_OBJECTS)
def test_a_reference_object_has_the_suv_stated_for_it(samples: Path, name: str) -> None:
    found = functional(samples / "suv-dro" / f"DRO_{name}" / "PT")
    assert found.suv is not None, found.no_suv
    values = sorted({f"{value:.2f}" for value in np.unique(found.suv.array)})
    assert values == ["0.00", "0.20", "1.00", "4.00"]


@pytest.fixture(scope="module")
def real_pet(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyInspection, Path]:
    """The GE study inspected, and the folder with its volumes."""
    out = tmp_path_factory.mktemp("volumes")
    folder = samples / "pet-ge-sts001" / "pet"
    (study,) = inspect_folder(folder, SelectionPolicy(), LoadPolicy(), out).studies
    return study, out


@pytest.fixture(scope="module")
def real_suv(real_pet: tuple[StudyInspection, Path]) -> tuple[NDArray[np.float32], Grid]:
    (path,) = real_pet[1].glob("PT_*_SUVbw.nii.gz")
    written = sitk.ReadImage(str(path))
    suv = sitk.GetArrayFromImage(written)
    return suv, Grid.axis_aligned(suv.shape, written.GetSpacing(), written.GetOrigin())


def test_fdg_without_ct_is_rejected_by_its_attributes_yet_its_volumes_are_written(
    real_pet: tuple[StudyInspection, Path],
) -> None:
    study, out = real_pet
    assert study.rejection is not None
    codes = [reason.code for reason in study.rejection.reasons]
    assert codes == [RefusalCode.TRACER_NOT_ALLOWED, RefusalCode.NO_CT]
    assert all(reason.attribute for reason in study.rejection.reasons)
    assert "18F-FDG" in str(study.rejection)
    assert sorted(path.name.rpartition("_")[2] for path in out.iterdir()) == ["Bqml.nii.gz", "SUVbw.nii.gz"]


def test_the_real_pet_has_the_suv_stated_for_its_tumour(
    samples: Path, real_suv: tuple[NDArray[np.float32], Grid]
) -> None:
    suv, grid = real_suv
    (structures,) = (samples / "pet-ge-sts001" / "pet" / "mask").iterdir()
    tumour = suv[contoured(grid, structures, "GTV_Mass")]
    assert 7.9 <= tumour.max() <= 8.0
    assert 0.15 <= tumour.min() <= 0.20


def test_the_cropped_pair_is_analysed_once_its_tracer_is_allowed(
    samples: Path, real_suv: tuple[NDArray[np.float32], Grid]
) -> None:
    folders = [samples / "pet-ge-sts001" / name for name in ("pet-suv-cropped", "ct-cropped")]
    study = read_study(path for folder in folders for path in folder.iterdir())
    assert select(study, SelectionPolicy()).rejection is not None
    (selection,) = select(study, FDG_ALLOWED).selections
    found = load(selection, LoadPolicy())
    assert isinstance(found, Loaded), found
    assert found.activity is None
    assert found.uptake.grid.shape == (59, 43, 41)
    assert -1024.0 <= found.ct.array.min() < -900.0
    whole, grid = real_suv
    x, y, z = np.rint(grid.to_index(found.uptake.grid.origin_mm))[0].astype(int)
    part = whole[z : z + 59, y : y + 43, x : x + 41]
    assert np.abs(part - found.uptake.array).max() < 0.001


def test_quantitative_spect_stored_as_pet_is_taken_as_spect(samples: Path, tmp_path: Path) -> None:
    images = sorted((samples / "spect-lu177" / "SCAN_001" / "image").iterdir())
    first = dcmread(images[0], stop_before_pixels=True)

    def belong(dataset: Any, index: int) -> None:
        for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
            setattr(dataset, keyword, first[keyword].value)

    body = np.full((98, 100, 100), 1024, dtype=np.int16)
    body[:, :5] = 0
    ct = tiny.write_ct(
        tmp_path, tiny.Scan(body, "1.2.3.2", (5.0, 5.0, 4.0), (-249.0, -410.0, 1156.9), belong)
    )
    study = read_study([*images, *ct])
    without_ct = replace(study, series=tuple(item for item in study.series if item.modality == "PT"))
    rejection = select(without_ct, SelectionPolicy()).rejection
    assert rejection is not None
    assert [reason.code for reason in rejection.reasons] == [RefusalCode.NO_CT]
    (selection,) = select(study, SelectionPolicy()).selections
    assert selection.kind is StudyKind.SPECT_CT
    assert selection.tracer.radionuclide == "177Lu"
    found = load(selection, LoadPolicy())
    assert isinstance(found, Loaded), found
    assert found.activity is not None
    assert found.activity.array.max() == pytest.approx(22812 * 100)
    assert found.quantification.suv_per_bqml == pytest.approx(92.987e3 / 7210425599.6395)


def test_inspecting_hostile_files_ends_with_reasons(samples: Path, tmp_path: Path) -> None:
    found = inspect_folder(samples / "hostile", SelectionPolicy(), LoadPolicy(), tmp_path)
    assert found.unreadable
    study: StudyInspection
    for study in found.studies:
        assert study.rejection is not None
        assert all(series.verdict.reason for series in study.series)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("category", ["cat04_pixel_data", "cat05_transfer_syntax", "cat09_logic_bombs"])
def test_each_hostile_file_alone_ends_with_a_reason(samples: Path, category: str) -> None:
    for path in sorted((samples / "hostile" / category).iterdir()):
        found = inspect_folder(path, SelectionPolicy(), LoadPolicy())
        assert found.unreadable or all(study.rejection for study in found.studies)


@pytest.mark.parametrize(
    "pet, ct",
    [
        ("pet-ct-limb-crops/sts017", "pet-ct-limb-crops/sts017"),
        ("pet-ct-limb-crops/sts026", "pet-ct-limb-crops/sts026"),
        ("pet-ge-sts001/pet-suv-cropped", "pet-ge-sts001/ct-cropped"),
    ],
)
@pytest.mark.parametrize("by_mm", [0.0, 40.0])
def test_real_crops_whose_outline_the_view_cuts_are_not_judged(
    samples: Path, pet: str, ct: str, by_mm: float
) -> None:
    [image] = [
        one
        for one in read_study(filter(Path.is_file, (samples / pet).rglob("*"))).series
        if one.modality == "PT"
    ]
    [source] = [
        one
        for one in read_study(filter(Path.is_file, (samples / ct).rglob("*"))).series
        if one.modality == "CT"
    ]
    suv = read_functional(image, LoadPolicy()).suv
    assert suv is not None
    affine = suv.grid.affine.copy()
    affine[0, 3] += by_mm
    found = measure_ct_agreement(Volume(suv.array, Grid(suv.grid.shape, affine), suv.unit), read_ct(source))
    assert found is not None
    assert judge_ct_agreement(found, CtAgreementPolicy(), False).verdict is CtVerdict.UNCHECKED
