"""Which result has reached which destination: one row an instance and destination, acknowledged or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Row,
    String,
    Table,
    case,
    delete,
    insert,
    select,
    update,
)

from app.domain.outcome import ResultFile
from app.node.records.database import PlainText, UtcDateTime, metadata, utc_now
from app.node.records.runs import RunKey


class DeliveryState(StrEnum):
    """Where one revision's delivery to one destination stands."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A later revision's results went instead."""


@dataclass(frozen=True)
class DeliveryKey:
    """One revision's results for one destination."""

    run: RunKey
    destination: str


@dataclass(frozen=True)
class Delivery:
    """How far a delivery has come.

    Attributes:
        attempt: number of the try that is planned, under way, or was the last.
        failures: tries in a row that did not bring everything over.
        reason: of the last failure.
        next_try_at: ``None`` when it is being tried now or none is planned.
    """

    key: DeliveryKey
    state: DeliveryState
    attempt: int
    failures: int
    reason: str
    next_try_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class PlannedInstance:
    """One result for one destination; ``path`` is relative to the revision's result folder."""

    sop_instance_uid: str
    sop_class_uid: str
    kind: str
    path: str
    acknowledged_at: datetime | None
    dicom_status: int | None

    @property
    def is_open(self) -> bool:
        """It is still to be sent: not acknowledged yet, or to be sent again and not acknowledged since."""
        return self.acknowledged_at is None or self.dicom_status is None


@dataclass(frozen=True)
class DeliveryEnding:
    """How a try ended, and when the next follows."""

    state: DeliveryState
    reason: str = ""
    next_try_at: datetime | None = None


deliveries = Table(
    "deliveries",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False, default=1),
    Column("failures", Integer, nullable=False, default=0),
    Column("reason", PlainText(), nullable=False, default=""),
    Column("next_try_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
)

delivered_instances = Table(
    "delivered_instances",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("path", String(256), nullable=False),
    Column("acknowledged_at", UtcDateTime),
    Column("dicom_status", Integer),
)


class DeliveryLedger:
    """Reads and changes deliveries; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def plan(self, run: RunKey, files: Sequence[ResultFile], destinations: Iterable[str]) -> None:
        """Plan every file for every destination; what is planned already stays as it is.

        A revision that was tried again may give other files than it gave before: then the delivery begins
        anew with those, and what was not sent of the former is dropped.
        """
        with self._engine.begin() as connection:
            known = set(connection.scalars(select(deliveries.c.destination).where(*_of_run(deliveries, run))))
            for name in dict.fromkeys(destinations):
                key = DeliveryKey(run, name)
                if name in known:
                    new = _replace_unsent(connection, key, files)
                else:
                    new = list(files)
                    row = _place(key) | {"state": DeliveryState.PENDING, "created_at": utc_now()}
                    connection.execute(insert(deliveries).values(row))
                if new:
                    rows = [_place(key) | _row(file) for file in new]
                    connection.execute(insert(delivered_instances), rows)

    def get(self, key: DeliveryKey) -> Delivery:
        """One delivery. Raises LookupError."""
        found = self._select(*_is(deliveries, key))
        if not found:
            raise LookupError("no such delivery")
        return found[0]

    def of_run(self, run: RunKey) -> tuple[Delivery, ...]:
        """The deliveries of one revision, by destination."""
        return self._select(*_of_run(deliveries, run))

    def pending(self) -> tuple[Delivery, ...]:
        """Every delivery that is not at its end."""
        return self._select(deliveries.c.state == DeliveryState.PENDING)

    def instances(self, key: DeliveryKey) -> tuple[PlannedInstance, ...]:
        """Every instance of a delivery, by path."""
        rows = delivered_instances
        query = select(rows).where(*_is(rows, key)).order_by(rows.c.path)
        with self._engine.connect() as connection:
            return tuple(_instance(row) for row in connection.execute(query))

    def acknowledge(self, key: DeliveryKey, sop_instance_uid: str, dicom_status: int) -> None:
        """The destination has taken one instance: it is sent there again only at a person's wish."""
        self._note_status(key, sop_instance_uid, {"dicom_status": dicom_status, "acknowledged_at": utc_now()})

    def refuse(self, key: DeliveryKey, sop_instance_uid: str, dicom_status: int) -> None:
        """The destination has answered with a failure for one instance; one sent again stays to be sent."""
        first_time = delivered_instances.c.acknowledged_at.is_(None)
        self._note_status(key, sop_instance_uid, {"dicom_status": case((first_time, dicom_status))})

    def end(self, key: DeliveryKey, attempt: int, ending: DeliveryEnding) -> bool:
        """Write how a try ended; ``False`` when that was written before."""
        planned = ending.next_try_at is not None
        return self._change(
            key,
            attempt,
            {
                "state": ending.state,
                "reason": ending.reason,
                "next_try_at": ending.next_try_at,
                "attempt": attempt + 1 if planned else attempt,
                "failures": 0 if ending.state is DeliveryState.DONE else deliveries.c.failures + 1,
            },
        )

    def begin(self, key: DeliveryKey, attempt: int) -> bool:
        """A try starts; ``False`` when it is out of date."""
        return self._change(key, attempt, {"next_try_at": None})

    def retry(self, delivery: Delivery) -> None:
        """Try again now, at a person's wish."""
        with self._engine.begin() as connection:
            connection.execute(
                update(deliveries)
                .where(*_is(deliveries, delivery.key), deliveries.c.attempt == delivery.attempt)
                .values(
                    state=DeliveryState.PENDING,
                    attempt=delivery.attempt + 1,
                    failures=0,
                    next_try_at=None,
                    created_at=utc_now(),
                )
            )

    def resend(self, delivery: Delivery) -> None:
        """Send every instance again, at a person's wish; that the destination has had them stays known."""
        with self._engine.begin() as connection:
            connection.execute(
                update(delivered_instances)
                .where(*_is(delivered_instances, delivery.key))
                .values(dicom_status=None)
            )
        self.retry(delivery)

    def replace_lost_attempt(self, delivery: Delivery) -> bool:
        """The engine lost a try: plan another under a new number. ``False`` when it moved meanwhile."""
        return self._change(delivery.key, delivery.attempt, {"attempt": delivery.attempt + 1})

    def _change(self, key: DeliveryKey, attempt: int, values: dict[str, object]) -> bool:
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(deliveries)
                .where(
                    *_is(deliveries, key),
                    deliveries.c.attempt == attempt,
                    deliveries.c.state == DeliveryState.PENDING,
                )
                .values(**values)
            )
        return changed.rowcount > 0

    def _note_status(self, key: DeliveryKey, sop_instance_uid: str, values: dict[str, object]) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                update(delivered_instances)
                .where(
                    *_is(delivered_instances, key),
                    delivered_instances.c.sop_instance_uid == sop_instance_uid,
                )
                .values(**values)
            )

    def _select(self, *conditions: ColumnElement[bool]) -> tuple[Delivery, ...]:
        order = (deliveries.c.created_at, deliveries.c.destination)
        query = select(deliveries).where(*conditions).order_by(*order)
        with self._engine.connect() as connection:
            return tuple(_delivery(row) for row in connection.execute(query))


