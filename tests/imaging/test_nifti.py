"""Images in NIfTI files keep their numbers and their place."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.volume import Grid, Unit
from app.errors import MisconfiguredError
from app.imaging.nifti import read_labels, read_volume, write_array
from app.inference.models.channels import Orientation


@given(st.sampled_from(list(permutations(range(3)))), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=48, deadline=None)
def test_a_canonical_array_lies_where_its_source_lies(
    axes: tuple[int, int, int], flips: tuple[bool, ...]
) -> None:
    columns = np.diag([2.0, 3.0, 4.0])[:, list(axes)] * np.where(flips, -1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, (10.0, -20.0, 30.0)
    source = Grid((3, 4, 5), affine)
    places = source.to_lps(np.array([[x, y, z] for z in range(3) for y in range(4) for x in range(5)], float))
    orientation = Orientation.of(source)
    grid = orientation.grid(source)

    moved = [orientation.apply(places[:, axis].reshape(source.shape)) for axis in range(3)]
    depth, height, width = grid.shape
    index = [[x, y, z] for z in range(depth) for y in range(height) for x in range(width)]
    expected = np.stack([array.ravel() for array in moved], axis=1)
    np.testing.assert_allclose(grid.to_lps(np.array(index, float)), expected)
    assert (np.diag(grid.affine)[:3] > 0).all()


def test_an_image_comes_back_with_its_numbers_and_its_place(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5) / 7
    square = Grid((3, 4, 5), np.array([[0, 2.5, 0, -7], [2.5, 0, 0, 8], [0, 0, -5.0, 90], [0, 0, 0, 1.0]]))
    write_array(tmp_path / "a.nii.gz", array, square)
    volume = read_volume(tmp_path / "a.nii.gz", Unit.SUVBW)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.grid.matches(square)


def test_values_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    grid = Grid.axis_aligned((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    write_array(tmp_path / "a.nii.gz", np.full((2, 2, 2), 0.5, np.float32), grid)
    with pytest.raises(MisconfiguredError, match="no labels"):
        read_labels(tmp_path / "a.nii.gz")


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.nii.gz").write_bytes(b"nothing")
    with pytest.raises(MisconfiguredError, match=r"b\.nii\.gz"):
        read_labels(tmp_path / "b.nii.gz")
