"""Slices are worked on in runs, and what comes back is as if they were worked on one by one."""

from __future__ import annotations

import pytest

from app.imaging.slices import slice_by_slice


@pytest.mark.parametrize("slices", [0, 1, 2, 15, 16, 17, 403])
def test_every_slice_once_and_in_order(slices: int) -> None:
    asked: list[int] = []

    def squared(z: int) -> int:
        asked.append(z)
        return z * z

    assert slice_by_slice(squared, slices) == [z * z for z in range(slices)]
    assert sorted(asked) == list(range(slices))


def test_the_first_error_is_raised() -> None:
    def refuse(z: int) -> None:
        if z in (41, 42, 300):
            raise ValueError(f"slice {z}")

    with pytest.raises(ValueError, match="slice 41"):
        slice_by_slice(refuse, 403)
