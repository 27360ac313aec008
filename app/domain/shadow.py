"""A shadow model beside the one that serves: what both found on the same input."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.analysis import ModelUsed
from app.domain.study import StudyKind


@dataclass(frozen=True)
class MaskSummary:
    """What a mask amounts to."""

    lesion_count: int
    volume_ml: float


@dataclass(frozen=True)
class ShadowComparison:
    """One shadow model on one pair. Never sent; for the physicist who compares models over weeks.

    Attributes:
        shadow_id: as the site's policy names it.
        shadow: the exact model; ``None`` when it could not be loaded.
        prior_used: whether the shadow was shown the prior (M4 only).
        found: what the shadow found; ``None`` when it did not run to its end.
        dice: of both masks; ``None`` when both are empty, or the shadow did not run.
        seconds: the shadow took, loading included.
        problem: why there is no result; empty when there is one.
    """

    functional_series_instance_uid: str
    kind: StudyKind
    serving: ModelUsed
    serving_found: MaskSummary
    shadow_id: str
    shadow: ModelUsed | None = None
    prior_used: bool = False
    found: MaskSummary | None = None
    dice: float | None = None
    seconds: float = 0.0
    problem: str = ""
