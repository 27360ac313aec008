"""The checks of ``psma-node check`` that concern this host, and all of them together; none raises."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.files.durable import free_mb, may_pass
from app.node.peers import (
    NO_TLS,
    Caller,
    DeliverPolicy,
    Destination,
    Listener,
    ReceivePolicy,
    TlsPolicy,
    is_this_host,
)
from app.node.policy import NodePolicy
from app.node.records.database import create_database_engine, database_url
from app.node.records.database_fault import ANEW, DatabaseFault, database_fault, database_place
from app.node.records.inbox_index import InboxIndex
from app.node.records.migrations import REVISION, found_revision, refuse_newer
from app.node.tls import shows_our_certificate
from app.node.watch.check_result import CheckResult, guarded
from app.node.watch.health_peers import (
    NO_CLASSES,
    check_authorities,
    check_certificate,
    check_destination,
    check_way_back,
)

ECHO_TIMEOUT_S = 5.0
"""For what listens at the node's own port: it is on this host."""

CHOICE_ADVICE = "psma-node status names them; psma-node discard STUDY shows the contents, and lets one stand"

MAX_CLOCK_OFFSET_S = 5.0
"""From the clock of the database, by which nodes that share it judge whether another one lives."""

_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""

NOBODY_AE_TITLE = "NOBODY"
"""A title that no node has: does the listener check the title it is called by?"""


def check_database(policy: NodePolicy) -> CheckResult:
    """Index and ledgers answer and can be written to; the durable engine's file is a database."""
    name = "database"
    if not policy.database_url and not policy.data_dir.is_dir():
        return CheckResult(name, True, "none yet; made at the first start")
    engine = create_database_engine(policy.node_database_url)
    fault = None
    try:
        with engine.connect() as connection:
            refuse_newer(connection, database_place(engine.url))
            if found_revision(connection) is not None:  # a write that changes nothing, taken back
                connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
                connection.rollback()
    except SQLAlchemyError as error:
        fault = database_fault(engine.url, error)
    finally:
        engine.dispose()
    fault = fault or _engine_database_fault(policy)
    if fault is not None:
        return CheckResult(name, False, fault.found, fault.advice, fault.may_pass)
    return CheckResult(name, True, f"{engine.dialect.name} answers, and can be written to")


