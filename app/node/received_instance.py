"""One instance as it came over the network: its bytes untouched, its identity checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from app.node.header_scan import UnreadableHeaderError, find_file_meta, find_uids
from app.node.uid_safety import UnsafeUidError, checked_uid

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


__all__ = [
    "MismatchedInstanceError",
    "ReceivedInstance",
    "StoreCommand",
    "UnreadableHeaderError",
    "UnsafeUidError",
    "identify",
    "read_received",
]
