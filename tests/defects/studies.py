"""An undamaged PET/CT and SPECT/CT in memory, to be damaged, written, selected and loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRBigEndian

from app.dicom.reading.loading import load_first_usable
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_studies
from app.domain.analysis import Loaded
from app.domain.dose import with_activity_at_scan_start
from app.domain.findings.measurements import measure
from app.domain.quantities.calibration import CameraCalibration
from app.domain.refusal import Reason, Rejection
from app.domain.selection.pair import verdicts_after_loading
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from app.domain.volume import LabelMap
from tests.dicom.reading import tiny
from tests.imaging.bodies import Person, trunk_grid

CT_UID = "1.2.3.2"
SPACING_MM = (40.0, 40.0, 50.0)
"""Coarse, so that 120 voxels hold ten litres: shares of the injected activity are as in a patient."""

BODY_SPACING_MM = 10.0

COUNTS_CAMERA, PLACEHOLDER_CAMERA = "COUNTS", "PLACEHOLDER"
_CALIBRATION = CameraCalibration(
    2000.0 * (20.0 * 60 * 2) * 80.0, date(2026, 1, 1), date(2026, 12, 31), station_name=COUNTS_CAMERA
)
"""A count is 2000 Bq/ml: 20 s, 60 projections, 2 detectors, voxels of 80 ml."""

POLICY = LoadPolicy(
    calibrations=(
        _CALIBRATION,
        replace(
            _CALIBRATION,
            station_name=PLACEHOLDER_CAMERA,
            frame_duration_s=20.0,
            projections=60,
            detectors=2,
        ),
    )
)


@dataclass
class Images:
    """The data sets of one study; a damage changes them in place, or the lists."""

    functional: list[Dataset]
    ct: list[Dataset]
    unreadable: list[bytes] = field(default_factory=list)
    """Further files, byte by byte."""

    @property
    def injection(self) -> Dataset:
        """Of the first functional image."""
        item: Dataset = self.functional[0].RadiopharmaceuticalInformationSequence[0]
        return item


@dataclass(frozen=True)
class Outcome:
    """What became of a study: volumes, or every reason told anywhere."""

    loaded: Loaded | None
    reasons: tuple[Reason, ...]


def pet_ct() -> Images:
    """BQML, START, 68Ga-PSMA-11, whose mean SUV is 1.6."""
    return copy.deepcopy(_pet_ct())


def spect_ct() -> Images:
    """177Lu, Bq/ml by mapping."""
    return copy.deepcopy(_spect_ct())


def counts_ct() -> Images:
    """The same in counts, which the site's calibration turns into the same Bq/ml."""
    images = spect_ct()
    del images.functional[0].RealWorldValueMappingSequence
    images.functional[0].StationName = COUNTS_CAMERA
    return images


def body_pet_ct() -> Images:
    """A person from the thighs to the neck, 10 mm voxels: enough body to lay PET and CT on each other."""
    return copy.deepcopy(_body_pet_ct())


def outcome(images: Images, folder: Path) -> Outcome:
    """Write, read, select, load, look whether both images lie on each other."""
    write_study(images, folder)
    return read_outcome(folder)


def write_study(images: Images, folder: Path) -> None:
    """Raises ValueError where pydicom can't write what the damage made of them."""
    datasets = [*images.functional, *images.ct]
    for number, dataset in enumerate(datasets):
        syntax = dataset.file_meta.TransferSyntaxUID
        encoding = {"implicit_vr": False, "little_endian": syntax != ExplicitVRBigEndian}
        dcmwrite(folder / f"{number:03d}", dataset, **encoding)
    for number, content in enumerate(images.unreadable):
        (folder / f"x{number}").write_bytes(content)


def read_outcome(folder: Path) -> Outcome:
    """Of the study that was written there."""
    reading = read_studies(folder)
    reasons = list(reading.unreadable)
    loaded = None
    for study in reading.studies:
        result = select(study, SelectionPolicy())
        reasons += result.rejection.reasons if result.rejection else ()
        refused, used = [], []
        for selection in result.selections:
            found = load_first_usable(selection, POLICY)
            if isinstance(found, Rejection):
                refused += found.reasons
            else:
                loaded = found
                used.append(found.selection)
        verdicts = verdicts_after_loading(result.verdicts, used, refused)
        reasons += [*refused, *(verdict.reason for verdict in verdicts if verdict.reason is not None)]
    return Outcome(loaded, tuple(reasons))