def _engine_database_fault(policy: NodePolicy) -> DatabaseFault | None:
    if policy.database_url or not policy.engine_database_file.exists():  # made at the first start
        return None
    try:
        with closing(sqlite3.connect(policy.engine_database_file)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        return database_fault(database_url(policy.engine_database_url), error, ANEW)
    return None


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
        place, is_there = f"node.data_dir {policy.data_dir}", folder == policy.data_dir.absolute()
        if is_there and error.errno == errno.EROFS:
            advice = "mend the disk and mount it again (the kernel's log says why); the node goes on then"
        found = f"{place} can't be made: {folder} takes no new files or folders"
        if is_there:
            found = f"{place} can't be written to: {error.strerror}"
        return CheckResult(name, False, found, advice, may_pass(error, is_there))
    room_mb = free_mb(folder)
    found = f"{room_mb:.0f} MB free in {folder}"
    if room_mb < policy.min_free_mb:
        advice = f"free room: node.min_free_mb asks for at least {policy.min_free_mb:.0f} MB"
        return CheckResult(name, False, found, advice, may_pass=True)
    return CheckResult(name, True, found)


def check_listener(
    address: Listener, receive: ReceivePolicy, node: NodePolicy, tls: TlsPolicy = NO_TLS
) -> CheckResult:
    """The address can be listened on, or this very node listens there."""
    name = "listener"
    place = f"{receive.ae_title} on {address}"
    if _node_runs(node):
        return CheckResult(name, True, f"{place}: a node runs as {node.executor}")
    error = _why_not_listened_on(address.host, address.port)
    if error is not None:
        if error.errno == errno.EADDRINUSE and _is_our_node(address, receive, tls):
            return CheckResult(name, True, f"{place}: the node is running")
        advice = "stop what listens there, or set receive.host and receive.port (below 1024: a right)"
        return CheckResult(name, False, f"{place}: {error.strerror}", advice)
    return CheckResult(name, True, f"{place}: free")


def check_probes(node: NodePolicy, addresses: Sequence[Listener] = ()) -> CheckResult:
    """The address of probes and metrics is that of no listener (``addresses``) and can be listened on."""
    place = f"node.probe_host {node.probe_host}, port {node.probe_port}"
    if any(one.collides(node.probe_host, node.probe_port) for one in addresses):
        advice = "set node.probe_port to another one"
        return CheckResult("probes", False, f"{place}: a listener under receive has it", advice)
    error = None if _node_runs(node) else _why_not_listened_on(node.probe_host, node.probe_port)
    if error is not None:
        advice = "stop what listens there, or set node.probe_host and node.probe_port"
        return CheckResult("probes", False, f"{place}: {error.strerror}", advice)
    here = ": on this host alone, so no Prometheus elsewhere gets /metrics" * is_this_host(node.probe_host)
    return CheckResult("probes", True, f"{place} can be listened on{here}")


def check_log_file(node: NodePolicy) -> CheckResult:
    """The log file can be written to, or made."""
    file = Path(node.log_file).absolute()
    try:
        if file.exists():
            file.open("ab").close()
        else:
            above = next(path for path in file.parents if path.exists())
            tempfile.NamedTemporaryFile(dir=above).close()
    except OSError as error:
        found = f"node.log_file {file} can't be made or written to: {error.strerror}"
        advice = "give the node's user the right to write there, or set node.log_file"
        return CheckResult("log file", False, found, advice, may_pass(error, file.exists()))
    return CheckResult("log file", True, str(file))


def _why_not_listened_on(host: str, port: int) -> OSError | None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def check_clock(policy: NodePolicy) -> CheckResult:
    """This host's clock is kept right (NTP), and agrees with that of a database on another host."""
    name, advice = (
        "clock",
        "set up NTP (timedatectl set-ntp true): decay and waiting times need the right time",
    )
    if policy.database_url.startswith("postgres"):
        offset_s = _offset_of_database_s(policy)
        if abs(offset_s) > MAX_CLOCK_OFFSET_S:
            found = f"the database's clock is {offset_s:+.0f} s from this host's"
            return CheckResult(name, False, found, f"{advice}; nodes that share it judge each other by it")
    # adjtimex(2) with modes 0 reads alone; the buffer is larger than its struct
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    if state == _TIME_ERROR:
        return CheckResult(name, True, "warning: the kernel says that the clock is not synchronised", advice)
    return CheckResult(
        name, True, "synchronised" if state >= 0 else "whether it is synchronised is not known"
    )


def _offset_of_database_s(policy: NodePolicy) -> float:
    """The database's time minus ours, half the way to it taken off."""
    engine = create_database_engine(policy.node_database_url)
    try:
        with engine.connect() as connection:
            asked_at = time.time()
            theirs = connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
            return float(theirs) - (asked_at + time.time()) / 2
    finally:
        engine.dispose()


def node_checks(
    node: NodePolicy,
    receive: ReceivePolicy,
    deliver: DeliverPolicy,
    tls: TlsPolicy = NO_TLS,
    classes: Mapping[str, str] = NO_CLASSES,
) -> tuple[CheckResult, ...]:
    """Every check of what surrounds the chain; one that fails hides no other, and no fault is told twice.

    ``classes``: the SOP class of each kind of result.
    """
    results = [guarded("database", partial(check_database, node))]
    checks: list[tuple[str, Callable[[], CheckResult]]] = [("disk", partial(check_disk, node))]
    if results[0].ok:
        checks.append(("contents", partial(check_contents, node)))
    if results[0].ok or not node.database_url:  # else it asks the database
        checks.append(("clock", partial(check_clock, node)))
    if node.log_file:
        checks.append(("log file", partial(check_log_file, node)))
    if node.probe_port:
        checks.append(("probes", partial(check_probes, node, receive.addresses)))
    secure = [address for address in receive.addresses if address.tls]
    if secure or tls.certificate:
        checks.append(("certificate", partial(check_certificate, tls)))
    if any(one.client_certificate for one in secure) or any(one.tls for one in deliver.destinations):
        checks.append(("authorities", partial(check_authorities, tls)))
    for address in receive.addresses:
        checks.append(("listener", partial(check_listener, address, receive, node, tls)))
    for destination in deliver.destinations:
        check = partial(check_destination, destination, deliver, tls, classes)
        checks.append((f"destination {destination.name}", check))
        if destination.commitment:
            checks.append(("commitment", partial(check_way_back, destination, receive)))
    results += [guarded(name, check) for name, check in checks]
    if not deliver.destinations:
        results.append(CheckResult("destinations", True, "none: results stay in the data folder"))
    return tuple(_told_once(results))


def _told_once(results: Sequence[CheckResult]) -> Iterator[CheckResult]:
    """A fault of our own files that keeps us from a destination is told at the files."""
    files = ("certificate", "authorities")
    ours = {one.found: one.name for one in results if one.name in files and not one.ok}
    for one in results:
        cause = next((name for found, name in ours.items() if found in one.found and name != one.name), "")
        words = "can't be compared with the site's CAs" if one.name in files else "can't be spoken to by TLS"
        yield replace(one, found=f"{words}: see {cause}") if cause else one


def _reached(host: str) -> str:
    """Where a program of this host reaches what listens on an address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  read, not listened on


def _answers_as(title: str, address: Listener, receive: ReceivePolicy) -> bool:
    """Whether what listens at our port lets ``title`` in by C-ECHO, called by one who may call there."""
    from app.node.deliver import scu

    host = _reached(address.host)
    titles = [one.ae_title for one in receive.allowed_callers if _may_call_from(one, host)]
    calling = next((one for one in titles if one != "*"), receive.ae_title)
    return scu.echo(Destination("listener", title, host, address.port), calling, ECHO_TIMEOUT_S).ok


def _may_call_from(caller: Caller, host: str) -> bool:
    try:
        return caller.allows_address(host)
    except ValueError:  # a name, not an address
        return True


def _is_our_node(address: Listener, receive: ReceivePolicy, tls: TlsPolicy) -> bool:
    """A node answers to its own AE title only, many a PACS to any; and with TLS it shows our certificate."""
    if address.tls:
        return shows_our_certificate(tls, _reached(address.host), address.port, ECHO_TIMEOUT_S)
    asked = partial(_answers_as, address=address, receive=receive)
    return asked(receive.ae_title) and not asked(NOBODY_AE_TITLE)


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