def _of_run(table: Table, run: RunKey) -> tuple[ColumnElement[bool], ...]:
    return (table.c.study_instance_uid == run.study_instance_uid, table.c.revision == run.revision)


def _is(table: Table, key: DeliveryKey) -> tuple[ColumnElement[bool], ...]:
    return (*_of_run(table, key.run), table.c.destination == key.destination)


def _place(key: DeliveryKey) -> dict[str, object]:
    return {
        "study_instance_uid": key.run.study_instance_uid,
        "revision": key.run.revision,
        "destination": key.destination,
    }


def _replace_unsent(
    connection: Connection, key: DeliveryKey, files: Sequence[ResultFile]
) -> list[ResultFile]:
    """Files not planned yet; with any, the delivery is pending again, rid of others that were not sent."""
    rows = delivered_instances
    planned = set(connection.scalars(select(rows.c.sop_instance_uid).where(*_is(rows, key))))
    new = [file for file in files if file.sop_instance_uid not in planned]
    if not new:
        return []
    wanted = [file.sop_instance_uid for file in files]
    connection.execute(
        delete(rows).where(
            *_is(rows, key), rows.c.acknowledged_at.is_(None), rows.c.sop_instance_uid.not_in(wanted)
        )
    )
    again = {"state": DeliveryState.PENDING, "failures": 0, "reason": "", "next_try_at": None}
    connection.execute(
        update(deliveries)
        .where(*_is(deliveries, key))
        .values(**again, attempt=deliveries.c.attempt + 1, created_at=utc_now())
    )
    return new


def _row(file: ResultFile) -> dict[str, str]:
    return {
        "sop_instance_uid": file.sop_instance_uid,
        "sop_class_uid": file.sop_class_uid,
        "kind": file.kind,
        "path": file.path,
    }


def _delivery(row: Row[Any]) -> Delivery:
    key = DeliveryKey(RunKey(row.study_instance_uid, row.revision), row.destination)
    state = DeliveryState(row.state)
    return Delivery(key, state, row.attempt, row.failures, row.reason, row.next_try_at, row.created_at)


def _instance(row: Row[Any]) -> PlannedInstance:
    return PlannedInstance(
        row.sop_instance_uid, row.sop_class_uid, row.kind, row.path, row.acknowledged_at, row.dicom_status
    )
