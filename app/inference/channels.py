"""The network's input: channels made the same way for training and for patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import ModelRole
from app.domain.volume import AIR_HU, Grid, Unit, Volume
from app.imaging.resampling import resample
from app.inference.orientation import Orientation
from app.inference.prior_encoding import encode_prior

FUNCTIONAL = {
    ModelRole.M1: "PET",
    ModelRole.M2: "SPECT",
    ModelRole.M3: "PET or SPECT",
    ModelRole.M4: "SPECT",
}
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
