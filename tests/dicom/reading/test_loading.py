"""Series as volumes in physical units."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless

from app.dicom.reading.functional_image import FunctionalImage
from app.dicom.reading.loading import load, read_functional
from app.dicom.reading.policy import LoadPolicy, SpectInCounts
from app.dicom.reading.studies import read_study
from app.domain.analysis import Loaded
from app.domain.quantities.calibration import CameraCalibration
from app.domain.refusal import RefusalCode, Rejection
from app.domain.selection.pair import Selection
from app.domain.selection.policy import SelectionPolicy
from app.domain.selection.selection import select
from app.domain.volume import Unit, Volume
from app.errors import UnusableStudyError
from tests.dicom.reading import tiny

CT_UID = "1.2.3.2"
STORED = tiny.ramp()
ACTIVITY = STORED * np.array([2, 3, 2, 3, 2, 3])[:, None, None]


def loaded(folder: Path, policy: LoadPolicy = LoadPolicy()) -> Loaded | Rejection:  # noqa: B008  frozen
    result = select(read_study(folder), SelectionPolicy())
    assert result.rejection is None, result.rejection
    return load(result.selections[0], policy)


def accepted(folder: Path, policy: LoadPolicy = LoadPolicy()) -> Loaded:  # noqa: B008  frozen
    found = loaded(folder, policy)
    assert isinstance(found, Loaded), found
    return found


def refused(folder: Path) -> RefusalCode:
    found = loaded(folder)
    assert isinstance(found, Rejection)
    return found.reasons[0].code


def pair(folder: Path, change: tiny.Change = lambda dataset, index: None) -> list[Path]:
    paths = tiny.write_pet(folder, tiny.Scan(STORED, change=change))
    tiny.write_ct(folder, tiny.Scan(STORED, series_uid=CT_UID))
    return paths


def image(folder: Path) -> FunctionalImage:
    return read_functional(read_study(folder).series[0], LoadPolicy())


def alter(path: Path, **changes: object) -> None:
    dataset = dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def array_of(volume: Volume | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert volume is not None
    return volume.array


def test_every_slice_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    pair(tmp_path)
    found = accepted(tmp_path)
    assert np.array_equal(array_of(found.activity), ACTIVITY)
    factor = 70e3 / (150e6 * 2.0 ** (-3600.0 / 4062.6))
    assert np.allclose(found.uptake.array, ACTIVITY * factor, rtol=1e-6)
    assert found.uptake.unit is Unit.SUVBW
    assert np.array_equal(found.ct.array, STORED - 1024)
    assert found.uptake.grid.spacing_mm == (4.0, 4.0, 5.0)
    assert found.slice_frame_numbers == (1,) * 6
    assert found.slice_sop_instance_uids == tuple(f"1.2.3.1.{i}" for i in range(1, 7))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(6)))
def test_the_order_of_files_makes_no_difference_to_any_voxel(tmp_path: Path, order: list[int]) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    paths = pair(tmp_path)
    expected = accepted(tmp_path)
    tiny.rename(paths, order)
    found = accepted(tmp_path)
    assert np.array_equal(found.uptake.array, expected.uptake.array)
    assert found.uptake.grid.matches(expected.uptake.grid)
    assert found.slice_sop_instance_uids == expected.slice_sop_instance_uids


def test_a_first_slice_of_another_type_does_not_wrap_the_others(tmp_path: Path) -> None:
    values = np.full((6, 4, 5), 40000, dtype=np.uint16)
    values[0] = 5
    paths = tiny.write_pet(tmp_path, tiny.Scan(values.view(np.int16)))
    for path in paths[1:]:
        alter(path, PixelRepresentation=0)
    assert array_of(image(tmp_path).activity).max() == 40000 * 3


@pytest.mark.parametrize("signed_step_mm", [5.0, -5.0])
def test_nm_voxels_lie_where_the_signed_spacing_says(tmp_path: Path, signed_step_mm: float) -> None:
    tiny.write_nm(tmp_path, tiny.Scan(STORED), signed_step_mm)
    found = image(tmp_path)
    assert found.activity is not None
    for frame in range(6):
        place = np.array([[-10.0, -20.0, -30.0 + frame * signed_step_mm]])
        x, y, z = np.rint(found.activity.grid.to_index(place))[0].astype(int)
        assert found.activity.array[z, y, x] == pytest.approx(100.0 * STORED[frame, 0, 0])
        assert found.slice_frame_numbers[z] == frame + 1


def test_a_spect_with_its_ct_is_loaded_in_bqml_and_suv(tmp_path: Path) -> None:
    tiny.write_nm(tmp_path, tiny.Scan(STORED), 5.0)
    tiny.write_ct(tmp_path, tiny.Scan(STORED, series_uid=CT_UID))
    found = accepted(tmp_path)
    assert np.allclose(array_of(found.activity), 100.0 * STORED)
    assert found.quantification.injected_activity_bq == 7400e6
    assert found.selection.tracer.key == "177Lu-PSMA-617"


def test_counts_become_bqml_by_the_sites_calibration_alone(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        del dataset.RealWorldValueMappingSequence

    tiny.write_nm(tmp_path, tiny.Scan(STORED, change=change), 5.0)
    tiny.write_ct(tmp_path, tiny.Scan(STORED, series_uid=CT_UID))
    assert refused(tmp_path) is RefusalCode.CALIBRATION_MISSING
    calibration = CameraCalibration(192e3, date(2026, 1, 1), date(2026, 12, 31), collimator="megp")
    found = accepted(tmp_path, LoadPolicy(calibrations=(calibration,)))
    assert np.allclose(array_of(found.activity), STORED * 192e3 / (20.0 * 60 * 2) / 0.08)
    assert found.quantification.source == "site calibration"


@pytest.mark.parametrize(("injection", "is_spect"), [("lutetium", True), ("gallium", False)])
def test_a_spect_in_counts_stored_as_pet_stays_in_counts_by_the_sites_choice(
    tmp_path: Path, injection: str, is_spect: bool
) -> None:
    def in_counts(dataset: Dataset, index: int) -> None:
        dataset.Units = "CNTS"
        if is_spect:
            dataset.RadiopharmaceuticalInformationSequence = [tiny.lutetium_injection()]

    pair(tmp_path, in_counts)
    assert refused(tmp_path) is RefusalCode.UNITS_UNSUPPORTED
    found = loaded(tmp_path, LoadPolicy(spect_in_counts=SpectInCounts.RELATIVE_TO_LIVER))
    assert isinstance(found, Loaded) is is_spect, "a PET in counts has no such choice"
    if isinstance(found, Loaded):
        assert (found.uptake.unit, found.activity) == (Unit.COUNTS, None)
        assert np.array_equal(found.uptake.array, ACTIVITY)
        assert found.quantification.source.startswith("not quantified")


def test_counts_are_stored_values_times_ges_pixel_scale(tmp_path: Path) -> None:
    """As a real header of GE's Xeleris has it."""

    def change(dataset: Dataset, index: int) -> None:
        del dataset.RealWorldValueMappingSequence
        dataset.private_block(0x0011, "GEMS_GENIE_1", create=True).add_new(0x3B, "FD", 4.179501533508301)

    tiny.write_nm(tmp_path, tiny.Scan(STORED, change=change), 5.0)
    tiny.write_ct(tmp_path, tiny.Scan(STORED, series_uid=CT_UID))
    calibration = CameraCalibration(192e3, date(2026, 1, 1), date(2026, 12, 31))
    found = accepted(tmp_path, LoadPolicy(calibrations=(calibration,)))
    assert np.allclose(array_of(found.activity), 4.179501533508301 * STORED * 192e3 / (20.0 * 60 * 2) / 0.08)
    told = [item.text for item in found.decisions]
    assert "counts = stored values x 4.1795, by (0011,xx3B) Pixel Scale" in told


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"RescaleIntercept": 5}, RefusalCode.RESCALE_INTERCEPT),
        ({"RescaleSlope": ""}, RefusalCode.RESCALE_MISSING),
        ({"RescaleSlope": 0}, RefusalCode.RESCALE_MISSING),
        ({"DecayCorrection": "NONE"}, RefusalCode.ATTRIBUTE_INCONSISTENT),
        ({"PatientWeight": 90}, RefusalCode.ATTRIBUTE_INCONSISTENT),
    ],
)
def test_one_slice_that_cannot_be_quantified_refuses_the_series(
    tmp_path: Path, changes: dict[str, object], code: RefusalCode
) -> None:
    paths = pair(tmp_path)
    alter(paths[2], **changes)
    assert refused(tmp_path) is code


