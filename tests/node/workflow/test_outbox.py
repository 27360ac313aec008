"""Results are on disk whole or not at all, and a new try's take the place of the old one's in one go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from app.errors import RetryLaterError
from app.node.records.outbox import Outbox
from app.node.records.states import RunKey

RUN = RunKey("1.2.3", 1)


class PowerCutError(BaseException):
    """The process is gone: nothing after it is done."""


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "results", "one")


def fill(outbox: Outbox, text: str) -> None:
    with outbox.fill(RUN) as folder:
        (folder / "result.txt").write_text(text)


def kept(outbox: Outbox) -> str:
    return (outbox.folder_of(RUN) / "result.txt").read_text()


def test_a_new_try_replaces_the_results_of_the_old_one(outbox: Outbox, tmp_path: Path) -> None:
    fill(outbox, "old")
    fill(outbox, "new")
    assert kept(outbox) == "new"
    assert list((tmp_path / "results" / "working" / "one").iterdir()) == []


def test_a_full_disk_at_the_end_of_a_run_is_waited_for_and_leaves_the_old_results(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(outbox, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetryLaterError, match="No space left"):
        fill(outbox, "new")
    assert kept(outbox) == "old"


def test_a_fault_of_the_chain_is_no_fault_of_the_disk(outbox: Outbox) -> None:
    with pytest.raises(FileNotFoundError), outbox.fill(RUN):
        raise FileNotFoundError("a model's file")


def test_results_that_can_not_take_their_place_leave_the_old_ones_there(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(outbox, "old")
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == "results":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(RetryLaterError):
        fill(outbox, "new")
    assert kept(outbox) == "old"


def test_old_results_come_back_after_a_power_cut_between_the_two_renames(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(outbox, "old")
    rename = Path.rename

    def cut_off(path: Path, target: Path) -> Path:
        if path.name == "results":
            raise PowerCutError
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_off)
        patch.setattr(Outbox, "_put_back", lambda *_: None)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(PowerCutError):
            fill(outbox, "new")
    assert not outbox.folder_of(RUN).exists()

    started_again = Outbox(tmp_path / "results", "one")
    assert started_again.recover() == 1
    assert kept(started_again) == "old"
    fill(started_again, "new")
    assert kept(started_again) == "new"


def test_what_another_executor_has_put_there_since_stays(outbox: Outbox, tmp_path: Path) -> None:
    fill(outbox, "of the other")
    aside = tmp_path / "results" / "working" / "one" / "try" / "replaced" / RUN.study_instance_uid / "r1"
    aside.mkdir(parents=True)
    (aside / "result.txt").write_text("old")
    assert outbox.recover() == 1
    assert kept(outbox) == "of the other"
