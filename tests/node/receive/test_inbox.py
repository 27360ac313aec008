from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
)
from sqlalchemy import Engine, delete, event, text, update
from sqlalchemy.exc import TimeoutError as SqlTimeoutError

from app.errors import MisconfiguredError, RetryLaterError
from app.files.durable import sync_folder
from app.node.records import pending
from app.node.records.database import utc_now
from app.node.records.inbox import Inbox, Recovery, Stored
from app.node.records.inbox_index import InboxIndex, InstanceRow
from app.node.records.instances import KeptInstance, StoreCommand, identify, read_received
from app.node.records.pending import InboxFullError, Pending, PendingInstances, StudyHeldBackError
from app.node.records.slots import MADE_AT_ONCE, Slot, SlotPool, is_unused
from tests.node.receive.images import STUDY, ct_slice, encoded, received

OTHER_STUDY = "1.2.826.0.1.3680043.10.999.7"


class Killed(BaseException):
    """What ends a process, as far as a test can."""


def kill(*_: object) -> None:
    raise Killed


def nothing(*_: object) -> None:
    """What a killed process does to put things in order."""


def files(inbox: Inbox) -> list[Path]:
    """All that something has been written to."""
    return sorted(path for path in inbox.folder.rglob("*") if path.is_file() and not is_unused(path))


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


