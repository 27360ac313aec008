"""Who is alive among the nodes that share a database, so that the work of a dead one is taken over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, String, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from app.node.records.database import Base, fetch, upsert, utc_now

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""Heartbeat of a node that stopped on purpose: whatever it left may be taken over at once."""


class ExecutorRow(Base):
    """The last sign of life of each executor."""

    __tablename__ = "executors"

    executor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    beat_at: Mapped[datetime]


class Heartbeats:
    """This executor's signs of life, and the others'."""

    def __init__(self, engine: Engine, executor_id: str, dead_after_s: float) -> None:
        self._engine = engine
        self._executor_id = executor_id
        self._dead_after = timedelta(seconds=dead_after_s)

    def beat(self) -> None:
        self._write(utc_now())

    def stop(self) -> None:
        self._write(LONG_AGO)

    def claim_dead(self) -> tuple[str, ...]:
        """Executors silent for too long, claimed by this one: no other reaper gets them at the same time.

        A claim counts as a beat, so it lapses when the claimant dies before :meth:`forget`.
        """
        now = utc_now()
        silent = fetch(
            self._engine,
            select(ExecutorRow).where(
                ExecutorRow.beat_at < now - self._dead_after, ExecutorRow.executor_id != self._executor_id
            ),
        )
        with self._engine.begin() as connection:
            return tuple(
                row.executor_id
                for row in silent
                if connection.execute(
                    update(ExecutorRow)
                    .where(ExecutorRow.executor_id == row.executor_id, ExecutorRow.beat_at == row.beat_at)
                    .values(beat_at=now)
                ).rowcount
            )

    def forget(self, executor_id: str) -> None:
        """A dead executor's work has been taken over."""
        with self._engine.begin() as connection:
            connection.execute(delete(ExecutorRow).where(ExecutorRow.executor_id == executor_id))

    def _write(self, beat_at: datetime) -> None:
        upsert(self._engine, ExecutorRow, executor_id=self._executor_id, beat_at=beat_at)
