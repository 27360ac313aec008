"""C-STORE without pynetdicom's queues: one thread reads a request's PDUs, keeps its data set, and answers.

pynetdicom negotiates the association and serves everything else. Between two images its two threads would
wait for each other in sleeps of 1 ms, and copy each data set several times. So when a PDU has come, the
thread that reads the socket offers it to the lane. A C-STORE request is taken, and so are those that follow
at once; anything else goes back to pynetdicom as it came.

Wire formats: PS3.8 9.3.5 (P-DATA-TF), PS3.8 Annex E (message control header), PS3.7 6.3.1 and 9.3.1 (command
sets, always in implicit VR little endian).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from app.node.receive.association_guard import CLOSED, MAX_COMMAND_SET_BYTES, GuardedSocket

PAUSE_S = 0.05
"""After so long without another request the association is pynetdicom's again."""

_ESTABLISHED = "Sta6"
_CONNECTION_CLOSED, _INVALID_PDU = "Evt17", "Evt19"
"""pynetdicom's names for a state and for events (PS3.8 tables 9-3, 9-8)."""

_P_DATA_TF = 4
_IS_COMMAND, _IS_LAST = 1, 2
_PDU_HEADER = struct.Struct(">BxL")
_PDU_HEADER_BYTES = _PDU_HEADER.size
_PDV_HEADER = struct.Struct(">LBB")
_ELEMENT = struct.Struct("<HHL")
_NUMBER = struct.Struct("<H")

_SOP_CLASS_UID, _COMMAND_FIELD, _MESSAGE_ID, _ANSWERED_ID = 0x0002, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _ERROR_COMMENT, _SOP_INSTANCE_UID = 0x0800, 0x0900, 0x0902, 0x1000
_C_STORE_RQ, _C_STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101

MAX_COMMENT_LENGTH = 64
"""Error Comment (0000,0902) is LO."""

_Fragment = tuple[int, int, memoryview, bool]
"""Presentation context ID, message control header, the bytes, and whether its PDU ends with it."""


class ProtocolError(Exception):
    """The peer breaks PS3.8 or a limit; its association is aborted."""


class _NoDataError(Exception):
    """Another PDU than P-DATA-TF came."""


class _InterruptedError(Exception):
    """The node ends the association in the middle of a message."""


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE-RQ command set; the UIDs as they were sent."""

    context_id: int
    message_id: int
    sop_class_uid: bytes
    sop_instance_uid: bytes
    has_data_set: bool = True


class Intake(Protocol):
    """Takes the data set of one request."""

    def write(self, fragment: memoryview) -> None:
        """Add to it; ``fragment`` is overwritten afterwards."""

    def finish(self) -> tuple[int, str]:
        """All of it has come: the status to answer, and a comment."""

    def close(self) -> None:
        """Done with it, finished or not."""


class StoreLane:
    """Serves the C-STORE requests of one association, on the thread that reads its socket."""

    def __init__(
        self,
        association: Any,
        connection: GuardedSocket,
        begin: Callable[[Any, StoreRequest], Intake],
        max_data_set_bytes: int,
    ) -> None:
        self._association = association
        self._socket = connection
        self._begin = begin
        self._max_data_set_bytes = max_data_set_bytes

    def run(self) -> bool:
        """Take what is the lane's; returns whether something is left to be read by pynetdicom."""
        association = self._association
        if association.dul.state_machine.current_state != _ESTABLISHED or association.dimse.message:
            return True
        if association.dimse.has_more_to_send():
            return False  # an answer of the lane would stand in the middle of that message
        # the other thread would look for something to do every millisecond
        association._reactor_checkpoint.clear()
        try:
            return self._serve()
        except ProtocolError as error:
            self._socket.note(error)
            association.dul.event_queue.put(_INVALID_PDU)
        except _InterruptedError:
            pass  # pynetdicom's thread finds the A-ABORT to be sent
        except OSError as error:
            self._socket.note(error if isinstance(error, ConnectionResetError) else CLOSED)
            association.dul.event_queue.put(_CONNECTION_CLOSED)
        finally:
            association.dul._idle_timer.restart()
            association._reactor_checkpoint.set()
        return False

    def _serve(self) -> bool:
        association = self._association
        while (pdu := self._socket.next_pdu(PAUSE_S)) is not None:
            if not self._take(pdu):
                self._socket.put_back()
                return True
            association.dul._idle_timer.restart()
            if association.dul.to_provider_queue.qsize() or association.dimse.msg_queue.qsize():
                break  # pynetdicom has something to say
        return False

    def _take(self, pdu: memoryview) -> bool:
        """Serve the request that begins with a PDU; False when it, or what came instead, isn't the lane's."""
        try:
            fragments = self._fragments(pdu)
            request = self._request(fragments)
            if request is None:
                return False
            if 0 < self._peer_limit() <= _PDV_HEADER.size:  # before anything is kept
                raise ProtocolError(f"the peer takes PDUs of {self._peer_limit()} bytes: no answer fits in")
            with closing(self._begin(self._association, request)) as intake:
                if request.has_data_set:
                    self._read_data_set(request.context_id, fragments, intake)
                status, comment = intake.finish()
        except _NoDataError:
            return False
        except struct.error as error:
            raise ProtocolError("a fragment is shorter than its header") from error
        self._socket.release()
        self._socket.send(_pdus(request.context_id, _answer(request, status, comment), self._peer_limit()))
        return True

    def _fragments(self, pdu: memoryview) -> Iterator[_Fragment]:
        """Those of a PDU, and of the ones that follow."""
        while True:
            if pdu[0] != _P_DATA_TF:
                raise _NoDataError
            at = _PDU_HEADER_BYTES
            while at < len(pdu):
                length, context_id, control = _PDV_HEADER.unpack_from(pdu, at)
                end = at + 4 + length
                if length < 2 or end > len(pdu):
                    raise ProtocolError("a fragment is longer than its PDU")
                yield context_id, control, pdu[at + _PDV_HEADER.size : end], end == len(pdu)
                at = end
            pdu = self._following_pdu()

    def _following_pdu(self) -> memoryview:
        idle_s = self._association.network_timeout
        deadline = time.monotonic() + idle_s
        while time.monotonic() < deadline:
            pdu = self._socket.next_pdu(PAUSE_S)
            if pdu is not None:
                return pdu
            if self._association.dul.to_provider_queue.qsize():
                raise _InterruptedError
        raise ProtocolError(f"a message was not complete, and nothing came for {idle_s:g} s")

    def _request(self, fragments: Iterator[_Fragment]) -> StoreRequest | None:
        command = bytearray()
        context_id = 0
        for context_id, control, fragment, _ in fragments:  # noqa: B007  that of the last one is looked at
            if not control & _IS_COMMAND:
                return None
            command += fragment
            if len(command) > MAX_COMMAND_SET_BYTES:
                raise ProtocolError(f"a command set of more than {MAX_COMMAND_SET_BYTES} bytes")
            if control & _IS_LAST:
                break
        if context_id not in self._association._accepted_cx:
            raise ProtocolError("a request in a presentation context that was not accepted")
        return _store_request(context_id, command)

    def _read_data_set(self, context_id: int, fragments: Iterator[_Fragment], intake: Intake) -> None:
        size = 0
        self._socket.release()
        for found_id, control, fragment, is_end in fragments:
            if found_id != context_id or control & _IS_COMMAND:
                raise ProtocolError("another message began before the end of a data set")
            size += len(fragment)
            if size > self._max_data_set_bytes:
                raise ProtocolError(f"a data set of more than {self._max_data_set_bytes} bytes")
            intake.write(fragment)
            if is_end:
                self._socket.release()
            if control & _IS_LAST:
                if not is_end:
                    raise ProtocolError("something follows a data set in its last PDU")
                return

    def _peer_limit(self) -> int:
        """Longest PDU that the peer takes; 0 for any (PS3.8 D.1)."""
        return self._association.requestor.maximum_length or 0


