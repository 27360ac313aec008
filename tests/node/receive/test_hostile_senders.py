"""The corpus of malformed and hostile files, sent byte for byte: no other study may suffer."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)
from sqlalchemy import Engine, delete

from app.node.receive.scp import StoreScp
from app.node.records.header_scan import UnreadableHeaderError, find_file_meta
from app.node.records.inbox import Inbox, Recovery
from app.node.records.inbox_index import InstanceRow
from app.node.records.instances import UnsafeUidError, checked_uid
from app.node.records.slots import is_unused
from tests.node.receive.images import STUDY, write_study
from tests.node.receive.peers import RawSender, Request, raw_sender, run_dcmtk

SYNTAXES = tuple(
    str(uid)
    for uid in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        JPEGBaseline8Bit,
        RLELossless,
    )
)
"""Those the corpus announces; anything else it announces is sent as explicit VR."""


def request_of(path: Path) -> Request:
    """The file's data set under the UID it states; the whole file, and an innocent UID, where it has none."""
    content = path.read_bytes()
    meta, start = {}, 132 if content[128:132] == b"DICM" else 0
    with suppress(UnreadableHeaderError):
        meta, start = find_file_meta(content, start)
    uid, syntax = "1.2.3.4", meta.get("TransferSyntaxUID", "").rstrip("\0")
    with suppress(UnsafeUidError):
        uid = checked_uid(meta.get("MediaStorageSOPInstanceUID", ""), "SOPInstanceUID")
    announced = syntax if syntax in SYNTAXES else SYNTAXES[0]
    return Request(content[start:] or content, uid, str(CTImageStorage), announced)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, while the test itself reads the corpus
def test_the_hostile_corpus_harms_neither_the_node_nor_another_study(
    scp: StoreScp, inbox: Inbox, engine: Engine, tmp_path: Path, samples: Path
) -> None:
    corpus = sorted((samples / "hostile").rglob("*.dcm"))
    assert len(corpus) > 100
    sent = write_study(tmp_path / "out", 30)
    sender = threading.Thread(
        target=run_dcmtk, args=("storescu", "-aec", "PSMA_NODE", "127.0.0.1", scp.port, *sent)
    )
    sender.start()
    answers = _send_all(scp.port, corpus)
    sender.join()

    assert len(answers) == len(corpus)
    assert all(status in (0x0000, 0xA900, 0xC000, None) for status in answers.values())
    assert answers["BASELINE_valid_ct.dcm"] == 0
    assert sum(status == 0 for status in answers.values()) > len(corpus) / 3
    assert len(inbox.paths(STUDY)) == 30
    assert all(dcmread(path).pixel_array.shape == (16, 16) for path in inbox.paths(STUDY))
    assert run_dcmtk("echoscu", "-aec", "PSMA_NODE", "127.0.0.1", scp.port).returncode == 0
    scp.stop()
    _check_index_matches_disk(inbox, engine)


def _send_all(port: int, corpus: list[Path]) -> dict[str, int | None]:
    """Every file over as few associations as the node allows."""
    answers: dict[str, int | None] = {}
    waiting = list(corpus)
    while waiting:
        with raw_sender(port, transfer_syntax_uids=SYNTAXES) as sender:
            _send_until_ended(sender, waiting, answers)
    return answers


def _send_until_ended(sender: RawSender, waiting: list[Path], answers: dict[str, int | None]) -> None:
    while waiting:
        path = waiting.pop()
        answer = sender.store(request_of(path))
        answers[path.name] = None if answer is None else answer.Status
        if answer is None:
            return


def _check_index_matches_disk(inbox: Inbox, engine: Engine) -> None:
    """What is indexed is on disk, byte for byte what was hashed, and nothing else is."""
    indexed = {path for study in inbox.studies() for path in inbox.paths(study.study_instance_uid)}
    written = {path for path in inbox.folder.rglob("*") if path.is_file() and not is_unused(path)}
    assert indexed == written
    assert all(path.resolve().is_relative_to(inbox.folder.resolve()) for path in indexed)
    with engine.begin() as connection:
        connection.execute(delete(InstanceRow))
    assert inbox.recover() == Recovery(indexed=len(indexed))
