"""The demo's pictures show what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from app.demo.story import CAPTION_PIXELS, FOUND_RGB, TRUE_RGB, write_truth_beside_result
from app.domain.volume import Grid, LabelMap, Unit, Volume


def test_truth_is_outlined_on_the_left_and_result_on_the_right(tmp_path: Path) -> None:
    grid = Grid.axis_aligned((20, 10, 20), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    functional = Volume(np.zeros(grid.shape, np.float32), grid, Unit.SUVBW)
    truth, found = np.zeros(grid.shape, np.uint16), np.zeros(grid.shape, np.uint16)
    truth[15:18, 4:6, 2:5] = 1  # near the head, at the patient's right
    found[2:5, 4:6, 15:18] = 1
    path = tmp_path / "picture.png"
    write_truth_beside_result(functional, LabelMap(truth, grid), LabelMap(found, grid), 10.0, path)

    picture = np.asarray(Image.open(path))[CAPTION_PIXELS:]
    green = np.argwhere((picture == TRUE_RGB).all(axis=-1))
    red = np.argwhere((picture == FOUND_RGB).all(axis=-1))
    height, width = picture.shape[:2]
    assert green[:, 0].max() < height / 2
    assert green[:, 1].max() < width / 4  # the patient's right is the viewer's left
    assert red[:, 0].min() > height / 2
    assert red[:, 1].min() > width / 2
