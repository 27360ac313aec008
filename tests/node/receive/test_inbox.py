"""What the inbox keeps of what comes, and what its index knows of it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from sqlalchemy import Engine, delete, event, text
from sqlalchemy.exc import TimeoutError as SqlTimeoutError

from app.errors import RetryLaterError
from app.files.durable import sync_folder
from app.node.records import pending
from app.node.records.database import utc_now
from app.node.records.inbox import Inbox, Recovery, Stored
from app.node.records.inbox_index import InboxIndex, InstanceRow
from app.node.records.instances import identify
from app.node.records.pending import InboxFullError, Pending, PendingInstances
from tests.node.receive.images import OTHER_STUDY, STUDY, ct_slice, encoded, received
from tests.node.receive.mishaps import Killed, files, flipped, kill


def test_what_was_stored_is_a_dicom_file_with_the_received_bytes(inbox: Inbox) -> None:
    instance = received(ct_slice(1))
    assert inbox.store(instance) is Stored.NEW
    (path,) = inbox.paths(STUDY)
    assert path.read_bytes().endswith(instance.data_set)
    image = dcmread(path)
    assert image.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID == f"{STUDY}.2.1"


def test_a_file_is_synced_before_its_name_and_its_folder_before_the_index(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer may be given after the first two; nothing is named that is not on the disk."""
    events: list[str] = []
    syncs = {name: getattr(os, name) for name in ("fsync", "fdatasync")}
    replace, index = Path.replace, PendingInstances.index

    def logged(name: str) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").resolve()
            events.append(f"sync folder {path.name}" if path.is_dir() else "sync file")
            syncs[name](descriptor)

        return sync

    for name in syncs:
        monkeypatch.setattr(os, name, logged(name))
    monkeypatch.setattr(Path, "replace", lambda *a: (events.append("rename"), replace(*a))[1])
    monkeypatch.setattr(PendingInstances, "index", lambda *a: (events.append("index"), index(*a))[1])
    inbox.store(received(ct_slice(1)))
    assert events == ["sync folder slots", "sync file"]
    del events[:]
    inbox.settle()
    assert events == ["sync folder studies", "rename", f"sync folder {STUDY}", "index"]


def test_the_same_instance_twice_is_kept_once(inbox: Inbox) -> None:
    inbox.store(received(ct_slice(1)))
    assert inbox.store(received(ct_slice(1), calling_ae="PACS")) is Stored.DUPLICATE
    assert len(inbox.paths(STUDY)) == 1
    (study,) = inbox.studies()
    assert (study.instance_count, study.conflicts) == (1, 0)


def test_another_content_under_the_same_uid_is_kept_too_and_flagged(inbox: Inbox) -> None:
    inbox.store(received(ct_slice(1)))
    inbox.store(received(ct_slice(2)))
    before = inbox.content_digest(STUDY)
    assert inbox.store(received(ct_slice(1, value=500))) is Stored.CONFLICT
    assert len(inbox.paths(STUDY)) == 3
    (study,) = inbox.studies()
    assert (study.instance_count, study.conflicts) == (3, 1)
    assert inbox.content_digest(STUDY) != before


def test_the_same_image_in_another_transfer_syntax_is_a_duplicate(inbox: Inbox) -> None:
    """A PACS forwards as implicit VR what the scanner has sent as explicit VR."""
    inbox.store(received(ct_slice(1)))
    before, paths = inbox.content_digest(STUDY), files(inbox)
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        again = received(ct_slice(1), "PACS", syntax)
        assert again.sha256 != received(ct_slice(1)).sha256
        assert inbox.store(again) is Stored.DUPLICATE
    assert (inbox.content_digest(STUDY), files(inbox)) == (before, paths)
    assert inbox.studies()[0].conflicts == 0
    assert inbox.store(received(ct_slice(1, value=500), "PACS", ImplicitVRLittleEndian)) is Stored.CONFLICT


def test_two_associations_that_send_an_image_at_once_in_two_syntaxes_make_no_conflict(inbox: Inbox) -> None:
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian) * 4
    instances_ = [received(ct_slice(1), "PACS", syntax) for syntax in syntaxes]
    outcomes: list[Stored] = []
    threads = [
        threading.Thread(target=lambda one=one: outcomes.append(inbox.store(one))) for one in instances_
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Stored.DUPLICATE] * 7 + [Stored.NEW]


def cut(content: bytes) -> bytes:
    return content[:-100]


def emptied(_: bytes) -> bytes:
    return b""


def in_another_syntax(content: bytes) -> bytes:
    """A bit of the transfer syntax in the file meta, which the digest of the data set does not hold."""
    assert content.count(b"1.2.840.10008.1.2.1\0") == 1
    return content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.3\0")


