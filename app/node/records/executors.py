"""Who is alive among the nodes that share a database, so that the work of a dead one is taken over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, Engine, String, Table, delete, insert, select, update

from app.node.records.database import UtcDateTime, metadata, utc_now

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""Heartbeat of a node that stopped on purpose: whatever it left may be taken over at once."""

executors = Table(
    "executors",
    metadata,
    Column("executor_id", String(64), primary_key=True),
    Column("beat_at", UtcDateTime, nullable=False),
)


class Heartbeats:
    """This executor's signs of life, and the others'."""

    def __init__(self, engine: Engine, executor_id: str, dead_after_s: float) -> None:
        self._engine = engine
        self._executor_id = executor_id
        self._dead_after = timedelta(seconds=dead_after_s)

    def beat(self) -> None:
        """Say that this executor lives."""
        self._write(utc_now())

    def stop(self) -> None:
        """Say that this executor has stopped."""
        self._write(LONG_AGO)

    def claim_dead(self) -> tuple[str, ...]:
        """Executors silent for too long, claimed by this one: no other reaper gets them at the same time.

        A claim counts as a beat, so it lapses when the claimant dies before :meth:`forget`.
        """
        now = utc_now()
        query = select(executors).where(
            executors.c.beat_at < now - self._dead_after, executors.c.executor_id != self._executor_id
        )
        with self._engine.begin() as connection:
            silent = connection.execute(query).all()
            return tuple(
                row.executor_id
                for row in silent
                if connection.execute(
                    update(executors)
                    .where(executors.c.executor_id == row.executor_id, executors.c.beat_at == row.beat_at)
                    .values(beat_at=now)
                ).rowcount
            )

    def forget(self, executor_id: str) -> None:
        """A dead executor's work has been taken over."""
        with self._engine.begin() as connection:
            connection.execute(delete(executors).where(executors.c.executor_id == executor_id))

    def _write(self, beat_at: datetime) -> None:
        mine = executors.c.executor_id == self._executor_id
        with self._engine.begin() as connection:
            if connection.execute(update(executors).where(mine).values(beat_at=beat_at)).rowcount == 0:
                connection.execute(insert(executors).values(executor_id=self._executor_id, beat_at=beat_at))
