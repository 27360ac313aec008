"""Slots: the files into which images are written before they have a name."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import closing

import pytest
from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage

from app.errors import RetryLaterError
from app.node.records.inbox import Inbox, Stored
from app.node.records.instances import StoreCommand
from app.node.records.slots import MADE_AT_ONCE, SlotPool
from tests.node.receive.images import STUDY, ct_slice, encoded, received


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


def test_a_named_file_is_what_every_version_writes_and_reads(inbox: Inbox) -> None:
    instance = received(ct_slice(1))
    inbox._slots.expect(CTImageStorage, 9000)
    inbox._slots.refill()
    inbox.store(instance)
    (path,) = inbox.paths(STUDY)
    assert path.read_bytes() == bytes(128) + instance.command.file_meta() + instance.data_set


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
