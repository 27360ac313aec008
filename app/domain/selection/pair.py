"""A pair of series ready to be loaded, how much of it its CT covers, and the verdict on every series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.domain.decision import Decision
from app.domain.refusal import Reason
from app.domain.selection.tracers import Tracer
from app.domain.study import Series, Study, StudyKind
from app.domain.volume import FloatArray, Grid

EDGE_TOLERANCE_MM = 1.0
"""Image borders of two machines agree to within table positioning; a millimetre is not missing anatomy."""


@dataclass(frozen=True)
class Coverage:
    """Two fractions, 0 to 1.

    Attributes:
        axial: share of the functional slices that lie within the CT's extent along their normal.
        in_plane: overlap of the two fields of view, as a share of the smaller one. A PET's is often wider
            (700 mm) than its CT's (500 mm): that is not a lack.
    """

    axial: float
    in_plane: float


def coverage(functional: Grid, ct: Grid) -> Coverage:
    """Compare extents along the functional image's own axes, voxel edges included."""
    low, high = _extent_mm(functional, functional)
    ct_low, ct_high = _extent_mm(ct, functional)
    overlap = np.clip(np.minimum(high, ct_high) - np.maximum(low, ct_low), 0.0, None)
    smaller = np.minimum(high - low, ct_high - ct_low)
    in_plane = float(np.prod(overlap[:2] / smaller[:2]))
    depth = functional.shape[0]
    centres = low[2] + (np.arange(depth) + 0.5) * (high[2] - low[2]) / depth
    half_step = functional.spacing_mm[2] / 2.0
    inside = (centres >= ct_low[2] - EDGE_TOLERANCE_MM - half_step) & (
        centres <= ct_high[2] + EDGE_TOLERANCE_MM + half_step
    )
    return Coverage(float(inside.mean()), min(in_plane, 1.0))


def axial_overlap(first: Grid, second: Grid) -> float:
    """Overlap along the first grid's slice normal, as a share of the shorter extent."""
    low, high = _extent_mm(first, first)
    other_low, other_high = _extent_mm(second, first)
    overlap = max(0.0, min(high[2], other_high[2]) - max(low[2], other_low[2]))
    return float(overlap / min(high[2] - low[2], other_high[2] - other_low[2]))


def _extent_mm(grid: Grid, frame: Grid) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest coordinate of ``grid``'s outer voxel edges along ``frame``'s axes (x, y, z), mm."""
    z, y, x = grid.shape
    edges = [[i, j, k] for k in (-0.5, z - 0.5) for j in (-0.5, y - 0.5) for i in (-0.5, x - 0.5)]
    directions = frame.affine[:3, :3] / np.array(frame.spacing_mm)
    along = grid.to_lps(np.array(edges)) @ directions
    return along.min(axis=0), along.max(axis=0)


@dataclass(frozen=True)
class SeriesVerdict:
    """What became of one series: a role, or the reason it has none."""

    series_instance_uid: str
    modality: str
    description: str
    role: str
    """``PET``, ``SPECT``, ``CT``, or empty."""
    reason: Reason | None = None


@dataclass(frozen=True)
class Selection:
    """A functional series with its CT, ready to be loaded."""

    study: Study
    kind: StudyKind
    functional: Series
    ct: Series
    tracer: Tracer
    decisions: tuple[Decision, ...] = ()
