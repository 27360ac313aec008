"""One instance as it comes over the network: its bytes stay as they are, its UIDs are checked.

The UIDs become names of files, so nothing but a valid UID may pass (PS3.5 9.1).
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

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


@lru_cache(maxsize=1024)  # study, series and class come again with each image
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


IMPLEMENTATION_CLASS_UID = "2.25.187207416417166353129106285283186921453"

IMPLEMENTATION_VERSION_NAME = "PSMA_NODE"

_HEADER_BYTES = (2**14, 2**20, 2**25)
"""Read of the start of a data set until its Series Instance UID is in it. The first is nearly always enough;
what stands before it is at most some private blocks, and a data set in which it is more is refused."""

_READ_BYTES = 2**20

_SEAL = struct.Struct("<16sQ32sL")
_SEAL_MAGIC = b"PSMA-NODE SEAL 1"
PREAMBLE_BYTES = 128
_PREFIX = b"DICM"
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_META_AT = PREAMBLE_BYTES + len(_PREFIX)


class MismatchedInstanceError(ValueError):
    """The command and the data set name different instances or classes (PS3.4 B.2.3, status A9xx)."""


@dataclass(frozen=True)
class StoreCommand:
    """What the C-STORE command and its presentation context say (PS3.7 9.3.1.1)."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str

    def file_meta(self) -> bytes:
        """File meta information (PS3.10 7.1) to stand between the preamble and the data set."""
        elements = b"".join(
            (
                _element(0x0001, b"OB", b"\0\1"),
                _element(0x0002, b"UI", self.sop_class_uid.encode("ascii")),
                _element(0x0003, b"UI", self.sop_instance_uid.encode("ascii")),
                _element(0x0010, b"UI", self.transfer_syntax_uid.encode("ascii")),
                _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
                _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")),
                _element(0x0016, b"AE", self.calling_ae.encode("ascii", errors="replace")),
            )
        )
        return _PREFIX + _element(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


@lru_cache(maxsize=256)  # most are those of the instance before
def _element(number: int, vr: bytes, value: bytes) -> bytes:
    """An element of group 0002, in explicit VR little endian, padded to an even length (PS3.5 7.1.2, 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    if vr == b"OB":
        return struct.pack("<HH2s2xL", 2, number, vr, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def seal(meta: bytes, data_set_bytes: int, sha256: bytes) -> bytes:
    """The preamble of a file, which PS3.10 7.1 leaves to us: what has to follow in it.

    It is written last, and tells after a power cut whether all of a file has come to the disk.
    """
    return _SEAL.pack(_SEAL_MAGIC, data_set_bytes, sha256, crc32(meta)).ljust(PREAMBLE_BYTES, b"\0")


@dataclass(frozen=True)
class InstanceIdentity:
    """A C-STORE request whose UIDs are valid and agree with its data set.

    Attributes:
        calling_ae: AE title of the sender.
        sha256: of the data set alone, in hexadecimal: the file meta header differs with every sender.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    sha256: str

    @property
    def identity(self) -> InstanceIdentity:
        return InstanceIdentity(**{one.name: getattr(self, one.name) for one in fields(InstanceIdentity)})

    @property
    def command(self) -> StoreCommand:
        return StoreCommand(
            self.sop_instance_uid, self.sop_class_uid, self.transfer_syntax_uid, self.calling_ae
        )


@dataclass(frozen=True)
class ReceivedInstance(InstanceIdentity):
    """An instance in memory.

    Attributes:
        data_set: as received, in ``transfer_syntax_uid``, without file meta.
    """

    data_set: bytes = field(repr=False)


@dataclass(frozen=True)
class KeptInstance:
    """An instance in a file of the inbox; ``file_bytes`` is how long it is, without what a slot is longer."""

    identity: InstanceIdentity
    file_bytes: int


def checked_command(command: StoreCommand) -> StoreCommand:
    """The command with its UIDs as they become names. Raises UnsafeUidError."""
    return replace(
        command,
        sop_instance_uid=checked_uid(command.sop_instance_uid, "AffectedSOPInstanceUID"),
        sop_class_uid=checked_uid(command.sop_class_uid, "AffectedSOPClassUID"),
    )


def identity_of(command: StoreCommand, start: bytes, sha256: str) -> InstanceIdentity:
    """Check the UIDs of a C-STORE request against its data set.

    Args:
        command: of which the UIDs are checked.
        start: the data set, or as much of it as holds its Series Instance UID.
        sha256: of the whole data set.

    Raises:
        UnsafeUidError: a UID breaks PS3.5 9.1.
        UnreadableHeaderError: ``start`` can't be followed as far as its Series Instance UID.
        MismatchedInstanceError: the data set is of another instance or class than the command says.
    """
    found = find_uids(start, command.transfer_syntax_uid)
    uids = {keyword: checked_uid(value, keyword) for keyword, value in found.items()}
    if uids["SOPInstanceUID"] != command.sop_instance_uid:
        raise MismatchedInstanceError("SOPInstanceUID of the data set is not the one in the command")
    if uids["SOPClassUID"] != command.sop_class_uid:
        raise MismatchedInstanceError("SOPClassUID of the data set is not the one in the command")
    return InstanceIdentity(
        sop_instance_uid=command.sop_instance_uid,
        sop_class_uid=command.sop_class_uid,
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        transfer_syntax_uid=command.transfer_syntax_uid,
        calling_ae=command.calling_ae,
        sha256=sha256,
    )


def identify(command: StoreCommand, data_set: bytes) -> ReceivedInstance:
    """An instance in memory from a C-STORE request. Raises as :func:`identity_of`."""
    identity = identity_of(checked_command(command), data_set, hashlib.sha256(data_set).hexdigest())
    return ReceivedInstance(**vars(identity), data_set=data_set)


def identity_in(file: int, at: int, length: int, command: StoreCommand, sha256: str) -> InstanceIdentity:
    """Whose the data set is that stands in an open file: no more of it is read than its header needs.

    Raises OSError, and as :func:`identity_of`.
    """
    *sizes, last = _HEADER_BYTES
    for size in sizes:
        try:
            return identity_of(command, os.pread(file, min(size, length), at), sha256)
        except UnreadableHeaderError:
            if size >= length:
                raise
    return identity_of(command, os.pread(file, min(last, length), at), sha256)


def read_received(path: Path) -> KeptInstance:
    """An instance back from the file that :class:`app.node.records.inbox.Inbox` wrote, named or still a slot.

    Raises:
        UnsafeUidError, UnreadableHeaderError, MismatchedInstanceError: as :func:`identity_of`; also
            ``UnreadableHeaderError`` when preamble or file meta are damaged, or the seal does not hold.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES[0])
        preamble, data_set_at = start[:PREAMBLE_BYTES], _data_set_at(start)
        file_meta = start[PREAMBLE_BYTES:data_set_at]
        size = os.fstat(file.fileno()).st_size
        length = _SEAL.unpack_from(preamble)[1] if any(preamble) else size - data_set_at
        file.seek(data_set_at)
        sha256 = _sha256(file, length)
        meta, _ = find_file_meta(start[:data_set_at], _META_AT)
        command = StoreCommand(
            sop_instance_uid=meta.get("MediaStorageSOPInstanceUID", ""),
            sop_class_uid=meta.get("MediaStorageSOPClassUID", ""),
            transfer_syntax_uid=meta.get("TransferSyntaxUID", "").rstrip("\0"),
            calling_ae=meta.get("SourceApplicationEntityTitle", "").strip(),
        )
        identity = identity_in(
            file.fileno(), data_set_at, length, checked_command(command), sha256.hexdigest()
        )
    # zeros once it has its name, and in version 0.1.0
    if any(preamble) and preamble != seal(file_meta, length, sha256.digest()):
        raise UnreadableHeaderError("the content is not the one that was sealed")
    return KeptInstance(identity, data_set_at + length)


def _sha256(file: BinaryIO, length: int) -> hashlib._Hash:
    """Of so many bytes, or as many as there are; never all of them in memory."""
    digest = hashlib.sha256()
    while length > 0 and (part := file.read(min(length, _READ_BYTES))):
        digest.update(part)
        length -= len(part)
    return digest


def _data_set_at(content: bytes) -> int:
    """Where the data set starts, by our own group length: it may begin with a group 0002 of its own."""
    if content[PREAMBLE_BYTES:_META_AT] != _PREFIX or len(content) < _META_AT + _GROUP_LENGTH.size:
        raise UnreadableHeaderError("no DICOM preamble")
    *element, length = _GROUP_LENGTH.unpack_from(content, _META_AT)
    if element != [2, 0, b"UL", 4] or length > len(content):
        raise UnreadableHeaderError("the file meta information does not begin with its length")
    return _META_AT + _GROUP_LENGTH.size + int(length)