def test_slots_that_are_longer_or_shorter_than_what_comes_make_the_same_files(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.records.slots.QUIET_S", 0.0)
    inbox._slots.expect(CTImageStorage, 9000)
    inbox._slots.refill()
    for number, size in ((1, 16), (2, 128)):
        image = ct_slice(number, size=size)
        inbox.store(received(image))
    for path, number, size in zip(inbox.paths(STUDY), (1, 2), (16, 128), strict=True):
        assert path.read_bytes().endswith(encoded(ct_slice(number, size=size)))
    assert inbox.content(STUDY).damaged() == 0


def test_slots_that_the_disk_does_not_take_leave_nothing(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    inbox._slots.expect(CTImageStorage, 9000)
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="no space"):
        inbox._slots.refill()
    assert {path.stat().st_size for path in (inbox.folder / "slots").iterdir()} == {0}  # bare names alone


def test_each_class_finds_slots_of_its_length_and_bare_names_when_they_are_used_up(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PET image is not written into the slot of a CT, which would have to be cut off."""
    monkeypatch.setattr("app.node.records.slots.QUIET_S", -1.0)
    monkeypatch.setattr("app.node.records.slots.SPARE_SLOTS", 2)
    sizes = {CTImageStorage: 9000, PositronEmissionTomographyImageStorage: 5000}
    for sop_class, size in sizes.items():
        inbox._slots.expect(sop_class, size)
    for _ in range(3):
        inbox._slots.refill()
    taken = {sop_class: [] for sop_class in sizes}
    for _ in range(3):
        for sop_class, lengths in taken.items():
            with closing(inbox.begin(StoreCommand("1.2.3", sop_class, "1.2.840.10008.1.2.1", ""))) as slot:
                lengths.append(slot.path.stat().st_size)
    assert taken == {
        CTImageStorage: [12_288, 12_288, 0],
        PositronEmissionTomographyImageStorage: [8192, 8192, 0],
    }


def test_slots_of_a_length_that_no_class_has_any_more_are_removed(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.records.slots.QUIET_S", -1.0)
    monkeypatch.setattr("app.node.records.slots.SPARE_SLOTS", 2)
    for size in (5000, 9000, 2**30):
        inbox._slots.expect(CTImageStorage, size)
        inbox._slots.refill()
    found = [path.stat().st_size for path in (inbox.folder / "slots").iterdir()]
    assert sorted(found) == [0] * MADE_AT_ONCE + [12_288] * 2


def test_slots_are_made_anew_as_soon_as_some_are_used_and_nothing_comes(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.node.records.slots.QUIET_S", 0.01)
    monkeypatch.setattr("app.node.records.slots.SPARE_SLOTS", 2)
    inbox._slots.expect(CTImageStorage, 9000)
    inbox.follow()

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(inbox._slots._ready[12_288]) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(inbox._slots._ready[12_288]) == count

    wait_for(2)
    inbox.store(received(ct_slice(1)))
    wait_for(2)
    inbox.stop_following()
    assert not list((inbox.folder / "slots").iterdir())


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


def test_a_slot_that_someone_removed_is_not_acknowledged(inbox: Inbox) -> None:
    instance = received(ct_slice(1))
    slot = inbox.begin(instance.command)
    slot.write(instance.data_set)
    slot.path.unlink()
    with pytest.raises(RetryLaterError, match="removed the slot"):
        inbox.keep(slot, slot.identity())
    slot.close()
    assert inbox.store(instance) is Stored.NEW
    assert inbox.studies()[0].instance_count == 1


@pytest.mark.parametrize("left", [0, 700])
def test_what_was_removed_from_its_slot_gets_no_row_and_can_be_sent_again(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """Also when a part of it is where it should be named."""
    instances_ = [received(ct_slice(number)) for number in (1, 2)]
    assert [inbox.store(one) for one in instances_] == [Stored.NEW] * 2
    waiting = inbox._pending._waiting[instances_[0].sop_instance_uid]
    content = waiting.slot.read_bytes()
    waiting.slot.unlink()
    if left:
        path = inbox._pending.path_of(instances_[0])
        path.parent.mkdir()
        path.write_bytes(content[:left])
    assert inbox.study(STUDY) is not None
    assert [row.sop_instance_uid for row in inbox.content(STUDY).rows] == [instances_[1].sop_instance_uid]
    assert sum("gone from its slot" in message for message in caplog.messages) == 1
    assert [inbox.store(one) for one in instances_] == [Stored.NEW, Stored.DUPLICATE]
    assert inbox.content(STUDY).damaged() == 0
    assert len(inbox.paths(STUDY)) == 2


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


def test_a_named_file_is_what_every_version_writes_and_reads(inbox: Inbox) -> None:
    instance = received(ct_slice(1))
    inbox._slots.expect(CTImageStorage, 9000)
    inbox._slots.refill()
    inbox.store(instance)
    (path,) = inbox.paths(STUDY)
    assert path.read_bytes() == bytes(128) + instance.command.file_meta() + instance.data_set


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


def test_no_room_is_made_where_it_would_make_the_node_refuse_images(inbox: Inbox) -> None:
    inbox._slots.refill(min_free_mb=inbox.free_mb())
    assert list((inbox.folder / "slots").iterdir()) == []
    inbox._slots.refill()
    assert len(list((inbox.folder / "slots").iterdir())) == MADE_AT_ONCE


def test_a_slot_that_can_not_be_opened_is_not_lost_and_one_that_is_gone_is_passed_over(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = received(ct_slice(1)).command
    inbox._slots.refill()
    inbox._slots._ready[0][0].unlink()
    inbox.begin(command).close()
    assert len(inbox._slots._ready[0]) == MADE_AT_ONCE - 2

    def no_more(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_more)
        with pytest.raises(RetryLaterError, match="Too many open files"):
            inbox.begin(command)
    assert len(inbox._slots._ready[0]) == MADE_AT_ONCE - 2


def test_who_waits_while_slots_are_made_takes_of_those(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    make = SlotPool._make
    calls: list[int] = []

    def slow(pool: SlotPool, count: int, length: int) -> None:
        calls.append(count)
        time.sleep(0.2)
        make(pool, count, length)

    monkeypatch.setattr(SlotPool, "_make", slow)
    command = received(ct_slice(1)).command
    threads = [threading.Thread(target=lambda: inbox.begin(command).close()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [MADE_AT_ONCE]
