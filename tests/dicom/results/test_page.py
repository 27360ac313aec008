"""The page: plain secondary capture, the right views, no name in the pixels."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from app.dicom.results.context import ResultContext, open_context
from app.dicom.results.page.page import draw_page, warning_lines, write_page
from app.dicom.results.page.sheet import HEIGHT, WIDTH
from app.dicom.results.page.table import columns_of, in_few_digits, notes
from app.dicom.results.page.views import VIEWS_HEIGHT, VIEWS_LEFT, VIEWS_TOP, views_of
from app.dicom.results.policy import SegType, WritePolicy
from app.dicom.results.report.quantities import uptake_in_words
from app.domain.analysis import Quantified, SupersededReport
from app.domain.decision import Decision
from app.domain.findings.findings import ActivityInstant, DoseEstimate, InstantKind
from app.domain.volume import Volume
from app.imaging.labels import label_lesions
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def pet(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.pet(tmp_path_factory.mktemp("pet"))


@pytest.fixture(scope="module")
def page(pet: Quantified) -> Pixels:
    return draw_page(context_of(pet))


def context_of(quantified: Quantified, policy: WritePolicy | None = None) -> ResultContext:
    return open_context(quantified, policy or WritePolicy(), PROVENANCE)


def reds(pixels: Pixels) -> NDArray[np.bool_]:
    """Outlines and lesion numbers, within the area of the views."""
    area = pixels[VIEWS_TOP : VIEWS_TOP + VIEWS_HEIGHT, VIEWS_LEFT:700].astype(int)
    return (area[..., 0] > 180) & (area[..., 1] < 90) & (area[..., 2] < 110)


def test_it_is_plain_secondary_capture_in_rgb(pet: Quantified, page: Pixels) -> None:
    dataset = write_page(context_of(pet), page)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (dataset.Rows, dataset.Columns) == (HEIGHT, WIDTH)
    assert (dataset.PhotometricInterpretation, dataset.BitsAllocated) == ("RGB", 8)
    assert "NumberOfFrames" not in dataset
    assert np.array_equal(dataset.pixel_array, page)


def test_the_patient_is_in_the_header_and_makes_no_difference_to_the_pixels(
    pet: Quantified, page: Pixels, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = sources.PatientHeader(name="Another^Name")
    renamed = sources.pet(tmp_path_factory.mktemp("other"), patient=other)
    context = context_of(renamed)
    pixels = draw_page(context)
    assert np.array_equal(pixels, page)
    assert write_page(context, pixels).PatientName == "Another^Name"


def test_lesions_are_outlined_and_an_empty_result_has_no_outline(pet: Quantified, page: Pixels) -> None:
    assert reds(page).sum() > 100
    assert reds(draw_page(context_of(sources.without_lesions(pet)))).sum() == 0


def test_the_patients_left_is_at_the_right_of_the_anterior_view(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    labels = sources.some_labels(sources.small_grid())
    on_the_left = replace(labels, array=np.where(np.indices(labels.array.shape)[2] >= 14, 1, 0))
    quantified = sources.pet(tmp_path_factory.mktemp("left"), on_the_left)
    columns = np.flatnonzero(reds(draw_page(context_of(quantified))).any(axis=0))
    # the anterior view is the left one of two; the outline begins in its right half
    anterior_width = columns.max() / 2
    assert columns.min() > anterior_width / 2


@pytest.mark.parametrize("corner", ["L A", "L P", "R A", "R P"])
def test_a_lesion_lies_at_the_end_of_the_picture_that_bears_its_sides_letter(
    tmp_path_factory: pytest.TempPathFactory, corner: str
) -> None:
    grid = sources.small_grid()
    z, y, x = np.indices(grid.shape)  # x to the patient's left, y to the back
    depth, height, width = grid.shape
    sideways = x >= width - 3 if "L" in corner else x < 3
    lengthways = y < 3 if "A" in corner else y >= height - 3
    mask = sideways & lengthways & (abs(z - depth // 2) < 2)
    labels = label_lesions(mask, grid, 0.0).labels
    context = context_of(sources.pet(tmp_path_factory.mktemp("corner"), labels))
    [lesion] = context.quantified.findings.lesions
    for view in views_of(context):
        columns = np.flatnonzero(view.lesions.image.any(axis=0))
        share = (columns.mean() + 0.5) / view.lesions.image.shape[1]
        assert view.ends[int(share > 0.5)] in corner
        left_mm, right_mm = view.extent[:2]
        # where its number and its line go
        assert lesion.centre_mm[view.across] == pytest.approx(
            left_mm + share * (right_mm - left_mm), abs=1e-6
        )
    assert [view.title for view in views_of(context)] == ["Anterior", "Left lateral"]
    assert [set(view.ends) for view in views_of(context)] == [{"L", "R"}, {"A", "P"}]


def test_it_can_be_drawn_in_many_threads_at_once(pet: Quantified, page: Pixels) -> None:
    drawn: list[Pixels] = []
    threads = [threading.Thread(target=lambda: drawn.append(draw_page(context_of(pet)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 2
    assert all(np.array_equal(pixels, page) for pixels in drawn)


def test_more_lesions_than_rows_are_counted(pet: Quantified, page: Pixels) -> None:
    assert not np.array_equal(draw_page(context_of(pet, WritePolicy(page_lesion_rows=1))), page)


def test_an_image_without_any_uptake_can_be_drawn(pet: Quantified) -> None:
    empty = sources.without_lesions(pet)
    loaded = empty.segmented.aligned.loaded
    dark = Volume(np.zeros_like(loaded.uptake.array), loaded.uptake.grid, loaded.uptake.unit)
    aligned = replace(empty.segmented.aligned, loaded=replace(loaded, uptake=dark))
    changed = replace(empty, segmented=replace(empty.segmented, aligned=aligned))
    assert draw_page(context_of(changed)).shape == (HEIGHT, WIDTH, 3)


def test_a_page_that_replaces_another_says_so_in_a_band_of_colour(pet: Quantified) -> None:
    earlier = SupersededReport("1", "2", "3", "4", 1, f"{sources.ROOT}.3")
    later = replace(PROVENANCE, revision=2, supersedes=(earlier,))
    band = draw_page(open_context(pet, WritePolicy(), later))[86:88].reshape(-1, 3)
    assert (band == (179, 71, 0)).all(axis=1).mean() > 0.9


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(6116.7, 1, "6117"), (123.44, 1, "123.4"), (0.0021, 3, "0.002"), (12345.6, 2, "12346"), (None, 1, "-"),
     (99.96, 1, "100.0"), (3, 0, "3")],
)  # fmt: skip
def test_numbers_are_short_enough_to_stand_next_to_each_other(
    value: float | None, decimals: int, text: str
) -> None:
    assert in_few_digits(value, decimals) == text


@pytest.mark.parametrize("rows", [0, 25])
def test_a_table_that_does_not_fit_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="page_lesion_rows"):
        WritePolicy(page_lesion_rows=rows)


def with_warning(quantified: Quantified, *texts: str, stage: str = "load") -> Quantified:
    segmented = quantified.segmented
    told = tuple(Decision.read(Decision(stage, text)) for text in texts)
    return replace(quantified, segmented=replace(segmented, decisions=(*segmented.decisions, *told)))


def yellow_rows(pixels: Pixels) -> int:
    """Pixel rows of the band of warnings."""
    return int((pixels[:, 40] == (255, 226, 122)).all(axis=1).sum())


def test_a_warning_stands_in_a_band_of_its_own_and_hides_nothing(pet: Quantified, page: Pixels) -> None:
    warned = draw_page(context_of(with_warning(pet, "warning: slice 4 is 3 times its neighbours")))
    band = warned.shape[0] - page.shape[0]
    assert 0 < band <= yellow_rows(warned) <= band + 1  # the band's edge lies between two rows
    assert yellow_rows(page) == 0
    lower = warned[VIEWS_TOP + band :].astype(int)
    assert np.abs(lower - page[VIEWS_TOP:]).mean() < 0.5  # the same, as far as edges are drawn between pixels


def test_warnings_of_the_node_and_of_the_chain_stand_once_and_in_order(pet: Quantified) -> None:
    quantified = with_warning(pet, "warning: b", "no warning: c", "warning: b")
    provenance = replace(PROVENANCE, decisions=(Decision.warning("receive", "a"),))
    context = open_context(quantified, WritePolicy(), provenance)
    assert warning_lines(context) == ["WARNING: a", "WARNING: b"]


def test_how_results_are_stored_is_no_warning_about_the_numbers(pet: Quantified) -> None:
    assert warning_lines(context_of(pet, WritePolicy(seg_type=SegType.LABELMAP))) == []


def test_warnings_without_end_are_counted(pet: Quantified) -> None:
    texts = [f"warning: number {n}" for n in range(30)]
    lines = warning_lines(context_of(with_warning(pet, *texts)))
    assert len(lines) == 6
    assert lines[-1] == "... and 25 more, in full in the report (DICOM SR)"


@pytest.mark.parametrize(
    ("lines_each", "kept", "last"),
    [
        ((1, 1, 4), 6, None),
        ((2, 3, 2), 5, "... and 1 more, in full in the report (DICOM SR)"),
        ((2, 2, 3), 5, "... continued in the report (DICOM SR)"),
        ((9,), 5, "... continued in the report (DICOM SR)"),
        ((1, 9, 1, 2), 5, "... continued in the report (DICOM SR), with 2 more"),
    ],
)
def test_a_warning_that_is_cut_goes_on_in_the_report_and_those_not_begun_are_counted(
    pet: Quantified, lines_each: tuple[int, ...], kept: int, last: str | None
) -> None:
    texts = [
        f"warning: {n} " + "x" * 100 + (" " + "y" * 100) * (lines - 1) for n, lines in enumerate(lines_each)
    ]
    lines = warning_lines(context_of(with_warning(pet, *texts)))
    assert len(lines) == kept + (last is not None)
    assert last is None or lines[-1] == last
    begun = [line for line in lines if line.startswith("WARNING: ")]
    assert [line.split()[1] for line in begun] == [str(n) for n in range(len(begun))]
    counted = int(last.rsplit(" more", 1)[0].split()[-1]) if last and " more" in last else 0
    assert len(begun) + counted == len(lines_each)


def test_an_empty_result_shows_its_warnings_too(pet: Quantified) -> None:
    empty = with_warning(sources.without_lesions(pet), "warning: slice 4 is 3 times its neighbours")
    assert yellow_rows(draw_page(context_of(empty))) > 0


def test_the_notes_say_when_activity_holds_and_that_a_peak_may_be_below_the_mean(
    pet: Quantified, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spect = sources.spect(tmp_path_factory.mktemp("spect"))
    instant = ActivityInstant(InstantKind.SCAN_START, datetime(2026, 3, 4, 9, 30))
    dose = DoseEstimate(48.0, lowest=0.93, highest=1.43)
    spect = replace(spect, findings=replace(spect.findings, activity_instant=instant, dose=dose))
    told = notes(context_of(spect))
    assert "SUVpeak in a sphere of 1 ml, so below SUVmean in lesions smaller than it can be" in told[0]
    assert told[1] == "Activity as at: start of the scan, 2026-03-04 09:30:00."
    assert told[2].startswith("* Dose: research estimate from one SPECT at 48.0 h")
    of_pet = replace(pet, findings=replace(pet.findings, activity_instant=instant))
    assert not [note for note in notes(context_of(of_pet)) if "Activity" in note]


def test_activity_and_dose_are_columns_of_a_spect_alone(
    pet: Quantified, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spect = sources.spect(tmp_path_factory.mktemp("spect"))
    lesions = tuple(replace(lesion, absorbed_dose_gy=1.5) for lesion in spect.findings.lesions)
    headings = [column.heading[0] for column in columns_of(lesions, with_activity=True)]
    assert headings[-2:] == ["Activity", "Dose*"]
    assert "Activity" not in [c.heading[0] for c in columns_of(pet.findings.lesions, with_activity=False)]


@pytest.mark.parametrize(
    ("uptake_s", "words"), [(3720.0, "62 min"), (35_000.0, "583 min"), (178_200.0, "49.5 h")]
)
def test_uptake_time_is_in_minutes_and_of_days_in_hours(uptake_s: float, words: str) -> None:
    assert uptake_in_words(uptake_s) == words
