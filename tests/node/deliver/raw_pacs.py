"""A PACS made of bytes (PS3.8 9.3, PS3.7 6.3.1, 9.3.1): it answers as the test says, right or wrong."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.node.peers import Destination

IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
C_STORE_RSP, C_ECHO_RSP = 0x8001, 0x8030


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _result(context_id: int, result: int, syntax: bytes) -> bytes:
    return _item(0x21, struct.pack(">BxBx", context_id, result) + _item(0x40, syntax))


def accept(*results: tuple[int, int, bytes]) -> bytes:
    """An A-ASSOCIATE-AC with these presentation contexts: identifier, result, transfer syntax."""
    user = _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3"))
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(_result(*one) for one in results) + user
    body = struct.pack(">H2x16s16s32x", 1, b"PACS".ljust(16), b"PSMA_NODE".ljust(16)) + items
    return struct.pack(">BxL", 2, len(body)) + body


@dataclass
class Reply:
    """A C-STORE-RSP, or another command; ``None`` for what the request says."""

    message_id: int | None = None
    sop_instance_uid: str | None = None
    field: int = C_STORE_RSP


def _elements(command: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHL", command, at)
        found[number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def _encoded(context_id: int, asked: dict[int, bytes], reply: Reply) -> bytes:
    uid = asked[0x1000] if reply.sop_instance_uid is None else reply.sop_instance_uid.encode()
    (message_id,) = struct.unpack("<H", asked[0x0110])
    values = {
        0x0002: asked[0x0002],
        0x0100: struct.pack("<H", reply.field),
        0x0120: struct.pack("<H", message_id if reply.message_id is None else reply.message_id),
        0x0800: struct.pack("<H", 0x0101),
        0x0900: struct.pack("<H", 0),
        0x1000: uid + b"\0" * (len(uid) % 2),
    }
    if reply.field == C_ECHO_RSP:
        del values[0x1000]
    command = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in values.items())
    command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
    pdv = struct.pack(">LBB", len(command) + 2, context_id, 3) + command
    return struct.pack(">BxL", 4, len(pdv)) + pdv


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxL", self.exactly(6))
        return kind, self.exactly(length)

    def message(self) -> tuple[int, dict[int, bytes]] | None:
        """Context and command of the next message, its data set read and forgotten; ``None`` at a release."""
        command, context_id = b"", 0
        while True:
            kind, body = self.pdu()
            if kind != 4:
                return None
            at = 0
            while at < len(body):
                length, context_id, control = struct.unpack_from(">LBB", body, at)
                if control & 1:
                    command += body[at + 6 : at + 4 + length]
                elif control & 2:
                    return context_id, _elements(command)
                at += 4 + length


@contextmanager
def raw_pacs(association: bytes, *replies: Reply) -> Iterator[Destination]:
    """Listens for one association; each message gets the next of ``replies``."""

    def run() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            peer = _Connection(connection)
            try:
                peer.pdu()
                connection.sendall(association)
                for reply in replies:
                    found = peer.message()
                    if found is None:
                        break
                    connection.sendall(_encoded(*found, reply))
                while peer.pdu()[0] != 5:
                    pass
                connection.sendall(struct.pack(">BxL4x", 6, 4))
            except (ConnectionError, TimeoutError):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run)
        thread.start()
        yield Destination("archive", "PACS", "127.0.0.1", server.getsockname()[1])
        thread.join()
