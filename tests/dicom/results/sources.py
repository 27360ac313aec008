"""Tiny sources with an analysis on each: PET slices, an NM multi-frame, SPECT stored as PT.

Everything is built directly, without the readers: these tests are about writing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from app.domain.analysis import Aligned, Loaded, Prior, Provenance, Quantified, RegistrationFit, Segmented
from app.domain.decision import Decision, ModelRole, ModelUsed
from app.domain.findings.measurements import measure
from app.domain.quantities.suv_scale import Quantification
from app.domain.refusal import Reason, RefusalCode
from app.domain.selection.pair import Selection
from app.domain.selection.tracers import PSMA_11_GA68, PSMA_617_LU177
from app.domain.study import Instance, Patient, Series, Study, StudyKind
from app.domain.volume import Grid, LabelMap, Unit, Volume
from app.imaging.labels import label_lesions

PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
NM_CLASS = "1.2.840.10008.5.1.4.1.1.20"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.8.498.77"
FRAME_OF_REFERENCE = f"{ROOT}.9"
PROVENANCE = Provenance(software_version="0.1.0", settings_digest="ab" * 32)


@dataclass(frozen=True)
class PatientHeader:
    """Patient attributes as a site might have them."""

    name: str = "Zorn^Alfred"
    character_set: str | list[str] = "ISO_IR 100"
    sex: str = "M"


def small_grid(flipped: bool = False, oblique: bool = False) -> Grid:
    """12 slices of 20 x 16, anisotropic; ``flipped`` stacks from head to feet."""
    affine = np.diag([4.07, 3.8, 3.0, 1.0])
    if oblique:
        angle = np.deg2rad(12.0)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-31.3, -27.9, 812.25)
    if flipped:
        affine[:3, 2] *= -1.0
    return Grid((12, 20, 16), affine)


def some_labels(grid: Grid) -> LabelMap:
    """Three lesions, the second away from the first in all axes, one of a single voxel."""
    mask = np.zeros(grid.shape, dtype=bool)
    mask[2:6, 4:9, 3:7] = True
    mask[8:10, 12:15, 10:12] = True
    mask[10, 2, 14] = True
    return label_lesions(mask, grid, 0.0).labels


def pet(folder: Path, labels: LabelMap | None = None, patient: PatientHeader | None = None) -> Quantified:
    """A 68Ga-PSMA PET/CT analysis; slices lie on disk in an order of their own."""
    labels = labels or some_labels(small_grid())
    series = _write_slices(folder, labels.grid, "PT", patient or PatientHeader())
    return _quantified(labels, series, StudyKind.PET_CT)


def spect_as_pt(folder: Path, labels: LabelMap | None = None) -> Quantified:
    """177Lu SPECT stored with the PET SOP class (FACTS: some cameras do)."""
    labels = labels or some_labels(small_grid())
    series = _write_slices(folder, labels.grid, "PT", PatientHeader())
    return _quantified(labels, series, StudyKind.SPECT_CT)


def spect(folder: Path, labels: LabelMap | None = None, with_prior: bool = True) -> Quantified:
    """177Lu SPECT/CT as NM RECON TOMO; the file's frames run against the volume's slices."""
    labels = labels or some_labels(small_grid(flipped=True))
    series = _write_multi_frame(folder, labels.grid)
    quantified = _quantified(labels, series, StudyKind.SPECT_CT)
    return quantified if with_prior else without_prior(quantified)


def as_bytes(dataset: Dataset) -> bytes:
    """The file."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def without_lesions(quantified: Quantified) -> Quantified:
    """The same, where the model found nothing."""
    loaded = quantified.segmented.aligned.loaded
    labels = LabelMap(np.zeros(loaded.uptake.grid.shape, dtype=np.uint16), loaded.uptake.grid)
    segmented = replace(quantified.segmented, labels=labels)
    return Quantified(segmented, measure(labels, loaded.uptake, loaded.activity))


def without_prior(quantified: Quantified) -> Quantified:
    """The same, where M2 had to do."""
    segmented = quantified.segmented
    reason = Reason(RefusalCode.PRIOR_MISFIT, "bone_dice", "0.21", "at least 0.60", "M2 is used")
    aligned = replace(segmented.aligned, prior=None, no_prior=(reason,))
    model = replace(segmented.model, role=ModelRole.M2, model_id="m2-demo")
    return replace(quantified, segmented=replace(segmented, aligned=aligned, model=model))


