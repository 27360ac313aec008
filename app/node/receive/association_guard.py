"""What pynetdicom's acceptor needs to stand up to bad peers; measured, each cites what went wrong without it.

:class:`app.node.receive.listener.GuardedHandler` puts these into each association. (``type: ignore[misc]``:
the project reads pynetdicom without its types, so its classes are ``Any`` to mypy.)
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

from app.node.receive.opening import Opening
from app.node.receive.reports import ReportingDimse
from app.node.tls import continue_handshake
from app.node.tls_words import tls_words

ASSOCIATE_REQUEST_LIMIT_BYTES = 1_048_576
"""128 contexts with dozens of transfer syntaxes each are some 300 kB; no honest request is longer."""

MAX_QUEUED_MESSAGES = 8
"""An honest sender waits for each answer (no asynchronous operations are negotiated, PS3.7 D.3.3.3)."""

AWAITING_REQUEST = "Sta2"
"""Connected, no A-ASSOCIATE-RQ yet (PS3.8 table 9-5)."""

MAX_COMMAND_SET_BYTES = 65_536
"""A command set holds a dozen short elements (PS3.7 9.3)."""

MAX_OTHER_DATA_SET_BYTES = 2**24
"""A request for storage commitment of 100 000 instances holds less; what is stored goes to the disk."""

SLOWEST_BYTES_PER_S = 1000
"""A PDU that comes slower than this is not waited for: nobody holds an association by single bytes."""

_READ_BYTES = 262_144
_PDU_HEADER_BYTES = 6


CLOSED = "the sender closed the connection without releasing the association"

_A_ABORT = b"\x07"


def listener_words(port: int, tls: bool) -> str:
    """Which of the node's listeners it is, for log and audit."""
    return f"port {port}{' (TLS)' if tls else ''}"