@pytest.mark.parametrize(
    ("written", "quoted", "attribute"),
    [("71,25 ", "'71,25'", "PatientWeight"), ("NaN   ", "'nan'", "RadionuclideTotalDose"),
     ("15 MBq", "'15 MBq'", "RadionuclideTotalDose"), ("      ", "nothing", "PatientWeight")],
)  # fmt: skip
def test_a_number_that_cannot_be_read_is_quoted(
    written: str, quoted: str, attribute: str, tmp_path: Path
) -> None:
    def change(dataset: Dataset, index: int) -> None:
        item = dataset.RadiopharmaceuticalInformationSequence[0]
        setattr(item if attribute in item else dataset, attribute, "71.250")

    for path in pair(tmp_path, change):
        content = path.read_bytes()
        assert content.count(b"71.250") == 1
        path.write_bytes(content.replace(b"71.250", written.encode()))
    found = loaded(tmp_path)
    assert isinstance(found, Rejection)
    assert found.reasons[0].attribute == attribute
    assert found.reasons[0].found.lower().startswith(quoted.lower())


def test_without_weight_there_is_no_suv_but_bqml_is_still_read(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        del dataset.PatientWeight

    pair(tmp_path, change)
    assert refused(tmp_path) is RefusalCode.WEIGHT_MISSING
    found = read_functional(read_study(tmp_path).series[0], LoadPolicy())
    assert found.suv is None
    assert np.array_equal(array_of(found.activity), ACTIVITY)


def test_truncated_pixels_are_refused(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    dataset = dcmread(paths[1])
    dataset.PixelData = dataset.PixelData[:10]
    dataset.save_as(paths[1])
    assert refused(tmp_path) is RefusalCode.PIXEL_DATA_MISSING


def test_missing_pixels_are_refused(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    dataset = dcmread(paths[1])
    del dataset.PixelData
    dataset.save_as(paths[1])
    assert refused(tmp_path) is RefusalCode.PIXEL_DATA_MISSING


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    result = select(read_study(tmp_path), SelectionPolicy())
    paths[0].unlink()
    assert isinstance(load(result.selections[0], LoadPolicy()), Rejection)


def test_losslessly_compressed_slices_give_the_same_values(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    expected = accepted(tmp_path)
    for path in paths:
        dataset = dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    assert np.array_equal(accepted(tmp_path).uptake.array, expected.uptake.array)


def test_a_compression_without_a_decoder_is_refused_by_its_uid(tmp_path: Path) -> None:
    paths = pair(tmp_path)
    for path in paths:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.103"  # MPEG-4
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
        dataset.save_as(path)
    assert refused(tmp_path) is RefusalCode.TRANSFER_SYNTAX_UNSUPPORTED


def test_a_header_that_promises_a_million_frames_is_refused_unread(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.NumberOfFrames = 1_000_000
        dataset.Rows = dataset.Columns = 512
        del dataset.SliceVector

    paths = tiny.write_nm(tmp_path, tiny.Scan(STORED, change=change), 5.0)
    alter(paths[0], Rows=512, Columns=512)
    with pytest.raises(UnusableStudyError, match="voxels"):
        image(tmp_path)


def test_an_empty_image_is_refused(tmp_path: Path) -> None:
    tiny.write_pet(tmp_path, tiny.Scan(np.zeros_like(STORED)))
    with pytest.raises(UnusableStudyError, match="values-implausible"):
        image(tmp_path)


def test_ct_beyond_its_field_of_view_is_air(tmp_path: Path) -> None:
    values = STORED.copy()
    values[0, 0, 0] = -2000
    tiny.write_pet(tmp_path, tiny.Scan(STORED))
    tiny.write_ct(tmp_path, tiny.Scan(values, series_uid=CT_UID))
    assert accepted(tmp_path).ct.array.min() == -1024.0


def test_a_ct_in_another_unit_is_refused(tmp_path: Path) -> None:
    tiny.write_pet(tmp_path, tiny.Scan(STORED))
    for path in tiny.write_ct(tmp_path, tiny.Scan(STORED, series_uid=CT_UID)):
        alter(path, RescaleType="US")
    assert refused(tmp_path) is RefusalCode.UNITS_UNSUPPORTED


def test_frames_counted_by_energy_window_are_refused(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.FrameIncrementPointer = [0x00540010, 0x00540080]

    tiny.write_nm(tmp_path, tiny.Scan(STORED, change=change), 5.0)
    with pytest.raises(UnusableStudyError, match="FrameIncrementPointer"):
        image(tmp_path)


def test_ge_private_scan_time_replaces_a_series_time_that_is_too_late(tmp_path: Path) -> None:
    def change(dataset: Dataset, index: int) -> None:
        dataset.SeriesTime = "120000"
        block = dataset.private_block(0x0009, "GEMS_PETD_01", create=True)
        block.add_new(0x0D, "DT", "20260301110000")

    pair(tmp_path, change)
    found = accepted(tmp_path)
    assert found.quantification.reference_datetime == datetime(2026, 3, 1, 11, 0)
    assert any("the scanner's private time" in item.line for item in found.decisions)


def test_a_selection_of_series_is_enough_to_load(tmp_path: Path) -> None:
    pair(tmp_path)
    result = select(read_study(tmp_path), SelectionPolicy())
    selection: Selection = replace(result.selections[0], decisions=())
    assert isinstance(load(selection, LoadPolicy()), Loaded)
