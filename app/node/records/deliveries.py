"""Which result has reached which destination: one row an instance and destination, acknowledged or not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, String, case, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.node.records.database import Base, Ledger, Uid, fetch, text_enum, utc_now
from app.node.records.states import TO_BE_TRIED, DeliveryKey, DeliveryState, RunKey

if TYPE_CHECKING:
    from app.domain.outcome import ResultFile


class Delivery(Base):
    """How far a delivery has come.

    Attributes:
        attempt: number of the try that is planned, under way, or was the last.
        failures: tries in a row that did not bring everything over.
        proofs: rounds of proof in which the destination did not have everything, or did not answer.
        reason: of the last failure.
        next_try_at: ``None`` when it is being tried now or none is planned.
    """

    __tablename__ = "deliveries"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    state: Mapped[DeliveryState] = mapped_column(
        text_enum(DeliveryState), default=DeliveryState.PENDING, index=True
    )
    attempt: Mapped[int] = mapped_column(default=1)
    failures: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(default="")
    next_try_at: Mapped[datetime | None] = mapped_column(default=None)
    proofs: Mapped[int] = mapped_column(default=0)

    @property
    def key(self) -> DeliveryKey:
        return DeliveryKey(RunKey(self.study_instance_uid, self.revision), self.destination)


class PlannedInstance(Base):
    """One result for one destination; ``path`` is relative to the revision's result folder.

    Attributes:
        acknowledged_at: when it was sent; it stays when it is to be sent again.
        committed_at: when the destination took charge of it, or was found to have it.
    """

    __tablename__ = "delivered_instances"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    sop_class_uid: Mapped[Uid]
    kind: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(String(256))
    acknowledged_at: Mapped[datetime | None] = mapped_column(default=None)
    dicom_status: Mapped[int | None] = mapped_column(default=None)
    committed_at: Mapped[datetime | None] = mapped_column(default=None)

    @property
    def is_open(self) -> bool:
        """It is still to be sent: not acknowledged yet, or to be sent again and not acknowledged since."""
        return self.acknowledged_at is None or self.dicom_status is None


@dataclass(frozen=True)
class DeliveryTransition:
    """How a try ended, and when the next follows.

    Attributes:
        is_failure: nothing, or not everything, could be offered.
        is_unproven: the destination did not have everything, or did not say so.
    """

    state: DeliveryState
    reason: str = ""
    next_try_at: datetime | None = None
    is_failure: bool = True
    is_unproven: bool = False


class DeliveryLedger(Ledger):
    """Deliveries with their instances."""

    def plan(self, run: RunKey, files: Sequence[ResultFile], destinations: Iterable[str]) -> None:
        """Plan every file for every destination; what is planned already stays as it is.

        A revision that was tried again may give other files than it gave before: then the delivery begins
        anew with those, and what was not sent of the former is dropped.
        """
        with Session(self._engine) as session, session.begin():
            known = set(session.scalars(select(Delivery.destination).where(*_of_run(Delivery, run))))
            for name in dict.fromkeys(destinations):
                key = DeliveryKey(run, name)
                if name in known:
                    new = _replace_unsent(session, key, files)
                else:
                    new = list(files)
                    session.add(Delivery(**_place(key), created_at=utc_now()))
                session.add_all(_planned(key, file) for file in new)

    def get(self, key: DeliveryKey) -> Delivery:
        """One delivery. Raises LookupError."""
        found = self._select(*_is(Delivery, key))
        if not found:
            raise LookupError("no such delivery")
        return found[0]

    def of_run(self, run: RunKey) -> tuple[Delivery, ...]:
        """The deliveries of one revision, by destination."""
        return self._select(*_of_run(Delivery, run))

    def pending(self) -> tuple[Delivery, ...]:
        """Those with another try."""
        return self._select(Delivery.state.in_(TO_BE_TRIED))

    def instances(self, key: DeliveryKey) -> tuple[PlannedInstance, ...]:
        """Every instance of a delivery, by path."""
        rows = PlannedInstance
        return fetch(self._engine, select(rows).where(*_is(rows, key)).order_by(rows.path))

    def acknowledge(self, key: DeliveryKey, sop_instance_uid: str, dicom_status: int) -> None:
        """The destination has taken one instance: it is sent there again only when somebody asks for it."""
        values = {"dicom_status": dicom_status, "acknowledged_at": utc_now(), "committed_at": None}
        self._note_status(key, sop_instance_uid, **values)

    def refuse(self, key: DeliveryKey, sop_instance_uid: str, dicom_status: int) -> None:
        """The destination has answered with a failure for one instance; one sent again stays to be sent."""
        first_time = PlannedInstance.acknowledged_at.is_(None)
        self._note_status(key, sop_instance_uid, dicom_status=case((first_time, dicom_status)))

    def commit(self, key: DeliveryKey, sop_instance_uid: str) -> None:
        """The destination is known to keep one instance."""
        self._note_status(key, sop_instance_uid, committed_at=utc_now())

    def reopen(self, key: DeliveryKey, sop_instance_uid: str) -> None:
        """The destination does not have one instance any more: it is to be sent again."""
        self._note_status(key, sop_instance_uid, dicom_status=None, committed_at=None)

    def end(self, key: DeliveryKey, attempt: int, transition: DeliveryTransition) -> bool:
        """Write how a try ended; ``False`` when that was written before."""
        planned = transition.next_try_at is not None
        return self._update_attempt(
            key,
            attempt,
            state=transition.state,
            reason=transition.reason,
            next_try_at=transition.next_try_at,
            attempt=attempt + 1 if planned else attempt,
            failures=Delivery.failures + 1 if transition.is_failure else 0,
            proofs=Delivery.proofs + 1 if transition.is_unproven else Delivery.proofs,
        )

    def hasten(self, key: DeliveryKey) -> bool:
        """What it waits for has come: try now. ``False`` when it does not wait."""
        waits = (Delivery.state == DeliveryState.SENT, Delivery.next_try_at.is_not(None))
        return self._update(
            Delivery, *_is(Delivery, key), *waits, attempt=Delivery.attempt + 1, next_try_at=None
        )

    def begin(self, key: DeliveryKey, attempt: int) -> bool:
        """A try starts; ``False`` when it is out of date."""
        return self._update_attempt(key, attempt, next_try_at=None)

    def retry(self, delivery: Delivery) -> None:
        """Try again now, because somebody asked for it."""
        seen = (*_is(Delivery, delivery.key), Delivery.attempt == delivery.attempt)
        self._update(Delivery, *seen, **_begun_anew())

    def resend(self, delivery: Delivery, sop_instance_uids: Collection[str] | None = None) -> None:
        """Send all, or these, again, because somebody asked for it; that it has had them stays known.

        Of what a later try of the revision has replaced there is no file any more.
        """
        rows, of_it = PlannedInstance, _is(PlannedInstance, delivery.key)
        chosen = () if sop_instance_uids is None else (rows.sop_instance_uid.in_(sop_instance_uids),)
        self._update(rows, *of_it, *chosen, dicom_status=None)
        self.retry(delivery)

    def replace_lost_attempt(self, delivery: Delivery) -> bool:
        """The engine lost a try: plan another under a new number. ``False`` when it moved meanwhile."""
        return self._update_attempt(delivery.key, delivery.attempt, attempt=delivery.attempt + 1)

    def _update_attempt(self, key: DeliveryKey, number: int, **values: object) -> bool:
        """Change a pending delivery; ``False`` when it is at another attempt or at its end."""
        is_open = Delivery.state.in_(TO_BE_TRIED)
        return self._update(Delivery, *_is(Delivery, key), Delivery.attempt == number, is_open, **values)

    def _note_status(self, key: DeliveryKey, sop_instance_uid: str, **values: object) -> None:
        rows = PlannedInstance
        self._update(rows, *_is(rows, key), rows.sop_instance_uid == sop_instance_uid, **values)

    def _update(self, rows: type[_Rows], *conditions: ColumnElement[bool], **values: object) -> bool:
        with self._engine.begin() as connection:
            return connection.execute(update(rows).where(*conditions).values(**values)).rowcount > 0

    def _select(self, *conditions: ColumnElement[bool]) -> tuple[Delivery, ...]:
        order = (Delivery.created_at, Delivery.destination)
        return fetch(self._engine, select(Delivery).where(*conditions).order_by(*order))


_Rows = Delivery | PlannedInstance


def _of_run(rows: type[_Rows], run: RunKey) -> tuple[ColumnElement[bool], ...]:
    return (rows.study_instance_uid == run.study_instance_uid, rows.revision == run.revision)


def _is(rows: type[_Rows], key: DeliveryKey) -> tuple[ColumnElement[bool], ...]:
    return (*_of_run(rows, key.run), rows.destination == key.destination)


def _place(key: DeliveryKey) -> dict[str, Any]:
    return {**asdict(key.run), "destination": key.destination}


def _replace_unsent(session: Session, key: DeliveryKey, files: Sequence[ResultFile]) -> list[ResultFile]:
    """Files not planned yet; with any, the delivery is pending again, rid of others that were not sent."""
    rows = PlannedInstance
    planned = set(session.scalars(select(rows.sop_instance_uid).where(*_is(rows, key))))
    new = [file for file in files if file.sop_instance_uid not in planned]
    if not new:
        return []
    wanted = [file.sop_instance_uid for file in files]
    unsent = (rows.acknowledged_at.is_(None), rows.sop_instance_uid.not_in(wanted))
    session.execute(delete(rows).where(*_is(rows, key), *unsent))
    session.execute(update(Delivery).where(*_is(Delivery, key)).values(**_begun_anew(), reason=""))
    return new


def _begun_anew() -> dict[str, Any]:
    """A delivery under its next number, with all the time and tries of a new one."""
    return {
        "state": DeliveryState.PENDING,
        "attempt": Delivery.attempt + 1,
        "failures": 0,
        "proofs": 0,
        "next_try_at": None,
        "created_at": utc_now(),
    }


def _planned(key: DeliveryKey, file: ResultFile) -> PlannedInstance:
    return PlannedInstance(
        **_place(key),
        sop_instance_uid=file.sop_instance_uid,
        sop_class_uid=file.sop_class_uid,
        kind=file.kind,
        path=file.path,
    )
