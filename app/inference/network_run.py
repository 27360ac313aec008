"""A network's mask, and how it was computed, for the report and the results' identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.decision import Decision
from app.inference.gpu_memory import in_voxels


@dataclass(frozen=True)
class NetworkRun:
    """A mask, and what its numbers were computed with.

    Attributes:
        mask: lesion voxels, ``(z, y, x)`` on the functional grid.
        gpu: what it ran on; empty for the CPU.
        tile, trained_tile: voxels along each axis, as it was run and as it was trained.
    """

    mask: NDArray[np.bool_]
    gpu: str = ""
    tile: tuple[int, ...] = ()
    trained_tile: tuple[int, ...] = ()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """For the report. Nothing that differs between two runs in the same place, as free memory would."""
        if not self.gpu:
            return (Decision("segment", "the network ran on the CPU"),)
        where = Decision("segment", f"the network ran on a GPU ({self.gpu}), in half precision")
        if self.tile == self.trained_tile:
            return (where,)
        tiles = f"{in_voxels(self.tile)} instead of {in_voxels(self.trained_tile)}"
        why = "the GPU had no room for more, and outlines may differ from those of tiles as in its training"
        return where, Decision("segment", f"warning: the network saw tiles of {tiles}: {why}")

    @property
    def computed_by(self) -> str:
        """What tells its numbers from those of the CPU; empty there."""
        return "; ".join(decision.text for decision in self.decisions) if self.gpu else ""
