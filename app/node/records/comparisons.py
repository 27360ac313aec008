"""What shadow models found in the node: rows that are only ever added, and that no delivery reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.domain.outcome import ShadowComparison
from app.node.records.database import Base, Ledger, Uid, fetch, utc_now
from app.node.records.runs import RunKey


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


class ShadowLedger(Ledger):
    """Comparisons, in the order in which they were made."""

    def add(self, key: RunKey, comparisons: Sequence[ShadowComparison]) -> None:
        """Keep them; nothing kept before is changed."""
        with Session(self._engine) as session, session.begin():
            session.add_all(_row(key, comparison) for comparison in comparisons)

    def all(self) -> tuple[ShadowRow, ...]:
        return fetch(self._engine, select(ShadowRow).order_by(ShadowRow.id))


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
