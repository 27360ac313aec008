"""Everything the node keeps, opened together; and who is alive among the nodes that share it.

The work of a dead one is taken over.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, String, delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from app.errors import MisconfiguredError
from app.files.durable import disk_error, make_folder, make_private, may_pass
from app.node.policy import NodePolicy
from app.node.records.audit import AUDIT_FILE, AuditLog, DatabaseAnchor
from app.node.records.clock import CLOCK
from app.node.records.commitments import CommitmentLedger
from app.node.records.database import Base, database_url, fetch, open_database, upsert, utc_now
from app.node.records.database_fault import database_fault
from app.node.records.deliveries import DeliveryLedger
from app.node.records.inbox import Inbox
from app.node.records.outbox import Outbox
from app.node.records.results import LatePriorLedger, ResultRegister, ShadowLedger
from app.node.records.runs import RunLedger
from app.node.records.studies import StudyLedger

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeStores:
    """Inbox, results, ledgers and audit log of one node."""

    engine: Engine
    inbox: Inbox
    outbox: Outbox
    studies: StudyLedger
    runs: RunLedger
    deliveries: DeliveryLedger
    commitments: CommitmentLedger
    results: ResultRegister
    late_priors: LatePriorLedger
    shadows: ShadowLedger
    audit: AuditLog

    def close(self) -> None:
        self.engine.dispose()


def open_stores(policy: NodePolicy) -> NodeStores:
    """Open what is there, make what is not.

    Raises:
        MisconfiguredError: the data folder can't be made or written to, or the database URL is wrong.
        RetryLaterError: the database does not answer, or the disk is full.
    """
    try:
        make_folder(policy.data_dir)
        outbox = Outbox(policy.results_dir, policy.executor)
    except OSError as error:
        place = f"node.data_dir {policy.data_dir}"
        is_there = policy.data_dir.is_dir()
        raise disk_error(error, place, "give the node a folder of its own", is_there) from error
    _close_databases(policy)
    engine = open_database(policy.node_database_url)
    inbox = Inbox(policy.inbox_dir, engine)
    for folder in (policy.inbox_dir, policy.results_dir):  # images and results name patients
        _close_to_others(folder)
    return NodeStores(
        engine=engine,
        inbox=inbox,
        outbox=outbox,
        studies=StudyLedger(engine),
        runs=RunLedger(engine),
        deliveries=DeliveryLedger(engine),
        commitments=CommitmentLedger(engine),
        results=ResultRegister(engine, outbox),
        late_priors=LatePriorLedger(engine),
        shadows=ShadowLedger(engine),
        audit=_audit_log(policy, engine),
    )


def _close_databases(policy: NodePolicy) -> None:
    """SQLite's files, which name patients: those that it makes beside a database have its rights.

    One that is there is never opened here: closing it would free the locks that SQLite holds on it.
    """
    if policy.database_url:
        return
    for file in (policy.database_file, policy.engine_database_file):
        with suppress(OSError):  # it is there; or who may not make it is told so by SQLAlchemy's error
            file.touch(mode=0o600, exist_ok=False)
        for part in (file, *file.parent.glob(f"{file.name}-*")):
            _close_to_others(part)


def _close_to_others(path: Path) -> None:
    try:
        make_private(path)
    except FileNotFoundError:  # one of SQLite's that it has removed
        pass
    except OSError as error:
        _log.warning("others may read it", extra={"path": str(path), "reason": error.strerror})


@contextmanager
def translated_start_errors(policy: NodePolicy) -> Iterator[None]:
    """A disk or a database that can't be used while the node starts, in plain words: as an error that says
    whether trying again may do."""
    try:
        yield
    except OSError as error:
        is_there = policy.data_dir.is_dir()
        is_ours = str(error.filename).startswith(str(policy.data_dir))
        if not (is_ours or may_pass(error, is_there)):
            raise
        place = str(error.filename) if is_ours else f"node.data_dir {policy.data_dir}"
        raise disk_error(error, place, "may the node's user write there?", is_there) from error
    except SQLAlchemyError as error:
        raise database_fault(database_url(policy.node_database_url), error).error from error


def refuse_absent_data_folder(policy: NodePolicy) -> None:
    """For commands that only look: a folder that is not there is a wrong setting, not a node without studies.

    Raises:
        MisconfiguredError: there is no data folder.
    """
    if not policy.data_dir.is_dir():
        raise MisconfiguredError(
            f"no data folder at {policy.data_dir.absolute()}; is this the right app.yaml (node.data_dir)? "
            "psma-node serve makes the folder at its first start"
        )


def open_known_stores(policy: NodePolicy) -> NodeStores:
    """Open what a node has made; with a database of its own its studies are known without the folder.

    Raises:
        MisconfiguredError: there is nothing to open, or as :func:`open_stores`.
        RetryLaterError: the database does not answer.
    """
    if not policy.database_url:
        refuse_absent_data_folder(policy)
    return open_stores(policy)


def _audit_log(policy: NodePolicy, engine: Engine) -> AuditLog:
    """One log a host, since a file lock holds on one host only; a database of its own has one log."""
    name = f"audit of {socket.gethostname()[:64]}" if policy.database_url else "audit"
    return AuditLog(policy.audit_dir / AUDIT_FILE, DatabaseAnchor(engine, name))


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
"""Heartbeat of a node that stopped on purpose: whatever it left may be taken over at once."""


class ExecutorRow(Base):
    """The last sign of life of each executor."""

    __tablename__ = "executors"

    executor_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    beat_at: Mapped[datetime]


class Heartbeats:
    """This executor's signs of life, and the others'.

    An executor is silent while its row stays as it is, by the steady clock of whoever looks: a clock that is
    set, or another host's, makes none dead that lives.
    """

    def __init__(self, engine: Engine, executor_id: str, dead_after_s: float) -> None:
        self._engine = engine
        self._executor_id = executor_id
        self._dead_after_s = dead_after_s
        self._seen: dict[str, tuple[datetime, float]] = {}
        """Of each other one its last beat, and when it was first seen."""

    def beat(self) -> None:
        CLOCK.follow(self._engine)
        self._write(utc_now())

    def stop(self) -> None:
        self._write(LONG_AGO)

    def claim_dead(self) -> tuple[str, ...]:
        """Executors silent for too long, claimed by this one: no other reaper gets them at the same time.

        A claim counts as a beat, so it lapses when the claimant dies before :meth:`forget`.
        """
        others = fetch(self._engine, select(ExecutorRow).where(ExecutorRow.executor_id != self._executor_id))
        silent = [row for row in others if self._is_silent(row)]
        with self._engine.begin() as connection:
            return tuple(
                row.executor_id
                for row in silent
                if connection.execute(
                    update(ExecutorRow)
                    .where(ExecutorRow.executor_id == row.executor_id, ExecutorRow.beat_at == row.beat_at)
                    .values(beat_at=utc_now())
                ).rowcount
            )

    def forget(self, executor_id: str) -> None:
        """A dead executor's work has been taken over."""
        with self._engine.begin() as connection:
            connection.execute(delete(ExecutorRow).where(ExecutorRow.executor_id == executor_id))

    def _is_silent(self, row: ExecutorRow) -> bool:
        now_s = time.monotonic()
        beat_at, since_s = self._seen.get(row.executor_id, (None, now_s))
        if beat_at != row.beat_at:
            since_s = now_s
        self._seen[row.executor_id] = (row.beat_at, since_s)
        return row.beat_at == LONG_AGO or now_s - since_s > self._dead_after_s

    def _write(self, beat_at: datetime) -> None:
        upsert(self._engine, ExecutorRow, executor_id=self._executor_id, beat_at=beat_at)
