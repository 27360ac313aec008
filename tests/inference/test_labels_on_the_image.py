"""Labels are made where something may be only: equal to those of nnU-Net's resampling of the whole grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from app.inference.running import preprocessing
from app.inference.running.zoom import zoom_between

SIDES = (21, 18, 24)
RATIOS = (0.4, 0.7, 1.0, 1.3, 1.8, 2.2, 3.0, 3.3, 4.0)
UNDECIDED = 1e-5
"""Outputs that are as near as this may be ordered either way in single precision."""


def differences(labels: int, share: float, seed: int) -> NDArray[np.float32]:
    """``(labels, z, y, x)``: background with a few small lesions, some of a single voxel."""
    rng = np.random.default_rng(seed)
    spots = rng.random((labels, *SIDES)) < share
    blurred = np.stack([gaussian_filter(one.astype(np.float32), rng.choice([0.0, 1.0])) for one in spots])
    return (blurred * rng.uniform(3, 30) - rng.uniform(0.2, 1.0, blurred.shape)).astype(np.float32)


def on_the_whole_grid(
    outputs: NDArray[np.float32], *grids: Any, **settings: Any
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The label of each voxel by nnU-Net's own resampling in double precision, and where it is decided."""
    logits = np.concatenate([np.zeros_like(outputs[:1]), outputs]).astype(np.float64)
    zoomed = resample_data_or_seg_to_shape(logits, *grids, is_seg=False, **settings)
    second, first = np.sort(zoomed, axis=0)[-2:]
    return zoomed.argmax(0), first - second > UNDECIDED


@settings(max_examples=60)
@given(
    st.tuples(*[st.sampled_from(RATIOS)] * 3),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.0003, 0.003, 0.05]),
    st.integers(0, 10**6),
)
@example((3.3, 3.3, 3.3), None, 1, 0.003, 1)
@example((2.2, 4.0, 4.0), None, 2, 0.0003, 2)
@example((1.3, 1.3, 1.3), 1, 1, 0.003, 3)
@example((1.3, 1.3, 1.3), 2, 3, 0.0003, 4)
def test_the_labels_are_those_of_the_whole_grid(
    ratios: tuple[float, float, float], apart: int | None, labels: int, share: float, seed: int
) -> None:
    """The image's voxels are so many times as long as the network's; ``apart``: the axis resampled apart."""
    shape = tuple(max(1, round(side / ratio)) for side, ratio in zip(SIDES, ratios, strict=True))
    lengths = tuple(8.0 if axis == apart else 2.0 for axis in range(3))
    spacing = tuple(length * ratio for length, ratio in zip(lengths, ratios, strict=True))
    order = {"order": 1, "order_z": 0, "force_separate_z": None}
    outputs = differences(labels, share, seed)
    expected, decided = on_the_whole_grid(outputs, shape, lengths, spacing, **order)
    zoom = zoom_between(SIDES, shape, lengths, spacing, order)
    if apart is not None and shape != SIDES:
        assert zoom.slices_along == apart
    found = np.zeros(shape, np.uint8)
    preprocessing._label(found, torch.from_numpy(outputs), zoom)
    np.testing.assert_array_equal(found[decided], expected[decided])
    assert decided.mean() > 0.99
