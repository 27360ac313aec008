"""Whether a functional image lies on its own CT, on analytic bodies moved and mirrored by known amounts.

The correlation at every shift is compared with the same computed directly.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from app.domain.findings.findings import Organ, Site
from app.domain.findings.measurements import measure
from app.domain.findings.policy import QuantifyPolicy
from app.domain.refusal import RefusalCode
from app.domain.stack.ct_agreement import CtAgreement, CtAgreementPolicy, CtVerdict, Flip, judge_ct_agreement
from app.domain.volume import Grid, Unit, Volume
from app.imaging.anatomy.sites import without_sites
from app.imaging.registration.ct_agreement import measure_ct_agreement
from app.imaging.registration.outlines import OutlinePair, ShiftSearch
from app.imaging.registration.working_ct import WorkingCt, block_means, blurred, blurred_on, working_ct
from app.imaging.resampling import resample
from tests.imaging.bodies import Person, Pose, Shape, mirrored, trunk_grid

GRID = trunk_grid(180.0, 1060.0, 10.0)
SPECT_FWHM_MM = 16.0

RIGHT = CtAgreement((1.0, -2.0, 3.0), (0.0, 0.0, 0.0), 0.9, 0.9, Flip.HEAD_FEET, -0.1, 0.5)


@cache
def ct() -> Volume:
    return Person(1).ct(GRID)


@cache
def pet() -> Volume:
    return Person(1).suv(GRID)


@cache
def uneven_body() -> tuple[Volume, Volume]:
    """PET and CT of somebody whose outline differs along every axis: a belly, and one leg."""
    person = Person(1)
    person.shapes = [shape for shape in person.shapes if shape.limb != "leg left"]
    belly = Shape(np.array([0.0, -105.0, 450.0]), np.array([100.0, 60.0, 90.0]), 45.0, suv=0.6)
    person.shapes.insert(0, belly)
    grid = trunk_grid(-20.0, 760.0, 10.0)
    return person.suv(grid), person.ct(grid)


def displaced(volume: Volume, by_mm: tuple[float, float, float]) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3, 3] += by_mm
    return Volume(volume.array, Grid(volume.grid.shape, affine), volume.unit)


def measured(suv: Volume, source: Volume) -> CtAgreement:
    found = measure_ct_agreement(suv, source)
    assert found is not None
    return found


def verdict(found: CtAgreement, is_spect: bool = False) -> CtVerdict:
    return judge_ct_agreement(found, CtAgreementPolicy(), is_spect).verdict


@pytest.mark.parametrize(
    "by_mm, expected",
    [
        ((0.0, 0.0, 0.0), CtVerdict.FITS),
        ((5.0, 5.0, -5.0), CtVerdict.FITS),
        ((40.0, 0.0, 0.0), CtVerdict.DOUBTFUL),
        ((0.0, 0.0, -40.0), CtVerdict.DOUBTFUL),
        ((0.0, 80.0, 0.0), CtVerdict.WRONG),
    ],
)
def test_a_shift_is_measured_to_a_few_millimetres(
    by_mm: tuple[float, float, float], expected: CtVerdict
) -> None:
    found = measured(displaced(pet(), by_mm), ct())
    # 80 mm off, a good part of the body is out of view
    assert found.shift_mm == pytest.approx(by_mm, abs=10.0 if expected is CtVerdict.WRONG else 3.0)
    assert verdict(found) is expected


def test_a_shift_is_measured_finer_than_the_lattice_of_8_mm() -> None:
    by_mm = (3.0, -3.0, 3.0)
    found = np.subtract(measured(displaced(pet(), by_mm), ct()).shift_mm, measured(pet(), ct()).shift_mm)
    assert found == pytest.approx(by_mm, abs=2.0)


def test_sides_are_compared_at_the_best_place() -> None:
    moved = measured(displaced(pet(), (40.0, 0.0, 0.0)), ct())
    assert moved.side_correlation == pytest.approx(measured(pet(), ct()).side_correlation, abs=0.05)


@pytest.mark.parametrize("image, end", [("suv", "feet"), ("suv", "head"), ("ct", "feet"), ("ct", "head")])
def test_a_part_that_fits_badly_and_would_leave_the_view_makes_no_shift(image: str, end: str) -> None:
    """In a short view, moving it out raises the correlation of what is left."""
    planes = slice(13, 36)  # the pelvis, 23 cm
    hips = Grid((23, *GRID.shape[1:]), displaced(ct(), (0.0, 0.0, 13 * GRID.spacing_mm[2])).grid.affine)
    arrays = {"suv": pet().array[planes].copy(), "ct": ct().array[planes].copy()}
    bad = slice(0, 6) if end == "feet" else slice(-6, None)
    arrays[image][bad] = np.roll(arrays[image][bad], 5, axis=2)  # bent aside
    found = measured(Volume(arrays["suv"], hips, Unit.SUVBW), Volume(arrays["ct"], hips, Unit.HU))
    assert max(found.gains) < CtAgreementPolicy().min_gain


def test_images_within_the_body_show_no_outline() -> None:
    random = np.random.default_rng(1)
    grid = Grid.axis_aligned((20, 20, 20), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0))  # 8 l
    suv = Volume(random.uniform(0.5, 2.0, grid.shape), grid, Unit.SUVBW)
    tissue = np.full(grid.shape, 40.0)
    assert measure_ct_agreement(suv, Volume(tissue, grid, Unit.HU)) is None
    tissue[:, :, :4] = -1000.0
    assert measure_ct_agreement(suv, Volume(tissue, grid, Unit.HU)) is not None


@pytest.mark.parametrize("pose", [Pose(breath_mm=20.0), Pose(arms_up=False)], ids=["breath", "arms"])
def test_another_breath_and_other_arms_on_ct_are_no_misplacement(pose: Pose) -> None:
    assert verdict(measured(pet(), Person(1).ct(GRID, pose))) is CtVerdict.FITS


def test_the_blur_of_a_spect_is_no_misplacement() -> None:
    assert (
        verdict(measured(Person(1).suv(GRID, fwhm_mm=SPECT_FWHM_MM), ct()), is_spect=True) is CtVerdict.FITS
    )


def test_organs_show_a_mirrored_ct() -> None:
    found = measured(pet(), mirrored(ct()))
    [reason] = judge_ct_agreement(found, CtAgreementPolicy(), False).reasons
    assert found.side_correlation < 0 < measured(pet(), ct()).side_correlation
    assert Flip.LEFT_RIGHT in reason.found
    assert verdict(found) is CtVerdict.WRONG


@pytest.mark.parametrize(
    "flip, axes_zyx",
    [
        (Flip.HEAD_FEET, 0),
        (Flip.FRONT_BACK, 1),
        (Flip.ABOUT_X, (0, 1)),
        (Flip.ABOUT_Y, (0, 2)),
        (Flip.ABOUT_Z, (1, 2)),
    ],
)
def test_the_outline_shows_a_ct_turned_or_upside_down(flip: Flip, axes_zyx: int | tuple[int, int]) -> None:
    suv, source = uneven_body()
    found = measured(suv, Volume(np.flip(source.array, axes_zyx), source.grid, Unit.HU))
    assert found.flip is flip
    assert verdict(found) is CtVerdict.WRONG
    assert verdict(measured(suv, source)) is CtVerdict.FITS


def test_a_ct_is_prepared_once_for_as_long_as_it_is_in_use() -> None:
    source = Volume(ct().array, GRID, Unit.HU)
    first = working_ct(source)
    assert working_ct(source) is first
    assert working_ct(ct()) is not first
    seen = weakref.ref(first)
    del source, first
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("block", [(1, 3, 3), (2, 2, 2), (3, 1, 7), (1, 4, 1), (1, 8, 9)])
def test_block_means_are_those_of_numpy_to_the_bit(block: tuple[int, int, int]) -> None:
    array = np.random.default_rng(1).normal(0.0, 500.0, (7, 50, 61)).astype(np.float32)
    whole = array[tuple(slice(n // f * f) for n, f in zip(array.shape, block, strict=True))]
    shape = [size for n, f in zip(array.shape, block, strict=True) for size in (n // f, f)]
    assert np.array_equal(block_means(array, block), whole.reshape(shape).mean(axis=(1, 3, 5)))


def test_the_blur_is_that_of_scipy_to_the_bit() -> None:
    grid = Grid.axis_aligned((9, 20, 31), (2.0, 3.0, 4.0), (0.0, 0.0, 0.0))
    noise = np.random.default_rng(1).random(grid.shape, dtype=np.float32)
    expected = gaussian_filter(noise, (2.0, 8.0 / 3.0, 4.0), truncate=2.0)
    assert np.array_equal(blurred(Volume(noise, grid, Unit.SUVBW), 8.0, 2.0).array, expected)


def test_sums_at_shifts_are_the_start_of_the_inverse_transform_to_the_bit() -> None:
    """Only lines that end in a shift within reach are transformed back."""
    whole = Grid.axis_aligned((20, 14, 17), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    noise = np.random.default_rng(1).random((28, 22, 25), dtype=np.float32)
    inner = noise[4:-4, 4:-4, 4:-4]
    ct = WorkingCt(whole, inner, inner > 0.1, inner > 0.2, inner)
    search = ShiftSearch(OutlinePair(ct, inner, noise, noise > 0.3, 4))
    size = [fft.next_fast_len(n, real=True) for n in noise.shape]
    product = fft.rfftn(noise, size)
    assert np.array_equal(search._at_shifts(product), fft.irfftn(product, size)[:9, :9, :9])


def test_neither_scale_nor_storage_order_of_the_image_matters() -> None:
    backwards = GRID.affine @ np.diag([1.0, 1.0, -1.0, 1.0])
    backwards[:3, 3] = GRID.to_lps(np.array([[0.0, 0.0, GRID.shape[0] - 1.0]]))[0]
    other = Volume(pet().array[::-1] * 7000.0, Grid(GRID.shape, backwards), Unit.BQML)
    found, expected = measured(other, ct()), measured(pet(), ct())
    assert found.shift_mm == pytest.approx(expected.shift_mm, abs=0.1)
    assert found.overlap == pytest.approx(expected.overlap, abs=1e-3)


@pytest.mark.parametrize("empty", ["air on CT", "no uptake", "voxels too coarse"])
def test_what_shows_no_outline_is_not_judged(empty: str) -> None:
    suv, source = pet(), ct()
    if empty == "air on CT":
        source = Volume(np.full_like(source.array, -1000.0), GRID, Unit.HU)
    elif empty == "no uptake":
        suv = Volume(np.zeros_like(suv.array), GRID, Unit.SUVBW)
    else:
        coarse = GRID.affine @ np.diag([1.0, 1.0, 1.5, 1.0])
        suv = Volume(suv.array, Grid(GRID.shape, coarse), Unit.SUVBW)
    assert measure_ct_agreement(suv, source) is None


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, CtVerdict.FITS),
        ({"shift_mm": (0.0, 0.0, 40.0)}, CtVerdict.FITS),  # without gain: a view that fits anywhere
        ({"shift_mm": (0.0, 0.0, 40.0), "gains": (0.0, 0.0, 0.03)}, CtVerdict.DOUBTFUL),
        ({"shift_mm": (0.0, -61.0, 0.0), "gains": (0.0, 0.03, 0.0)}, CtVerdict.WRONG),
        ({"shift_mm": (8.0, 0.0, 96.0), "gains": (0.03, 0.0, 0.005)}, CtVerdict.FITS),  # each axis by itself
        ({"best_overlap": 0.41}, CtVerdict.FITS),
        ({"best_overlap": 0.39}, CtVerdict.DOUBTFUL),
        ({"flip_gain": 0.03}, CtVerdict.DOUBTFUL),
        ({"flip_gain": 0.05}, CtVerdict.WRONG),
        ({"side_correlation": -0.2}, CtVerdict.DOUBTFUL),
        ({"side_correlation": -0.4}, CtVerdict.WRONG),
    ],
)
def test_every_limit_has_its_say(change: dict[str, object], expected: CtVerdict) -> None:
    judgement = judge_ct_agreement(replace(RIGHT, **change), CtAgreementPolicy(), False)  # type: ignore[arg-type]
    assert judgement.verdict is expected
    assert {reason.code for reason in judgement.reasons} <= {RefusalCode.CT_MISPLACED}
    assert bool(judgement.reasons) is (expected is not CtVerdict.FITS)


def test_a_spect_must_gain_more_before_its_shift_counts() -> None:
    found = replace(RIGHT, shift_mm=(0.0, 0.0, 40.0), gains=(0.0, 0.0, 0.015))
    assert (verdict(found), verdict(found, is_spect=True)) == (CtVerdict.DOUBTFUL, CtVerdict.FITS)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="max_shift_mm"):
        CtAgreementPolicy(max_shift_mm=80.0)


def test_off_its_ct_no_lesion_has_a_site_and_no_organ_is_found() -> None:
    labels = Person(1).lesion_labels(GRID)
    findings = without_sites(measure(labels, pet(), None, QuantifyPolicy()), "40 mm beside its CT")
    assert {lesion.site for lesion in findings.lesions} == {Site.UNSPECIFIED}
    assert {lesion.site_reason for lesion in findings.lesions} == {"40 mm beside its CT"}
    assert [reference.organ for reference in findings.references] == list(Organ)
    assert all(reference.suv_mean is None for reference in findings.references)


REACH = 3
SHAPE = (7, 9, 8)
WIDE = tuple(n + 2 * REACH for n in SHAPE)
SHIFTS = tuple(product(range(-REACH, REACH + 1), repeat=3))
Bool = NDArray[np.bool_]


def some_pair() -> OutlinePair:
    """Noise, with part of both views missing."""
    random = np.random.default_rng(3)
    ct_seen, seen = np.ones(SHAPE, dtype=bool), np.zeros(WIDE, dtype=bool)
    ct_seen[:, :2] = False
    seen[REACH : -REACH - 1, REACH:-REACH, REACH + 2 : -REACH] = True
    density = random.random(SHAPE, dtype=np.float32)
    share = random.random(WIDE, dtype=np.float32) * 1.5 * seen
    grid = Grid.axis_aligned(SHAPE, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    ct = WorkingCt(grid, density, ct_seen, ct_seen, density)
    return OutlinePair(ct, density, share, seen, REACH)


def correlation(first: NDArray[np.float32], second: NDArray[np.float32], where: Bool) -> float:
    return float(np.corrcoef(first[where], second[where])[0, 1])


@pytest.mark.parametrize("axes", [(), (2,), (0, 1)])
def test_each_shift_is_correlated_over_the_view_that_both_share_there(axes: tuple[int, ...]) -> None:
    pair = some_pair()
    found = ShiftSearch(pair).correlation(axes)
    density, ct_seen = np.flip(pair.density, axes), np.flip(pair.ct.seen, axes)
    here = (ct_seen & pair.at((0, 0, 0), pair.seen)).sum()
    left_out = 0
    for shift in SHIFTS:
        shared = ct_seen & pair.at(shift, pair.seen)
        got = found[tuple(REACH + step for step in shift)]
        if shared.sum() < 0.4 * here:  # by so little, anything fits
            left_out += 1
            assert got == -1.0
        else:
            assert got == pytest.approx(correlation(density, pair.at(shift, pair.outline), shared), abs=1e-3)
    assert 0 < left_out < len(SHIFTS) / 2


def test_unmoved_is_the_better_of_both_images_parts_that_are_compared_there() -> None:
    pair = some_pair()
    found = ShiftSearch(pair).unmoved()
    outline = pair.at((0, 0, 0), pair.outline)
    shared = pair.ct.seen & pair.at((0, 0, 0), pair.seen)
    wide = np.pad(pair.ct.seen, REACH)
    for shift in SHIFTS:
        of_ct = shared & pair.at(shift, pair.seen)
        back = tuple(-step for step in shift)
        of_image = shared & pair.at(back, wide)
        if min(of_ct.sum(), of_image.sum()) < 40:
            continue
        expected = max(correlation(pair.density, outline, part) for part in (of_ct, of_image))
        assert found[tuple(REACH + step for step in shift)] == pytest.approx(expected, abs=1e-3)


def part(volume: Volume, low_mm: tuple[float, float, float], high_mm: tuple[float, float, float]) -> Volume:
    """The voxels of a box, LPS mm."""
    first = np.ceil((np.array(low_mm) - volume.grid.origin_mm) / volume.grid.spacing_mm).astype(int)
    last = np.floor((np.array(high_mm) - volume.grid.origin_mm) / volume.grid.spacing_mm).astype(int) + 1
    first, last = np.maximum(first, 0), np.minimum(last, volume.grid.shape[::-1])
    box = tuple(slice(int(a), int(b)) for a, b in zip(first[::-1], last[::-1], strict=True))
    return Volume(volume.array[box], volume.grid.part(box), volume.unit)  # type: ignore[arg-type]


CROPS = {
    "left half of the pelvis": ((0, -500, 180), (500, 500, 430)),
    "right half of the abdomen": ((-500, -500, 400), (0, 500, 650)),
    "left half of the chest": ((0, -500, 650), (500, 500, 900)),
    "a tumour of the left thigh": ((40, -80, 180), (260, 80, 330)),
    "a tumour of the shoulder": ((60, -120, 700), (260, 120, 900)),
    "the front of the belly": ((-500, -500, 350), (500, 10, 650)),
    "the thighs": ((-500, -500, 180), (500, 500, 300)),
    "5 cm of the belly": ((-500, -500, 500), (500, 500, 550)),
    "1 cm of the belly": ((-500, -500, 500), (500, 500, 510)),
    "22 cm of the pelvis": ((-500, -500, 180), (500, 500, 400)),
    "26 cm of the belly": ((-500, -500, 300), (500, 500, 560)),
    "the chest": ((-500, -500, 500), (500, 500, 760)),
    "neck and head": ((-500, -500, 860), (500, 500, 1060)),
}
"""Boxes (LPS mm) of which 12 were called shifted by up to 96 mm, or mirrored, in one of these three ways."""


@pytest.mark.parametrize("cropped", ["both", "CT", "PET"])
@pytest.mark.parametrize("box", CROPS.values(), ids=CROPS)
def test_no_crop_of_a_right_pair_is_called_shifted_or_reversed(
    box: tuple[tuple[float, float, float], tuple[float, float, float]], cropped: str
) -> None:
    suv = pet() if cropped == "CT" else part(pet(), *box)
    source = ct() if cropped == "PET" else part(ct(), *box)
    found = measure_ct_agreement(suv, source)
    assert found is None or verdict(found) in (CtVerdict.FITS, CtVerdict.UNCHECKED)


@pytest.mark.parametrize("by_mm", [(40.0, 0.0, 0.0), (0.0, -40.0, 0.0)])
@pytest.mark.parametrize("name", ["22 cm of the pelvis", "26 cm of the belly", "the chest", "neck and head"])
def test_a_shift_across_a_body_that_is_seen_whole_is_found_in_a_short_view(
    name: str, by_mm: tuple[float, float, float]
) -> None:
    found = measured(displaced(part(pet(), *CROPS[name]), by_mm), part(ct(), *CROPS[name]))
    assert verdict(found) is CtVerdict.DOUBTFUL


def test_an_arm_beyond_the_view_of_the_ct_on_one_side_is_no_shift() -> None:
    narrow = ct().array.copy()
    narrow[:, :, -16:] = -1000.0
    assert verdict(measured(pet(), Volume(narrow, GRID, Unit.HU))) is not CtVerdict.WRONG


def test_what_the_view_cuts_is_not_judged_and_the_setting_is_named() -> None:
    judgement = judge_ct_agreement(
        replace(RIGHT, shift_mm=(80.0, 0.0, 0.0), cut_share=0.4), CtAgreementPolicy(), False
    )
    assert judgement.verdict is CtVerdict.UNCHECKED
    assert "0.40" in judgement.why
    assert "0.3 (load.ct_agreement.max_cut_share)" in judgement.why


@pytest.mark.parametrize(
    "change, limit",
    [
        ({"shift_mm": (40.0, 0.0, 0.0), "gains": (0.1, 0.0, 0.0)}, "15 mm (load.ct_agreement.max_shift_mm)"),
        (
            {"shift_mm": (80.0, 0.0, 0.0), "gains": (0.1, 0.0, 0.0)},
            "60 mm (load.ct_agreement.refused_shift_mm)",
        ),
        ({"flip_gain": 0.03}, "0.025 (load.ct_agreement.flip_gain)"),
        ({"flip_gain": 0.05}, "0.04 (load.ct_agreement.refused_flip_gain)"),
        ({"side_correlation": -0.2}, "-0.1 (load.ct_agreement.min_side_correlation)"),
        ({"side_correlation": -0.4}, "-0.35 (load.ct_agreement.refused_side_correlation)"),
    ],
)
def test_a_reason_names_the_limit_that_was_passed_and_its_setting(
    change: dict[str, object], limit: str
) -> None:
    [reason] = judge_ct_agreement(replace(RIGHT, **change), CtAgreementPolicy(), False).reasons  # type: ignore[arg-type]
    assert limit in reason.expected


@pytest.mark.parametrize("flips", [(1.0, 1.0, 1.0), (-1.0, 1.0, -1.0)])
@pytest.mark.parametrize("turned_deg", [0.0, 3.0])
def test_a_blur_on_a_coarser_grid_is_the_blur_resampled_on_it(
    flips: tuple[float, ...], turned_deg: float
) -> None:
    """Also where the grid goes beyond the image, and where the axes are not parallel."""
    array = np.random.default_rng(5).gamma(2.0, size=(23, 31, 29)).astype(np.float32)
    affine = np.diag([*(np.array([2.7, 3.1, 3.3]) * flips), 1.0])
    affine[:3, :3] = Rotation.from_euler("z", turned_deg, degrees=True).as_matrix() @ affine[:3, :3]
    image = Volume(array, Grid(array.shape, affine), Unit.SUVBW)
    middle = image.grid.to_lps(np.array([[14.0, 15.0, 11.0]]))[0]
    x, y, z = (middle - 64.0).tolist()
    grid = Grid.axis_aligned((17, 17, 17), (8.0,) * 3, (x, y, z))
    expected = resample(blurred(image, 8.0, 2.0), grid, np.nan).array
    found = blurred_on(image, grid, 8.0, 2.0)
    assert 0 < np.isfinite(expected).sum() < expected.size
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=3e-6)
