"""JPEG-LS is decoded in a child: what ends the child is a reason, not the end of the node."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGLSLossless

from app.dicom.reading import compression
from app.dicom.reading.compression import DecoderDiedError, IsolatedDecoder
from app.dicom.reading.pixels import read_stack
from app.dicom.reading.studies import read_study
from app.domain.refusal import Reason, RefusalCode
from app.errors import RetryLaterError, UnusableStudyError
from tests.dicom.reading import tiny

START_OF_FRAME = b"\xff\xf7"


def crashing(connection: Connection) -> None:
    """A child whose decoder writes where it must not."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.recv_bytes()
    os.kill(os.getpid(), signal.SIGSEGV)


def crashing_midway(connection: Connection) -> None:
    connection.recv_bytes()
    connection.send_bytes(b"<i2 4 5")
    os._exit(1)


def hanging(connection: Connection) -> None:
    connection.recv_bytes()
    time.sleep(600.0)


def jpeg_ls(folder: Path) -> list[Path]:
    paths = tiny.write_pet(folder, tiny.Scan(tiny.ramp()))
    for path in paths:
        dataset = dcmread(path)
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        dataset.save_as(path)
    return paths


def mutate(path: Path, at: int, to: bytes) -> None:
    """Bytes after the start of frame of the only frame."""
    dataset = dcmread(path)
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    start = frame.index(START_OF_FRAME) + at
    dataset.PixelData = encapsulate([frame[:start] + to + frame[start + len(to) :]])
    dataset.save_as(path)


def refusal(folder: Path) -> Reason:
    with pytest.raises(UnusableStudyError) as refused:
        read_stack(read_study(folder).series[0])
    return refused.value.rejection.reasons[0]


def test_jpeg_ls_gives_the_stored_values_from_one_child(tmp_path: Path) -> None:
    paths = jpeg_ls(tmp_path)
    with IsolatedDecoder() as decoder:
        planes = [decoder.decode(path) for path in paths]
    assert np.array_equal(np.stack(planes), tiny.ramp())
    assert planes[0].dtype == np.int16


def test_a_mutated_stream_is_refused_and_the_next_file_still_read(tmp_path: Path) -> None:
    damaged, whole, *_ = jpeg_ls(tmp_path)
    mutate(damaged, 5, b"\xff\xff\xff\xff")  # rows and columns of 65535
    with IsolatedDecoder() as decoder:
        with pytest.raises(ValueError):
            decoder.decode(damaged)
        assert np.array_equal(decoder.decode(whole), tiny.ramp()[1])
    assert refusal(tmp_path).attribute == "PixelData"


@pytest.mark.parametrize("child", [crashing, crashing_midway])
def test_a_child_that_dies_becomes_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: object
) -> None:
    monkeypatch.setattr(compression, "_serve", child)
    jpeg_ls(tmp_path)
    reason = refusal(tmp_path)
    assert reason.code is RefusalCode.UNREADABLE
    assert reason.attribute == "PixelData"
    assert reason.found == "pixel data can't be decoded: the decoder crashed"
    assert reason.series_instance_uid == "1.2.3.1"


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_serve", hanging)
    with IsolatedDecoder(file_limit_s=0.2) as decoder, pytest.raises(DecoderDiedError, match="longer than"):
        decoder.decode(tmp_path)


def test_other_syntaxes_start_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_serve", crashing)
    tiny.write_pet(tmp_path, tiny.Scan(tiny.ramp()))
    assert np.array_equal(read_stack(read_study(tmp_path).series[0]).stored, tiny.ramp())


def test_a_machine_without_room_for_a_child_rejects_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried later; and the end of the block does not fail on a child that never was."""

    def no_more(_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", no_more)
    with pytest.raises(RetryLaterError, match="no more processes"), IsolatedDecoder() as decoder:
        decoder.decode(tmp_path / "image.dcm")