def _store_request(context_id: int, command: bytearray) -> StoreRequest | None:
    """The command set, when it is a C-STORE-RQ."""
    found: dict[int, bytes] = {}
    at = 0
    try:
        while at < len(command):
            group, number, length = _ELEMENT.unpack_from(command, at)
            at += _ELEMENT.size + length
            if group == 0:
                found[number] = bytes(command[at - length : at])
        (field,) = _NUMBER.unpack(found.get(_COMMAND_FIELD, b""))
        (data_set,) = _NUMBER.unpack(found.get(_DATA_SET_TYPE, b""))
        (message_id,) = _NUMBER.unpack(found.get(_MESSAGE_ID, b""))
    except struct.error:
        return None
    if field != _C_STORE_RQ:
        return None
    uids = found.get(_SOP_CLASS_UID, b""), found.get(_SOP_INSTANCE_UID, b"")
    return StoreRequest(context_id, message_id, *uids, has_data_set=data_set != _NO_DATA_SET)


def _answer(request: StoreRequest, status: int, comment: str) -> bytes:
    """The C-STORE-RSP command set (PS3.7 9.3.1.2)."""
    text = comment[:MAX_COMMENT_LENGTH].encode("ascii", errors="replace")
    elements = (
        (_SOP_CLASS_UID, request.sop_class_uid),
        (_COMMAND_FIELD, _NUMBER.pack(_C_STORE_RSP)),
        (_ANSWERED_ID, _NUMBER.pack(request.message_id)),
        (_DATA_SET_TYPE, _NUMBER.pack(_NO_DATA_SET)),
        (_STATUS, _NUMBER.pack(status)),
        *(((_ERROR_COMMENT, text + b" " * (len(text) % 2)),) if text else ()),
        (_SOP_INSTANCE_UID, request.sop_instance_uid),
    )
    command = b"".join(_ELEMENT.pack(0, number, len(value)) + value for number, value in elements)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(command)) + command


def _pdus(context_id: int, command: bytes, limit: int) -> bytes:
    """A command set as P-DATA-TF PDUs of at most ``limit`` bytes after their header; 0 for no limit."""
    room = limit - _PDV_HEADER.size if limit else len(command)
    parts = [command[at : at + room] for at in range(0, len(command), room)]
    return b"".join(
        _PDU_HEADER.pack(_P_DATA_TF, _PDV_HEADER.size + len(part))
        + _PDV_HEADER.pack(len(part) + 2, context_id, _IS_COMMAND | (_IS_LAST if part is parts[-1] else 0))
        + part
        for part in parts
    )