class GuardLimitError(OSError):
    """A peer went over a limit; as an OSError it ends the connection where pynetdicom reads it."""


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds; see :class:`app.node.peers.ReceivePolicy`."""

    max_pdu_bytes: int
    pdu_timeout_s: float
    max_connections: int
    is_known_address: Callable[[str], bool]


class GuardedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads PDUs with a size limit and a deadline, and without Nagle's delay.

    Without it: a PDU length of 0xFFFFFFF0 is buffered, half a PDU holds its thread for ever, and each answer
    waits 40 ms for the peer's delayed acknowledgement.
    """

    def __init__(self, association: Association, connection: socket.socket, limits: Limits) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(limits.pdu_timeout_s)
        super().__init__(association, client_socket=connection)
        self._limits = limits
        self._shakes_hands = isinstance(connection, ssl.SSLSocket)
        self.listener = listener_words(connection.getsockname()[1], self._shakes_hands)
        self.is_hung_up = False
        self.fault = ""
        """Why the association fails, in words; the first reason is the one that counts."""
        self.opening = Opening()
        self.is_accepted = False
        """Whether its request for an association was accepted."""
        self.is_told = False
        """Whether the observer knows already why it was rejected."""
        self.lane: Callable[[], bool] = lambda: True
        """Reads what it serves itself; says whether pynetdicom has to read on."""
        self._buffer = memoryview(b"")
        self._kept = self._given = self._end = 0
        """In the buffer: what next_pdu has given and may be put back, then what it has not given yet."""

    def note(self, fault: object) -> None:
        """Why the association ends otherwise than by a release; what follows from it is not noted."""
        self.fault = self.fault or str(fault)

    def hang_up(self) -> None:
        """End the connection, from any thread: the one that reads sees its end and cleans up."""
        self.is_hung_up = True
        connection = self.socket
        if connection is not None:
            with suppress(OSError):  # the peer was quicker
                # not SSLSocket's own: what is read afterwards would no longer be deciphered
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    @property
    def ready(self) -> bool:
        """Whether there is something for pynetdicom to read, after the lane has taken its own."""
        if self._shakes_hands and not self._has_shaken_hands():
            return False
        return (self._given < self._end or super().ready) and self.lane()

    def _has_shaken_hands(self) -> bool:
        """Go on with the TLS handshake as far as the peer's bytes allow.

        pynetdicom asks again and again; so ARTIM ends the connection of a peer that says nothing, and until
        then it counts as one that has not asked for an association.
        """
        connection = self.socket
        if connection is None or self.assoc.dul.state_machine.current_state != AWAITING_REQUEST:
            return False
        try:
            self._shakes_hands = not continue_handshake(connection)
        except OSError as error:
            self._give_up(tls_words(error))
            self.event_queue.put("Evt17")
            return False
        connection.settimeout(self._limits.pdu_timeout_s)
        return not self._shakes_hands

    def next_pdu(self, wait_s: float) -> memoryview | None:
        """The next PDU, whole, with its header; ``None`` when nothing came for ``wait_s``.

        It stays as it is until :meth:`release`.

        Raises:
            GuardLimitError: the PDU is longer than allowed, or not complete in time.
            ConnectionError: the peer closed the connection.
        """
        if not self._gather(_PDU_HEADER_BYTES, wait_s):
            return None
        length = int.from_bytes(self._buffer[self._given + 2 : self._given + _PDU_HEADER_BYTES], "big")
        self._check_length(length, self._limits.max_pdu_bytes)
        self._gather(_PDU_HEADER_BYTES + length, self._limits.pdu_timeout_s)
        start = self._given
        self._given += _PDU_HEADER_BYTES + length
        return self._buffer[start : self._given]

    def release(self) -> None:
        """What next_pdu has given is done with, as soon as it is called again."""
        self._kept = self._given

    def put_back(self) -> None:
        """What next_pdu has given since the last release comes again, from there or from recv."""
        self._given = self._kept

    def _gather(self, count: int, wait_s: float) -> bool:
        """Have so many bytes not given yet in the buffer; False when nothing came for ``wait_s``."""
        if self._end - self._given >= count:
            return True
        connection = self.socket
        if connection is None:
            raise ConnectionAbortedError("the connection was closed")
        self._make_room(count)
        # the sender of a PDU that has begun to come has its time for the rest
        begun_s = time.monotonic()
        deadline = begun_s + (self._limits.pdu_timeout_s if self._end > self._given else wait_s)
        try:
            while self._end - self._given < count:
                left_s = deadline - time.monotonic()
                if left_s <= 0 and self._end == self._given:
                    return False
                self._set_time_left(connection, left_s)
                try:
                    arrived = connection.recv_into(self._buffer[self._end :])
                except TimeoutError:
                    continue  # the deadline has passed: the loop looks at its top
                if not arrived:
                    raise ConnectionResetError(CLOSED)
                self._end += arrived
                deadline = self._deadline(begun_s, self._end - self._given)
        finally:
            connection.settimeout(self._limits.pdu_timeout_s)  # for what pynetdicom sends
        _acknowledge_at_once(connection)
        return True

    def _make_room(self, count: int) -> None:
        if not self._buffer:
            self._buffer = memoryview(bytearray(2 * (self._limits.max_pdu_bytes + MAX_COMMAND_SET_BYTES)))
        waiting = self._end - self._kept
        if waiting == 0 or self._given + count > len(self._buffer):
            self._buffer[:waiting] = self._buffer[self._kept : self._end]
            self._given, self._end, self._kept = self._given - self._kept, waiting, 0
        if self._given + count > len(self._buffer):
            raise self._limit_error(f"a command set came in more than {self._given} bytes")

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly ``nr_bytes``, or fewer when the peer closed; pynetdicom asks for a header, then a body.

        Raises:
            GuardLimitError: the PDU is longer than allowed, or not complete in time.
        """
        connection = self.socket
        if connection is None:
            return bytearray()
        established = self.assoc.is_established
        limit = self._limits.max_pdu_bytes if established else ASSOCIATE_REQUEST_LIMIT_BYTES
        self._check_length(nr_bytes, limit)
        begun_s = time.monotonic()
        deadline = begun_s + self._limits.pdu_timeout_s
        data = bytearray(nr_bytes)
        view = memoryview(data)
        filled = min(nr_bytes, self._end - self._given)
        view[:filled] = self._buffer[self._given : self._given + filled]
        self._given += filled
        self._kept = self._given
        while filled < nr_bytes:
            self._set_time_left(connection, deadline - time.monotonic())
            try:
                count = connection.recv_into(view[filled : filled + _READ_BYTES])
            except TimeoutError:
                continue  # the deadline has passed: the loop raises at its top
            if count == 0:
                self.note(CLOSED)
                self._wake_association()
                break
            filled += count
            deadline = self._deadline(begun_s, filled)
        view.release()
        del data[filled:]
        connection.settimeout(self._limits.pdu_timeout_s)
        _acknowledge_at_once(connection)
        self._look_at(connection, data)
        return data

    def _look_at(self, connection: socket.socket, data: bytearray) -> None:
        """End what is no association request, or none that PS3.8 allows, in words that pynetdicom has not."""
        if data[:1] == _A_ABORT:
            self.note("the sender aborted the association")
        if not self._is_awaiting_request:
            return
        rejection = self.opening.take(bytes(data))
        if self.opening.fault:
            if rejection:
                with suppress(OSError):
                    connection.sendall(rejection)
            self._give_up(self.opening.fault)
            raise GuardLimitError(self.opening.fault)

    @property
    def _is_awaiting_request(self) -> bool:
        """Also while pynetdicom has not taken note yet that the connection is open."""
        return self.assoc.dul.state_machine.current_state in ("Sta1", AWAITING_REQUEST)

    def _deadline(self, begun_s: float, arrived: int) -> float:
        """Until when more of a PDU has to come: a slow link has its time as long as something comes."""
        slowest_s = begun_s + self._limits.pdu_timeout_s + arrived / SLOWEST_BYTES_PER_S
        return min(time.monotonic() + self._limits.pdu_timeout_s, slowest_s)

    def _wake_association(self) -> None:
        """A connection that closes without a request (a port check) would hold its thread until ARTIM."""
        if self._is_awaiting_request:
            self.assoc.dul.to_user_queue.put(None)

    def _check_length(self, nr_bytes: int, limit: int) -> None:
        if nr_bytes > limit + _PDU_HEADER_BYTES:
            raise self._limit_error(f"a PDU of {nr_bytes} bytes was announced, at most {limit} are accepted")

    def _give_up(self, why: str) -> None:
        self.note(why)
        self.hang_up()
        self._wake_association()

    def _limit_error(self, why: str) -> GuardLimitError:
        self._give_up(why)
        return GuardLimitError(why)

    def _set_time_left(self, connection: socket.socket, left_s: float) -> None:
        if left_s <= 0:
            patience_s = self._limits.pdu_timeout_s
            raise self._limit_error(f"a PDU that had begun did not go on for {patience_s:g} s, or crept")
        connection.settimeout(left_s)


class GuardedDimse(ReportingDimse):
    """Ends an association that overdoes it: memory is not the peer's. What is stored comes another way."""

    message: Any

    def receive_primitive(self, primitive: P_DATA) -> None:
        """As its parent does, after looking at what has been gathered so far."""
        excess = self._excess()
        if not excess:
            super().receive_primitive(primitive)
            return
        self.dul.socket.note(excess)
        self.message = None
        self.dul.event_queue.put("Evt19")

    def _excess(self) -> str:
        """What the peer has overdone, in words; empty when nothing."""
        if self.msg_queue.qsize() >= MAX_QUEUED_MESSAGES:
            return f"{MAX_QUEUED_MESSAGES} requests sent without waiting for an answer"
        message = self.message
        if message is None:
            return ""
        if message.encoded_command_set.tell() > MAX_COMMAND_SET_BYTES:
            return f"a command set of more than {MAX_COMMAND_SET_BYTES} bytes"
        if message.data_set.tell() > MAX_OTHER_DATA_SET_BYTES:
            return (
                f"a data set of more than {MAX_OTHER_DATA_SET_BYTES} bytes in a request that stores nothing"
            )
        return ""


def _acknowledge_at_once(connection: socket.socket) -> None:
    """Re-arm quick acknowledgements (Linux forgets them): senders with Nagle on wait for each otherwise."""
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
