"""The grey scale's upper end: lesions of a faint SPECT must be seen, a PET keeps its fixed window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.dicom.results.context import ResultContext, open_context
from app.dicom.results.page.views import LOWEST_WINDOW_SUV, window_top
from app.dicom.results.policy import WritePolicy
from app.domain.analysis import Quantified
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE


@pytest.fixture(scope="module")
def spect(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.spect(tmp_path_factory.mktemp("spect"))


def window(quantified: Quantified, policy: WritePolicy | None = None) -> float:
    return window_top(context_of(quantified, policy))


def context_of(quantified: Quantified, policy: WritePolicy | None = None) -> ResultContext:
    return open_context(quantified, policy or WritePolicy(), PROVENANCE)


def with_maxima(quantified: Quantified, *maxima: float) -> Quantified:
    pattern = quantified.findings.lesions[0]
    lesions = tuple(replace(pattern, number=i + 1, suv_max=value) for i, value in enumerate(maxima))
    return replace(quantified, findings=replace(quantified.findings, lesions=lesions))


def brightened(quantified: Quantified, factor: float) -> Quantified:
    aligned = quantified.segmented.aligned
    suv = aligned.loaded.uptake
    loaded = replace(aligned.loaded, uptake=replace(suv, array=suv.array * factor))
    return replace(
        quantified, segmented=replace(quantified.segmented, aligned=replace(aligned, loaded=loaded))
    )


@pytest.mark.parametrize("maxima", [(1.0, 1.4, 2.0), (1.2,), (1.2, 1.3, 1.5, 40.0)])
def test_the_maxima_of_faint_lesions_stand_in_the_middle_of_a_spects_scale_or_darker(
    spect: Quantified, maxima: tuple[float, ...]
) -> None:
    upper = window(with_maxima(spect, *maxima))
    assert LOWEST_WINDOW_SUV <= upper <= 3.0
    assert sorted(maxima)[len(maxima) // 2] / upper >= 0.4


def test_the_window_has_a_floor_and_the_sites_ceiling(spect: Quantified) -> None:
    assert window(with_maxima(spect, 0.2)) == LOWEST_WINDOW_SUV
    assert window(with_maxima(spect, 30.0)) == WritePolicy().page_window_spect_suv
    assert window(with_maxima(spect, 30.0), WritePolicy(page_window_spect_suv=4.0)) == 4.0
    assert window(with_maxima(spect, 0.2), WritePolicy(page_window_spect_suv=1.0)) == 1.0


def test_without_a_lesion_the_image_decides(spect: Quantified) -> None:
    empty = sources.without_lesions(spect)
    highest = float(empty.segmented.aligned.loaded.uptake.array.max())
    assert window(brightened(empty, 1.0 / highest)) <= LOWEST_WINDOW_SUV
    assert window(brightened(empty, 100.0 / highest)) == WritePolicy().page_window_spect_suv


def test_a_pet_keeps_its_window(tmp_path: Path) -> None:
    pet = sources.pet(tmp_path)
    assert window(with_maxima(pet, 1.0)) == window(with_maxima(pet, 30.0)) == 15.0
