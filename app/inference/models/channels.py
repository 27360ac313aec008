"""The network's input: channels made the same way for training and for patients.

nnU-Net knows arrays and spacings, no directions. So every array is brought to ``(z, y, x)`` with x towards
the patient's left, y posterior, z up, by transposing and flipping only: exact, and undone exactly. An oblique
grid keeps its obliqueness: the networks see it tilted, as nnU-Net itself would.

M4 is shown the patient's earlier PET lesions as a distance map. nnU-Net resamples image channels with splines
of order 3, which overshoot at the edge of a binary mask; a signed distance, clipped, has no such edge. It is
shifted so that 0 means "far from any lesion": nnU-Net pads patches with 0, and padding must not look like a
lesion's surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import ModelRole
from app.domain.volume import AIR_HU, Grid, Unit, Volume
from app.imaging.resampling import resample


@dataclass(frozen=True)
class Orientation:
    """The way from a grid's own axes to canonical ones.

    Attributes:
        axes: array axis of the source for each canonical axis ``(z, y, x)``.
        flipped: canonical axes ``(z, y, x)`` that run against LPS in the source.
        spacing_zyx_mm: voxel distances along the canonical axes, mm.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    spacing_zyx_mm: tuple[float, float, float]

    @classmethod
    def of(cls, grid: Grid) -> Orientation:
        """The orientation of ``grid``: each of its axes goes to the LPS axis it is closest to."""
        spacing = np.array(grid.spacing_mm)
        cosines = grid.affine[:3, :3] / spacing  # [LPS axis, index axis], both (x, y, z)
        best = max(permutations(range(3)), key=lambda p: sum(abs(cosines[lps, p[lps]]) for lps in range(3)))
        order = [best[lps] for lps in (2, 1, 0)]  # index axes (x, y, z) that become z, y, x
        z, y, x = (2 - axis for axis in order)  # index axis x is the last array axis
        down, front, right = (bool(cosines[lps, best[lps]] < 0) for lps in (2, 1, 0))
        depth, height, width = (float(spacing[axis]) for axis in order)
        return cls((z, y, x), (down, front, right), (depth, height, width))

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """``(..., z, y, x)`` of the source as a contiguous canonical array."""
        leading = array.ndim - 3
        moved = array.transpose(*range(leading), *(leading + axis for axis in self.axes))
        return np.ascontiguousarray(np.flip(moved, self._flips(leading)))

    def revert(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of :meth:`apply`."""
        leading = array.ndim - 3
        unflipped = np.flip(array, self._flips(leading))
        back = np.argsort(self.axes)
        return np.ascontiguousarray(unflipped.transpose(*range(leading), *(leading + int(a) for a in back)))

    def grid(self, source: Grid) -> Grid:
        """Where the canonical array's voxels lie: :meth:`apply` moves numbers, never the patient."""
        to_source = np.zeros((4, 4))
        to_source[3, 3] = 1.0
        shape = [source.shape[axis] for axis in self.axes]
        for canonical, (axis, flip) in enumerate(zip(self.axes, self.flipped, strict=True)):
            row, column = 2 - axis, 2 - canonical  # array axes (z, y, x) as index axes (x, y, z)
            to_source[row, column] = -1.0 if flip else 1.0
            to_source[row, 3] = shape[canonical] - 1 if flip else 0.0
        depth, height, width = shape
        return Grid((depth, height, width), source.affine @ to_source)

    def _flips(self, leading: int) -> tuple[int, ...]:
        return tuple(leading + axis for axis, flip in enumerate(self.flipped) if flip)


REACH_MM = 20.0
"""Beyond this distance from a lesion's surface the map is flat: more than any tolerated misplacement."""

ENCODING = "signed distance to the lesions' surface / 20 mm + 1, clipped to 0..2; 0 is far or no lesion"
"""In words, for cards."""


def encode_prior(mask: NDArray[np.bool_], spacing_zyx_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """Signed distance to the surface, clipped to ±20 mm, divided by 20, plus 1.

    Args:
        mask: ``(z, y, x)``, true inside a lesion.
        spacing_zyx_mm: distance of voxel centres along ``(z, y, x)``, mm.

    Returns:
        ``(z, y, x)`` float32 in 0..2: 0 is 20 mm or more outside (or no lesion at all), 1 the surface,
        2 is 20 mm or more inside.
    """
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.zeros(mask.shape, dtype=np.float32)
    half_voxel_mm = float(np.mean(spacing_zyx_mm)) / 2.0  # the surface lies between two voxel centres
    inside_mm = distance_transform_edt(mask, sampling=spacing_zyx_mm)
    outside_mm = distance_transform_edt(~mask, sampling=spacing_zyx_mm)
    signed_mm = np.where(mask, inside_mm - half_voxel_mm, half_voxel_mm - outside_mm)
    encoded: NDArray[np.float32] = (np.clip(signed_mm / REACH_MM, -1.0, 1.0) + 1.0).astype(np.float32)
    return encoded


FUNCTIONAL = {ModelRole.M1: "PET", ModelRole.M2: "SPECT", ModelRole.M3: "PET or SPECT", ModelRole.M4: "SPECT"}
"""The functional image each model takes, as cards call it."""

SUV_UNIT, CT_UNIT, PRIOR_UNIT = "g/ml SUVbw", "HU", "1"

CT_NAME, PRIOR_NAME = "CT", "PET lesions"


def channels_of(role: ModelRole) -> tuple[tuple[str, str], ...]:
    """Name and unit of every channel that :func:`build_input` makes for ``role``, in order."""
    prior = ((PRIOR_NAME, PRIOR_UNIT),) if role is ModelRole.M4 else ()
    return (FUNCTIONAL[role], SUV_UNIT), (CT_NAME, CT_UNIT), *prior


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """Channels on the functional image's own grid.

    Attributes:
        channels: ``(c, z, y, x)`` float32: functional SUVbw, CT in HU, and for M4 the encoded prior.
        grid: the functional grid.
    """

    channels: NDArray[np.float32]
    grid: Grid


def build_input(
    role: ModelRole, suv: Volume, ct: Volume, prior: NDArray[np.bool_] | None = None
) -> NetworkInput:
    """Stack the channels that ``role`` asks for.

    Args:
        role: M1..M4; only M4 has a prior channel, and M4 needs one (all false when nothing was found on PET).
        suv: PET or SPECT in SUVbw.
        ct: in HU, on any grid of the same frame of reference; brought to the functional grid here.
        prior: ``(z, y, x)`` on the functional grid.

    Raises:
        ValueError: a unit or the prior does not fit: a fault of the caller.
    """
    if suv.unit is not Unit.SUVBW or ct.unit is not Unit.HU:
        raise ValueError(f"the networks take SUVbw and HU, found {suv.unit} and {ct.unit}")
    if (prior is not None) != (role is ModelRole.M4):
        raise ValueError(f"{role} was given {'a' if prior is not None else 'no'} prior; only M4 takes one")
    stack = [suv.array, resample(ct, suv.grid, AIR_HU).array]
    if prior is not None:
        if prior.shape != suv.grid.shape:
            raise ValueError(f"the prior {prior.shape} does not fit the functional grid {suv.grid.shape}")
        stack.append(encode_prior(prior, _spacing_of_array_axes(suv.grid)))
    return NetworkInput(np.stack(stack).astype(np.float32, copy=False), suv.grid)


def canonical(network_input: NetworkInput) -> tuple[NDArray[np.float32], Orientation]:
    """The channels in the networks' orientation, and the way back."""
    orientation = Orientation.of(network_input.grid)
    return orientation.apply(network_input.channels).astype(np.float32, copy=False), orientation


def _spacing_of_array_axes(grid: Grid) -> tuple[float, float, float]:
    x, y, z = grid.spacing_mm
    return z, y, x
