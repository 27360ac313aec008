"""``psma-node check`` says what is wrong and what to do."""

from __future__ import annotations

import errno
import fcntl
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from app.cli import operate
from app.errors import MisconfiguredError, RetryLaterError
from app.node import service
from app.node.peers import Caller, DeliverPolicy, Destination, Listener, ReceivePolicy, TlsPolicy
from app.node.policy import NodePolicy
from app.node.queue import DurableEngine
from app.node.receive.scp import StoreScp
from app.node.records.database import open_database
from app.node.records.inbox import Inbox
from app.node.records.stores import open_stores, translated_start_errors
from app.node.watch import health
from app.node.watch.check_result import CheckResult, guarded
from app.node.watch.health import (
    check_clock,
    check_database,
    check_disk,
    check_listener,
    check_log_file,
    check_probes,
    node_checks,
)
from app.node.watch.health_peers import check_certificate, check_destination
from app.node.watch.log import configure_logging
from app.settings import SHIPPED_CONFIG, load_settings
from tests.node.certificates import Authority
from tests.node.workflow.peers import FakePacs, free_port


def inbox_in(folder: Path) -> Inbox:
    """In a file: a database in memory is another one for each thread."""
    return Inbox(folder / "inbox", open_database(f"sqlite:///{folder / 'inbox.sqlite'}"))


def test_healthy_node_has_nothing_to_do(tmp_path: Path, pacs: FakePacs) -> None:
    deliver = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", pacs.port),))
    node = NodePolicy(data_dir=tmp_path / "new" / "data", min_free_mb=1)
    results = node_checks(node, ReceivePolicy(port=free_port()), deliver)
    names = ["database", "disk", "contents", "clock", "listener", "destination pacs"]
    assert [result.name for result in results] == names
    assert all(result.ok for result in results)
    assert not [result for result in results if result.advice and result.name != "clock"]
    assert not (tmp_path / "new").exists(), "a check leaves nothing behind"


def test_absent_pacs_fails_with_advice() -> None:
    deliver = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", free_port()),))
    result = check_destination(deliver.destinations[0], deliver)
    assert not result.ok
    assert "Connection refused" in result.found
    assert "does it run" in result.advice


def test_full_disk_fails(tmp_path: Path) -> None:
    result = check_disk(NodePolicy(data_dir=tmp_path, min_free_mb=1e9))
    assert not result.ok
    assert "at least" in result.advice


def test_port_of_another_program_fails_and_that_of_this_node_does_not(tmp_path: Path, pacs: FakePacs) -> None:
    receive, node = ReceivePolicy(port=pacs.port), NodePolicy(data_dir=tmp_path)
    [address] = receive.addresses
    result = check_listener(address, receive, node)
    assert not result.ok
    assert result.found == f"PSMA_NODE on 127.0.0.1 port {pacs.port}: Address already in use"
    with node.lock_file.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert check_listener(address, receive, node).ok


def test_node_that_answers_at_the_port_differs_from_a_pacs_that_answers_to_any_name(tmp_path: Path) -> None:
    port = free_port()
    callers = (Caller("CT1", ("127.0.0.1",)),)
    receive = ReceivePolicy(port=port, host="0.0.0.0", allowed_callers=callers)
    scp = StoreScp(receive, inbox_in(tmp_path), print)
    scp.start()
    try:
        node, [address] = NodePolicy(data_dir=tmp_path / "other"), receive.addresses
        result = check_listener(address, receive, node)
        stranger = check_listener(address, replace(receive, ae_title="OTHER"), node)
        with pytest.raises(MisconfiguredError, match="stop what listens there"):
            StoreScp(receive, inbox_in(tmp_path), print).start()
    finally:
        scp.stop()
    assert result.ok
    assert result.found.endswith("the node is running")
    assert not stranger.ok


def test_data_folder_that_can_not_be_made_is_named_as_configured() -> None:
    result = check_disk(NodePolicy(data_dir=Path("/proc/x")))
    assert not result.ok
    assert result.found == "node.data_dir /proc/x can't be made: /proc takes no new files or folders"


def no_database(file: Path) -> None:
    file.write_bytes(b"this is not what it should be, and long enough for a header" * 40)


def another_program_s(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER)")


