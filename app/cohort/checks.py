"""Does a truth lie where the image shows uptake?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.volume import LabelMap

BODY_HU = -500.0
"""Between air and lung."""

MOST_OUTSIDE = 0.5
"""A truth that lies mostly outside its image is another image's."""

CLEAR_OF_BODY = 2.0
"""Lesions of PSMA stand out by far; below this ratio to the body's median a person should look."""

TELLTALE_GAIN = 3.0
"""Mirrored, a truth in a wrong orientation lies on lesions: this many times the uptake it has as it is."""

AXES = {0: "head to feet", 1: "front to back", 2: "left to right"}
"""Of canonical arrays ``(z, y, x)``."""


@dataclass(frozen=True)
class Finding:
    """Why a truth can't be used, or what a person should look at; both empty when all is well."""

    refusal: str = ""
    warning: str = ""


def check_place(share_outside: float) -> Finding:
    """Whether the truth lies within the functional image."""
    if share_outside > MOST_OUTSIDE:
        return Finding(refusal=f"{share_outside:.0%} of the truth lies outside the functional image")
    if share_outside > 0.0:
        return Finding(warning=f"{share_outside:.1%} of the truth lies outside the functional image")
    return Finding()


def check_uptake(suv: NDArray[np.float32], ct: NDArray[np.float32], truth: LabelMap) -> Finding:
    """Whether the truth lies on uptake; nothing to say of an empty one.

    Args:
        suv, ct: canonical ``(z, y, x)`` on one grid, SUVbw and HU.
        truth: on the same grid.
    """
    mask = truth.mask
    body = suv[(ct > BODY_HU) & ~mask]
    if not mask.any() or not body.size:
        return Finding()
    inside, around = float(np.median(suv[mask])), float(np.median(body))
    told = f"median SUV {inside:.2f} in the truth, {around:.2f} in the body"
    mirrored = _better_mirrored(suv, mask, inside)
    if inside < around:
        return Finding(refusal=f"the truth does not lie on uptake: {told}{mirrored}")
    if inside < CLEAR_OF_BODY * around or mirrored:
        return Finding(warning=f"the truth hardly lies on uptake: {told}{mirrored}")
    return Finding()


def _better_mirrored(suv: NDArray[np.float32], mask: NDArray[np.bool_], inside: float) -> str:
    """A hint when the truth fits far better the other way round."""
    gains = {axis: float(np.median(suv[np.flip(mask, axis)])) / max(inside, 1e-3) for axis in AXES}
    best = max(gains, key=lambda axis: gains[axis])
    if gains[best] < TELLTALE_GAIN:
        return ""
    found = f"mirrored {AXES[best]} it would have {gains[best]:.0f} times the uptake"
    return f"; {found}: is its orientation wrong?"
