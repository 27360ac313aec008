"""The audit log shows every change made to it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.node.records.audit import AuditEvent, AuditLog, DatabaseAnchor, Head
from app.node.records.database import open_database


class KeptAnchor:
    """An anchor in memory."""

    def __init__(self) -> None:
        self.head = Head()

    def read(self) -> Head:
        return self.head

    def write(self, head: Head) -> None:
        self.head = head


def written(folder: Path, entries: int = 4) -> tuple[Path, AuditLog]:
    """A log with some entries."""
    path = folder / "audit.jsonl"
    log = AuditLog(path, KeptAnchor())
    for number in range(entries):
        log.append(AuditEvent.DELIVERED, f"1.2.{number}", {"dicom_status": 0})
    return path, log


def test_untouched_log_is_whole(tmp_path: Path) -> None:
    _, log = written(tmp_path)
    assert log.verify().intact
    assert log.verify().entries == 4


def test_log_without_entries_is_whole(tmp_path: Path) -> None:
    assert AuditLog(tmp_path / "none", KeptAnchor()).verify().intact


@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path, log = written(tmp_path_factory.mktemp("audit"))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    assert not log.verify().intact


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_any_removed_line_is_found(tmp_path: Path, removed: int) -> None:
    path, log = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[removed]
    path.write_bytes(b"".join(lines))
    assert not log.verify().intact


def test_cut_stays_visible_after_the_next_entry(tmp_path: Path) -> None:
    path, log = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    log.append(AuditEvent.STARTED)
    assert not log.verify().intact


def test_removed_file_is_found(tmp_path: Path) -> None:
    path, log = written(tmp_path)
    path.unlink()
    assert log.verify().problem == "the log is gone; 4 entries expected"


def test_line_cut_short_by_a_crash_gives_way_to_the_next_entry(tmp_path: Path) -> None:
    path, log = written(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"number": 5, "ti')
    log.append(AuditEvent.STARTED)
    assert log.verify() == log.verify()
    assert log.verify().intact
    assert log.verify().entries == 5


def test_crash_between_line_and_anchor_does_not_break_the_chain(tmp_path: Path) -> None:
    anchor = KeptAnchor()
    log = AuditLog(tmp_path / "audit.jsonl", anchor)
    log.append(AuditEvent.STARTED)
    before = anchor.head
    log.append(AuditEvent.STOPPED)
    anchor.head = before
    assert log.verify().intact
    log.append(AuditEvent.STARTED)
    assert log.verify().intact
    assert log.verify().entries == 3


def test_entries_of_many_threads_make_one_chain(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    log = AuditLog(tmp_path / "audit.jsonl", DatabaseAnchor(engine, "audit"))
    threads = [threading.Thread(target=log.append, args=(AuditEvent.DELIVERED, "1.2")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify().intact
    assert log.verify().entries == 8
    engine.dispose()