@pytest.mark.parametrize(
    ("spoil", "found", "advice"),
    [
        (Path.mkdir, "is a folder, expected a file", "move it away; bring the last backup back"),
        (no_database, "is none, or is damaged: file is not a database", "bring the last backup back"),
        (another_program_s, "is another program's: it holds moz_places", ""),
    ],
)
def test_a_database_that_is_none_is_told_as_the_site_s_and_needs_a_person(
    tmp_path: Path, spoil: Callable[[Path], None], found: str, advice: str
) -> None:
    spoil(tmp_path / "node.sqlite")
    policy = NodePolicy(data_dir=tmp_path)
    results = node_checks(policy, ReceivePolicy(port=free_port()), DeliverPolicy())
    failed = [result for result in results if not result.ok]
    assert [result.name for result in failed] == ["database"], "the same fault once"
    assert f"the database sqlite:///{tmp_path / 'node.sqlite'} {found}" in failed[0].found
    assert advice in failed[0].advice
    assert not failed[0].may_pass
    with pytest.raises(MisconfiguredError, match=found), translated_start_errors(policy):
        open_stores(policy)
    assert MisconfiguredError.exit_code == 2, "MAP/psma-node.service leaves it down"


def test_the_engine_s_file_that_is_no_database_may_be_thrown_away(tmp_path: Path) -> None:
    policy = NodePolicy(data_dir=tmp_path)
    open_stores(policy).close()
    no_database(policy.engine_database_file)
    result = check_database(policy)
    assert not result.ok
    assert "workflows.sqlite is none, or is damaged" in result.found
    assert result.advice.startswith("move it away; the node makes it anew")
    with pytest.raises(MisconfiguredError, match="the node makes it anew"):
        DurableEngine(policy, lambda: None).launch(lambda *_: None, lambda *_: None, 1)


def test_database_that_does_not_answer_fails() -> None:
    url = f"postgresql+psycopg://node:secret@127.0.0.1:{free_port()}/node"
    result = check_database(NodePolicy(database_url=url))
    assert not result.ok
    assert "Connection refused" in result.found
    assert "secret" not in result.found + result.advice


def test_fault_in_one_check_is_its_result() -> None:
    def broken() -> CheckResult:
        raise KeyError("x")

    result = guarded("models", broken)
    assert not result.ok
    assert result.found.startswith("KeyError at test_health.py")


def test_database_that_answers_and_takes_no_write_fails(tmp_path: Path) -> None:
    """As on a file system that is mounted read-only, or a Postgres that is a standby."""
    open_database(f"sqlite:///{tmp_path / 'node.sqlite'}").dispose()
    for file in tmp_path.glob("node.sqlite-*"):
        file.unlink()
    result = check_database(NodePolicy(database_url=f"sqlite:///file:{tmp_path}/node.sqlite?mode=ro&uri=true"))
    assert not result.ok
    assert "attempt to write a readonly database" in result.found
    assert "may this user read and write" in result.advice


def test_clock_that_nobody_keeps_right_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for state, words in ((0, "synchronised"), (5, "warning: the kernel says"), (-1, "not known")):
        kernel = SimpleNamespace(adjtimex=lambda _, state=state: state)
        monkeypatch.setattr(health.ctypes, "CDLL", lambda _, kernel=kernel: kernel)
        result = check_clock(NodePolicy())
        assert result.ok
        assert words in result.found
        assert bool(result.advice) == (state == 5)


def test_clock_of_the_database_that_differs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_offset_of_database_s", lambda _: -42.0)
    result = check_clock(NodePolicy(database_url="postgresql://node@db/node"))
    assert not result.ok
    assert "the database's clock is -42 s from this host's" in result.found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(
    ("days", "ok", "words"),
    [(365, True, "ends on 2"), (20, True, "in 19 days"), (-1, False, "has expired on 2")],
)
def test_certificate_is_told_before_it_ends(site: Authority, days: int, ok: bool, words: str) -> None:
    result = check_certificate(site.certify(f"node{days}", days=days))
    assert (result.ok, bool(result.advice)) == (ok, days != 365)
    assert words in result.found


