"""Resampling by one matrix an axis is nnU-Net's resampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from app.inference.running.zoom import RELATIVE_ERROR, zoom_between

GRIDS = {
    "alike along all axes": ((40, 33, 27), (23, 40, 27), (2.0, 2.0, 2.0), (3.5, 1.65, 2.0)),
    "slices far apart": ((20, 33, 27), (13, 40, 20), (8.0, 2.0, 2.0), (12.3, 1.65, 2.7)),
    "slices far apart, as many": ((20, 33, 27), (20, 40, 20), (8.0, 2.0, 2.0), (8.0, 1.65, 2.7)),
    "columns far apart": ((30, 33, 12), (20, 40, 20), (2.0, 2.0, 8.0), (3.0, 1.65, 4.8)),
    "rows far apart": ((30, 12, 33), (31, 20, 20), (2.0, 8.0, 2.0), (2.0, 4.8, 3.3)),
    "nothing to do": ((8, 9, 10), (8, 9, 10), (8.0, 2.0, 2.0), (8.0, 2.0, 2.0)),
}
Grids = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[float, ...]]


@pytest.mark.parametrize("grids", GRIDS.values(), ids=list(GRIDS))
@pytest.mark.parametrize(("order", "order_z"), [(3, 0), (3, 1), (1, 0)])
def test_the_result_is_nnunets(grids: Grids, order: int, order_z: int) -> None:
    old, new, old_spacing, new_spacing = grids
    settings = {"order": order, "order_z": order_z, "force_separate_z": None}
    image = np.random.default_rng(1).standard_normal(old).astype(np.float32) * 100
    expected = resample_data_or_seg_to_shape(image[None], new, old_spacing, new_spacing, **settings)[0]
    zoom = zoom_between(old, new, old_spacing, new_spacing, settings)
    found = zoom.apply([torch.from_numpy(image)]).numpy()
    assert zoom.keeps_sign is (order == 1 or old == new)
    np.testing.assert_allclose(found, expected, rtol=0, atol=RELATIVE_ERROR * float(np.ptp(image)))
    if zoom.takes_slabs:
        slabs = [torch.from_numpy(image[start : start + 7]) for start in range(0, old[0], 7)]
        np.testing.assert_allclose(zoom.apply(slabs).numpy(), found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("threshold", [1.5, 8.0])
def test_from_which_anisotropy_slices_are_resampled_apart_is_the_plans_to_say(threshold: float) -> None:
    old, new, old_spacing, new_spacing = GRIDS["slices far apart"]
    settings: dict[str, Any] = {"order": 1, "force_separate_z": None}
    settings["separate_z_anisotropy_threshold"] = threshold
    image = np.random.default_rng(1).standard_normal(old).astype(np.float32)
    expected = resample_data_or_seg_to_shape(image[None], new, old_spacing, new_spacing, **settings)[0]
    zoom = zoom_between(old, new, old_spacing, new_spacing, settings)
    assert zoom.slices_along == (0 if threshold < 4.0 else None)
    np.testing.assert_allclose(zoom.apply([torch.from_numpy(image)]).numpy(), expected, rtol=0, atol=1e-5)


def test_a_box_of_the_new_grid_reads_what_it_needs_of_the_old() -> None:
    old, new, old_spacing, new_spacing = GRIDS["alike along all axes"]
    zoom = zoom_between(old, new, old_spacing, new_spacing, {"order": 1, "force_separate_z": None})
    image = torch.from_numpy(np.random.default_rng(1).standard_normal(old).astype(np.float32))
    box = (slice(5, 9), slice(30, 40), slice(2, 3))
    part, read = zoom.part(box)
    assert all(one.stop - one.start < length for one, length in zip(read, old, strict=True))
    torch.testing.assert_close(part.apply([image[read]]), zoom.apply([image])[box])
