"""Every voxel lies where its slice, row and column say: PET, CT and NM by one rule."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset

from app.dicom.reading.loading import read_ct, read_functional
from app.dicom.reading.policy import LoadPolicy
from app.dicom.reading.studies import read_study
from app.domain.volume import Volume
from tests.dicom.reading import tiny

SHAPE = (5, 4, 6)
STORED = np.arange(1, 121, dtype=np.int16).reshape(SHAPE)

spacings = st.tuples(*(st.floats(0.8, 60.0).map(lambda mm: round(mm, 3)) for _ in range(3)))
angles = st.tuples(*(st.floats(-3.1, 3.1) for _ in range(3)))
signs = st.tuples(st.sampled_from((-1.0, 1.0)), st.sampled_from((-1.0, 1.0)))


def axes(turns: tuple[float, ...], flips: tuple[float, float]) -> NDArray[np.float64]:
    """Row and column direction, (2, 3), turned any way; either may be flipped."""
    (a, b, c), rotation = turns, np.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    found: NDArray[np.float64] = np.round(rotation[:, :2].T * np.array(flips)[:, None], 7)
    return found


def values_by_place(volume: Volume, directions: NDArray[np.float64], scan: tiny.Scan, step_mm: float) -> None:
    """Each stored value is found at the place that header attributes give it (PS3.3 C.7.6.2.1.1)."""
    row, column = directions
    normal = np.cross(row, column)
    x_mm, y_mm, _ = scan.spacing_mm
    z, y, x = np.indices(SHAPE).reshape(3, -1, 1)
    places = np.array(scan.origin_mm) + x * x_mm * row + y * y_mm * column + z * step_mm * normal
    found = np.rint(volume.grid.to_index(places)).astype(int)
    assert np.abs(volume.grid.to_lps(found) - places).max() < 0.01
    i, j, k = found.T
    assert np.array_equal(volume.array[k, j, i], STORED.ravel().astype(np.float32))


def placed(directions: NDArray[np.float64], step_mm: float, scale: tuple[float, float]) -> tiny.Change:
    def change(dataset: Dataset, index: int) -> None:
        dataset.ImageOrientationPatient = [float(v) for v in directions.ravel()]
        offset = index * step_mm * np.cross(*directions)
        dataset.ImagePositionPatient = [round(float(v), 6) for v in np.array([-10.0, -20.0, -30.0]) + offset]
        dataset.RescaleSlope, dataset.RescaleIntercept = scale
        dataset.InstanceNumber = (index * 3) % 5
        if dataset.Modality == "PT":
            del dataset.PatientWeight  # Bq/ml is enough here

    return change


@settings(max_examples=8, deadline=None)
@given(turns=angles, flips=signs, spacing=spacings, order=st.permutations(range(5)), backwards=st.booleans())
def test_single_frames_lie_where_their_positions_say(
    turns: tuple[float, ...],
    flips: tuple[float, float],
    spacing: tuple[float, float, float],
    order: list[int],
    backwards: bool,
) -> None:
    """Any order of files, any axis sign, oblique, anisotropic voxels, pixels that are not square."""
    directions = axes(turns, flips)
    step_mm = -spacing[2] if backwards else spacing[2]
    with TemporaryDirectory() as name:
        folder = Path(name)
        scan = tiny.Scan(STORED, spacing_mm=spacing, change=placed(directions, step_mm, (1, 0)))
        paths = tiny.write_pet(folder, scan)
        tiny.rename(paths, order)
        image = read_functional(read_study(folder).series[0], LoadPolicy())
        assert image.activity is not None
        values_by_place(image.activity, directions, scan, step_mm)
        for path in folder.iterdir():
            path.unlink()
        in_ct = placed(directions, step_mm, (1, -100))
        tiny.write_ct(folder, tiny.Scan(STORED, spacing_mm=spacing, change=in_ct))
        ct = read_ct(read_study(folder).series[0])
        values_by_place(Volume(ct.array + 100, ct.grid, ct.unit), directions, scan, step_mm)


@settings(max_examples=8, deadline=None)
@given(turns=angles, flips=signs, spacing=spacings, numbers=st.permutations(range(1, 6)), down=st.booleans())
def test_frames_lie_where_signed_spacing_and_slice_vector_say(
    turns: tuple[float, ...],
    flips: tuple[float, float],
    spacing: tuple[float, float, float],
    numbers: list[int],
    down: bool,
) -> None:
    directions = axes(turns, flips)
    step_mm = -spacing[2] if down else spacing[2]

    def change(dataset: Dataset, index: int) -> None:
        detector = dataset.DetectorInformationSequence[0]
        detector.ImageOrientationPatient = [float(v) for v in directions.ravel()]
        dataset.SliceVector = list(numbers)
        dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope = 1.0
        del dataset.PatientWeight

    with TemporaryDirectory() as name:
        frames = STORED[[number - 1 for number in numbers]]
        scan = tiny.Scan(frames, spacing_mm=spacing, change=change)
        tiny.write_nm(Path(name), scan, step_mm)
        image = read_functional(read_study(Path(name)).series[0], LoadPolicy())
        assert image.activity is not None
        values_by_place(image.activity, directions, scan, step_mm)