def test_certificate_that_the_site_s_peers_refuse_is_a_warning(site: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other-ca")
    result = check_certificate(replace(site.certify("node"), authorities=str(other.file)))
    assert result.ok
    assert "of none of the CAs in tls.authorities" in result.found


def test_files_of_tls_that_can_not_be_used_are_told_each_on_its_own(site: Authority, tmp_path: Path) -> None:
    tls = TlsPolicy("/gone.crt", authorities=str(tmp_path / "gone-too.crt"))
    receive = ReceivePolicy(listeners=(Listener(port=free_port(), tls=True),))
    results = node_checks(NodePolicy(data_dir=tmp_path, min_free_mb=0), receive, DeliverPolicy(), tls)
    failed = {result.name: result.found for result in results if not result.ok}
    assert set(failed) == {"certificate", "authorities"}
    assert failed["certificate"].startswith("tls.certificate /gone.crt: No such file or directory")
    deliver = DeliverPolicy((Destination("pacs", "PACS", "127.0.0.1", 1, tls=True),))
    results = node_checks(NodePolicy(data_dir=tmp_path, min_free_mb=0), receive, deliver, tls)
    assert results[-1].found == "can't be spoken to by TLS: see authorities", "the same fault once"


def test_plain_and_tls_listener_of_a_running_node_are_both_known(site: Authority, tmp_path: Path) -> None:
    tls = site.certify("node")
    listeners = (Listener(port=free_port()), Listener(port=free_port(), tls=True))
    receive, node = ReceivePolicy(listeners=listeners), NodePolicy(data_dir=tmp_path / "other")
    scp = StoreScp(receive, inbox_in(tmp_path), print, tls)
    scp.start()
    try:
        found = [check_listener(one, receive, node, tls) for one in receive.addresses]
        stranger = check_listener(receive.addresses[1], receive, node, site.certify("another"))
    finally:
        scp.stop()
    assert [result.ok for result in found] == [True, True]
    assert all(result.found.endswith("the node is running") for result in found)
    assert not stranger.ok


def test_full_disk_is_tried_again_and_a_forbidden_folder_needs_a_person(tmp_path: Path) -> None:
    assert check_disk(NodePolicy(data_dir=tmp_path, min_free_mb=1e9)).may_pass
    assert not check_disk(NodePolicy(data_dir=Path("/proc/x"))).may_pass


def test_a_data_folder_that_became_read_only_is_tried_again_and_one_that_never_was_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(health.tempfile, "NamedTemporaryFile", read_only)
    mounted = check_disk(NodePolicy(data_dir=tmp_path))
    assert (mounted.ok, mounted.may_pass) == (False, True)
    assert "Read-only file system" in mounted.found
    assert "mend the disk and mount it again" in mounted.advice
    assert not check_disk(NodePolicy(data_dir=tmp_path / "never" / "made")).may_pass
    settings = load_settings(SHIPPED_CONFIG, [f"node.data_dir={tmp_path}"])
    with pytest.raises(RetryLaterError, match="Read-only"):
        operate._refuse_unfit(settings)


def test_node_that_starts_on_a_full_disk_tries_again(tmp_path: Path) -> None:
    full, node = OSError(errno.ENOSPC, "No space left on device"), NodePolicy()
    with pytest.raises(RetryLaterError, match="can't be written to now"), translated_start_errors(node):
        raise full
    sqlite_full = OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(RetryLaterError, match="disk is full"), translated_start_errors(node):
        raise sqlite_full
    settings = load_settings(SHIPPED_CONFIG, ["node.min_free_mb=1e9", f"node.data_dir={tmp_path}"])
    with pytest.raises(RetryLaterError, match="free room"):
        operate._refuse_unfit(settings)
    assert RetryLaterError.exit_code == 4, "what MAP/psma-node.service starts again"


def test_full_disk_keeps_no_node_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    def write() -> None:
        raise OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))

    service._note("audit", write)
    assert "not written at the stop: audit" in caplog.text


def test_log_file_that_can_not_be_opened_is_a_wrong_setting() -> None:
    with pytest.raises(MisconfiguredError, match=r"node\.log_file /proc/x/log can't be made or written to"):
        configure_logging(Path("/proc/x/log"))


def test_a_port_of_the_probes_that_is_taken_fails(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        policy = NodePolicy(data_dir=tmp_path, probe_port=other.getsockname()[1])
        taken = check_probes(policy)
    assert not taken.ok
    assert "Address already in use" in taken.found
    assert check_probes(policy).ok
    shared = check_probes(policy, [Listener("0.0.0.0", policy.probe_port)])
    assert not shared.ok
    assert "a listener under receive has it" in shared.found


def test_a_log_file_that_can_not_be_made_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below_a_file = check_log_file(NodePolicy(data_dir=tmp_path, log_file=str(tmp_path / "file" / "node.log")))
    assert not below_a_file.ok
    assert "node.log_file" in below_a_file.found
    assert check_log_file(NodePolicy(data_dir=tmp_path, log_file=str(tmp_path / "new" / "node.log"))).ok
    assert not (tmp_path / "new").exists()
