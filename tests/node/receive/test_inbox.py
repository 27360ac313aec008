from __future__ import annotations

import errno
import os
import threading
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
from sqlalchemy import Engine, delete, event, text, update
from sqlalchemy.exc import TimeoutError as SqlTimeoutError

from app.errors import RetryLaterError
from app.files.durable import sync_folder
from app.node.records.database import utc_now
from app.node.records.inbox import Inbox, InboxFullError, Recovery, Stored
from app.node.records.instances import InstanceRow

from .images import STUDY, ct_slice, encoded, received

OTHER_STUDY = "1.2.826.0.1.3680043.10.999.7"


class Killed(BaseException):
    """What ends a process, as far as a test can."""


def kill(*_: object) -> None:
    raise Killed


def files(inbox: Inbox) -> list[Path]:
    return sorted(path for path in inbox.folder.rglob("*") if path.is_file())


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
    events: list[str] = []
    fsync, replace, index = os.fsync, Path.replace, Inbox._index

    def log_fsync(descriptor: int) -> None:
        events.append(
            "sync folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "sync file"
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "replace", lambda *a: (events.append("rename"), replace(*a))[1])
    monkeypatch.setattr(Inbox, "_index", lambda *a: (events.append("index"), index(*a))[1])
    inbox.store(received(ct_slice(1)))
    assert events == ["sync file", "sync folder", "rename", "sync folder", "index"]


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


def flipped(content: bytes) -> bytes:
    """A bit of a pixel."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


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


def test_a_kill_while_a_damaged_file_is_replaced_is_made_good(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the two points between which something is on the disk and something is not."""

    other = received(ct_slice(1), "PACS", ImplicitVRLittleEndian)
    inbox.store(received(ct_slice(1)))
    (path,) = inbox.paths(STUDY)
    path.write_bytes(flipped(path.read_bytes()))
    for point in ("_set_aside", "_index"):
        with monkeypatch.context() as patch:
            patch.setattr(Inbox, point, kill)
            with pytest.raises(Killed):
                inbox.store(other if point == "_set_aside" else received(ct_slice(2)))
        after_restart = Inbox(inbox.folder, engine)
        after_restart.recover()
        assert after_restart.content(STUDY).damaged() == 0
        assert after_restart.studies()[0].conflicts == 0
        assert after_restart.store(other) is Stored.DUPLICATE


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
    between = utc_now()
    inbox.store(received(ct_slice(1, study=OTHER_STUDY)))
    assert [study.study_instance_uid for study in inbox.received_after(between)] == [OTHER_STUDY]
    assert [study.study_instance_uid for study in inbox.studies()] == [OTHER_STUDY, STUDY]
    assert inbox.received_after(utc_now() + timedelta(seconds=1)) == ()
    assert inbox.study(STUDY) in inbox.studies()
    assert inbox.study("1.2.3") is None


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
        patch.setattr(os, "fsync", full)
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


def test_a_kill_between_rename_and_index_neither_loses_nor_doubles(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "_index", kill)
        with pytest.raises(Killed):
            inbox.store(received(ct_slice(1)))
    assert inbox.studies() == ()

    after_restart = Inbox(inbox.folder, engine)
    assert after_restart.recover() == Recovery(indexed=1)
    assert after_restart.store(received(ct_slice(1))) is Stored.DUPLICATE
    (study,) = after_restart.studies()
    assert study.instance_count == 1
    assert len(files(after_restart)) == 1
    assert after_restart.recover() == Recovery()


def test_a_kill_while_writing_leaves_only_a_temporary_file_that_recovery_removes(inbox: Inbox) -> None:
    (inbox.folder / "incoming" / "half.part").write_bytes(b"half an instance")
    assert inbox.recover() == Recovery(removed_unfinished=1)
    assert files(inbox) == []


def test_a_kill_before_a_conflict_is_flagged_is_made_good(inbox: Inbox, engine: Engine) -> None:
    inbox.store(received(ct_slice(1)))
    inbox.store(received(ct_slice(1, value=500)))
    with engine.begin() as connection:
        connection.execute(update(InstanceRow).values(conflict=False))
    inbox.recover()
    assert inbox.studies()[0].conflicts == 1


def test_a_file_that_is_not_what_its_name_says_is_set_aside(inbox: Inbox, engine: Engine) -> None:
    inbox.store(received(ct_slice(1)))
    (path,) = inbox.paths(STUDY)
    with engine.begin() as connection:
        connection.execute(delete(InstanceRow))
    path.write_bytes(path.read_bytes()[:-10])
    assert inbox.recover() == Recovery(quarantined=1)
    assert inbox.studies() == ()
    assert [file.parent.name for file in files(inbox)] == ["quarantine"]


def test_recovery_tells_of_files_that_someone_removed(inbox: Inbox) -> None:
    inbox.store(received(ct_slice(1)))
    inbox.paths(STUDY)[0].unlink()
    assert inbox.recover() == Recovery(missing=1)


def test_no_patient_data_in_names_or_text_of_an_instance(inbox: Inbox) -> None:
    instance = received(ct_slice(1))
    inbox.store(instance)
    assert "Testfall" not in repr(instance) + str(inbox.paths(STUDY))
    assert b"Testfall" in encoded(ct_slice(1))


def test_no_success_before_the_folder_of_the_study_that_another_is_making_is_safe(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One association has made the folder and hangs in its sync; the other must not be done before."""
    entered, release = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        if folder.name == "studies" and not entered.is_set():
            entered.set()
            assert release.wait(30)
        sync_folder(folder)

    monkeypatch.setattr("app.node.records.inbox.sync_folder", slow)
    done: list[int] = []

    def store(number: int) -> None:
        inbox.store(received(ct_slice(number)))
        done.append(number)

    first, second = (threading.Thread(target=store, args=(number,)) for number in (1, 2))
    first.start()
    assert entered.wait(30)
    second.start()
    second.join(0.3)
    assert done == []
    release.set()
    first.join(30)
    second.join(30)
    assert sorted(done) == [1, 2]


def test_a_folder_that_another_process_made_is_synced_too(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox.folder / "studies" / STUDY).mkdir()
    synced: list[str] = []
    monkeypatch.setattr("app.node.records.inbox.sync_folder", lambda folder: synced.append(folder.name))
    inbox.store(received(ct_slice(1)))
    inbox.store(received(ct_slice(2)))
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
