"""Shadow models see what the serving one saw, are measured against it, and trouble nobody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.domain.analysis import Segmented
from app.domain.decision import ModelRole
from app.domain.scores import count_voxels
from app.inference.models.store import ModelStore
from app.inference.policy import DeviceChoice, SegmentPolicy
from app.inference.running import segmentation
from app.inference.running.segmentation import NO_PRIOR, ShadowModels, segment_lesions
from app.inference.running.segmenter import Segmenter
from tests.dicom.results.sources import pet, spect
from tests.inference.tiny_model import write_tiny_model


@pytest.fixture
def served(tmp_path: Path) -> Segmented:
    """A SPECT/CT that M4 has served."""
    return spect(tmp_path / "images").segmented


def shadows(models: Path, *ids: str) -> ShadowModels:
    policy = SegmentPolicy(models_dir=str(models), device=DeviceChoice.CPU, shadow_models=ids)
    return ShadowModels(policy)


def test_a_shadow_is_compared_by_dice_volume_and_count(served: Segmented, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, ModelRole.M2, "other")
    [found] = shadows(tmp_path, "other").compare(served)
    segmenter = Segmenter(ModelStore(tmp_path).load(ModelRole.M2), DeviceChoice.CPU)
    expected = segment_lesions(segmenter, served.aligned, 0.1).labels
    assert found.found is not None
    assert found.problem == ""
    assert found.found.lesion_count == int(expected.array.max()) > 0
    assert found.found.volume_ml == pytest.approx((expected.array > 0).sum() * expected.grid.voxel_ml)
    assert found.dice == count_voxels(expected.array > 0, served.labels.array > 0).dice
    assert found.serving_found.lesion_count == 3
    assert found.shadow is not None
    assert (found.shadow.model_id, found.serving, found.prior_used) == ("other", served.model, False)


def test_only_models_that_can_look_at_the_pair_run(served: Segmented, tmp_path: Path) -> None:
    for role, name in ((ModelRole.M1, "pet-only"), (ModelRole.M2, "spect-only"), (ModelRole.M3, "both")):
        write_tiny_model(tmp_path, role, name)
    models = shadows(tmp_path, "pet-only", "spect-only", "both")
    assert [found.shadow_id for found in models.compare(served)] == ["spect-only", "both"]
    of_pet = models.compare(pet(tmp_path / "pet").segmented)
    assert [found.shadow_id for found in of_pet] == ["pet-only", "both"]


def test_the_model_that_served_is_not_its_own_shadow(served: Segmented, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, ModelRole.M4, served.model.model_id)
    assert shadows(tmp_path, served.model.model_id).compare(served) == ()


def test_m4_sees_the_same_prior_and_does_not_run_without(
    served: Segmented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        """In a segmenter's place: says where the prior's map says "inside"."""

        def __init__(self, model: object, *settings: object) -> None:
            self.card = ModelStore(tmp_path).card("m4")

        def segment(self, network_input: object) -> object:
            return network_input.channels[2] > 1  # type: ignore[attr-defined]

    write_tiny_model(tmp_path, ModelRole.M4, "m4")
    monkeypatch.setattr(segmentation, "Segmenter", Recorder)
    [found] = shadows(tmp_path, "m4").compare(served)
    assert served.aligned.prior is not None
    assert found.prior_used
    expected = np.count_nonzero(served.aligned.prior.mask.mask) * served.labels.grid.voxel_ml
    assert found.found is not None
    assert found.found.volume_ml == pytest.approx(expected, rel=0.05)
    without = replace(served, aligned=replace(served.aligned, prior=None))
    [found] = shadows(tmp_path, "m4").compare(without)
    assert (found.problem, found.found, found.dice) == (NO_PRIOR, None, None)


def test_a_shadow_that_fails_leaves_its_reason_and_the_others_run(served: Segmented, tmp_path: Path) -> None:
    write_tiny_model(tmp_path, ModelRole.M2, "damaged")
    write_tiny_model(tmp_path, ModelRole.M2, "sound")
    with (tmp_path / "damaged" / "weights.safetensors").open("ab") as stream:
        stream.write(b" ")
    found = {item.shadow_id: item for item in shadows(tmp_path, "damaged", "gone", "sound").compare(served)}
    assert "SHA-256 is" in found["damaged"].problem
    assert "no model is called gone" in found["gone"].problem
    assert (found["sound"].problem, found["damaged"].found) == ("", None)
