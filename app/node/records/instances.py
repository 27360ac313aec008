"""One instance as it comes over the network: its bytes stay as they are, its UIDs are checked.

The UIDs become names of files, so nothing but a valid UID may pass (PS3.5 9.1).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path

from sqlalchemy import BigInteger, Index, String, false
from sqlalchemy.orm import Mapped, mapped_column

from app.node.records.database import Base, Uid
from app.node.records.header_scan import UnreadableHeaderError, find_file_meta, find_uids

MAX_UID_LENGTH = 64
"""PS3.5 9.1"""

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", re.ASCII)

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class UnsafeUidError(ValueError):
    """A UID that PS3.5 9.1 does not allow; the message names the attribute, never the value."""

    def __init__(self, keyword: str, problem: str) -> None:
        self.keyword = keyword
        super().__init__(f"{keyword} is not a valid UID: {problem}")


def checked_uid(value: str, keyword: str) -> str:
    """``value`` without its padding, when it is a valid UID (PS3.5 9.1, 6.2).

    Args:
        value: as received; one trailing NUL, and spaces that some senders pad with, are dropped.
        keyword: DICOM keyword, for the message.

    Raises:
        UnsafeUidError: empty, longer than 64 characters, other than digits and dots, an empty component
            (so ``..`` can't occur), or a leading zero.
    """
    uid = value.rstrip("\0 ")
    if not uid:
        raise UnsafeUidError(keyword, "empty")
    if len(uid) > MAX_UID_LENGTH:
        raise UnsafeUidError(keyword, f"{len(uid)} characters, at most {MAX_UID_LENGTH} are allowed")
    if not _UID.fullmatch(uid):
        raise UnsafeUidError(keyword, "expected digits and dots, no leading zero, no empty component")
    return uid


def study_folder_name(study_instance_uid: str) -> str:
    """Name of the folder of a study. Raises UnsafeUidError."""
    return checked_uid(study_instance_uid, "StudyInstanceUID")


def instance_file_name(sop_instance_uid: str, sha256: str) -> str:
    """Name of the file of one content of an instance: the same content gets the same name again.

    The UID starts with a digit and holds only digits and single dots, so the name is never hidden, never
    ``..``, and no option to a command. Raises UnsafeUidError, or ValueError for a digest that is none.
    """
    if not _SHA256.fullmatch(sha256):
        raise ValueError("expected a SHA-256 in lower case hexadecimal")
    return f"{checked_uid(sop_instance_uid, 'SOPInstanceUID')}_{sha256[:32]}.dcm"


class InstanceRow(Base):
    """One content received under a SOP Instance UID.

    Attributes:
        sha256: of the data set without its file meta header.
        path: relative to the inbox folder.
        conflict: the UID arrived with more than one content; true of each of its rows that stand.
        transfer_syntax_uid: empty for what version 0.1.0 received.
        discarded: a person has decided for another content of the UID; the file stays.
    """

    __tablename__ = "instances"
    __table_args__ = (
        Index("instances_by_study", "study_instance_uid", "received_at"),
        Index("instances_by_arrival", "received_at", "study_instance_uid"),
    )

    sop_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    study_instance_uid: Mapped[Uid]
    series_instance_uid: Mapped[Uid]
    sop_class_uid: Mapped[Uid]
    path: Mapped[str] = mapped_column(String(512))
    bytes: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]
    calling_ae: Mapped[str] = mapped_column(String(16))
    conflict: Mapped[bool] = mapped_column(default=False)
    transfer_syntax_uid: Mapped[Uid] = mapped_column(server_default="", default="")
    discarded: Mapped[bool] = mapped_column(server_default=false(), default=False)


IMPLEMENTATION_CLASS_UID = "2.25.187207416417166353129106285283186921453"

IMPLEMENTATION_VERSION_NAME = "PSMA_NODE"

_PREAMBLE = b"\0" * 128 + b"DICM"


class MismatchedInstanceError(ValueError):
    """The command and the data set name different instances or classes (PS3.4 B.2.3, status A9xx)."""


@dataclass(frozen=True)
class ReceivedInstance:
    """A C-STORE request whose UIDs are valid and agree with its data set.

    Attributes:
        data_set: as received, in ``transfer_syntax_uid``, without file meta.
        calling_ae: AE title of the sender.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    data_set: bytes = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Of the data set alone: the file meta header differs with every sender."""
        return hashlib.sha256(self.data_set).hexdigest()

    def file_header(self) -> bytes:
        """Preamble and file meta information (PS3.10 7.1) to stand before ``data_set``."""
        from pydicom.dataset import FileMetaDataset
        from pydicom.filewriter import write_file_meta_info
        from pydicom.uid import UID

        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = UID(self.sop_class_uid)
        meta.MediaStorageSOPInstanceUID = UID(self.sop_instance_uid)
        meta.TransferSyntaxUID = UID(self.transfer_syntax_uid)
        meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        meta.SourceApplicationEntityTitle = self.calling_ae
        buffer = BytesIO()
        buffer.write(_PREAMBLE)
        write_file_meta_info(buffer, meta)
        return buffer.getvalue()


@dataclass(frozen=True)
class StoreCommand:
    """What the C-STORE command and its presentation context say (PS3.7 9.3.1.1)."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str


def identify(command: StoreCommand, data_set: bytes) -> ReceivedInstance:
    """Check the UIDs of a C-STORE request against its data set, of which only the header is looked at.

    Raises:
        UnsafeUidError: a UID breaks PS3.5 9.1.
        UnreadableHeaderError: the data set can't be followed as far as its Series Instance UID.
        MismatchedInstanceError: the data set is of another instance or class than the command says.
    """
    sop_instance_uid = checked_uid(command.sop_instance_uid, "AffectedSOPInstanceUID")
    sop_class_uid = checked_uid(command.sop_class_uid, "AffectedSOPClassUID")
    found = find_uids(data_set, command.transfer_syntax_uid)
    uids = {keyword: checked_uid(value, keyword) for keyword, value in found.items()}
    if uids["SOPInstanceUID"] != sop_instance_uid:
        raise MismatchedInstanceError("SOPInstanceUID of the data set is not the one in the command")
    if uids["SOPClassUID"] != sop_class_uid:
        raise MismatchedInstanceError("SOPClassUID of the data set is not the one in the command")
    return ReceivedInstance(
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        transfer_syntax_uid=command.transfer_syntax_uid,
        calling_ae=command.calling_ae,
        data_set=data_set,
    )


def read_received(path: Path) -> ReceivedInstance:
    """An instance back from the file that :meth:`Inbox.store` wrote.

    Raises:
        UnsafeUidError, UnreadableHeaderError, MismatchedInstanceError: as :func:`identify`; also
            ``UnreadableHeaderError`` when the file meta is damaged.
    """
    content = path.read_bytes()
    if content[: len(_PREAMBLE)] != _PREAMBLE:
        raise UnreadableHeaderError("no DICOM preamble")
    meta, data_set_at = find_file_meta(content, len(_PREAMBLE))
    command = StoreCommand(
        sop_instance_uid=meta.get("MediaStorageSOPInstanceUID", ""),
        sop_class_uid=meta.get("MediaStorageSOPClassUID", ""),
        transfer_syntax_uid=meta.get("TransferSyntaxUID", "").rstrip("\0"),
        calling_ae=meta.get("SourceApplicationEntityTitle", "").strip(),
    )
    return identify(command, content[data_set_at:])
