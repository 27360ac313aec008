"""What a kill, a power cut or a fault of the disk leaves in the inbox, and what a start makes of it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from sqlalchemy import Engine, delete, update

from app.errors import MisconfiguredError, RetryLaterError
from app.node.records import pending
from app.node.records.clock import CLOCK
from app.node.records.database import utc_now
from app.node.records.inbox import Inbox, Recovery, Stored
from app.node.records.inbox_index import InstanceRow
from app.node.records.instances import KeptInstance, read_received
from app.node.records.pending import Pending, PendingInstances, StudyHeldBackError
from app.node.records.slots import Slot
from tests.node.receive.images import OTHER_STUDY, STUDY, ct_slice, received
from tests.node.receive.mishaps import Killed, files, flipped, kill, nothing


@pytest.mark.parametrize(
    "point",
    [(Slot, "seal"), (Slot, "keep"), *((PendingInstances, name) for name in ("name", "index", "set_aside"))],
)
def test_a_kill_while_a_damaged_file_is_replaced_is_made_good(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch, point: tuple[type, str]
) -> None:
    """At each of the points between which something is on the disk and something is not."""
    other = received(ct_slice(1), "PACS", ImplicitVRLittleEndian)
    inbox.store(received(ct_slice(1)))
    (path,) = inbox.paths(STUDY)
    path.write_bytes(flipped(path.read_bytes()))
    with monkeypatch.context() as patch:
        patch.setattr(*point, kill)
        patch.setattr(Slot, "close", nothing)
        with pytest.raises(Killed):
            inbox.store(other)
    after_restart = Inbox(inbox.folder, engine)
    after_restart.recover()
    after_restart.store(other)
    assert after_restart.content(STUDY).damaged() == 0
    (study,) = after_restart.studies()
    assert (study.instance_count, study.conflicts) == (1, 0)
    assert after_restart.store(other) is Stored.DUPLICATE


def half_written(slot: Slot, fragment: bytes) -> None:
    os.pwrite(slot._file, fragment[: len(fragment) // 2], slot._start)
    raise Killed


def kill_after(work: Callable[..., object]) -> Callable[..., None]:
    def done(*arguments: Any) -> None:
        work(*arguments)
        raise Killed

    return done


def named_but_one(instances: PendingInstances, batch: Sequence[Pending]) -> None:
    PENDING_NAME(instances, batch[:-1])
    raise Killed


PENDING_NAME = PendingInstances.name


@pytest.mark.parametrize(
    ("point", "change", "kept"),
    [
        ((Slot, "write"), half_written, 0),
        ((Slot, "seal"), kill, 0),
        ((Slot, "keep"), kill, 1),  # before fdatasync: the seal tells that all was written
        ((Slot, "keep"), kill_after(Slot.keep), 1),  # safe, and no Success has gone out
        ((PendingInstances, "add"), kill_after(PendingInstances.add), 1),
        ((PendingInstances, "name"), kill, 3),  # all three acknowledged
        ((PendingInstances, "_make_study_folder"), kill_after(PendingInstances._make_study_folder), 3),
        ((PendingInstances, "name"), named_but_one, 3),  # in the middle of a batch
        ((pending, "sync_folder"), kill, 3),
        ((PendingInstances, "index"), kill, 3),
        ((PendingInstances, "index"), kill_after(PendingInstances.index), 3),
    ],
)
def test_a_kill_at_any_point_neither_loses_nor_doubles(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch, point: Any, change: Any, kept: int
) -> None:
    """Up to the answer, one instance is stored; from then on three have been acknowledged."""
    instances_ = [received(ct_slice(number)) for number in range(3)]
    if kept > 1:
        assert [inbox.store(one) for one in instances_] == [Stored.NEW] * 3
    with monkeypatch.context() as patch:
        patch.setattr(*point, change)
        patch.setattr(Slot, "close", nothing)
        with pytest.raises(Killed):
            inbox.settle() if kept > 1 else inbox.store(instances_[0])

    after_restart = Inbox(inbox.folder, engine)
    after_restart.recover()
    assert len(after_restart.paths(STUDY)) == len(files(after_restart)) == kept
    assert after_restart.content(STUDY).damaged() == 0
    expected = [Stored.DUPLICATE] * kept + [Stored.NEW] * (3 - kept)
    assert [after_restart.store(one) for one in instances_] == expected
    (study,) = after_restart.studies()
    assert (study.instance_count, study.conflicts) == (3, 0)
    assert after_restart.recover() == Recovery()


@pytest.mark.parametrize("cut_at", [0, 100, 128, 300, 600, 4096, -2])
def test_a_slot_that_came_to_the_disk_in_part_is_no_instance(
    inbox: Inbox, engine: Engine, cut_at: int
) -> None:
    """What a power cut leaves: the file is as long as it should be, and from somewhere on it is zeros."""
    inbox.store(received(ct_slice(1, size=64)))
    (slot,) = files(inbox)
    whole = slot.read_bytes()
    slot.write_bytes(whole[:cut_at] + bytes(len(whole[cut_at:])))
    recovery = Inbox(inbox.folder, engine).recover()
    assert recovery == (Recovery(quarantined=1) if cut_at else Recovery())
    assert [file.parent.name for file in files(inbox)] == ["quarantine"] * (cut_at != 0)
    assert inbox.studies() == ()


def test_a_slot_whose_seal_never_came_to_the_disk_is_removed(inbox: Inbox, engine: Engine) -> None:
    """Its sender got no answer."""
    inbox.store(received(ct_slice(1, size=64)))
    (slot,) = files(inbox)
    slot.write_bytes(bytes(128) + slot.read_bytes()[128:])
    assert Inbox(inbox.folder, engine).recover() == Recovery(removed_unfinished=1)
    assert files(inbox) == []


def test_a_page_in_the_middle_that_never_came_to_the_disk_is_noticed(inbox: Inbox, engine: Engine) -> None:
    inbox.store(received(ct_slice(1, size=64)))
    (slot,) = files(inbox)
    whole = slot.read_bytes()
    slot.write_bytes(whole[:4096] + bytes(4) + whole[4100:])
    assert Inbox(inbox.folder, engine).recover() == Recovery(quarantined=1)


def test_what_a_slot_held_before_a_power_cut_keeps_its_sender_and_its_time(
    inbox: Inbox, engine: Engine
) -> None:
    """Also when the file is longer than the instance."""
    inbox.store(received(ct_slice(1), calling_ae="PACS"))
    (slot,) = files(inbox)
    os.truncate(slot, slot.stat().st_size + 5000)
    os.utime(slot, (1e9, 1e9))
    after_restart = Inbox(inbox.folder, engine)
    assert after_restart.recover() == Recovery(indexed=1)
    (row,) = after_restart.content(STUDY).rows
    assert (row.calling_ae, row.received_at.timestamp()) == ("PACS", 1e9)
    (path,) = after_restart.paths(STUDY)
    assert (path.stat().st_size, path.stat().st_mtime) == (row.bytes, 1e9)
    assert after_restart.content(STUDY).damaged() == 0


def test_a_kill_while_writing_leaves_only_a_temporary_file_that_recovery_removes(inbox: Inbox) -> None:
    (inbox.folder / "slots" / "half.part").write_bytes(bytes(128) + b"half an instance")
    (inbox.folder / "slots" / "ready.part").write_bytes(bytes(5000))
    assert inbox.recover() == Recovery(removed_unfinished=1)
    assert [path.name for path in inbox.folder.rglob("*") if path.is_file()] == [".lock"]


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


def test_one_node_at_a_time_receives_into_a_folder(inbox: Inbox, engine: Engine) -> None:
    """The other would remove what is being written."""
    inbox.recover()
    slot = inbox.begin(received(ct_slice(1)).command)
    with pytest.raises(MisconfiguredError, match="another node is at work"):
        Inbox(inbox.folder, engine).recover()
    assert slot.path.exists()
    slot.close()
    inbox.stop_following()
    assert Inbox(inbox.folder, engine).recover() == Recovery()


def test_a_start_renames_what_is_in_a_slot_and_writes_nothing_of_it(inbox: Inbox, engine: Engine) -> None:
    """A full disk must not keep the node from starting."""
    inbox.store(received(ct_slice(1)))
    (slot,) = files(inbox)
    before = slot.stat().st_ino
    after_restart = Inbox(inbox.folder, engine)
    assert after_restart.recover() == Recovery(indexed=1)
    assert [path.stat().st_ino for path in after_restart.paths(STUDY)] == [before]


def test_what_version_0_1_0_left_unfinished_is_removed_and_a_slot_there_is_kept(
    inbox: Inbox, engine: Engine
) -> None:
    inbox.store(received(ct_slice(1)))
    (slot,) = files(inbox)
    incoming = inbox.folder / "incoming"
    incoming.mkdir()
    slot.rename(incoming / slot.name)
    (incoming / "half.part").write_bytes(bytes(128) + b"DICM")
    assert Inbox(inbox.folder, engine).recover() == Recovery(indexed=1, removed_unfinished=1)
    assert list(incoming.iterdir()) == []


def test_a_study_that_can_not_be_named_holds_back_no_other(
    inbox: Inbox, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = inbox.folder / "studies" / STUDY
    in_the_way.write_bytes(b"")
    assert inbox.store(received(ct_slice(1))) is Stored.NEW
    assert inbox.store(received(ct_slice(1, study=OTHER_STUDY))) is Stored.NEW
    for receiver in (inbox, Inbox(inbox.folder, engine)):
        receiver.recover() if receiver is not inbox else receiver.settle()
        assert [study.study_instance_uid for study in receiver.studies()] == [OTHER_STUDY]
        assert receiver.study(STUDY) is None
        assert receiver.store(received(ct_slice(2, study=OTHER_STUDY))) is not Stored.CONFLICT
        with pytest.raises(StudyHeldBackError):
            receiver.store(received(ct_slice(2)))
    assert [one for one in caplog.messages if "held back" in one]
    in_the_way.unlink()
    mended_at = utc_now()
    assert receiver.store(received(ct_slice(2))) is Stored.NEW
    (study,) = receiver.received_after(mended_at)
    assert (study.study_instance_uid, study.instance_count) == (STUDY, 2)


def test_a_named_file_that_can_not_be_read_at_a_start_holds_back_its_study_alone(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for study in (STUDY, OTHER_STUDY):
        inbox.store(received(ct_slice(1, study=study)))
        inbox.settle()
    with engine.begin() as connection:
        connection.execute(delete(InstanceRow))

    def read(path: Path) -> KeptInstance:
        if path.parent.name == STUDY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_received(path)

    after_restart = Inbox(inbox.folder, engine)
    with monkeypatch.context() as patch:
        patch.setattr("app.node.records.inbox.read_received", read)
        assert after_restart.recover() == Recovery(indexed=1)
    assert [study.study_instance_uid for study in after_restart.studies()] == [OTHER_STUDY]
    with pytest.raises(StudyHeldBackError, match="Permission denied"):
        after_restart.store(received(ct_slice(2)))


def test_the_index_is_read_again_when_it_did_not_answer_at_the_start(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.records.inbox.RETRY_S", 0.01)
    monkeypatch.setattr("app.node.records.inbox.FOLLOW_S", 0.01)
    answers = [RetryLaterError("away"), RetryLaterError("away")]
    see_all = PendingInstances.see_all

    def see(instances: PendingInstances) -> None:
        if answers:
            raise answers.pop()
        see_all(instances)

    monkeypatch.setattr(PendingInstances, "see_all", see)
    inbox.follow()
    deadline = time.monotonic() + 20
    while not inbox._pending._saw_all and time.monotonic() < deadline:
        time.sleep(0.01)
    assert inbox._pending._saw_all
    inbox.stop_following()


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(hours=-2)], ids=str)
@pytest.mark.parametrize(
    "point",
    [
        (PendingInstances, "name", kill),  # still in its slot
        (pending, "finish", kill),  # named, with its seal
        (PendingInstances, "index", kill),  # named and finished
    ],
    ids=lambda point: point[1],
)
def test_what_is_recovered_was_received_by_the_clock_of_the_database(
    inbox: Inbox, engine: Engine, monkeypatch: pytest.MonkeyPatch, point: Any, ahead: timedelta
) -> None:
    """Its file has the time of this host."""
    monkeypatch.setattr(CLOCK, "_ahead", ahead)
    inbox.store(received(ct_slice(1)))
    with monkeypatch.context() as patch:
        patch.setattr(*point)
        patch.setattr(Slot, "close", nothing)
        with pytest.raises(Killed):
            inbox.settle()
    after_restart = Inbox(inbox.folder, engine)
    assert after_restart.recover() == Recovery(indexed=1)
    (study,) = after_restart.studies()
    assert abs(study.last_received_at - utc_now()) < timedelta(minutes=1)