def _quantified(labels: LabelMap, functional: Series, kind: StudyKind) -> Quantified:
    is_pet = kind is StudyKind.PET_CT
    grid = labels.grid
    suv = Volume(_uptake(labels), grid, Unit.SUVBW, FRAME_OF_REFERENCE)
    ct_grid = Grid.axis_aligned((4, 8, 8), (8.0, 8.0, 12.0), (-31.0, -28.0, 812.0))
    ct = Volume(np.zeros(ct_grid.shape, dtype=np.float32), ct_grid, Unit.HU, FRAME_OF_REFERENCE)
    study = Study(f"{ROOT}.1", Patient("P1"), (functional, _ct_series()), datetime(2026, 3, 4, 9, 30))
    selection = Selection(
        study,
        kind,
        functional,
        _ct_series(),
        PSMA_11_GA68 if is_pet else PSMA_617_LU177,
        (Decision("select", "tracer by its code; CT covers 100 % ± 0 %"),),
    )
    order = sorted(functional.instances, key=lambda item: (item.image_position_mm or (0, 0, 0))[2])
    if grid.affine[2, 2] < 0:
        order = order[::-1]
    multi_frame = len(functional.instances) == 1
    depth = grid.shape[0]
    loaded = Loaded(
        selection=selection,
        uptake=suv,
        activity=suv.scaled(2500.0, Unit.BQML),
        ct=ct,
        quantification=_quantification(is_pet),
        slice_sop_instance_uids=(
            (order[0].sop_instance_uid,) * depth
            if multi_frame
            else tuple(item.sop_instance_uid for item in order)
        ),
        slice_frame_numbers=tuple(range(depth, 0, -1)) if multi_frame else (1,) * depth,
    )
    aligned = Aligned(loaded, None if is_pet else _prior(labels))
    role = ModelRole.M1 if is_pet else ModelRole.M4
    model = ModelUsed(f"{role.value.lower()}-demo", role, "1.0.0", "cd" * 32, demonstration_only=True)
    segmented = Segmented(aligned, labels, model, (Decision("segment", f"{role.value} by policy"),))
    return Quantified(segmented, measure(labels, suv, loaded.activity))


def _quantification(is_pet: bool) -> Quantification:
    return Quantification(
        source="Units=BQML, DecayCorrection=START" if is_pet else "RWVM",
        suv_per_bqml=4e-4,
        injected_activity_bq=1.5e8 if is_pet else 7.4e9,
        administered_at=datetime(2026, 3, 4, 8, 30),
        reference_datetime=datetime(2026, 3, 4, 9, 30),
        weight_kg=81.5,
        half_life_s=4062.6 if is_pet else 574300.0,
    )


def _prior(labels: LabelMap) -> Prior:
    fit = RegistrationFit(0.81, 34.2, 3.4, 0.97, 0.88)
    return Prior(labels, fit, f"{ROOT}.31", f"{ROOT}.32", f"{ROOT}.33", datetime(2026, 1, 20, 10, 0))


def _uptake(labels: LabelMap) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    background = rng.uniform(0.2, 1.4, labels.array.shape)
    return (background + labels.mask * rng.uniform(4.0, 22.0, labels.array.shape)).astype(np.float32)


def _ct_series() -> Series:
    instances = tuple(
        Instance(
            f"{ROOT}.5.{i + 1}", CT_CLASS, Path("not-needed"), 8, 8, image_position_mm=(0.0, 0.0, 12.0 * i)
        )
        for i in range(4)
    )
    return Series(f"{ROOT}.5", "CT", instances, CT_CLASS, FRAME_OF_REFERENCE)


def _header(grid: Grid, modality: str, patient: PatientHeader) -> Dataset:
    source = Dataset()
    source.SpecificCharacterSet = patient.character_set
    source.PatientName, source.PatientID, source.PatientSex = patient.name, "P1", patient.sex
    source.PatientBirthDate, source.PatientWeight = "19510203", "81.5"
    source.StudyInstanceUID, source.StudyID, source.AccessionNumber = f"{ROOT}.1", "S1", "A1"
    source.StudyDate, source.StudyTime, source.StudyDescription = "20260304", "091500", "PSMA"
    source.SeriesInstanceUID, source.SeriesDate, source.SeriesTime = f"{ROOT}.3", "20260304", "093000.25"
    source.Modality, source.Manufacturer = modality, "Maker"
    source.ReferringPhysicianName, source.InstitutionName = "Ref^Erring", "Clinic"
    source.FrameOfReferenceUID = FRAME_OF_REFERENCE
    _, source.Rows, source.Columns = grid.shape
    return source


def _write_slices(folder: Path, grid: Grid, modality: str, patient: PatientHeader) -> Series:
    instances = []
    for z in np.random.default_rng(3).permutation(grid.shape[0]):
        source = _header(grid, modality, patient)
        source.SOPClassUID, source.SOPInstanceUID = PET_CLASS, f"{ROOT}.3.{z + 1}"
        position = grid.to_lps(np.array([[0.0, 0.0, float(z)]]))[0]
        path = _save(source, folder / f"{z:03d}.dcm")
        x, y, height = (float(value) for value in position)
        instances.append(Instance(source.SOPInstanceUID, PET_CLASS, path, image_position_mm=(x, y, height)))
    return Series(f"{ROOT}.3", modality, tuple(instances), PET_CLASS, FRAME_OF_REFERENCE)


def _write_multi_frame(folder: Path, grid: Grid) -> Series:
    source = _header(grid, "NM", PatientHeader())
    source.SOPClassUID, source.SOPInstanceUID = NM_CLASS, f"{ROOT}.3.1"
    source.NumberOfFrames, source.SpacingBetweenSlices = grid.shape[0], "-3.0"
    path = _save(source, folder / "nm.dcm")
    instances = (Instance(source.SOPInstanceUID, NM_CLASS, path, number_of_frames=grid.shape[0]),)
    return Series(f"{ROOT}.3", "NM", instances, NM_CLASS, FRAME_OF_REFERENCE)


def _save(source: Dataset, path: Path) -> Path:
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, source, enforce_file_format=True)
    return path