@pytest.mark.parametrize("damage", [cut, emptied, flipped, in_another_syntax])
def test_a_file_that_was_damaged_is_found_and_made_good_by_the_next_sending(
    inbox: Inbox, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    inbox.store(received(ct_slice(1)))
    inbox.store(received(ct_slice(2)))
    (path, _) = inbox.paths(STUDY)
    whole, digest = path.read_bytes(), inbox.content_digest(STUDY)
    assert inbox.content(STUDY).damaged() == 0
    path.write_bytes(damage(whole))
    assert inbox.content(STUDY).damaged() == 1
    assert inbox.store(received(ct_slice(1))) is Stored.DUPLICATE
    assert path.read_bytes() == whole
    assert (inbox.content(STUDY).damaged(), inbox.content_digest(STUDY)) == (0, digest)
    assert "a damaged file was written again" in caplog.messages


def test_a_damaged_file_gives_way_to_its_image_in_another_syntax(inbox: Inbox) -> None:
    """What the scanner had sent was damaged; the PACS sends it again, in its own syntax."""
    inbox.store(received(ct_slice(1)))
    (path,) = inbox.paths(STUDY)
    path.write_bytes(flipped(path.read_bytes()))
    assert inbox.store(received(ct_slice(1), "PACS", ImplicitVRLittleEndian)) is Stored.NEW
    (now,) = inbox.paths(STUDY)
    assert np.array_equal(dcmread(now).pixel_array, ct_slice_values(1))
    assert (inbox.content(STUDY).damaged(), inbox.studies()[0].conflicts) == (0, 0)
    assert [file.parent.name for file in files(inbox)] == ["quarantine", STUDY]
    assert inbox.store(received(ct_slice(1))) is Stored.DUPLICATE


def ct_slice_values(number: int) -> np.ndarray:
    return np.full((16, 16), number, np.uint16)


def test_a_duplicate_whose_file_was_removed_is_written_again(inbox: Inbox) -> None:
    inbox.store(received(ct_slice(1)))
    inbox.paths(STUDY)[0].unlink()
    inbox.store(received(ct_slice(1)))
    assert inbox.paths(STUDY)[0].is_file()
    assert inbox.studies()[0].instance_count == 1


def test_the_order_of_arrival_does_not_change_the_digest(tmp_path: Path, engine: Engine) -> None:
    inbox = Inbox(tmp_path / "a", engine)
    for number in (1, 2, 3):
        inbox.store(received(ct_slice(number)))
    forwards = inbox.content_digest(STUDY)
    with engine.begin() as connection:
        connection.execute(delete(InstanceRow))
    for number in (3, 1, 2):
        inbox.store(received(ct_slice(number)))
    assert inbox.content_digest(STUDY) == forwards


def test_what_is_no_image_is_kept_and_changes_no_content(inbox: Inbox) -> None:
    inbox.store(received(ct_slice(1)))
    before, paths = inbox.content_digest(STUDY), inbox.paths(STUDY)
    document = ct_slice(2)
    document.SOPClassUID = BasicTextSRStorage
    assert inbox.store(received(document)) is Stored.NEW
    assert (inbox.content_digest(STUDY), inbox.image_paths(STUDY)) == (before, paths)
    assert len(inbox.paths(STUDY)) == 2
    assert inbox.beside(STUDY) == "1 Basic Text SR Storage"
    study = inbox.study(STUDY)
    assert study is not None
    assert (study.instance_count, study.image_count) == (2, 1)
    assert study.last_image_at == study.first_received_at < study.last_received_at
    inbox.store(received(ct_slice(3)))
    assert inbox.content_digest(STUDY) != before


def test_only_studies_that_grew_are_found(inbox: Inbox) -> None:
    inbox.store(received(ct_slice(1)))
    inbox.settle()
    between = utc_now()
    inbox.store(received(ct_slice(1, study=OTHER_STUDY)))
    assert [study.study_instance_uid for study in inbox.received_after(between)] == [OTHER_STUDY]
    assert [study.study_instance_uid for study in inbox.studies()] == [OTHER_STUDY, STUDY]
    assert inbox.received_after(utc_now() + timedelta(seconds=1)) == ()
    assert inbox.study(STUDY) in inbox.studies()
    assert inbox.study("1.2.3") is None


def test_an_instance_counts_as_received_when_it_is_indexed_in_the_order_of_arrival(inbox: Inbox) -> None:
    """A revision that was opened while it waited has not seen it."""
    for number in (3, 1, 2):
        inbox.store(received(ct_slice(number)))
    opened_at = utc_now()
    rows = inbox.content(STUDY).rows
    assert [row.sop_instance_uid[-1] for row in rows] == ["3", "1", "2"]
    assert opened_at < rows[0].received_at < rows[1].received_at < rows[2].received_at


def test_many_threads_storing_the_same_study_keep_each_instance_once(inbox: Inbox) -> None:
    instances_ = [received(ct_slice(number)) for number in range(8)]
    outcomes: list[Stored] = []

    def store_all() -> None:
        outcomes.extend(inbox.store(instance) for instance in instances_)

    threads = [threading.Thread(target=store_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Stored.DUPLICATE] * 24 + [Stored.NEW] * 8
    assert len(inbox.paths(STUDY)) == 8
    assert inbox.studies()[0].conflicts == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind_and_says_try_later(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(InboxFullError):
            inbox.store(received(ct_slice(1)))
    assert files(inbox) == []
    assert inbox.studies() == ()
    assert inbox.store(received(ct_slice(1))) is Stored.NEW


def test_an_index_that_does_not_answer_is_a_reason_to_try_later(inbox: Inbox, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE instances"))
    with pytest.raises(RetryLaterError, match="index"):
        inbox.store(received(ct_slice(1)))


def test_what_waits_for_its_row_is_known_as_a_duplicate_a_conflict_and_the_same_image(inbox: Inbox) -> None:
    """Each comes while the first is in its slot alone."""
    for number, (again, expected) in enumerate(
        (
            (lambda n: received(ct_slice(n), "PACS"), Stored.DUPLICATE),
            (lambda n: received(ct_slice(n, value=500)), Stored.CONFLICT),
            (lambda n: received(ct_slice(n), "PACS", ImplicitVRLittleEndian), Stored.DUPLICATE),
        )
    ):
        inbox.store(received(ct_slice(number)))
        assert inbox.store(again(number)) is expected
    assert inbox.studies()[0].conflicts == 1


def test_two_contents_at_the_same_time_are_one_new_and_one_conflict(inbox: Inbox) -> None:
    outcomes: list[Stored] = []
    contents = [received(ct_slice(1, value=value)) for value in (0, 500)]
    threads = [threading.Thread(target=lambda one=one: outcomes.append(inbox.store(one))) for one in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Stored.CONFLICT, Stored.NEW]
    assert inbox.studies()[0].conflicts == 1


def test_what_was_seen_is_looked_up_and_a_hash_alone_decides_nothing(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one byte of memory for hashes, every instance seems to be known."""
    for count in (2**24, 1):
        monkeypatch.setattr(pending, "_SEEN_BYTES", count)
        other = Inbox(inbox.folder, engine)
        other._pending.see_all()
        study = f"{OTHER_STUDY}.{count}"
        instances_ = [received(ct_slice(number, study=study)) for number in (1, 2, 1)]
        assert [other.store(one) for one in instances_] == [Stored.NEW, Stored.NEW, Stored.DUPLICATE]
        later = Inbox(inbox.folder, engine)
        later._pending.see_all()
        assert later.store(received(ct_slice(1, study=study, value=7))) is Stored.CONFLICT


def test_an_index_that_does_not_follow_stops_what_comes_and_loses_nothing(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(pending, "MAX_PENDING", 2)
    with monkeypatch.context() as patch:
        patch.setattr(PendingInstances, "index", full)
        assert [inbox.store(received(ct_slice(number))) for number in (1, 2)] == [Stored.NEW] * 2
        for refused in (lambda: inbox.store(received(ct_slice(3))), inbox.studies, inbox.settle):
            with pytest.raises(InboxFullError):
                refused()
    assert inbox.store(received(ct_slice(3))) is Stored.NEW
    assert [study.instance_count for study in inbox.studies()] == [3]


def test_an_index_that_lags_for_long_stops_what_comes(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox.store(received(ct_slice(1)))
    monkeypatch.setattr(pending, "MAX_LAG_S", -1.0)
    monkeypatch.setattr(PendingInstances, "index", kill)
    with pytest.raises(Killed):
        inbox.store(received(ct_slice(2)))


def test_the_index_follows_by_itself_and_no_slot_is_left(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.records.inbox.FOLLOW_S", 0.01)
    inbox.follow()
    inbox.store(received(ct_slice(1)))
    other_process = InboxIndex(inbox.folder, engine)
    deadline = time.monotonic() + 20
    while not other_process.studies() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(other_process.paths(STUDY)) == 1
    inbox.store(received(ct_slice(2)))
    inbox.stop_following()
    assert len(other_process.paths(STUDY)) == 2
    assert not list((inbox.folder / "slots").iterdir())


def test_no_patient_data_in_names_or_text_of_an_instance(inbox: Inbox) -> None:
    instance = received(ct_slice(1))
    inbox.store(instance)
    assert "Testfall" not in repr(instance) + str(inbox.paths(STUDY))
    assert b"Testfall" in encoded(ct_slice(1))


def test_no_name_before_the_folder_of_the_study_that_another_is_making_is_safe(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread has made the folder and hangs in its sync; nothing must be named there before."""
    inbox.store(received(ct_slice(1)))
    inbox.settle()
    another = Inbox(inbox.folder, inbox._engine)
    another.store(received(ct_slice(2)))
    entered, release = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        if folder.name == "studies" and not entered.is_set():
            entered.set()
            assert release.wait(30)
        sync_folder(folder)

    monkeypatch.setattr(pending, "sync_folder", slow)
    done: list[int] = []

    def settle(number: int) -> None:
        another.settle()
        done.append(number)

    first, second = (threading.Thread(target=settle, args=(number,)) for number in (1, 2))
    first.start()
    assert entered.wait(30)
    second.start()
    second.join(0.3)
    assert done == []
    assert len(list((inbox.folder / "studies" / STUDY).iterdir())) == 1
    release.set()
    first.join(30)
    second.join(30)
    assert sorted(done) == [1, 2]


def test_a_folder_that_another_process_made_is_synced_too(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox.folder / "studies" / STUDY).mkdir()
    synced: list[str] = []
    monkeypatch.setattr(pending, "sync_folder", lambda folder: synced.append(folder.name))
    for number in (1, 2):
        inbox.store(received(ct_slice(number)))
        inbox.settle()
    assert synced == ["studies", STUDY, STUDY]


def test_any_silence_of_the_index_is_a_reason_to_try_later(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise SqlTimeoutError("QueuePool limit reached")

    monkeypatch.setattr(Engine, "connect", exhausted)
    with pytest.raises(RetryLaterError, match="does not answer: TimeoutError"):
        inbox.store(received(ct_slice(1)))


def test_a_look_at_what_is_new_does_not_go_through_all_that_is_there(inbox: Inbox, engine: Engine) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    inbox.study(STUDY)
    inbox.received_after(utc_now())
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) == 2
    with engine.connect() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert not [row for row in plan if str(row[3]).startswith("SCAN instances")], plan


def test_a_data_set_that_begins_with_file_meta_of_its_own_is_kept_and_found(
    inbox: Inbox, engine: Engine
) -> None:
    """Some senders put a whole file on the network."""
    own_meta = b"\2\0\x10\0UI\x14\0" + b"1.2.840.10008.1.2.1\0"
    for number in (1, 2):
        plain = received(ct_slice(number))
        inbox.store(identify(plain.command, own_meta + plain.data_set))
        if number == 1:
            inbox.settle()
    assert len([path for path in files(inbox) if path.parent.name == "slots"]) == 1
    after_restart = Inbox(inbox.folder, engine)
    assert after_restart.recover() == Recovery(indexed=1)
    assert (len(after_restart.paths(STUDY)), after_restart.content(STUDY).damaged()) == (2, 0)
    with engine.begin() as connection:
        connection.execute(delete(InstanceRow))
    assert after_restart.recover() == Recovery(indexed=2)


def test_who_waits_for_an_attempt_shares_its_failure_or_the_next_success(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent database is waited for once, not by one association after the other."""
    for failure in (RetryLaterError("the index does not answer"), None):
        inbox.store(received(ct_slice(1 if failure else 2)))
        attempts: list[int] = []
        go_on, outcomes = threading.Event(), []

        def index(
            *_: object, attempts: list[int] = attempts, go_on: threading.Event = go_on, why: Any = failure
        ) -> None:
            attempts.append(1)
            assert go_on.wait(30)
            if why:
                raise why

        def settle(outcomes: list[str] = outcomes) -> None:
            try:
                inbox.settle()
            except RetryLaterError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("settled")

        with monkeypatch.context() as patch:
            patch.setattr(PendingInstances, "index", index)
            first, *others = (threading.Thread(target=settle) for _ in range(5))
            first.start()
            while not attempts:
                time.sleep(0.001)
            inbox._pending.add(Pending(received(ct_slice(9)).identity, inbox.folder / "none", 1, utc_now()))
            for thread in others:
                thread.start()
            time.sleep(0.2)  # until they wait
            go_on.set()
            for thread in (first, *others):
                thread.join(30)
        assert outcomes == (["the index does not answer"] if failure else ["settled"]) * 5
        assert len(attempts) == (1 if failure else 2)
        inbox._pending._waiting.pop(received(ct_slice(9)).sop_instance_uid, None)
