"""A sender that writes and reads the bytes of its association itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode
from pynetdicom.sop_class import Verification

from .images import data_set_of

COMMAND, LAST = 1, 2
CONTEXT = 3
A_ABORT = struct.pack(">BxL4x", 7, 4)
A_RELEASE_RQ = struct.pack(">BxL4x", 5, 4)
PATIENCE_S = 20.0


def fragment(context_id: int, control: int, content: bytes) -> bytes:
    return struct.pack(">LBB", len(content) + 2, context_id, control) + content


def pdu(*fragments: bytes) -> bytes:
    return struct.pack(">BxL", 4, len(b"".join(fragments))) + b"".join(fragments)


def store_command(image: Dataset, message_id: int = 7, **changes: object) -> bytes:
    command = Dataset()
    command.AffectedSOPClassUID = image.SOPClassUID
    command.CommandField = 0x0001
    command.MessageID = message_id
    command.Priority = 0
    command.CommandDataSetType = 0x0001
    command.AffectedSOPInstanceUID = image.SOPInstanceUID
    for keyword, value in changes.items():
        setattr(command, keyword, value)
    content = encode(command, True, True) or b""
    return struct.pack("<HHLL", 0, 0, 4, len(content)) + content


def item(kind: int, content: bytes) -> bytes:
    """An item of an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    return struct.pack(">BxH", kind, len(content)) + content


def association_request(max_pdu_bytes: int = 16_384, calling: str = "SCANNER") -> bytes:
    """For an echo (context 1) and for CT (context 3), both in explicit VR little endian."""
    syntax = item(0x40, ExplicitVRLittleEndian.encode())
    contexts = b"".join(
        item(0x20, struct.pack("B3x", number) + item(0x30, uid.encode()) + syntax)
        for number, uid in ((1, Verification), (CONTEXT, CTImageStorage))
    )
    user = item(0x50, item(0x51, struct.pack(">L", max_pdu_bytes)) + item(0x52, b"1.2.3"))
    titles = b"PSMA_NODE".ljust(16) + calling.encode().ljust(16) + bytes(32)
    body = struct.pack(">HH", 1, 0) + titles + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
    return struct.pack(">BxL", 1, len(body)) + body


class Wire:
    """An association whose bytes the test writes and reads itself."""

    def __init__(
        self, connection: socket.socket, max_pdu_bytes: int = 16_384, calling: str = "SCANNER"
    ) -> None:
        self.socket = connection
        self.send(association_request(max_pdu_bytes, calling))
        header = self.read(6)
        assert header[0] == 2, "the association was not accepted"
        self.read(int.from_bytes(header[2:], "big"))

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (part := self.socket.recv(count - len(data))):
            data += part
        return data

    def answer(self) -> Dataset | None:
        """The command set that comes next; ``None`` for an A-ABORT or the end of the connection."""
        found = self.whole(COMMAND)
        return None if found is None else decode(BytesIO(found[1]), True, True)

    def whole(self, kind: int) -> tuple[int, bytes] | None:
        """The next command set (``COMMAND``) or data set (0), after its context; nothing else is amid it."""
        context, content, control = 0, b"", 0
        while not control & LAST:
            header = self.read(6)
            if len(header) < 6 or header[0] != 4:
                return None
            length = int.from_bytes(header[2:], "big")
            body = self.read(length)
            if len(body) < length:
                return None
            assert body[5] & COMMAND == kind
            assert context in (0, body[4])
            context, content, control = body[4], content + body[6:], body[5]
        return context, content

    def release(self) -> None:
        """The node must answer with an A-RELEASE-RP."""
        self.send(A_RELEASE_RQ)
        assert self.read(10)[0] == 6


@contextmanager
def wire(port: int, max_pdu_bytes: int = 16_384, calling: str = "SCANNER") -> Iterator[Wire]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        yield Wire(connection, max_pdu_bytes, calling)


def in_one_pdu(context: int, command: bytes, data: bytes) -> bytes:
    return pdu(fragment(context, COMMAND | LAST, command), fragment(context, LAST, data))


def store_pdus(path: Path, fragment_bytes: int = 16_000) -> Iterator[bytes]:
    """The PDUs of a request to store the image in a file: the command, then its data set in parts."""
    yield pdu(fragment(CONTEXT, COMMAND | LAST, store_command(dcmread(path, stop_before_pixels=True))))
    data = data_set_of(path.read_bytes())
    for start in range(0, len(data), fragment_bytes):
        end = start + fragment_bytes
        yield pdu(fragment(CONTEXT, LAST * (end >= len(data)), data[start:end]))
