"""Derived UIDs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from app.dicom.uids import ResultKind, derived_uid, result_identity, series_uid, sop_uid, tracking_uid
from app.domain.analysis import Quantified
from tests.dicom.results import sources
from tests.dicom.results.sources import PROVENANCE


@pytest.fixture(scope="module")
def quantified(tmp_path_factory: pytest.TempPathFactory) -> Quantified:
    return sources.spect(tmp_path_factory.mktemp("spect"))


@given(st.lists(st.text(), max_size=4))
def test_every_derived_uid_is_valid(ingredients: list[str]) -> None:
    uid = UID(derived_uid(*ingredients))
    assert uid.is_valid
    assert uid.startswith("2.25.")
    assert len(uid) <= 64


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_other_ingredients_give_another_uid(one: list[str], other: list[str]) -> None:
    assert (derived_uid(*one) == derived_uid(*other)) == (one == other)


def test_every_object_of_an_analysis_has_its_own_uid() -> None:
    uids = {make("same", kind) for make in (series_uid, sop_uid) for kind in ResultKind}
    uids |= {tracking_uid("same", number) for number in range(5)}
    assert len(uids) == 2 * len(ResultKind) + 5


def test_the_order_in_which_files_arrived_does_not_matter(quantified: Quantified) -> None:
    assert result_identity(_reversed(quantified), PROVENANCE) == result_identity(quantified, PROVENANCE)


@pytest.mark.parametrize(
    "change", [{"software_version": "0.2.0"}, {"settings_digest": "ef" * 32}, {"revision": 2}]
)
def test_other_software_settings_or_revision_is_another_result(
    quantified: Quantified, change: dict[str, str]
) -> None:
    changed = replace(PROVENANCE, **change)  # type: ignore[arg-type]
    assert result_identity(quantified, changed) != result_identity(quantified, PROVENANCE)


@pytest.mark.parametrize("change", [{"version": "1.0.1"}, {"weights_sha256": "00" * 32}])
def test_another_model_is_another_result(quantified: Quantified, change: dict[str, str]) -> None:
    model = replace(quantified.segmented.model, **change)  # type: ignore[arg-type]
    changed = replace(quantified, segmented=replace(quantified.segmented, model=model))
    assert result_identity(changed, PROVENANCE) != result_identity(quantified, PROVENANCE)


def test_another_prior_is_another_result(quantified: Quantified) -> None:
    aligned = replace(quantified.segmented.aligned, prior=None)
    changed = replace(quantified, segmented=replace(quantified.segmented, aligned=aligned))
    assert result_identity(changed, PROVENANCE) != result_identity(quantified, PROVENANCE)


def test_a_late_slice_is_another_result(tmp_path: Path) -> None:
    complete = sources.pet(tmp_path)
    functional = complete.segmented.aligned.loaded.selection.functional
    fewer = replace(functional, instances=functional.instances[:-1])
    assert result_identity(_with_functional(complete, fewer), PROVENANCE) != result_identity(
        complete, PROVENANCE
    )


def _reversed(quantified: Quantified) -> Quantified:
    selection = quantified.segmented.aligned.loaded.selection
    ct = replace(selection.ct, instances=selection.ct.instances[::-1])
    loaded = replace(quantified.segmented.aligned.loaded, selection=replace(selection, ct=ct))
    aligned = replace(quantified.segmented.aligned, loaded=loaded)
    return replace(quantified, segmented=replace(quantified.segmented, aligned=aligned))


def _with_functional(quantified: Quantified, functional: object) -> Quantified:
    loaded = quantified.segmented.aligned.loaded
    selection = replace(loaded.selection, functional=functional)  # type: ignore[arg-type]
    aligned = replace(quantified.segmented.aligned, loaded=replace(loaded, selection=selection))
    return replace(quantified, segmented=replace(quantified.segmented, aligned=aligned))
