"""TODO."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.decision import Decision
from app.domain.refusal import Reason
from app.domain.selection.tracers import Tracer
from app.domain.study import Series, Study, StudyKind


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