@cache
def undamaged(kind: str) -> Loaded:
    """The numbers that are right."""
    with TemporaryDirectory() as folder:
        found = outcome(STUDIES[kind](), Path(folder))
    assert found.loaded is not None, found.reasons
    return found.loaded


def same_numbers(found: Loaded, expected: Loaded) -> bool:
    """Every voxel's SUV, activity and HU, at the same place, and the activity that would be reported."""
    pairs = [(found.uptake, expected.uptake), (found.activity, expected.activity), (found.ct, expected.ct)]
    if not _same_activity(reported_mbq(found), reported_mbq(expected)):
        return False
    return all(
        one is None or other is None
        or (one.grid.matches(other.grid) and np.allclose(one.array, other.array, rtol=2e-3))
        for one, other in pairs
    )  # fmt: skip


def reported_mbq(loaded: Loaded) -> tuple[str, float] | None:
    """To what instant activities are reported, and that of a lesion in the middle of the image."""
    labels = np.zeros(loaded.uptake.grid.shape, dtype=np.uint16)
    labels[tuple(slice(n // 3, n // 3 + 2) for n in labels.shape)] = 1
    measured = measure(LabelMap(labels, loaded.uptake.grid), loaded.uptake, loaded.activity)
    found = with_activity_at_scan_start(measured, loaded)
    if found.activity_instant is None or found.burden.activity_mbq is None:
        return None
    return found.activity_instant.kind, found.burden.activity_mbq


def _same_activity(one: tuple[str, float] | None, other: tuple[str, float] | None) -> bool:
    if one is None or other is None:
        return True  # an image that is SUV already has none
    return one[0] == other[0] and bool(np.isclose(one[1], other[1], rtol=5e-3))


@cache
def _pet_ct() -> Images:
    def change(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope = 20 + 10 * (index % 2)
        dataset.FrameReferenceTime = 59800
        dataset.NumberOfSlices = 6
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "100000"

    with TemporaryDirectory() as name:
        folder = Path(name)
        pet = tiny.write_pet(folder, tiny.Scan(tiny.ramp(), spacing_mm=SPACING_MM, change=change))
        return Images([dcmread(path) for path in pet], _ct(folder))


@cache
def _body_pet_ct() -> Images:
    person, grid = Person(1), trunk_grid(180.0, 1060.0, BODY_SPACING_MM)
    place = ((BODY_SPACING_MM,) * 3, tuple(grid.origin_mm.tolist()))

    def change(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope = 12.0  # about 0.01 SUV
        dataset.FrameReferenceTime = 59800
        dataset.NumberOfSlices = grid.shape[0]
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "100000"

    suv = np.round(person.suv(grid).array * 100).astype(np.int16)
    hu = np.round(person.ct(grid).array + 1024).astype(np.int16)
    with TemporaryDirectory() as name:
        folder = Path(name)
        pet = tiny.write_pet(folder, tiny.Scan(suv, "1.2.3.1", *place, change))
        ct = tiny.write_ct(folder, tiny.Scan(hu, CT_UID, *place))
        return Images([dcmread(path) for path in pet], [dcmread(path) for path in ct])


@cache
def _spect_ct() -> Images:
    def change(dataset: Dataset, index: int) -> None:
        dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope = 2000.0

    with TemporaryDirectory() as name:
        folder = Path(name)
        nm = tiny.write_nm(folder, tiny.Scan(tiny.ramp(), spacing_mm=SPACING_MM, change=change), 50.0)
        return Images([dcmread(path) for path in nm], _ct(folder))


def _ct(folder: Path) -> list[Dataset]:
    scan = tiny.Scan(tiny.ramp() * 8, CT_UID, SPACING_MM)
    return [dcmread(path) for path in tiny.write_ct(folder, scan)]


STUDIES: dict[str, Callable[[], Images]] = {
    "PET/CT": pet_ct,
    "SPECT/CT": spect_ct,
    "SPECT/CT in counts": counts_ct,
    "PET/CT of a body": body_pet_ct,
}
