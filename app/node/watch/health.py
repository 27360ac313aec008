"""The checks of ``psma-node check``: each returns a value, and none raises."""

from __future__ import annotations

import errno
import fcntl
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app.errors import PsmaNodeError, describe_exception
from app.files.durable import free_mb
from app.node.policy import Caller, DeliverPolicy, Destination, NodePolicy, ReceivePolicy
from app.node.records.database import create_database_engine, database_advice, database_cause, database_place
from app.node.records.inbox_index import InboxIndex
from app.node.records.migrations import REVISION, found_revision, refuse_newer

ECHO_TIMEOUT_S = 5.0
"""For what listens at the node's own port: it is on this host."""

CHOICE_ADVICE = "psma-node status names them; psma-node discard STUDY shows the contents, and lets one stand"

NOBODY_AE_TITLE = "NOBODY"
"""A title that no node has: does the listener check the title it is called by?"""


@dataclass(frozen=True)
class CheckResult:
    """One line of the table. ``advice`` says what to do when it failed."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def guarded(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """Run one check; whatever goes wrong in it is its result."""
    try:
        return check()
    except PsmaNodeError as error:
        return CheckResult(name, False, str(error))  # the message says what to do
    except Exception as error:  # noqa: BLE001  one check's fault must not hide the others
        return CheckResult(name, False, describe_exception(error), "a fault of the program: report it")


def check_database(policy: NodePolicy) -> CheckResult:
    name = "database"
    if not policy.database_url and not policy.data_dir.is_dir():
        return CheckResult(name, True, "none yet; made at the first start")
    engine = create_database_engine(policy.node_database_url)
    try:
        with engine.connect() as connection:
            refuse_newer(connection, database_place(engine))
    except SQLAlchemyError as error:
        found = f"no answer from {database_place(engine)}: {database_cause(error)}"
        return CheckResult(name, False, found, database_advice(engine))
    finally:
        engine.dispose()
    return CheckResult(name, True, f"{engine.dialect.name} answers")


def check_contents(policy: NodePolicy) -> CheckResult:
    """No image waits for a person to choose between its contents; such a wait is a warning, no failure."""
    name = "contents"
    if not policy.database_url and not policy.data_dir.is_dir():
        return CheckResult(name, True, "no images yet")
    engine = create_database_engine(policy.node_database_url)
    try:
        with engine.connect() as connection:
            is_current = found_revision(connection) == REVISION
        studies = InboxIndex(policy.inbox_dir, engine).studies() if is_current else ()
    finally:
        engine.dispose()
    count = sum(study.image_conflicts > 0 for study in studies)
    if not count:
        return CheckResult(name, True, "no image with more than one content")
    return CheckResult(name, True, f"warning: {count} studies with images of two contents", CHOICE_ADVICE)


def check_disk(policy: NodePolicy) -> CheckResult:
    """The data folder can be written to and has room."""
    name = "disk"
    folder = _nearest_existing(policy.data_dir)
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "give the node's user the right to write there, or set node.data_dir"
        place = f"node.data_dir {policy.data_dir}"
        if folder == policy.data_dir.absolute():
            found = f"{place} can't be written to: {error.strerror}"
        else:
            found = f"{place} can't be made: {folder} takes no new files or folders"
        return CheckResult(name, False, found, advice)
    room_mb = free_mb(folder)
    found = f"{room_mb:.0f} MB free in {folder}"
    if room_mb < policy.min_free_mb:
        advice = f"free room: node.min_free_mb asks for at least {policy.min_free_mb:.0f} MB"
        return CheckResult(name, False, found, advice)
    return CheckResult(name, True, found)


def check_listener(receive: ReceivePolicy, node: NodePolicy) -> CheckResult:
    """The address can be listened on, or this very node listens there."""
    name = "listener"
    place = f"{receive.ae_title} on {receive.host} port {receive.port}"
    if _node_runs(node):
        return CheckResult(name, True, f"{place}: a node runs as {node.executor}")
    family = socket.AF_INET6 if ":" in receive.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((receive.host, receive.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_our_node(receive):
            return CheckResult(name, True, f"{place}: the node is running")
        advice = "stop what listens there, or set receive.host and receive.port (below 1024: a right)"
        return CheckResult(name, False, f"{place}: {error.strerror}", advice)
    return CheckResult(name, True, f"{place}: free")


def check_destination(destination: Destination, policy: DeliverPolicy) -> CheckResult:
    """The destination answers C-ECHO."""
    from app.node.deliver import scu

    name = f"destination {destination.name}"
    answer = scu.echo(destination, policy.calling_ae_title)
    if answer.ok:
        return CheckResult(name, True, f"C-ECHO answered in {answer.detail}")
    advice = f"does it run, and does it know {policy.calling_ae_title} at this host's address?"
    return CheckResult(name, False, answer.detail, advice)


def node_checks(node: NodePolicy, receive: ReceivePolicy, deliver: DeliverPolicy) -> tuple[CheckResult, ...]:
    checks = {
        "database": partial(check_database, node),
        "disk": partial(check_disk, node),
        "contents": partial(check_contents, node),
        "listener": partial(check_listener, receive, node),
    }
    for destination in deliver.destinations:
        checks[f"destination {destination.name}"] = partial(check_destination, destination, deliver)
    results = [guarded(name, check) for name, check in checks.items()]
    if not deliver.destinations:
        results.append(CheckResult("destinations", True, "none: results stay in the data folder"))
    return tuple(results)


def _answers_as(title: str, receive: ReceivePolicy) -> bool:
    """Whether what listens at our port lets ``title`` in by C-ECHO, called by one who may call there."""
    from app.node.deliver import scu

    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(receive.host, receive.host)  # noqa: S104
    titles = [one.ae_title for one in receive.allowed_callers if _may_call_from(one, host)]
    calling = next((one for one in titles if one != "*"), receive.ae_title)
    return scu.echo(Destination("listener", title, host, receive.port), calling, ECHO_TIMEOUT_S).ok


def _may_call_from(caller: Caller, host: str) -> bool:
    try:
        return caller.allows_address(host)
    except ValueError:  # a name, not an address
        return True


def _is_our_node(receive: ReceivePolicy) -> bool:
    """A node answers to its own AE title only; many a PACS answers to any."""
    return _answers_as(receive.ae_title, receive) and not _answers_as(NOBODY_AE_TITLE, receive)


def _node_runs(node: NodePolicy) -> bool:
    try:
        # not files.durable.try_lock: a look makes no file, and two looks don't take each other for a node
        with node.lock_file.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # another user's file: whether the port is taken decides
        return False
    return False


def _nearest_existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())
