"""``psma-node remove``: a study's images, results and rows go; the audit log keeps who asked for it.
``node.retention`` removes images alone: with its results and rows the study is known should it come again.

Files go in two steps, so that a kill in between neither brings half a study back nor loses one that stays:
its folder steps aside while the rows are deleted, in one transaction, and is then emptied.
:func:`finish_removals` ends or takes back what was cut off.

The node may receive meanwhile, in another process. What it acknowledges is named before it is indexed, so
before the commit it is found in the folder that stepped aside, or in a new one; the removal is then taken
back. What is named later is indexed once the rows are deleted.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.errors import MisconfiguredError, describe_exception
from app.files.durable import make_folder, sync_folder
from app.node.policy import NodePolicy
from app.node.records.audit import AuditEvent
from app.node.records.database import Base, fetch, utc_now
from app.node.records.inbox_index import IS_HERE, InstanceRow
from app.node.records.instances import study_folder_name
from app.node.records.pending import REMOVED, STUDIES
from app.node.records.runs import Run
from app.node.records.states import TO_BE_TRIED, DeliveryState, StudyState
from app.node.records.stores import NodeStores

PROMISED = "a sender asks for its storage commitment or has it, and may have deleted its own images"

FORCE = "to remove it all the same, give --force and --reason"

SETTLED_S = 600.0
"""A folder that stands there for longer was left by a command that was cut off."""

_UNDER_WAY = (StudyState.QUEUED, StudyState.RUNNING, StudyState.DELIVERING)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemovalRequest:
    """A study that a person wants removed.

    Attributes:
        asked_by, reason: for the audit log; a reason is needed to remove a study that is not at rest.
        quiet_s: an image that came within so many seconds is one of a study that arrives.
        images_alone: results stay, and what is known of the study.
    """

    study_instance_uid: str
    asked_by: str
    reason: str = ""
    force: bool = False
    quiet_s: float = 60.0
    images_alone: bool = False


def remove_study(stores: NodeStores, policy: NodePolicy, request: RemovalRequest) -> str:
    """Remove a study for good; what a PACS was sent stays there.

    Returns what was done, and what it means for other studies, in words.

    Raises:
        MisconfiguredError: there is no such study, or it is not at rest.
    """
    uid = request.study_instance_uid
    study = stores.inbox.study(uid)
    runs = [run for run in stores.runs.of_study(uid) if run.state is not StudyState.REMOVED]
    if study is None and not runs:
        raise MisconfiguredError(f"found no study {uid}; psma-node status lists the studies")
    received_at = () if study is None else (study.last_received_at,)
    arrives = _arrives(_folders(policy, uid)[0], received_at, request.quiet_s)
    _refuse_moving(stores, request, arrives, runs)
    orphans = _without_prior(stores, uid)
    what = {"kept": "results and rows"} if request.images_alone else {}
    facts: dict[str, object] = what | {
        "asked_by": request.asked_by,
        "reason": request.reason,
        "instances": 0 if study is None else study.instance_count,
        "revisions": [f"{run.revision} {run.state}" for run in runs],
        "prior_of": list(orphans),
    }
    # written first: of a study that is gone there is always a line
    stores.audit.append(AuditEvent.STUDY_REMOVED, uid, facts)
    try:
        _remove(stores, policy, request)
    except Exception as error:
        why = {"asked_by": request.asked_by, "reason": describe_exception(error)}
        stores.audit.append(AuditEvent.STUDY_NOT_REMOVED, uid, why)
        raise
    try:
        _empty(policy, uid, request.images_alone)
    except OSError as error:  # the node ends it
        _log.warning(
            "not emptied yet", extra={"study": uid, "path": error.filename, "reason": error.strerror}
        )
    words = f"study {uid} is removed: {facts['instances']} instances, {len(runs)} revisions"
    if orphans:
        words += (
            "; its PET result is no prior any more. Later SPECT/CT of the same patient keep their results, "
            f"and have this prior no more when they are analysed again: {', '.join(orphans)}"
        )
    return words


def _refuse_moving(stores: NodeStores, request: RemovalRequest, arrives: bool, runs: list[Run]) -> None:
    """Refuse a study that is not at rest; only what can be removed without harm can be forced."""
    if arrives:
        raise MisconfiguredError(
            f"images of the study came within the last {request.quiet_s:.0f} s; wait until it is complete"
        )
    _refuse_running(runs)
    waits = [f"revision {run.revision} is {run.state}" for run in runs if run.state in _UNDER_WAY]
    waits += [PROMISED] if request.study_instance_uid in stores.commitments.promised() else []
    waits += [
        f"{item.key.destination} has not got all of revision {run.revision}"
        for run in runs
        for item in stores.deliveries.of_run(run.key)
        if item.state in (*TO_BE_TRIED, DeliveryState.FAILED)
    ]
    if waits and not request.force:
        raise MisconfiguredError(f"{'; '.join(waits)}: {FORCE}")
    if request.force and not request.reason.strip():
        raise MisconfiguredError("--force needs a --reason, for the audit log")


def _refuse_running(runs: Iterable[Run]) -> None:
    if any(run.state is StudyState.RUNNING for run in runs):
        raise MisconfiguredError("the study is being processed; wait until that has ended")


def _without_prior(stores: NodeStores, study_instance_uid: str) -> tuple[str, ...]:
    if not stores.results.of_studies([study_instance_uid]):
        return ()
    return stores.studies.later_spects(study_instance_uid)


def _remove(stores: NodeStores, policy: NodePolicy, request: RemovalRequest) -> None:
    uid = request.study_instance_uid
    folder, aside = _folders(policy, uid)
    if aside.exists():  # of a removal that was cut off
        _finish(stores, policy, aside)
    with Session(stores.engine) as session:
        rows = _delete_rows(session, uid, request.images_alone)
        _move(folder, aside)
        try:
            _refuse_newcomers(folder, aside, rows, request.quiet_s)
            _refuse_promised(stores, request)
            session.commit()
        except BaseException:
            _take_back(aside, folder)
            raise


def _folders(policy: NodePolicy, uid: str) -> tuple[Path, Path]:
    """Where the images of a study are, and where they step aside to."""
    name = study_folder_name(uid)
    return policy.inbox_dir / STUDIES / name, policy.inbox_dir / REMOVED / name


def _refuse_newcomers(folder: Path, aside: Path, rows: Mapping[str, datetime], quiet_s: float) -> None:
    """Refuse to go on when anything came after the study was found at rest.

    Args:
        folder, aside: where the study's images were, and where they are now.
        rows: of the rows that are deleted, the names of their files and when they came.
        quiet_s: as in :class:`RemovalRequest`.
    """
    names = {path.name for path in aside.glob("*")}
    if folder.exists() or names - rows.keys() or _arrives(aside, rows.values(), quiet_s):
        raise MisconfiguredError("images of the study have come meanwhile; wait until it is complete")


def _refuse_promised(stores: NodeStores, request: RemovalRequest) -> None:
    """Refuse, unless it is forced, what a sender relies on; an answer may be on its way meanwhile."""
    if not request.force and request.study_instance_uid in stores.commitments.promised():
        raise MisconfiguredError(f"{PROMISED}: {FORCE}")


def _arrives(folder: Path, received_at: Iterable[datetime], quiet_s: float) -> bool:
    """Whether an image came within ``quiet_s``, by the clock of this host or by that of the database.

    The folder says when an image last got its name or came again, by the clock of this host, and the rows
    when they came, by that of the database. Each is compared with its own: the two may differ.
    """
    folder_age_s = time.time() - folder.stat().st_mtime if folder.is_dir() else math.inf
    row_age_s = min(((utc_now() - at).total_seconds() for at in received_at), default=math.inf)
    return min(folder_age_s, row_age_s) < quiet_s


def _delete_rows(session: Session, uid: str, images_alone: bool) -> dict[str, datetime]:
    """All but one run, or none but the word that the images are here; returns the names of their files, and
    when they came.

    From that run numbers of revision and try are counted on should the study come again: the durable engine
    and those who have its results know the former ones.
    """
    of_study = Run.study_instance_uid == uid
    # it changes nothing, but from here to the commit nobody else writes these rows
    session.execute(update(Run).where(of_study).values(changed_at=Run.changed_at))
    runs = session.scalars(select(Run).where(of_study).order_by(Run.revision)).all()
    session.expunge_all()
    _refuse_running(runs)
    of_inbox = InstanceRow.study_instance_uid == uid
    marked = update(InstanceRow).where(of_inbox, IS_HERE).values(removed_at=utc_now())
    found = session.execute(marked.returning(InstanceRow.path, InstanceRow.received_at))
    files = {Path(path).name: received_at for path, received_at in found}
    if images_alone:
        return files
    session.execute(delete(Run).where(of_study))
    for table in Base.metadata.tables.values():
        if "study_instance_uid" in table.c and table is not Run.__table__:
            session.execute(delete(table).where(table.c.study_instance_uid == uid))
    if runs:
        session.add(
            Run(
                study_instance_uid=uid,
                revision=runs[-1].revision,
                content_digest=f"removed-r{runs[-1].revision}",
                state=StudyState.REMOVED,
                attempt=max(run.attempt for run in runs),
                created_at=runs[-1].created_at,
                queued_at=runs[-1].queued_at,
                changed_at=utc_now(),
            )
        )
    return files


def _move(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    make_folder(target.parent)
    source.rename(target)
    sync_folder(source.parent)
    sync_folder(target.parent)


def _take_back(aside: Path, folder: Path) -> None:
    """Every image that has not come again meanwhile."""
    if not aside.is_dir():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in aside.iterdir():
        if not (folder / path.name).exists():
            path.rename(folder / path.name)
    sync_folder(folder)
    shutil.rmtree(aside)


def _empty(policy: NodePolicy, uid: str, images_alone: bool) -> None:
    name = study_folder_name(uid)
    folders = [policy.inbox_dir / REMOVED / name]
    if not images_alone:
        for path in policy.failures_dir.glob(f"{name}-r*.txt"):
            path.unlink(missing_ok=True)
        # the images last: as long as they are there, a removal that is cut off is ended later
        folders.insert(0, policy.results_dir / name)
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)


def finish_removals(stores: NodeStores, policy: NodePolicy) -> None:
    """Empty what a removal left behind, or put it back where the rows are still there."""
    for aside in (policy.inbox_dir / REMOVED).glob("*"):
        try:
            if time.time() - aside.stat().st_ctime >= SETTLED_S:
                _finish(stores, policy, aside)
        except OSError as error:  # one folder must not keep the others
            facts = {"study": aside.name, "path": error.filename, "reason": error.strerror}
            _log.error("a removal that was cut off can't be ended", extra=facts)


def _finish(stores: NodeStores, policy: NodePolicy, aside: Path) -> None:
    uid, folder = aside.name, policy.inbox_dir / STUDIES / aside.name
    rows = fetch(stores.engine, select(InstanceRow).where(InstanceRow.study_instance_uid == uid))
    names = {Path(row.path).name for row in rows if row.removed_at is None}
    # after the commit only what has come again is there, and its file
    is_taken_back = any(path.name in names and not (folder / path.name).exists() for path in aside.glob("*"))
    if is_taken_back:
        _take_back(aside, folder)
    else:  # with rows it has come again, or its images alone were removed
        _empty(policy, uid, images_alone=bool(rows))
    words = "taken back" if is_taken_back else "ended"
    _log.warning("a removal that was cut off is %s", words, extra={"study": uid})
