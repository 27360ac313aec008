"""Shadow models in the node: they run when the results are on their way, and leave rows in the database.

Rows are only ever added. Nothing here is read by what delivers results.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, Engine, Float, Integer, Row, String, Table, insert, select

from app.domain.outcome import ShadowComparison
from app.node.records.database import PlainText, UtcDateTime, metadata, utc_now
from app.node.records.runs import RunKey

_log = logging.getLogger(__name__)

ShadowWork = Callable[[], Sequence[ShadowComparison]]
MOST_WAITING = 4
"""Each holds a study's volumes in memory; more wait only where a study was never recorded."""

shadow_comparisons = Table(
    "shadow_comparisons",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("compared_at", UtcDateTime, nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("functional_series_instance_uid", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("serving_id", String(128), nullable=False),
    Column("serving_weights_sha256", String(64), nullable=False),
    Column("serving_lesions", Integer, nullable=False),
    Column("serving_ml", Float, nullable=False),
    Column("shadow_id", String(128), nullable=False),
    Column("shadow_version", String(64), nullable=False),
    Column("shadow_weights_sha256", String(64), nullable=False),
    Column("shadow_prior_used", Boolean, nullable=False),
    Column("shadow_lesions", Integer),
    Column("shadow_ml", Float),
    Column("dice", Float),
    Column("seconds", Float, nullable=False),
    Column("problem", PlainText(), nullable=False),
)


@dataclass(frozen=True)
class ShadowRow:
    """One comparison as kept; numbers are ``None`` where ``problem`` says why, or (Dice) both are empty."""

    compared_at: datetime
    study_instance_uid: str
    revision: int
    functional_series_instance_uid: str
    kind: str
    serving_id: str
    serving_weights_sha256: str
    serving_lesions: int
    serving_ml: float
    shadow_id: str
    shadow_version: str
    shadow_weights_sha256: str
    shadow_prior_used: bool
    shadow_lesions: int | None
    shadow_ml: float | None
    dice: float | None
    seconds: float
    problem: str


class ShadowLedger:
    """Comparisons, in the order in which they were made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, key: RunKey, comparisons: Sequence[ShadowComparison]) -> None:
        """Keep them; nothing kept before is changed."""
        rows = [_values(key, comparison) for comparison in comparisons]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(insert(shadow_comparisons), rows)

    def all(self) -> tuple[ShadowRow, ...]:
        """Every comparison, first to last."""
        query = select(shadow_comparisons).order_by(shadow_comparisons.c.id)
        with self._engine.connect() as connection:
            return tuple(_row(row) for row in connection.execute(query))


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


def _values(key: RunKey, comparison: ShadowComparison) -> dict[str, object]:
    shadow, found = comparison.shadow, comparison.found
    return {
        "compared_at": utc_now(),
        "study_instance_uid": key.study_instance_uid,
        "revision": key.revision,
        "functional_series_instance_uid": comparison.functional_series_instance_uid,
        "kind": str(comparison.kind),
        "serving_id": comparison.serving.model_id,
        "serving_weights_sha256": comparison.serving.weights_sha256,
        "serving_lesions": comparison.serving_found.lesion_count,
        "serving_ml": comparison.serving_found.volume_ml,
        "shadow_id": comparison.shadow_id,
        "shadow_version": "" if shadow is None else shadow.version,
        "shadow_weights_sha256": "" if shadow is None else shadow.weights_sha256,
        "shadow_prior_used": comparison.prior_used,
        "shadow_lesions": None if found is None else found.lesion_count,
        "shadow_ml": None if found is None else found.volume_ml,
        "dice": comparison.dice,
        "seconds": comparison.seconds,
        "problem": comparison.problem,
    }


def _row(row: Row[Any]) -> ShadowRow:
    values = dict(row._mapping)
    del values["id"]
    return ShadowRow(**values)
