"""Shadow models in the node: they run when the results are on their way, and leave rows in the database.

Rows are only ever added. Nothing here is read by what delivers results.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.domain.outcome import ShadowComparison, ShadowWork
from app.node.records.database import Base, Uid, fetch, utc_now
from app.node.records.runs import RunKey

_log = logging.getLogger(__name__)

MOST_WAITING = 4
"""Each holds a study's volumes in memory; more wait only where a study was never recorded."""


class ShadowRow(Base):
    """One comparison as kept; numbers are ``None`` where ``problem`` says why, or (Dice) both are empty."""

    __tablename__ = "shadow_comparisons"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    compared_at: Mapped[datetime]
    study_instance_uid: Mapped[Uid]
    revision: Mapped[int]
    functional_series_instance_uid: Mapped[Uid]
    kind: Mapped[str] = mapped_column(String(16))
    serving_id: Mapped[str] = mapped_column(String(128))
    serving_weights_sha256: Mapped[str] = mapped_column(String(64))
    serving_lesions: Mapped[int]
    serving_ml: Mapped[float]
    shadow_id: Mapped[str] = mapped_column(String(128))
    shadow_version: Mapped[str] = mapped_column(String(64))
    shadow_weights_sha256: Mapped[str] = mapped_column(String(64))
    shadow_prior_used: Mapped[bool]
    shadow_lesions: Mapped[int | None]
    shadow_ml: Mapped[float | None]
    dice: Mapped[float | None]
    seconds: Mapped[float]
    problem: Mapped[str]


class ShadowLedger:
    """Comparisons, in the order in which they were made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, key: RunKey, comparisons: Sequence[ShadowComparison]) -> None:
        """Keep them; nothing kept before is changed."""
        with Session(self._engine) as session, session.begin():
            session.add_all(_row(key, comparison) for comparison in comparisons)

    def all(self) -> tuple[ShadowRow, ...]:
        """Every comparison, first to last."""
        return fetch(self._engine, select(ShadowRow).order_by(ShadowRow.id))


class WaitingShadows:
    """Shadow work of studies whose chain has ended, until their results are on their way."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[RunKey, ShadowWork] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, study_instance_uid: str, revision: int, work: ShadowWork) -> None:
        """Keep the work of a study; the oldest goes when there are too many."""
        with self._lock:
            self._waiting[RunKey(study_instance_uid, revision)] = work
            while len(self._waiting) > MOST_WAITING:
                key, _ = self._waiting.popitem(last=False)
                _log.warning("shadow models not run", extra={"study": key.study_instance_uid})

    def take(self, key: RunKey) -> ShadowWork | None:
        """The work of a study, once."""
        with self._lock:
            return self._waiting.pop(key, None)


def in_words(comparison: ShadowComparison) -> dict[str, object]:
    """One comparison for the audit log."""
    found = comparison.found
    return {
        "functional_series": comparison.functional_series_instance_uid,
        "serving": comparison.serving.model_id,
        "shadow": comparison.shadow_id,
        "weights_sha256": "" if comparison.shadow is None else comparison.shadow.weights_sha256,
        "dice": comparison.dice,
        "lesions": None if found is None else found.lesion_count,
        "problem": comparison.problem,
    }


def _row(key: RunKey, comparison: ShadowComparison) -> ShadowRow:
    shadow, found = comparison.shadow, comparison.found
    return ShadowRow(
        compared_at=utc_now(),
        study_instance_uid=key.study_instance_uid,
        revision=key.revision,
        functional_series_instance_uid=comparison.functional_series_instance_uid,
        kind=str(comparison.kind),
        serving_id=comparison.serving.model_id,
        serving_weights_sha256=comparison.serving.weights_sha256,
        serving_lesions=comparison.serving_found.lesion_count,
        serving_ml=comparison.serving_found.volume_ml,
        shadow_id=comparison.shadow_id,
        shadow_version="" if shadow is None else shadow.version,
        shadow_weights_sha256="" if shadow is None else shadow.weights_sha256,
        shadow_prior_used=comparison.prior_used,
        shadow_lesions=None if found is None else found.lesion_count,
        shadow_ml=None if found is None else found.volume_ml,
        dice=comparison.dice,
        seconds=comparison.seconds,
        problem=comparison.problem,
    )
